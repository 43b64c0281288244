"""BOLT 11 payment requests: every printed figure, round trips, and text that must be refused without surprise.

B11.01 to B11.05.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.base.ids import NodeId, PaymentHash, ShortChannelId
from salama.base.units import Msat
from salama.bitcoin import address, bech32
from salama.bitcoin.networks import MAINNET, NETWORKS, REGTEST, SIGNET
from salama.crypto import secp256k1
from salama.invoices import bolt11
from salama.invoices.bolt11 import Fallback, HintHop, InvalidInvoice, Invoice
from salama.invoices.bolt11_form import (
    MAX_TEXT,
    Tagged,
    join,
    minimal,
    number_of,
    parse_amount,
    render_amount,
    split,
    unpack,
)
from salama.wire.features import Features

CASES = json.loads((Path(__file__).parents[1] / "vectors" / "bolt11-invoices.json").read_text())["cases"]
VALID = [case for case in CASES if "error" not in case["expect"]]
REFUSED = [case for case in CASES if "error" in case["expect"]]
SECRET = bytes.fromhex("e126f68f7eafcc8b74f54d269fe206be715000f94dac067d1c04a8ca3b2db734")
PAYEE = NodeId(secp256k1.public_key(SECRET))


def by_name(case: dict[str, Any]) -> str:
    return str(case["name"])


def our_signer(digest: bytes) -> tuple[bytes, int]:
    return secp256k1.sign_recoverable(SECRET, digest)


@pytest.mark.parametrize("case", VALID, ids=by_name)
def test_every_printed_field_is_read(case: dict[str, Any]) -> None:
    expect = case["expect"]
    invoice = bolt11.parse(case["given"]["invoice"])
    assert invoice.network.name.removesuffix("4") == expect["network"]
    assert invoice.amount_msat == expect.get("amount_msat")
    assert invoice.timestamp == expect["timestamp"]
    assert invoice.payment_hash.hex() == expect["payment_hash"]
    assert invoice.payment_secret.hex() == expect["payment_secret"]
    assert invoice.payee.hex() == expect["payee"]
    assert invoice.description == expect.get("description")
    assert (invoice.description_hash or b"").hex() == expect.get("description_hash", "")
    assert invoice.expiry == expect.get("expiry_seconds", 3600)
    assert invoice.min_final_cltv_expiry == expect.get("min_final_cltv_expiry_delta", 18)
    assert list(invoice.features.bits()) == expect["features"]
    assert (invoice.metadata or b"").hex() == expect.get("metadata", "")
    assert invoice.signature.hex() == expect["signature"]
    assert invoice.recovery_id == expect["recovery_id"]
    addresses = [address.render(f.script(), invoice.network) for f in invoice.fallbacks]
    assert addresses == expect.get("fallback_addresses", [])
    assert all(Fallback.of(f.script()) == f for f in invoice.fallbacks)
    hints = [[dict(zip(HintHop._fields, hop, strict=True)) for hop in hops] for hops in invoice.route_hints]
    assert [
        [{**h, "node_id": str(h["node_id"]), "short_channel_id": str(h["short_channel_id"])} for h in hops]
        for hops in hints
    ] == [
        [{("node_id" if key == "pubkey" else key): value for key, value in hop.items()} for hop in hops]
        for hops in expect.get("route_hints", [])
    ]
    if "description_hash_of" in expect:
        assert invoice.describes(expect["description_hash_of"])
        assert not invoice.describes("something else")


@pytest.mark.parametrize("case", VALID, ids=by_name)
def test_parts_join_to_the_same_text_and_are_signed_alike(case: dict[str, Any]) -> None:
    text, expect = case["given"]["invoice"].lower(), case["expect"]
    parts = split(text)
    assert parts.signing_data().hex() == expect["signing_data"]
    assert parts.digest().hex() == expect["signing_hash"]
    assert join(parts) == text
    if secp256k1.is_low_s(parts.signature):
        assert secp256k1.sign_recoverable(SECRET, parts.digest()) == (parts.signature, parts.recovery_id)


@pytest.mark.parametrize("case", VALID, ids=by_name)
def test_what_was_understood_is_written_with_the_same_fields(case: dict[str, Any]) -> None:
    text = case["given"]["invoice"].lower()
    parts, written = split(text), bolt11.parts_of(bolt11.parse(text))
    if "ignored_fields" in case["expect"]:
        assert set(written.tagged) < set(parts.tagged)
    else:
        assert sorted(written.tagged) == sorted(parts.tagged)
    assert written.hrp == parts.hrp


@pytest.mark.parametrize("case", REFUSED, ids=by_name)
def test_every_bad_example_is_refused_for_its_reason(case: dict[str, Any]) -> None:
    with pytest.raises(InvalidInvoice) as refused:
        bolt11.parse(case["given"]["invoice"])
    assert refused.value.code == case["expect"]["reason"]
    assert refused.value.reason


scids = st.integers(0, 2**64 - 1).map(ShortChannelId)
u32 = st.integers(0, 2**32 - 1)
hops = st.builds(
    HintHop,
    node_id=st.sampled_from([NodeId(secp256k1.public_key(bytes([i]) * 32)) for i in range(1, 6)]),
    short_channel_id=scids,
    fee_base_msat=u32,
    fee_proportional_millionths=u32,
    cltv_expiry_delta=st.integers(0, 2**16 - 1),
)
fallbacks = st.one_of(
    st.builds(Fallback, st.sampled_from([17, 18]), st.binary(min_size=20, max_size=20)),
    st.builds(Fallback, st.just(0), st.binary(min_size=20, max_size=20) | st.binary(min_size=32, max_size=32)),
    st.builds(Fallback, st.integers(1, 16), st.binary(min_size=2, max_size=40)),
)


@st.composite
def invoices(draw: st.DrawFn) -> Invoice:
    described = draw(st.booleans())
    return Invoice(
        network=draw(st.sampled_from(list(NETWORKS.values()))),
        timestamp=draw(st.integers(0, 2**35 - 1)),
        payment_hash=PaymentHash(draw(st.binary(min_size=32, max_size=32))),
        payment_secret=draw(st.binary(min_size=32, max_size=32)),
        payee=PAYEE,
        amount_msat=draw(st.none() | st.integers(1, Msat.MAX).map(Msat)),
        description=draw(st.text(max_size=150)) if described else None,
        description_hash=None if described else draw(st.binary(min_size=32, max_size=32)),
        expiry=draw(st.integers(0, 2**63 - 1)),
        min_final_cltv_expiry=draw(st.integers(0, 2**31 - 1)),
        route_hints=tuple(draw(st.lists(st.lists(hops, min_size=1, max_size=12).map(tuple), max_size=3))),
        fallbacks=tuple(draw(st.lists(fallbacks, max_size=3))),
        features=Features(draw(st.sampled_from([0, 1 << 14, 1 << 8 | 1 << 14 | 1 << 17, 1 << 99]))),
        metadata=draw(st.none() | st.binary(max_size=639)),
    )


@settings(max_examples=60, deadline=None)
@given(invoices())
def test_an_invoice_comes_back_from_its_text(invoice: Invoice) -> None:
    text = bolt11.sign(invoice, our_signer)
    read = bolt11.parse(text)
    for name in Invoice.__slots__:
        if name not in ("signature", "recovery_id"):
            assert getattr(read, name) == getattr(invoice, name), name
    assert bolt11.render(read) == text
    assert bolt11.parse(f" LIGHTNING:{text.upper()}\n") == read


def resealed(text: str, groups: bytes) -> str:
    return bech32.encode(bech32.decode(text)[0], groups, bech32.Variant.BECH32)


@settings(max_examples=250, deadline=None)
@given(st.sampled_from([case["given"]["invoice"].lower() for case in VALID]), st.data())
def test_a_mutation_with_a_right_checksum_never_surprises(text: str, data: st.DataObject) -> None:
    """Whatever the fields become: an invoice that can be written again, or InvalidInvoice."""
    groups = bytearray(bech32.decode(text)[1])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(groups) - 1))
        match data.draw(st.sampled_from(["set", "cut", "insert"])):
            case "set":
                groups[at] = data.draw(st.integers(0, 31))
            case "cut":
                del groups[at : at + data.draw(st.integers(1, 60))]
            case _:
                groups[at:at] = data.draw(st.binary(max_size=60).map(lambda b: bytes(x & 31 for x in b)))
        if not groups:
            break
    try:
        read = bolt11.parse(resealed(text, bytes(groups)))
    except InvalidInvoice:
        return
    assert len(bolt11.digest(read)) == 32


@settings(max_examples=250, deadline=None)
@given(
    st.one_of(
        st.text(max_size=200),
        st.text(max_size=100).map(lambda t: "lnbc1" + t),
        st.text(alphabet="lnbctsr0123456789munp1qpzry", max_size=300).map(lambda t: "ln" + t),
        st.tuples(st.text("bcts0123456789munpqé\N{ARABIC-INDIC DIGIT ONE}", max_size=12), st.binary(max_size=200)).map(
            lambda p: (
                bech32.encode("ln" + p[0], bytes(x & 31 for x in p[1]), bech32.Variant.BECH32)
                if p[0].isascii()
                else f"ln{p[0]}1qqqqqq"
            )
        ),
    )
)
def test_garbage_is_refused_with_the_one_typed_error(text: str) -> None:
    with pytest.raises(InvalidInvoice):
        bolt11.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "ln" + "1" * (MAX_TEXT - 2),
        "lnbc1" + "q" * (MAX_TEXT - 5),
        "lnbc" + "9" * 60_000 + "1qqqqqq",
        "lnbc1" + "q" * 5_000_000,
        bech32.encode("lnbc", bytes(7) + bytes([3, 31, 31] + [31] * 1023) * 60 + bytes(104), bech32.Variant.BECH32),
        bech32.encode("lnbc", bytes(7) + bytes([5, 31, 31] + [31] * 1023) * 60 + bytes(104), bech32.Variant.BECH32),
        bech32.encode("lnbc", bytes(7) + bytes([6, 31, 31] + [31] * 1023) * 60 + bytes(104), bech32.Variant.BECH32),
    ],
    ids=["separators", "letters", "digits", "5 MB", "hints", "features", "expiries"],
)
def test_huge_text_takes_little_time(text: str) -> None:
    began = time.process_time()
    with pytest.raises(InvalidInvoice):
        bolt11.parse(text)
    assert time.process_time() - began < 1.0


def made(**changes: Any) -> Invoice:
    fields: dict[str, Any] = {
        "network": REGTEST,
        "timestamp": 1_700_000_000,
        "payment_hash": PaymentHash(bytes(32)),
        "payment_secret": bytes([1]) * 32,
        "payee": PAYEE,
        "description": "tea",
    }
    return Invoice(**{**fields, **changes})


def edited(invoice: Invoice, *extra: Tagged, drop: int | None = None) -> str:
    """Signed text with fields added behind ours, and all of one type left out."""
    parts = bolt11.parts_of(invoice)
    kept = tuple(t for t in parts.tagged if t.type != drop)
    unsigned = type(parts)(parts.prefix, parts.amount_text, parts.timestamp, kept + extra)
    signature, recovery_id = our_signer(unsigned.digest())
    return join(type(parts)(parts.prefix, parts.amount_text, parts.timestamp, kept + extra, signature, recovery_id))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (edited(made(), drop=1), "missing_payment_hash"),
        (edited(made(), drop=13), "description"),
        (edited(made(), Tagged(23, unpack(bytes(32)))), "description"),
        (edited(made(), Tagged(13, unpack(b"\xff\xfe")), drop=13), "bad_description"),
        (edited(made(), Tagged(6, bytes([0, 1]))), "not_minimal"),
        (edited(made(), Tagged(24, bytes([0, 1]))), "not_minimal"),
        (edited(made(), Tagged(5, bytes([0, 1]))), "not_minimal"),
        (edited(made(), Tagged(6, minimal(1 << 63))), "expiry_too_large"),
        (edited(made(), Tagged(24, minimal(1 << 31))), "final_cltv_too_large"),
        (edited(made(), Tagged(5, minimal(1 << 50))), "missing_feature_dependency"),
        (edited(made(), Tagged(3, unpack(bytes(50)))), "bad_route_hint"),
        (edited(made(), Tagged(3, unpack(bytes(51)))), "bad_route_hint"),
        (edited(made(), Tagged(3, b"")), "bad_route_hint"),
        (edited(made(), Tagged(19, unpack(secp256k1.public_key(bytes([7]) * 32)))), "bad_signature"),
        (edited(made(), Tagged(19, unpack(bytes(33)))), "bad_payee"),
        (edited(made(), Tagged(27, bytes([31]))), "bad_padding"),
    ],
)
def test_fields_that_make_a_request_unpayable(text: str, code: str) -> None:
    with pytest.raises(InvalidInvoice) as refused:
        bolt11.parse(text)
    assert refused.value.code == code


def test_a_named_payee_is_taken_when_the_signature_is_his() -> None:
    assert bolt11.parse(edited(made(), Tagged(19, unpack(PAYEE)))).payee == PAYEE


def test_unknown_fallback_versions_and_unknown_fields_are_skipped() -> None:
    text = edited(made(), Tagged(9, bytes([19]) + unpack(bytes(20))), Tagged(9, b""), Tagged(31, b"\x01"))
    assert bolt11.parse(text).fallbacks == ()


def test_only_the_wanted_networks_are_accepted() -> None:
    text = bolt11.sign(made(), our_signer)
    assert bolt11.parse(text, networks=[REGTEST]).network is REGTEST
    with pytest.raises(InvalidInvoice) as refused:
        bolt11.parse(text, networks=[MAINNET, SIGNET])
    assert refused.value.code == "wrong_network"
    assert "regtest" in refused.value.reason


def test_expiry_is_the_last_second_it_may_be_paid() -> None:
    invoice = made(expiry=60)
    assert not invoice.is_expired(invoice.timestamp + 60)
    assert invoice.is_expired(invoice.timestamp + 60.5)
    assert invoice.expires_at == 1_700_000_060


@settings(max_examples=100)
@given(st.integers(1, Msat.MAX))
def test_amounts_are_written_as_short_as_possible(msat: int) -> None:
    text = render_amount(msat)
    assert parse_amount(text) == msat
    assert all(len(text) <= len(f"{msat * per // 10**11}{m}") for m, per in _whole_multipliers(msat))


def _whole_multipliers(msat: int) -> list[tuple[str, int]]:
    return [
        (m, per)
        for m, per in {"": 1, "m": 10**3, "u": 10**6, "n": 10**9, "p": 10**12}.items()
        if msat * per % 10**11 == 0
    ]


@pytest.mark.parametrize(
    ("text", "msat"),
    [("1", 10**11), ("10m", 10**9), ("1000u", 10**8), ("10p", 1), ("1n", 100), ("250000000p", 25_000_000)],
)
def test_amounts_also_with_a_multiplier_that_is_not_the_largest(text: str, msat: int) -> None:
    assert parse_amount(text) == msat


@pytest.mark.parametrize("text", ["0", "0m", "01u", "1p", "15p", "1x", "21000001", "9999999999999999999"])
def test_amounts_that_cannot_be(text: str) -> None:
    with pytest.raises(InvalidInvoice):
        parse_amount(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"description": None},
        {"description_hash": bytes(32)},
        {"amount_msat": Msat(0)},
        {"timestamp": 1 << 35},
        {"description": "x" * 640},
        {"payment_secret": bytes(31)},
    ],
)
def test_what_cannot_be_written_is_a_value_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        bolt11.sign(made(**changes), our_signer)
    with pytest.raises(ValueError):
        bolt11.render(made())  # not signed


def test_numbers_in_groups_are_minimal() -> None:
    assert [minimal(n) for n in (0, 1, 31, 32)] == [b"", b"\x01", b"\x1f", b"\x01\x00"]
    assert all(number_of(minimal(n)) == n for n in range(2000))


def test_the_payment_secret_stays_out_of_the_repr() -> None:
    assert "01010101" not in repr(made())


@pytest.mark.parametrize("msat", [1, 10, 999, 10**18 + 1, 21 * 10**17 - 1, 21 * 10**17])
def test_every_amount_that_can_be_owed_travels_in_a_payment_request(msat: int) -> None:
    """The largest take twenty digits where they are no whole number of satoshis."""
    invoice = bolt11.parse(next(case["given"]["invoice"] for case in CASES if case["expect"].get("valid")))
    text = bolt11.sign(
        replace(invoice, amount_msat=Msat(msat)), lambda digest: secp256k1.sign_recoverable(b"\1" * 32, digest)
    )
    assert bolt11.parse(text).amount_msat == msat
