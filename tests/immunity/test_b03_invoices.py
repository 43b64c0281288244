"""B3 payment requests that crash their reader (Core Lightning 23.11, LDK 0.0.123 and 0.2.3, lnd 0.20)

What failed: letters that are not ASCII before the separator, routing hints without a hop or with a fee that overflows,
signatures from which no key can be recovered.

Defence: invoices/bolt11.py:parse and invoices/bolt11_form.py:split raise InvalidInvoice and nothing else; fees and
amounts are bounded when they are read (base/units.py).

More of the same by mutation in tests/invoices/test_bolt11.py. Not covered: the corpus of bitcoinfuzz.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.bitcoin import bech32
from salama.crypto.secp256k1 import public_key
from salama.invoices import bolt11
from salama.invoices.bolt11_form import InvalidInvoice, Parts, Tagged, join, unpack
from salama.signer.local import LocalSigner

SIGNER = LocalSigner(b"a payee" * 4)
HASH, SECRET, DESCRIPTION = (
    Tagged(1, unpack(b"\x01" * 32)),
    Tagged(16, unpack(b"\x02" * 32)),
    Tagged(13, unpack(b"x")),
)
FEATURES = Tagged(5, bytes([1 << 4, 8, 0]))
NODE = public_key(b"\x05" * 32)


def sealed(*tagged: Tagged, amount: str = "10u", signature: bytes | None = None, recovery_id: int | None = None) -> str:
    """A request with these fields and a right checksum, rightly signed unless told otherwise."""
    parts = Parts("bc", amount, 1_700_000_000, tagged)
    compact, recovery = SIGNER.sign_recoverable(parts.digest())
    return join(
        Parts(
            "bc",
            amount,
            1_700_000_000,
            tagged,
            compact if signature is None else signature,
            recovery if recovery_id is None else recovery_id,
        )
    )


def hop(fee_base: int = 0, millionths: int = 0, node: bytes = NODE) -> bytes:
    return node + bytes(8) + fee_base.to_bytes(4, "big") + millionths.to_bytes(4, "big") + b"\x00\x28"


def outcome(text: str) -> bolt11.Invoice | str:
    try:
        return bolt11.parse(text)
    except InvalidInvoice as refused:
        assert refused.code and refused.reason
        return refused.code


def test_a_plain_one_is_read() -> None:
    read = outcome(sealed(HASH, SECRET, DESCRIPTION, FEATURES))
    assert isinstance(read, bolt11.Invoice) and read.payee == SIGNER.node_id


@pytest.mark.parametrize(
    "prefix", ["lnb\u0441", "ln\N{FULLWIDTH LATIN SMALL LETTER B}c", "lnbc1\u0661u", "\N{KELVIN SIGN}nbc"]
)
def test_letters_that_only_look_like_ascii(prefix: str) -> None:
    text = sealed(HASH, SECRET, DESCRIPTION, FEATURES)
    assert isinstance(outcome(prefix + text[4:]), str)


@pytest.mark.parametrize(
    "hints",
    [b"", bytes(50), hop()[:50], hop() + b"\x00", hop(node=b"\x02" + b"\xff" * 32), hop(0xFFFFFFFF, 0xFFFFFFFF) * 12],
    ids=["no hop", "half a hop", "almost a hop", "a hop and a byte", "a node that is no point", "highest fees"],
)
def test_routing_hints_of_any_shape(hints: bytes) -> None:
    """Refused or left out, or read within bounds: a router may add their fees without further care."""
    read = outcome(sealed(HASH, SECRET, DESCRIPTION, FEATURES, Tagged(3, unpack(hints))))
    if isinstance(read, bolt11.Invoice):
        for one in read.route_hints:
            assert one and all(
                h.fee_base_msat <= 0xFFFFFFFF and h.fee_proportional_millionths <= 0xFFFFFFFF for h in one
            )


@pytest.mark.parametrize("signature", [bytes(64), b"\xff" * 64, b"\x01" * 32 + bytes(32), bytes(32) + b"\x01" * 32])
@pytest.mark.parametrize("recovery_id", [0, 1, 2, 3])
def test_signatures_without_a_key(signature: bytes, recovery_id: int) -> None:
    """Whatever a key can be recovered from is somebody's request, but never ours."""
    read = outcome(sealed(HASH, SECRET, DESCRIPTION, FEATURES, signature=signature, recovery_id=recovery_id))
    assert isinstance(read, str) or read.payee != SIGNER.node_id


FIELDS = st.lists(
    st.builds(
        Tagged,
        st.sampled_from([1, 3, 5, 6, 8, 9, 13, 16, 19, 23, 24, 27]) | st.integers(0, 31),
        st.one_of(
            st.binary(max_size=60).map(lambda b: bytes(x & 31 for x in b)),
            st.sampled_from([unpack(b"\x01" * 32), unpack(hop()), unpack(NODE), unpack(b"\xff\xfe"), b"\x1f" * 1023]),
        ),
    ),
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(FIELDS, st.sampled_from(["", "1", "10u", "1p", "10p", "21000000", "21000001", "9" * 19, "0", "00", "1x"]))
def test_any_fields_rightly_signed(tagged: list[Tagged], amount: str) -> None:
    outcome(sealed(HASH, SECRET, DESCRIPTION, *tagged, amount=amount))
    outcome(sealed(*tagged, amount=amount))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=20), st.binary(max_size=300))
def test_any_prefix_with_a_right_checksum(hrp: str, groups: bytes) -> None:
    try:
        text = bech32.encode(hrp, bytes(b & 31 for b in groups), bech32.Variant.BECH32)
    except ValueError:
        return
    assert isinstance(outcome(text), str)
