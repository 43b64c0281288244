"""Every declaration held against the field lists of BOLT 1, 2, 4 and 7, and none more than they list."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from salama.codec import fields
from salama.codec.fields import Array, FieldType, Fixed, Mapped, Subtype
from salama.codec.message import MESSAGES, Declared
from salama.testing.messages import STREAMS
from salama.wire.failures import FAILURES

CASES = json.loads((Path(__file__).parents[1] / "vectors" / "bolt-fields.json").read_text())["cases"]
BOLT: dict[str, dict[str, Any]] = {kind: {} for kind in ("message", "failure", "tlv_stream", "subtype")}
for case in CASES:
    BOLT[case["given"]["kind"]][case["name"]] = case
OURS: dict[str, type[Declared]] = {cls.NAME: cls for cls in MESSAGES.values()}
OUR_FAILURES: dict[str, type[Declared]] = {cls.NAME: cls for cls in FAILURES.values()}
OUR_STREAMS: dict[str, type[Declared]] = dict(
    zip(("payload", "encrypted_data_tlv", "onionmsg_tlv"), STREAMS, strict=True)
)

SAME = {
    "u8": "byte",
    "channel_id": "32*byte",
    "chain_hash": "32*byte",
    "sha256": "32*byte",
    "signature": "64*byte",
    "tlv_invoice_request": "...*byte",
    "tlv_invoice": "...*byte",
    "tlv_invoice_error": "...*byte",
    # 20 hold times of 4 bytes and 210 hashes cut to 4 bytes, which we keep as one block.
    "20*(u32) 210*(4 bytes of sha256)": "920*byte",
}


def spelled(type_: str, times: str) -> str:
    name = SAME.get(type_, type_)
    if type_ in BOLT["subtype"] and len(BOLT["subtype"][type_]["expect"]["fields"]) == 1:
        name = spelled(*BOLT["subtype"][type_]["expect"]["fields"][0][1:])
    if not times:
        return name
    return f"{times}*byte" if name == "byte" else f"{times}*({name})"


def ours(type_: FieldType[Any]) -> str:
    if isinstance(type_, Mapped):
        return ours(type_.inner)
    if isinstance(type_, Array):
        return f"{type_.bolt.times}*({ours(type_.item)})"
    if isinstance(type_, Subtype) and not type_.bolt.type:
        return " ".join(f"{name}:{ours(part)}" for name, part in type_.fields)
    return spelled(*type_.bolt)


def record(parts: list[list[str]]) -> str:
    if len(parts) == 1:
        return spelled(*parts[0][1:])
    together = " ".join(spelled(*part[1:]) for part in parts)
    return SAME.get(together) or " ".join(f"{part[0]}:{spelled(*part[1:])}" for part in parts)


def compare(cls: type[Declared], expect: dict[str, Any]) -> None:
    declared = [f for f in cls.fields() if f.type is not fields.TAIL]
    always = [(f.name, ours(f.type)) for f in declared if f.tlv is None]
    assert always == [(name, spelled(type_, times)) for name, type_, times in expect["fields"]]
    records = [(f.tlv, f.record, ours(f.type)) for f in declared if f.tlv is not None]
    assert records == [(number, name, record(parts)) for number, name, parts in expect["records"]]


@pytest.mark.parametrize("name", BOLT["message"])
def test_messages(name: str) -> None:
    case = BOLT["message"][name]
    assert case["given"]["number"] == OURS[name].TYPE  # type: ignore[attr-defined]
    compare(OURS[name], case["expect"])


@pytest.mark.parametrize("name", BOLT["failure"])
def test_failure_messages(name: str) -> None:
    case = BOLT["failure"][name]
    assert case["given"]["number"] == OUR_FAILURES[name].CODE  # type: ignore[attr-defined]
    compare(OUR_FAILURES[name], case["expect"])


@pytest.mark.parametrize("name", BOLT["tlv_stream"])
def test_streams(name: str) -> None:
    compare(OUR_STREAMS[name], BOLT["tlv_stream"][name]["expect"])


def test_nothing_is_declared_twice_or_beyond_the_bolts() -> None:
    assert set(OURS) == set(BOLT["message"])
    assert set(OUR_FAILURES) == set(BOLT["failure"])
    assert set(OUR_STREAMS) == set(BOLT["tlv_stream"])
    assert (len(OURS), len(OUR_FAILURES), len(OUR_STREAMS)) == (len(MESSAGES), len(FAILURES), len(STREAMS))


def subtypes(type_: FieldType[Any]) -> Iterator[Subtype[Any]]:
    if isinstance(type_, Subtype):
        yield type_
        for _, part in type_.fields:
            yield from subtypes(part)
    elif isinstance(type_, Array):
        yield from subtypes(type_.item)
    elif isinstance(type_, Mapped):
        yield from subtypes(type_.inner)


def test_subtypes() -> None:
    every = [*OURS.values(), *OUR_FAILURES.values(), *OUR_STREAMS.values()]
    found = {s.bolt.type: s for cls in every for f in cls.fields() for s in subtypes(f.type) if s.bolt.type}
    # Single-field and opaque ones are spelled out where they are used.
    assert set(BOLT["subtype"]) - set(found) == {"witness", "channel_update_timestamps"}
    for name, subtype in found.items():
        expect = BOLT["subtype"][name]["expect"]["fields"]
        assert [(n, ours(t)) for n, t in subtype.fields] == [(n, spelled(t, times)) for n, t, times in expect]


def test_attributes_of_groups_are_named_as_their_fields() -> None:
    every = [*OURS.values(), *OUR_FAILURES.values(), *OUR_STREAMS.values()]
    groups = [s for cls in every for f in cls.fields() for s in subtypes(f.type)]
    assert groups
    for found in groups:
        assert getattr(found.make, "_fields") == tuple(name for name, _ in found.fields)  # noqa: B009


def test_only_limits_and_gossip_escape_the_bound_on_amounts() -> None:
    unbounded = {
        (name, f.name)
        for name, cls in OURS.items()
        for f in cls.fields()
        if f.name.endswith(("_msat", "_satoshis", "sats")) and isinstance(f.type, Fixed) and f.type.wrap is None
    }
    assert unbounded == {
        *((name, "max_htlc_value_in_flight_msat") for name in ("open_channel", "accept_channel")),
        *((name, "max_htlc_value_in_flight_msat") for name in ("open_channel2", "accept_channel2")),
        *(("channel_update", name) for name in ("htlc_minimum_msat", "fee_base_msat", "htlc_maximum_msat")),
        *((name, "funding_contribution_satoshis") for name in ("splice_init", "splice_ack")),
    }
