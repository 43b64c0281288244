"""What a PSBT is made of: maps of keys and values, each checked for the form that its type demands (BIP 174)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from salama.bitcoin.tx import compact_size, read_compact_size
from salama.crypto.secp256k1 import is_point

MAX_DEPTH: Final = 32
"""Steps in a derivation path; nobody has more than six."""


class MalformedPsbt(ValueError):
    """Bytes or text that are no PSBT, or one that contradicts itself; ``reason`` is for a person."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"not a valid PSBT: {reason}")


class KeyOrigin(NamedTuple):
    """Where a key comes from: fingerprint of the master key, and the steps from there (hardened: bit 31)."""

    fingerprint: bytes
    path: tuple[int, ...]


Records = dict[bytes, bytes]


def read_map(data: bytes, at: int) -> tuple[Records, int]:
    found: Records = {}
    while True:
        key, at = read_bytes(data, at)
        if not key:
            return found, at
        if key in found:
            raise MalformedPsbt("a key comes twice")
        found[key], at = read_bytes(data, at)


def read_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    length, at = read_compact_size(data, at)
    if length > len(data) - at:
        raise MalformedPsbt("truncated")
    return data[at : at + length], at + length


def encode_map(records: Iterable[tuple[bytes, bytes]]) -> bytes:
    parts = []
    for key, value in records:
        parts += [compact_size(len(key)), key, compact_size(len(value)), value]
    return b"".join((*parts, b"\x00"))


class Map:
    """Takes records out of a map by type, each checked for its length; what is left over is only carried."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def single(self, kind: int, sizes: tuple[int, ...] = ()) -> bytes | None:
        """The value under a key that is nothing but its type."""
        for key in self._records:
            if key[0] == kind and len(key) != 1:
                raise MalformedPsbt(f"a key of type {kind:#04x} with something behind it")
        value = self._records.pop(bytes((kind,)), None)
        if value is not None and sizes and len(value) not in sizes:
            raise MalformedPsbt(f"a value of {len(value)} bytes under type {kind:#04x}")
        return value

    def number(self, kind: int) -> int | None:
        value = self.single(kind, (4,))
        return None if value is None else int.from_bytes(value, "little")

    def many(self, kind: int, check: Callable[[bytes], bool]) -> Iterator[tuple[bytes, bytes]]:
        """Key data and value of every record of a type, by key."""
        for key in sorted(key for key in self._records if key[0] == kind):
            if not check(key[1:]):
                raise MalformedPsbt(f"a key of type {kind:#04x} that is none")
            yield key[1:], self._records.pop(key)

    def has(self, kinds: frozenset[int]) -> bool:
        """Whether any record is of one of these types."""
        return any(key[0] in kinds for key in self._records)

    def rest(self) -> tuple[tuple[bytes, bytes], ...]:
        return tuple(sorted(self._records.items()))


def is_pubkey(key: bytes) -> bool:
    if len(key) == 65:
        # An uncompressed one, which only ever stands for inputs of others: its form is enough.
        return key[0] == 4
    return len(key) == 33 and is_point(key)


def is_xonly(key: bytes) -> bool:
    return len(key) == 32


def parse_origin(value: bytes) -> KeyOrigin:
    if len(value) < 4 or len(value) % 4 or len(value) > 4 + 4 * MAX_DEPTH:
        raise MalformedPsbt("a derivation path that is none")
    steps = (int.from_bytes(value[at : at + 4], "little") for at in range(4, len(value), 4))
    return KeyOrigin(value[:4], tuple(steps))


def encode_origin(origin: KeyOrigin) -> bytes:
    return origin.fingerprint + b"".join(step.to_bytes(4, "little") for step in origin.path)


def read_tap_origins(records: Map, kind: int) -> tuple[tuple[tuple[bytes, KeyOrigin], ...], list[tuple[bytes, bytes]]]:
    """Origins of keys that belong to no script; of the others the raw records, to be carried."""
    plain, carried = [], []
    for key, value in records.many(kind, is_xonly):
        leaves, at = read_compact_size(value, 0)
        if leaves > (len(value) - at) // 32:
            raise MalformedPsbt("truncated")
        origin = parse_origin(value[at + 32 * leaves :])
        if leaves:
            carried.append((bytes((kind,)) + key, value))
        else:
            plain.append((key, origin))
    return tuple(plain), carried


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")
