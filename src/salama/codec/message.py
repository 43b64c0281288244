"""One declaration of a message is its encoder, its decoder and its documentation (BOLT 1, B1.02 and B1.03).

    @message(134)
    class UpdateFee(Message):
        \"\"\"Opener to accepter: a new fee rate for both commitment transactions.\"\"\"

        channel_id: ChannelId = field(CHANNEL_ID)
        feerate_per_kw: FeeratePerKw = field(FEERATE_PER_KW)

``field`` declares what is always there, in order; ``tlv`` and ``flag`` declare records of the stream behind it. A
declared class is a frozen, slotted, keyword-only dataclass. Unknown odd records are kept in ``extension`` and written
back in order; unknown even ones refuse the message. Decoding raises only ``Malformed``. This module knows no
particular message, but all that were declared, by their number.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import struct
from collections.abc import Callable
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple, Self, TypeVar, dataclass_transform

from salama.codec.fields import BIGSIZE, PRESENCE, TAIL, FieldType, Fixed, Malformed, Unencodable, wrapped
from salama.codec.tlv import read_value, split_records

T = TypeVar("T")
C = TypeVar("C", bound="Declared")
M = TypeVar("M", bound="Message")
MAX_MESSAGE = 65535
"""Bytes of the longest message, type included (B1.02)."""

Extension = tuple[tuple[int, bytes], ...]


class MessageTooLong(Unencodable):
    """The encoded message would exceed 65535 bytes."""


class Field(NamedTuple):
    """What a declaration says about one attribute; ``tlv`` is None for a field that is always there."""

    name: str
    type: FieldType[Any]
    tlv: int | None
    record: str
    """The BOLT's name of the record, where it differs from the attribute's."""


@dataclasses.dataclass(frozen=True)
class _Declaration:
    type: FieldType[Any]
    tlv: int | None = None
    record: str = ""
    secret: bool = False


def field(type_: FieldType[T], *, secret: bool = False) -> T:
    """A field that is always there; a ``secret`` one stays out of ``repr``."""
    return _Declaration(type_, secret=secret)  # type: ignore[return-value]


def tlv(number: int, type_: FieldType[T], *, record: str = "", secret: bool = False) -> T | None:
    """A record of the TLV stream, None if absent. ``record`` is the BOLT's name of it if the attribute has another."""
    return _Declaration(type_, number, record, secret)  # type: ignore[return-value]


def flag(number: int) -> bool:
    """An empty record: True if it is there."""
    return _Declaration(PRESENCE, number)  # type: ignore[return-value]


def tail() -> bytes:
    """Whatever follows the known fields, kept as it came: for messages that are signed to their last byte.

    Declared last; it takes the place of the TLV stream, so that no later author of gossip can make us leave a
    relaying peer.
    """
    return _Declaration(TAIL)  # type: ignore[return-value]


class _Run:
    """Neighbouring fields of fixed size, read and written at once."""

    def __init__(self, types: list[Fixed[Any]], names: list[str]) -> None:
        self.struct = struct.Struct(">" + "".join(t.code for t in types))
        self.unpack, self.pack, self.size = self.struct.unpack_from, self.struct.pack, self.struct.size
        self.wraps = [(i, t.wrap) for i, t in enumerate(types) if t.wrap is not None]
        self.lengths = [(i, t.size) for i, t in enumerate(types) if t.is_bytes]
        self.names = names
        self.get: Callable[[Any], tuple[Any, ...]]
        if len(names) == 1:
            only = attrgetter(names[0])
            self.get = lambda instance: (only(instance),)
        else:
            self.get = attrgetter(*names)

    def read(self, data: bytes, pos: int, end: int, values: list[Any]) -> int:
        stop = pos + self.size
        if stop > end:
            raise Malformed("too short")
        parts = list(self.unpack(data, pos))
        for i, wrap in self.wraps:
            parts[i] = wrapped(wrap, parts[i])
        values += parts
        return stop

    def write(self, instance: object) -> bytes:
        parts = self.get(instance)
        for i, size in self.lengths:
            if len(parts[i]) != size:
                raise Unencodable(f"{self.names[i]}: {len(parts[i])} bytes instead of {size}")
        try:
            return self.pack(*parts)
        except struct.error as error:
            raise Unencodable(f"{', '.join(self.names)}: {error}") from None


class _Single:
    """A field of variable size."""

    def __init__(self, type_: FieldType[Any], name: str) -> None:
        self.type, self.name = type_, name
        self.get = attrgetter(name)

    def read(self, data: bytes, pos: int, end: int, values: list[Any]) -> int:
        value, pos = self.type.read(data, pos, end)
        values.append(value)
        return pos

    def write(self, instance: object) -> bytes:
        try:
            return self.type.write(self.get(instance))
        except Unencodable as error:
            raise Unencodable(f"{self.name}: {error}") from None


class _Plan:
    """What encoding and decoding one class takes, worked out once when it is declared."""

    def __init__(self, cls: type, fields: tuple[Field, ...], secrets: frozenset[str]) -> None:
        self.fields, self.secrets = fields, secrets
        self.has_tail = any(f.type is TAIL for f in fields)
        self.steps: list[_Run | _Single] = []
        run: list[Field] = []
        always = [f for f in fields if f.tlv is None]
        for f in always:
            if isinstance(f.type, Fixed):
                run.append(f)
                continue
            self._close(run)
            self.steps.append(_Single(f.type, f.name))
        self._close(run)
        records = [f for f in fields if f.tlv is not None]
        numbers = [f.tlv for f in records]
        if numbers != sorted(set(numbers), key=lambda n: n or 0):
            raise TypeError(f"{cls.__name__}: records must be declared once each, in increasing order")
        self.records = [(f.tlv or 0, BIGSIZE.write(f.tlv or 0), attrgetter(f.name), f.type, f.name) for f in records]
        self.set_always = [getattr(cls, f.name).__set__ for f in always]
        self.set_record = {f.tlv: getattr(cls, f.name).__set__ for f in records}
        self.set_absent = [(getattr(cls, f.name).__set__, False if f.type is PRESENCE else None) for f in records]
        self.types = {f.tlv: f.type for f in records}
        self.set_extension = cls.extension.__set__  # type: ignore[attr-defined]

    def _close(self, run: list[Field]) -> None:
        if run:
            self.steps.append(_Run([f.type for f in run if isinstance(f.type, Fixed)], [f.name for f in run]))
            run.clear()


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
class Declared:
    """What messages, TLV streams and failure messages have in common."""

    __slots__ = ()
    _plan: ClassVar[_Plan]

    @classmethod
    def fields(cls) -> tuple[Field, ...]:
        """The declarations in order, for documentation and tests; ``extension`` is not among them."""
        return cls._plan.fields

    @classmethod
    def _read(cls, data: bytes, pos: int) -> Self:
        plan, end = cls._plan, len(data)
        values: list[Any] = []
        for step in plan.steps:
            pos = step.read(data, pos, end, values)
        instance = cls.__new__(cls)
        for set_, value in zip(plan.set_always, values, strict=True):
            set_(instance, value)
        for set_, value in plan.set_absent:
            set_(instance, value)
        plan.set_extension(instance, _read_records(plan, instance, data, pos, end) if pos < end else ())
        return instance

    def _write(self) -> bytes:
        plan = self._plan
        parts = [step.write(self) for step in plan.steps]
        extension: Extension = self.extension  # type: ignore[attr-defined]
        if extension and plan.has_tail:
            raise Unencodable("this message has a tail instead of an extension")
        if plan.records or extension:
            parts.append(_written_records(plan, self, extension))
        return b"".join(parts)

    def __repr__(self) -> str:
        """Absent records are left out, secrets hidden, long bytes cut."""
        plan = self._plan
        parts = []
        for f in plan.fields:
            value = getattr(self, f.name)
            if f.tlv is not None and (value is None or value is False):
                continue
            parts.append(f"{f.name}={'...' if f.name in plan.secrets else _shown(value)}")
        if extension := self.extension:  # type: ignore[attr-defined]
            parts.append(f"extension={_shown(extension)}")
        return f"{self.__class__.__name__}({', '.join(parts)})"


def _shown(value: object) -> str:
    if value.__class__ is bytes and isinstance(value, bytes):
        return f"<{value[:16].hex()}... {len(value)} bytes>" if len(value) > 80 else f"<{value.hex()}>"
    if value.__class__ is tuple and isinstance(value, tuple):
        inner = ", ".join(map(_shown, value[:8]))
        return f"({inner}, ... {len(value)} in all)" if len(value) > 8 else f"({inner})"
    text = repr(value)
    return text if len(text) <= 400 else f"{text[:400]}..."


def _read_records(plan: _Plan, instance: object, data: bytes, pos: int, end: int) -> Extension:
    """Put the known records of ``data[pos:end]`` into ``instance`` and give back the unknown odd ones."""
    unknown = []
    for record in split_records(data, pos, end):
        kind = record.type
        set_ = plan.set_record.get(kind)
        if set_ is not None:
            set_(instance, read_value(plan.types[kind], data, record))
        elif kind & 1:
            unknown.append((kind, data[record.start : record.stop]))
        else:
            raise Malformed(f"unknown even record {kind}", tlv_type=kind, offset=record.at)
    return tuple(unknown)


def _written_records(plan: _Plan, instance: object, extension: Extension) -> bytes:
    parts: list[tuple[int, bytes]] = []
    for number, head, get, type_, name in plan.records:
        value = get(instance)
        if value is None or value is False:
            continue
        try:
            encoded = type_.write(value)
        except Unencodable as error:
            raise Unencodable(f"{name}: {error}") from None
        parts.append((number, head + BIGSIZE.write(len(encoded)) + encoded))
    if extension:
        previous = -1
        for number, encoded in extension:
            if number <= previous or number in plan.types:
                raise Unencodable(f"extension: record {number} is known, repeated or out of order")
            previous = number
            parts.append((number, BIGSIZE.write(number) + BIGSIZE.write(len(encoded)) + encoded))
        parts.sort(key=lambda part: part[0])
    return b"".join(part[1] for part in parts)


def declare(cls: type[C]) -> type[C]:
    """Turn a class of ``field``, ``tlv`` and ``flag`` declarations into a frozen, slotted dataclass with a plan."""
    fields = []
    secrets = set()
    for name in inspect.get_annotations(cls):
        declaration = cls.__dict__.get(name)
        if not isinstance(declaration, _Declaration):
            continue
        fields.append(Field(name, declaration.type, declaration.tlv, declaration.record or name))
        if declaration.secret:
            secrets.add(name)
        if declaration.type is TAIL:
            setattr(cls, name, b"")
        elif declaration.tlv is None:
            delattr(cls, name)
        else:
            setattr(cls, name, False if declaration.type is PRESENCE else None)
    made: type[C] = dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)(cls)
    if hasattr(made, "extension"):
        made._plan = _Plan(made, tuple(fields), frozenset(secrets))
    return made


@declare
class Message(Declared):
    """A message between peers. ``extension`` holds unknown odd records, in order, as type and value."""

    TYPE: ClassVar[int] = -1
    NAME: ClassVar[str] = "message"
    extension: Extension = ()

    def encode(self) -> bytes:
        """The message with its two-byte type; raises MessageTooLong, or Unencodable if a value does not fit."""
        encoded = self.TYPE.to_bytes(2, "big") + self._write()
        if len(encoded) > MAX_MESSAGE:
            raise MessageTooLong(f"{self.NAME} of {len(encoded)} bytes")
        return encoded

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The message of this class in ``data`` (type included); raises Malformed, also if it is another message."""
        if len(data) < 2 or data[0] << 8 | data[1] != cls.TYPE:
            raise Malformed(f"not a {cls.NAME}")
        if len(data) > MAX_MESSAGE:
            raise Malformed("more than 65535 bytes")
        return cls._read(data, 2)


@dataclasses.dataclass(frozen=True, slots=True, init=False, repr=False)
class UnknownMessage(Message):
    """A message of a type that nobody declared: ignored if ``type`` is odd, else it ends the connection (B1.02)."""

    NAME: ClassVar[str] = "unknown"
    type: int
    payload: bytes

    def __init__(self, type: int, payload: bytes, extension: Extension = ()) -> None:
        object.__setattr__(self, "type", type)
        object.__setattr__(self, "payload", payload)
        object.__setattr__(self, "extension", extension)

    @property
    def is_odd(self) -> bool:
        return bool(self.type & 1)

    def encode(self) -> bytes:
        if not 0 <= self.type <= 0xFFFF:
            raise Unencodable("a message type holds 0 to 65535")
        if len(self.payload) + 2 > MAX_MESSAGE:
            raise MessageTooLong(f"unknown message of {len(self.payload) + 2} bytes")
        return self.type.to_bytes(2, "big") + self.payload

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if not 2 <= len(data) <= MAX_MESSAGE:
            raise Malformed("not 2 to 65535 bytes")
        return cls(data[0] << 8 | data[1], data[2:])

    def __repr__(self) -> str:
        return f"UnknownMessage(type={self.type}, payload={_shown(self.payload)})"


MESSAGES: dict[int, type[Message]] = {}
"""Every declared message by its type. Import ``salama.wire`` to have them all."""


def bolt_name(class_name: str) -> str:
    """``OpenChannel2`` to ``open_channel2``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", class_name).lower()


def message(number: int) -> Callable[[type[M]], type[M]]:
    """Declare a message of type ``number``; its BOLT name follows from the class name."""

    def declared(cls: type[M]) -> type[M]:
        if number in MESSAGES:
            raise TypeError(f"message {number} is declared twice")
        made = declare(cls)
        made.TYPE, made.NAME = number, bolt_name(cls.__name__)
        MESSAGES[number] = made
        return made

    return declared


def decode_message(data: bytes) -> Message:
    """The message in ``data``, type included; an unknown type gives UnknownMessage. Raises only Malformed."""
    if len(data) < 2:
        raise Malformed("shorter than its type")
    if len(data) > MAX_MESSAGE:
        raise Malformed("more than 65535 bytes")
    cls = MESSAGES.get(data[0] << 8 | data[1])
    return UnknownMessage.decode(data) if cls is None else cls._read(data, 2)


@declare
class TlvStream(Declared):
    """A stream of records that is not part of a message: an onion payload, encrypted recipient data."""

    extension: Extension = ()

    def encode(self) -> bytes:
        """The records in order of their types; raises Unencodable."""
        return self._write()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises Malformed, with ``tlv_type`` and ``offset`` where one record is to blame."""
        return cls._read(data, 0)


def tlv_stream(cls: type[C]) -> type[C]:
    """Declare a TlvStream."""
    return declare(cls)
