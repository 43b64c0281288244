"""Fundamental types and record streams against BOLT 1's figures and rules (B1.01, B1.03)."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salama.base.ids import NodeId, ShortChannelId
from salama.base.units import MAX_SAT
from salama.codec import fields as f
from salama.codec.fields import FieldType, Malformed, ScidDir, Unencodable, counted, group, raw, rest_of
from salama.codec.tlv import decode_records, decode_tlv_stream, encode_records, split_records

VECTORS = Path(__file__).parents[1] / "vectors"
G = bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")


def cases(name: str) -> list[Any]:
    return [pytest.param(c, id=c["name"]) for c in json.loads((VECTORS / name).read_text())["cases"]]


def read(type_: FieldType[Any], data: bytes) -> Any:
    value, pos = type_.read(data, 0, len(data))
    assert pos == len(data)
    return value


@pytest.mark.parametrize("case", cases("bolt01-bigsize.json"))
def test_bigsize_figures(case: Any) -> None:
    given, expect = case["given"], case["expect"]
    if given["op"] == "encode":
        assert f.BIGSIZE.write(given["value"]).hex() == expect["bytes"]
    elif "error" in expect:
        with pytest.raises(Malformed):
            read(f.BIGSIZE, bytes.fromhex(given["bytes"]))
    else:
        assert read(f.BIGSIZE, bytes.fromhex(given["bytes"])) == expect["value"]


@pytest.mark.parametrize("case", cases("bolt01-signed-integers.json"))
def test_signed_figures(case: Any) -> None:
    type_ = {8: f.S8, 16: f.S16, 32: f.S32, 64: f.S64}[case["given"]["bits"]]
    assert type_.write(case["given"]["value"]).hex() == case["expect"]["bytes"]
    assert read(type_, bytes.fromhex(case["expect"]["bytes"])) == case["given"]["value"]


BY_NAME: dict[str, FieldType[Any]] = {
    "tu64": f.TU64,
    "tu32": f.TU32,
    "u64": f.U64,
    "u16": f.U16,
    "point": f.POINT,
    "short_channel_id": f.SHORT_CHANNEL_ID,
}


@pytest.mark.parametrize("case", cases("bolt01-tlv.json"))
def test_stream_figures(case: Any) -> None:
    stream = bytes.fromhex(case["given"]["stream"])
    for name in case["given"]["namespaces"]:
        layout = {int(k): v for k, v in case["given"]["known_types"][name].items()}
        known = {
            kind: group(lambda *parts: parts, **{field: BY_NAME[type_] for type_, field in parts})
            for kind, parts in layout.items()
        }
        if "error" in case["expect"]:
            with pytest.raises(Malformed):
                decode_tlv_stream(stream, known)
            continue
        values, _ = decode_tlv_stream(stream, known)
        shown = {
            str(kind): {
                field: part.hex() if isinstance(part, bytes) else str(part) if type_ == "short_channel_id" else part
                for (type_, field), part in zip(layout[kind], parts, strict=True)
            }
            for kind, parts in values.items()
        }
        assert shown == case["expect"]["known_records"]
        rewritten = encode_records((kind, known[kind].write(parts)) for kind, parts in values.items())
        assert not values or rewritten == stream


@pytest.mark.parametrize(
    ("type_", "wrong"),
    [
        (f.SAT, (MAX_SAT + 1).to_bytes(8, "big")),
        (f.MSAT, (MAX_SAT * 1000 + 1).to_bytes(8, "big")),
        (f.TU64_MSAT, (MAX_SAT * 1000 + 1).to_bytes(8, "big")),
        (f.POINT, b"\x05" + G[1:]),
        (f.POINT, b"\x02" + b"\xff" * 32),
        (f.NODE_POINT, bytes(33)),
        (f.TU16, b"\0"),
        (f.TU16, b"\1\2\3"),
        (f.TU32, b"\0\1"),
        (f.SCIDDIR_OR_PUBKEY, b"\4" + bytes(32)),
        (f.SCIDDIR_OR_PUBKEY, b"\1" + bytes(7)),
        (f.SCIDDIR_OR_PUBKEY, b""),
        (f.VARBYTES, b"\0"),
        (f.VARBYTES, b"\0\2a"),
        (counted(f.U16), b"\0\2\0\1\0"),
        (counted(f.U16, f.BYTE, least=1), b"\0"),
        (rest_of(f.U16), b"\0\1\0"),
        (raw(3), b"ab"),
    ],
)
def test_wrong_values_are_refused(type_: FieldType[Any], wrong: bytes) -> None:
    with pytest.raises(Malformed):
        read(type_, wrong)


@pytest.mark.parametrize(
    ("type_", "wrong"),
    [
        (f.U8, 256),
        (f.U16, -1),
        (f.S8, 128),
        (raw(3), b"ab"),
        (f.SIGNATURE, bytes(65)),
        (f.BIGSIZE, 1 << 64),
        (f.BIGSIZE, -1),
        (f.TU32, 1 << 32),
        (f.VARBYTES, bytes(65536)),
        (counted(f.U8, f.BYTE), tuple(range(256))),
        (counted(f.U8, f.BYTE, least=1), ()),
        (f.SCIDDIR_OR_PUBKEY, ScidDir(2, ShortChannelId(0))),
    ],
)
def test_our_own_wrong_values_are_refused(type_: FieldType[Any], wrong: Any) -> None:
    with pytest.raises(Unencodable):
        type_.write(wrong)


def test_largest_amounts_are_accepted() -> None:
    assert read(f.SAT, bytes.fromhex("000775f05a074000")) == MAX_SAT
    assert read(f.MSAT, bytes.fromhex("1d24b2dfac520000")) == MAX_SAT * 1000


def test_sciddir_or_pubkey_both_ways() -> None:
    for value, size in ((ScidDir(1, ShortChannelId.of(7, 8, 9)), 9), (NodeId(G), 33)):
        encoded = f.SCIDDIR_OR_PUBKEY.write(value)
        assert len(encoded) == size
        assert read(f.SCIDDIR_OR_PUBKEY, encoded) == value


def test_a_record_that_is_refused_is_named() -> None:
    with pytest.raises(Malformed) as caught:
        decode_tlv_stream(bytes.fromhex("0101aa0201010400"), {2: f.U8})
    assert (caught.value.tlv_type, caught.value.offset) == (4, 6)
    with pytest.raises(Malformed) as caught:
        decode_tlv_stream(bytes.fromhex("0101aa02020101"), {2: f.U8})
    assert (caught.value.tlv_type, caught.value.offset) == (2, 3)


def test_records_out_of_order_are_not_written() -> None:
    for records in ([(3, b""), (1, b"")], [(1, b""), (1, b"")]):
        with pytest.raises(Unencodable):
            encode_records(records)


@given(st.dictionaries(st.integers(0, (1 << 64) - 1), st.binary(max_size=300), max_size=6))
def test_records_round_trip(records: dict[int, bytes]) -> None:
    ordered = sorted(records.items())
    assert decode_records(encode_records(ordered)) == ordered


@given(st.binary(max_size=60))
def test_splitting_garbage_is_refused_or_exact(data: bytes) -> None:
    try:
        found = split_records(data)
    except Malformed:
        return
    assert encode_records((r.type, data[r.start : r.stop]) for r in found) == data
