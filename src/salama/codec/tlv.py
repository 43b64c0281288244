"""Streams of type-length-value records (BOLT 1, B1.03), for namespaces given as data or by declarations.

Framing is checked in one place: types strictly increasing, type and length minimal, every record complete. What a
value means is left to the caller, and so is the rule that an unknown even type refuses the stream:
``decode_tlv_stream`` applies it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from salama.codec.fields import BIGSIZE, FieldType, Malformed, Unencodable

_read_bigsize = BIGSIZE.read
_write_bigsize = BIGSIZE.write


class Record(NamedTuple):
    """One record: its ``type``, where it begins, and where its value begins and ends."""

    type: int
    at: int
    start: int
    stop: int


def split_records(data: bytes, pos: int = 0, end: int | None = None) -> list[Record]:
    """The records of ``data[pos:end]`` in order; raises Malformed. Values are not copied."""
    if end is None:
        end = len(data)
    records = []
    previous = -1
    while pos < end:
        at = pos
        kind = data[pos]
        if kind < 0xFD:
            pos += 1
        else:
            kind, pos = _read_bigsize(data, pos, end)
        if kind <= previous:
            raise Malformed("record types do not increase", tlv_type=kind, offset=at)
        previous = kind
        try:
            length, pos = _read_bigsize(data, pos, end)
        except Malformed as error:
            raise Malformed(error.reason, tlv_type=kind, offset=at) from None
        stop = pos + length
        if stop > end:
            raise Malformed("record is cut off", tlv_type=kind, offset=at)
        records.append(Record(kind, at, pos, stop))
        pos = stop
    return records


def decode_records(data: bytes) -> list[tuple[int, bytes]]:
    """Type and value of each record, known or not; raises Malformed."""
    return [(record.type, data[record.start : record.stop]) for record in split_records(data)]


def encode_records(records: Iterable[tuple[int, bytes]]) -> bytes:
    """The inverse of ``decode_records``; raises Unencodable if types do not increase strictly."""
    parts: list[bytes] = []
    previous = -1
    for kind, value in records:
        if kind <= previous:
            raise Unencodable("record types do not increase")
        previous = kind
        parts += (_write_bigsize(kind), _write_bigsize(len(value)), value)
    return b"".join(parts)


def read_value(type_: FieldType[Any], data: bytes, record: Record) -> Any:
    """The value of a known record, which must fill it exactly; raises Malformed with the record's type and offset."""
    try:
        value, pos = type_.read(data, record.start, record.stop)
    except Malformed as error:
        raise Malformed(error.reason, tlv_type=record.type, offset=record.at) from None
    if pos != record.stop:
        raise Malformed("record is longer than its fields", tlv_type=record.type, offset=record.at)
    return value


def decode_tlv_stream(
    data: bytes, known: Mapping[int, FieldType[Any]]
) -> tuple[dict[int, Any], list[tuple[int, bytes]]]:
    """Values of the ``known`` types, and the unknown odd records as they came; an unknown even one raises Malformed."""
    values: dict[int, Any] = {}
    unknown: list[tuple[int, bytes]] = []
    for record in split_records(data):
        type_ = known.get(record.type)
        if type_ is not None:
            values[record.type] = read_value(type_, data, record)
        elif record.type & 1:
            unknown.append((record.type, data[record.start : record.stop]))
        else:
            raise Malformed(f"unknown even record {record.type}", tlv_type=record.type, offset=record.at)
    return values, unknown
