"""The fundamental types of the wire (BOLT 1, B1.01): each object here reads and writes one of them.

A ``FieldType`` reads a value from ``data[pos:end]`` and writes it back; its ``bolt`` says how the BOLTs spell it, for
the test that holds declarations against them. Reading is strict and raises only ``Malformed``; writing raises
``Unencodable``. Amounts are bounded to 21 million bitcoin when read; points must lie on the curve. This module knows
no message.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, Final, Generic, NamedTuple, TypeVar

from salama.base.ids import BlockHash, ChannelId, NodeId, PaymentHash, Preimage, ShortChannelId, Txid
from salama.base.units import FeeratePerKw, Msat, Sat

T = TypeVar("T")
U = TypeVar("U")
N = TypeVar("N", bound=tuple[Any, ...])


class Malformed(ValueError):
    """Bytes from outside that do not follow the BOLTs; ``tlv_type`` and ``offset`` tell which record if it was one."""

    def __init__(self, reason: str, *, tlv_type: int | None = None, offset: int | None = None) -> None:
        self.reason, self.tlv_type, self.offset = reason, tlv_type, offset
        super().__init__(reason)


class Unencodable(ValueError):
    """A value of ours does not fit the field it was put into: a mistake in our code, never a peer's fault."""


class Bolt(NamedTuple):
    """How the BOLTs spell a type. ``times``: empty for one, a number, ``...`` for the rest, or the type of a count in
    front.
    """

    type: str
    times: str = ""


class FieldType(Generic[T]):
    """One type of the wire."""

    bolt: Bolt

    def read(self, data: bytes, pos: int, end: int) -> tuple[T, int]:
        """The value at ``pos`` and the position behind it, at most ``end``; raises Malformed."""
        raise NotImplementedError

    def write(self, value: T) -> bytes:
        """Raises Unencodable."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{self.bolt.times}*{self.bolt.type}" if self.bolt.times else self.bolt.type


class Fixed(FieldType[T]):
    """A type of fixed size; neighbours of this kind are read and written together by one ``struct``.

    ``wrap`` makes the value from what ``struct`` gives and raises ValueError if it refuses.
    """

    def __init__(self, bolt: Bolt, code: str, wrap: Callable[[Any], T] | None = None) -> None:
        self.bolt, self.code, self.wrap = bolt, code, wrap
        self.struct = struct.Struct(">" + code)
        self.size = self.struct.size
        self.is_bytes = code.endswith("s")

    def read(self, data: bytes, pos: int, end: int) -> tuple[T, int]:
        stop = pos + self.size
        if stop > end:
            raise Malformed(f"too short for {self}")
        value = self.struct.unpack_from(data, pos)[0]
        if self.wrap is not None:
            value = wrapped(self.wrap, value)
        return value, stop

    def write(self, value: T) -> bytes:
        # struct would silently pad or cut bytes of another length.
        if self.is_bytes and len(value) != self.size:  # type: ignore[arg-type]
            raise Unencodable(f"{len(value)} bytes instead of {self.size}")  # type: ignore[arg-type]
        try:
            return self.struct.pack(value)
        except struct.error as error:
            raise Unencodable(str(error)) from None


def wrapped(wrap: Callable[[Any], T], value: Any) -> T:
    """``wrap(value)``, with any ValueError turned into Malformed."""
    try:
        return wrap(value)
    except Malformed:
        raise
    except ValueError as error:
        raise Malformed(str(error)) from None


def _number(name: str, code: str) -> Fixed[int]:
    return Fixed(Bolt(name), code)


BYTE: Final = _number("byte", "B")
U8: Final = _number("u8", "B")
U16: Final = _number("u16", "H")
U32: Final = _number("u32", "I")
U64: Final = _number("u64", "Q")
S8: Final = _number("s8", "b")
S16: Final = _number("s16", "h")
S32: Final = _number("s32", "i")
S64: Final = _number("s64", "q")

SAT: Final = Fixed(Bolt("u64"), "Q", Sat)
MSAT: Final = Fixed(Bolt("u64"), "Q", Msat)
MSAT32: Final = Fixed(Bolt("u32"), "I", Msat)
FEERATE_PER_KW: Final = Fixed(Bolt("u32"), "I", FeeratePerKw)
SHORT_CHANNEL_ID: Final = Fixed(Bolt("short_channel_id"), "Q", ShortChannelId)

CHANNEL_ID: Final = Fixed(Bolt("channel_id"), "32s", ChannelId)
CHAIN_HASH: Final = Fixed(Bolt("chain_hash"), "32s", BlockHash)
TXID: Final = Fixed(Bolt("sha256"), "32s", Txid)
PAYMENT_HASH: Final = Fixed(Bolt("sha256"), "32s", PaymentHash)
PREIMAGE: Final = Fixed(Bolt("byte", "32"), "32s", Preimage)
SHA256: Final[Fixed[bytes]] = Fixed(Bolt("sha256"), "32s")
SIGNATURE: Final[Fixed[bytes]] = Fixed(Bolt("signature"), "64s")
BIP340_SIGNATURE: Final[Fixed[bytes]] = Fixed(Bolt("bip340sig"), "64s")
# Node ids and keys of gossip are not checked to be points: verifying the signatures does that, once and in batches.
NODE_ID: Final = Fixed(Bolt("point"), "33s", NodeId)
UNCHECKED_POINT: Final[Fixed[bytes]] = Fixed(Bolt("point"), "33s")


def _on_curve(key: bytes) -> bytes:
    # Imported when first needed, so that gossip tools can decode without loading libsecp256k1.
    from salama.crypto.secp256k1 import is_point

    if not is_point(key):
        raise Malformed("not a point of the curve")
    return key


def _node_on_curve(key: bytes) -> NodeId:
    return NodeId(_on_curve(key))


POINT: Final = Fixed(Bolt("point"), "33s", _on_curve)
NODE_POINT: Final = Fixed(Bolt("point"), "33s", _node_on_curve)


def raw(size: int) -> Fixed[bytes]:
    """Exactly ``size`` bytes without further meaning."""
    return Fixed(Bolt("byte", str(size)), f"{size}s")


class BigSize(FieldType[int]):
    """Variable-length unsigned integer, big-endian; only the shortest form is accepted."""

    bolt = Bolt("bigsize")

    def read(self, data: bytes, pos: int, end: int) -> tuple[int, int]:
        if pos >= end:
            raise Malformed("bigsize is missing")
        first = data[pos]
        pos += 1
        if first < 0xFD:
            return first, pos
        stop = pos + (2 << first - 0xFD)
        if stop > end:
            raise Malformed("bigsize is cut off")
        value = int.from_bytes(data[pos:stop], "big")
        if value < _BIGSIZE_LEAST[first - 0xFD]:
            raise Malformed("bigsize is not minimal")
        return value, stop

    def write(self, value: int) -> bytes:
        if value < 0 or value >= 1 << 64:
            raise Unencodable("a bigsize holds 0 to 2^64-1")
        if value < 0xFD:
            return value.to_bytes(1, "big")
        if value < 0x10000:
            return b"\xfd" + value.to_bytes(2, "big")
        if value < 0x100000000:
            return b"\xfe" + value.to_bytes(4, "big")
        return b"\xff" + value.to_bytes(8, "big")


_BIGSIZE_LEAST = (0xFD, 0x10000, 0x100000000)
BIGSIZE: Final = BigSize()


class Truncated(FieldType[T]):
    """Unsigned integer without its leading zeros; takes everything up to the end of its record."""

    def __init__(self, size: int, wrap: Callable[[int], T]) -> None:
        self.bolt, self.size, self.wrap = Bolt(f"tu{8 * size}"), size, wrap

    def read(self, data: bytes, pos: int, end: int) -> tuple[T, int]:
        if end - pos > self.size:
            raise Malformed(f"too long for {self}")
        if pos < end and data[pos] == 0:
            raise Malformed(f"{self} is not minimal")
        return wrapped(self.wrap, int.from_bytes(data[pos:end], "big")), end

    def write(self, value: T) -> bytes:
        number = int(value)  # type: ignore[call-overload]
        if not 0 <= number < 1 << 8 * self.size:
            raise Unencodable(f"does not fit {self}")
        encoded: bytes = number.to_bytes((number.bit_length() + 7) // 8, "big")
        return encoded


TU16: Final = Truncated(2, int)
TU32: Final = Truncated(4, int)
TU64: Final = Truncated(8, int)
TU32_MSAT: Final = Truncated(4, Msat)
TU64_MSAT: Final = Truncated(8, Msat)


class Rest(FieldType[bytes]):
    """Every byte that is left."""

    bolt = Bolt("byte", "...")

    def read(self, data: bytes, pos: int, end: int) -> tuple[bytes, int]:
        return data[pos:end], end

    def write(self, value: bytes) -> bytes:
        return value


REST: Final = Rest()
TAIL: Final = Rest()
"""Marks the bytes behind the known fields of a signed message."""


class Prefixed(FieldType[bytes]):
    """Bytes with their u16 length in front."""

    bolt = Bolt("byte", "u16")

    def read(self, data: bytes, pos: int, end: int) -> tuple[bytes, int]:
        start = pos + 2
        if start > end:
            raise Malformed("length is missing")
        stop = start + (data[pos] << 8 | data[pos + 1])
        if stop > end:
            raise Malformed("shorter than its length field")
        return data[start:stop], stop

    def write(self, value: bytes) -> bytes:
        if len(value) > 0xFFFF:
            raise Unencodable("more than 65535 bytes")
        return len(value).to_bytes(2, "big") + value


VARBYTES: Final = Prefixed()


class Presence(FieldType[bool]):
    """An empty record that says yes by being there."""

    bolt = Bolt("")

    def read(self, data: bytes, pos: int, end: int) -> tuple[bool, int]:
        return True, pos

    def write(self, value: bool) -> bytes:
        return b""


PRESENCE: Final = Presence()


class Array(FieldType[tuple[T, ...]]):
    """Several of one type: counted in front by ``count`` (U16 or BYTE), or up to the end if ``count`` is None."""

    def __init__(self, item: FieldType[T], count: Fixed[int] | None, least: int = 0) -> None:
        self.item, self.count, self.least = item, count, least
        self.bolt = Bolt(item.bolt.type, "..." if count is None else count.bolt.type)

    def read(self, data: bytes, pos: int, end: int) -> tuple[tuple[T, ...], int]:
        items: list[T] = []
        if self.count is None:
            while pos < end:
                item, pos = self.item.read(data, pos, end)
                items.append(item)
        else:
            wanted, pos = self.count.read(data, pos, end)
            for _ in range(wanted):
                item, pos = self.item.read(data, pos, end)
                items.append(item)
        if len(items) < self.least:
            raise Malformed(f"fewer than {self.least} of {self.item}")
        return tuple(items), pos

    def write(self, value: tuple[T, ...]) -> bytes:
        if len(value) < self.least:
            raise Unencodable(f"fewer than {self.least} of {self.item}")
        head = b"" if self.count is None else self.count.write(len(value))
        return head + b"".join(map(self.item.write, value))


def counted(item: FieldType[T], count: Fixed[int] = U16, least: int = 0) -> FieldType[tuple[T, ...]]:
    """As many as the number in front says, at least ``least``."""
    return Array(item, count, least)


def rest_of(item: FieldType[T]) -> FieldType[tuple[T, ...]]:
    """As many as fit into what is left, which they must fill exactly."""
    return Array(item, None)


class Subtype(FieldType[N]):
    """A named group of fields as a NamedTuple; ``name`` is the BOLT's name, empty for the fields of one record."""

    def __init__(self, make: Callable[..., N], name: str, fields: Iterable[tuple[str, FieldType[Any]]]) -> None:
        self.make, self.fields = make, tuple(fields)
        self.bolt = Bolt(name)

    @cached_property
    def _types(self) -> tuple[FieldType[Any], ...]:
        return tuple(type_ for _, type_ in self.fields)

    def read(self, data: bytes, pos: int, end: int) -> tuple[N, int]:
        values = []
        for type_ in self._types:
            value, pos = type_.read(data, pos, end)
            values.append(value)
        return self.make(*values), pos

    def write(self, value: N) -> bytes:
        return b"".join(type_.write(part) for type_, part in zip(self._types, value, strict=True))


def group(make: Callable[..., N], name: str = "", **fields: FieldType[Any]) -> FieldType[N]:
    """``fields`` in order, read into ``make``; several fields of one TLV record, or a subtype of the BOLTs."""
    return Subtype(make, name, fields.items())


class Mapped(FieldType[T]):
    """Another type whose value is translated; ``decode`` may raise ValueError, ``encode`` Unencodable."""

    def __init__(self, inner: FieldType[U], decode: Callable[[U], T], encode: Callable[[T], U]) -> None:
        self.inner: FieldType[Any] = inner
        self.decode: Callable[[Any], T] = decode
        self.encode: Callable[[T], Any] = encode
        self.bolt = inner.bolt

    def read(self, data: bytes, pos: int, end: int) -> tuple[T, int]:
        value, pos = self.inner.read(data, pos, end)
        return wrapped(self.decode, value), pos

    def write(self, value: T) -> bytes:
        return self.inner.write(self.encode(value))


class ScidDir(NamedTuple):
    """One end of an announced channel: ``direction`` 0 means ``node_id_1``, 1 means ``node_id_2``."""

    direction: int
    short_channel_id: ShortChannelId


class SciddirOrPubkey(FieldType[NodeId | ScidDir]):
    """A node by its key (33 bytes) or by an end of one of its channels (9 bytes)."""

    bolt = Bolt("sciddir_or_pubkey")

    def read(self, data: bytes, pos: int, end: int) -> tuple[NodeId | ScidDir, int]:
        if pos >= end:
            raise Malformed(f"too short for {self}")
        first = data[pos]
        if first < 2:
            scid, pos = SHORT_CHANNEL_ID.read(data, pos + 1, end)
            return ScidDir(first, scid), pos
        if first < 4:
            return NODE_POINT.read(data, pos, end)
        raise Malformed(f"{self} begins with {first}")

    def write(self, value: NodeId | ScidDir) -> bytes:
        if isinstance(value, ScidDir):
            if value.direction not in (0, 1):
                raise Unencodable("a direction is 0 or 1")
            return bytes([value.direction]) + SHORT_CHANNEL_ID.write(value.short_channel_id)
        return NODE_POINT.write(value)


SCIDDIR_OR_PUBKEY: Final = SciddirOrPubkey()
