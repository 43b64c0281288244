"""How a frozen dataclass becomes bytes and back, derived from its own declaration.

A record is a version byte, MessagePack, and a CRC-32 of both. Dataclasses become maps by field name, so that fields
may be added (with a default), moved or reordered without a migration; a name that is not known, a missing one
without default, a value of another type or out of its range is a CorruptRecord. Nothing is guessed: a type that has
no plan is a fault when the plan is made.
"""

from __future__ import annotations

import dataclasses
import types
import typing
import zlib
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from operator import attrgetter
from typing import Any, Final, Generic, NamedTuple, NewType, TypeVar

import msgspec

from salama.base.ids import MalformedId
from salama.base.units import OutOfRange
from salama.bitcoin.tx import Tx
from salama.codec.message import Message, decode_message
from salama.crypto.secrets import SecretKey
from salama.crypto.shachain import ShachainStore
from salama.storage.errors import CorruptRecord
from salama.wire.features import Features

T = TypeVar("T")

_CRC_SIZE: Final = 4
_FAULTS: Final = (
    ValueError,
    TypeError,
    KeyError,
    OverflowError,
    RecursionError,
    msgspec.DecodeError,
    MalformedId,
    OutOfRange,
)


class Plan(NamedTuple):
    """Both directions of one type. ``encode`` is None where MessagePack, or the hook below, takes the value as it
    is.
    """

    encode: Callable[[Any], Any] | None
    decode: Callable[[Any], Any]


class NoLayout(TypeError):
    """A declared type that we do not know how to write: a programming fault."""


def _plain(value: Any) -> Any:
    # MessagePack takes exact types only: ids are bytes, units are ints.
    return _exact_type(value.__class__)(value)


@cache
def _exact_type(cls: type) -> type:
    if issubclass(cls, SecretKey):
        raise NoLayout("a secret key does not belong in a record")
    for exact in (bytes, int):
        if issubclass(cls, exact):
            return exact
    raise NoLayout(f"no layout for {cls.__name__}")


_encode: Final = msgspec.msgpack.Encoder(enc_hook=_plain).encode
_decode: Final = msgspec.msgpack.Decoder().decode


class Codec(Generic[T]):
    """Writes and reads records of one dataclass. ``kind`` names it to a person, ``given`` are its fields kept
    elsewhere.
    """

    def __init__(
        self, cls: type[T], kind: str, *, version: int = 1, given: tuple[str, ...] = (), layouts: Layouts | None = None
    ) -> None:
        self.kind, self.version = kind, version
        self._prefix = bytes((version,))
        self._encode_fields, self._build = (layouts or Layouts()).dataclass(cls, given)

    def encode(self, record: T) -> bytes:
        """The bytes of ``record`` without its given fields."""
        body = self._prefix + _encode(self._encode_fields(record))
        return body + zlib.crc32(body).to_bytes(_CRC_SIZE, "big")

    def decode(self, data: bytes, **given: object) -> T:
        """The record of ``data``, completed with the given fields. Raises CorruptRecord."""
        body, check = data[:-_CRC_SIZE], data[-_CRC_SIZE:]
        if len(body) < 2 or zlib.crc32(body).to_bytes(_CRC_SIZE, "big") != check:
            raise CorruptRecord(self.kind, "its checksum does not match")
        if body[0] != self.version:
            raise CorruptRecord(self.kind, f"layout {body[0]} is not known")
        try:
            record: T = self._build(_decode(memoryview(body)[1:]), given)
        except _FAULTS as fault:
            raise CorruptRecord(self.kind, str(fault)[:200]) from None
        return record


class Layouts:
    """Plans of types, each made once. ``omitted`` names fields, per class, that are left out and come back as their
    defaults.
    """

    def __init__(self, omitted: Mapping[type, tuple[str, ...]] | None = None) -> None:
        self._omitted = omitted or {}
        self._plans: dict[Any, Plan] = {}

    def dataclass(
        self, cls: Any, given: tuple[str, ...] = ()
    ) -> tuple[Callable[[Any], dict[str, Any]], Callable[[Any, Mapping[str, Any]], Any]]:
        """Functions from a value to a map of its fields, and back with the given ones."""
        if not dataclasses.fields(cls):
            raise NoLayout(f"{cls} has nothing to write")
        hints = typing.get_type_hints(cls)
        left_out = given + self._omitted.get(typing.cast(type, cls), ())
        fields = [field for field in dataclasses.fields(cls) if field.name not in left_out]
        if any(not field.init for field in fields):
            raise NoLayout(f"{cls} has a field that its constructor does not take")
        names = tuple(field.name for field in fields)
        plans = {name: self.plan(hints[name]) for name in names}
        required = frozenset(
            f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        )
        decoders = {name: plan.decode for name, plan in plans.items()}
        special = tuple((name, plan.encode) for name, plan in plans.items() if plan.encode is not None)
        # attrgetter of one name gives no tuple.
        get: Callable[[Any], tuple[Any, ...]] = (
            attrgetter(*names) if len(names) > 1 else lambda v: (getattr(v, names[0]),)
        )

        def encode(value: Any) -> dict[str, Any]:
            found = dict(zip(names, get(value), strict=True))
            for name, encode_field in special:
                found[name] = encode_field(found[name])
            return found

        def build(raw: Any, more: Mapping[str, Any]) -> Any:
            if type(raw) is not dict or not required <= raw.keys():
                raise TypeError(f"a {cls.__name__} lacks fields")
            return cls(**{name: decoders[name](value) for name, value in raw.items()}, **more)

        return encode, build

    def plan(self, hint: Any) -> Plan:
        """The plan of a type as it stands in a declaration. Raises NoLayout."""
        found = self._plans.get(hint)
        if found is None:
            found = self._plans[hint] = self._make(hint)
        return found

    def _make(self, hint: Any) -> Plan:
        if isinstance(hint, NewType):
            return self.plan(hint.__supertype__)
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            return self._union(arguments)
        if origin is typing.Literal:
            return Plan(None, {value: value for value in arguments}.__getitem__)
        if origin is tuple:
            return self._tuple(arguments)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return self._mapping(*arguments)
        if isinstance(hint, type):
            return self._class(hint)
        raise NoLayout(f"no layout for {hint}")

    def _class(self, cls: Any) -> Plan:
        if cls in _LEAVES:
            return _LEAVES[cls]
        if cls in (int, str, bytes, bool):
            return Plan(None, _exactly(cls))
        if issubclass(cls, SecretKey):
            raise NoLayout("a secret key does not belong in a record")
        if issubclass(cls, Enum):
            return Plan(None, cls)
        if issubclass(cls, Message):
            return Plan(lambda message: message.encode(), _message(cls))
        if issubclass(cls, bytes):
            return Plan(None, _narrowed(cls, bytes))
        if issubclass(cls, int):
            return Plan(None, _narrowed(cls, int))
        if issubclass(cls, tuple) and hasattr(cls, "_fields"):
            hints = typing.get_type_hints(cls)
            inner = self._tuple(tuple(hints[name] for name in cls._fields))
            return Plan(inner.encode, lambda raw: cls(*inner.decode(raw)))
        if dataclasses.is_dataclass(cls):
            encode, build = self.dataclass(cls)
            return Plan(encode, lambda raw: build(raw, {}))
        raise NoLayout(f"no layout for {cls.__name__}")

    def _union(self, members: tuple[Any, ...]) -> Plan:
        """``X | None``, or dataclasses told apart by their names."""
        some = tuple(member for member in members if member is not types.NoneType)
        if len(some) == 1:
            encode, decode = self.plan(some[0])
            return Plan(
                None if encode is None else lambda value: None if value is None else encode(value),
                lambda raw: None if raw is None else decode(raw),
            )
        if any(not dataclasses.is_dataclass(member) for member in some):
            raise NoLayout(f"no layout for a choice between {some}")
        plans = {typing.cast(type, member).__name__: self.plan(member) for member in some}
        with_none = len(some) < len(members)

        def encode_one(value: Any) -> Any:
            if value is None and with_none:
                return None
            name = type(value).__name__
            return [name, (plans[name].encode or _same)(value)]

        def decode_one(raw: Any) -> Any:
            if raw is None and with_none:
                return None
            name, body = _as_list(raw)
            return plans[name].decode(body)

        return Plan(encode_one, decode_one)

    def _tuple(self, arguments: tuple[Any, ...]) -> Plan:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            encode, decode = self.plan(arguments[0])
            return Plan(
                None if encode is None else lambda value: [encode(item) for item in value],
                lambda raw: tuple([decode(item) for item in _as_list(raw)]),
            )
        plans = tuple(self.plan(argument) for argument in arguments)
        encoders = tuple(plan.encode or _same for plan in plans)
        decoders = tuple(plan.decode for plan in plans)
        plain = all(plan.encode is None for plan in plans)
        return Plan(
            None if plain else lambda value: [e(item) for e, item in zip(encoders, value, strict=True)],
            lambda raw: tuple([d(item) for d, item in zip(decoders, _as_list(raw), strict=True)]),
        )

    def _mapping(self, key: Any, value: Any) -> Plan:
        """A list of pairs in their order, because keys may be of any type."""
        pair = self._tuple((key, value))
        encode_pair = pair.encode or _same

        def decode(raw: Any) -> dict[Any, Any]:
            pairs = [pair.decode(item) for item in _as_list(raw)]
            found = dict(pairs)
            if len(found) != len(pairs):
                raise ValueError("a key occurs twice")
            return found

        return Plan(lambda mapping: [encode_pair(item) for item in mapping.items()], decode)


def _exactly(cls: type) -> Callable[[Any], Any]:
    def decode(raw: Any) -> Any:
        if type(raw) is not cls:
            raise TypeError(f"{type(raw).__name__} instead of {cls.__name__}")
        return raw

    return decode


def _narrowed(cls: Any, base: type) -> Callable[[Any], Any]:
    def decode(raw: Any) -> Any:
        if type(raw) is not base:
            raise TypeError(f"{type(raw).__name__} instead of {cls.__name__}")
        return cls(raw)

    return decode


def _message(cls: type[Message]) -> Callable[[Any], Message]:
    def decode(raw: Any) -> Message:
        message = decode_message(_as_bytes(raw))
        if not isinstance(message, cls):
            raise TypeError(f"{type(message).__name__} instead of {cls.__name__}")
        return message

    return decode


def _same(value: Any) -> Any:
    return value


_as_bytes: Final = _exactly(bytes)
_as_list: Final = _exactly(list)

_LEAVES: Final[dict[Any, Plan]] = {
    Tx: Plan(Tx.encode, lambda raw: Tx.decode(_as_bytes(raw))),
    Features: Plan(Features.encode, lambda raw: Features.decode(_as_bytes(raw))),
    ShachainStore: Plan(ShachainStore.encode, lambda raw: ShachainStore.decode(_as_bytes(raw))),
    types.NoneType: Plan(None, lambda raw: None),
}
"""Classes with a wire form of their own."""
