"""B2 TLV streams read loosely (lnd before 0.21 and 0.21.2: lengths not enforced, unknown even records accepted)

What failed: records of a known type were taken at any length, and streams that had to be refused were read.

Defence: codec/tlv.py:split_records is the only reader of the frame, read_value wants a record filled exactly, and
decode_tlv_stream refuses unknown even types.

A second reader, written here from BOLT 1 alone, must agree on every stream, canonical or not. The vectors of BOLT 1 are
in tests/codec/test_codec_fields.py, those of BOLT 4 in tests/onion.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.codec.fields import POINT, SHORT_CHANNEL_ID, U16, Malformed
from salama.codec.message import MESSAGES
from salama.codec.tlv import decode_tlv_stream
from salama.crypto.secp256k1 import public_key
from salama.wire.onion import PaymentPayload

KNOWN = {1: U16, 2: SHORT_CHANNEL_ID, 254: POINT}
SIZES = {1: 2, 2: 8, 254: 33}


class Bad(Exception):
    pass


def number(data: bytes) -> tuple[int, bytes]:
    """A BigSize and what follows it."""
    if not data:
        raise Bad
    size, least = {0xFD: (2, 0xFD), 0xFE: (4, 1 << 16), 0xFF: (8, 1 << 32)}.get(data[0], (0, 0))
    if size == 0:
        return data[0], data[1:]
    value = int.from_bytes(data[1 : 1 + size], "big")
    if len(data) < 1 + size or value < least:
        raise Bad
    return value, data[1 + size :]


def read(data: bytes) -> dict[int, bytes]:
    """Records by type, as BOLT 1 has it."""
    found: dict[int, bytes] = {}
    while data:
        kind, data = number(data)
        if found and kind <= max(found):
            raise Bad
        length, data = number(data)
        if length > len(data):
            raise Bad
        value, data = data[:length], data[length:]
        if kind not in KNOWN and kind % 2 == 0:
            raise Bad
        if kind in SIZES and length != SIZES[kind]:
            raise Bad
        if kind == 254 and value != public_key(b"\x01" * 32):
            raise Bad
        found[kind] = value
    return found


def bigsize(value: int, *, wide: int = 0) -> bytes:
    """Also not minimal, if ``wide`` is larger than needed."""
    size = max(wide, 0 if value < 0xFD else 2 if value < 1 << 16 else 4 if value < 1 << 32 else 8)
    return bytes([value]) if size == 0 else {2: b"\xfd", 4: b"\xfe", 8: b"\xff"}[size] + value.to_bytes(size, "big")


GOOD = {1: b"\x00\x01", 2: bytes(8), 254: public_key(b"\x01" * 32)}
RECORD = st.builds(
    lambda kind, value, wide_kind, wide_length, lie: (
        bigsize(kind, wide=wide_kind) + bigsize(max(0, len(value) + lie), wide=wide_length) + value
    ),
    kind := st.sampled_from([0, 1, 2, 3, 4, 252, 253, 254, 255, 1 << 16, (1 << 64) - 1]),
    st.sampled_from([*GOOD.values(), b"", b"\x01"]),
    st.sampled_from([0] * 8 + [2, 4, 8]),
    st.sampled_from([0] * 8 + [2, 4, 8]),
    st.sampled_from([0] * 8 + [-1, 1, 1 << 40]),
)


def good(kinds: list[int]) -> bytes:
    """Records without any fault of their own, in this order."""
    return b"".join(bigsize(kind) + bigsize(len(GOOD.get(kind, b""))) + GOOD.get(kind, b"") for kind in kinds)


KINDS = st.lists(st.sampled_from([1, 2, 3, 5, 7, 254, 255]), max_size=4)
STREAMS = st.one_of(
    st.lists(RECORD, max_size=4).map(b"".join),
    st.binary(max_size=30),
    KINDS.map(good),
    KINDS.map(lambda kinds: good(sorted(set(kinds)))),
)


@settings(max_examples=400, deadline=None)
@given(STREAMS, st.integers(0, 3))
def test_both_readers_agree(data: bytes, cut: int) -> None:
    data = data[: len(data) - cut] if cut else data
    try:
        expected: dict[int, bytes] | None = read(data)
    except Bad:
        expected = None
    try:
        values, unknown = decode_tlv_stream(data, KNOWN)
    except Malformed:
        assert expected is None
    else:
        assert expected is not None
        assert set(values) | {kind for kind, _ in unknown} == set(expected)
        assert all(expected[kind] == value for kind, value in unknown)


STREAMED = [cls for cls in MESSAGES.values() if any(f.tlv is not None for f in cls.fields())]


@pytest.mark.parametrize("cls", STREAMED, ids=lambda c: c.__name__)
def test_every_message_refuses_an_unknown_even_record(cls: type) -> None:
    from immunity_world import sample

    plain = sample(cls)  # type: ignore[type-var]
    bare = cls(**{f.name: getattr(plain, f.name) for f in cls.fields() if f.tlv is None})  # type: ignore[attr-defined]
    data = bare.encode()
    odd = cls.decode(data + bigsize(60_001) + b"\x01x")  # type: ignore[attr-defined]
    assert all(getattr(odd, f.name) == getattr(bare, f.name) for f in cls.fields()), "an odd one changes nothing"  # type: ignore[attr-defined]
    for tail in (bigsize(60_000) + b"\x01x", bigsize(60_001) + b"\x02x", bigsize(60_001, wide=4) + b"\x00"):
        with pytest.raises(Malformed):
            cls.decode(data + tail)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "data",
    ["0208000000000000000004", "02010004010004", "020101040100", "0209000000000000000001", "020101060800", "02010108"],
)
def test_payloads_with_wrong_lengths(data: str) -> None:
    """Leading zeros, a number too long, records cut off: in the payload of an onion they count double."""
    with pytest.raises(Malformed):
        PaymentPayload.decode(bytes.fromhex(data))
