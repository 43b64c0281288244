"""Bech32 and bech32m text (BIP 173, BIP 350) for addresses, and without a length limit for invoices (BOLT 11).

Data travels as ``bytes`` of 5-bit groups, one group a byte. BOLT 12 uses the alphabet without a checksum:
``groups_of`` and ``letters_of`` serve it.
"""

from __future__ import annotations

import base64
from enum import Enum
from typing import Final

ALPHABET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"

_CHECKSUM_LENGTH = 6
_LETTERS: Final = ALPHABET.encode()
_NOT_A_LETTER = 0xFF
_DIGIT_OF: Final = b"0123456789abcdefghijklmnopqrstuv" + b"!" * 224
"""How ``int`` spells a group in base 32; everything else is no digit."""
_GROUP_OF_BASE32: Final = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", bytes(range(32)))
_GROUP_OF: Final = bytes(_LETTERS.index(byte) if byte in _LETTERS else _NOT_A_LETTER for byte in range(256))


class Variant(Enum):
    """Which constant ends the checksum."""

    BECH32 = 1
    BECH32M = 0x2BC830A3


class MalformedBech32(ValueError):
    """Text that is not bech32, or groups that do not make whole bytes."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"not valid bech32: {reason}")


def _feedback() -> tuple[int, ...]:
    """For each value of the five bits that leave the register, the mask that comes back in."""
    generators = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
    masks = []
    for top in range(32):
        mask = 0
        for bit, generator in enumerate(generators):
            if top >> bit & 1:
                mask ^= generator
        masks.append(mask)
    return tuple(masks)


_FEEDBACK: Final = _feedback()


def _six_steps() -> tuple[tuple[int, ...], ...]:
    """What becomes of the whole register while six groups come in: for each value of its low, middle and high ten bits.

    The steps are linear, so that 30 of them tell about all: a value is the sum of its bits.
    """
    of_bit = []
    for bit in range(30):
        register = 1 << bit
        for _ in range(6):
            register = (register & 0x1FFFFFF) << 5 ^ _FEEDBACK[register >> 25]
        of_bit.append(register)
    tables = []
    for part in range(3):
        masks = [0]
        for bit in of_bit[10 * part : 10 * part + 10]:
            masks += [mask ^ bit for mask in masks]
        tables.append(tuple(masks))
    return tuple(tables)


_LOW, _MIDDLE, _HIGH = _six_steps()
_SIX_GROUPS: Final = (1 << 30) - 1


def _polymod(groups: bytes) -> int:
    register, odd = 1, len(groups) % 6
    for group in groups[:odd]:
        register = (register & 0x1FFFFFF) << 5 ^ group ^ _FEEDBACK[register >> 25]
    if len(groups) > odd:
        value = _number(groups[odd:])
        low, middle, high = _LOW, _MIDDLE, _HIGH
        for shift in range(5 * (len(groups) - odd) - 30, -1, -30):
            register = (
                low[register & 0x3FF]
                ^ middle[register >> 10 & 0x3FF]
                ^ high[register >> 20]
                ^ (value >> shift & _SIX_GROUPS)
            )
    return register


def _number(groups: bytes) -> int:
    # Base 32 is what Python's own numbers read fastest; its digits are only spelt differently.
    return int(groups.translate(_DIGIT_OF), 32)


def number(groups: bytes) -> int:
    """The big-endian number in 5-bit ``groups``; ValueError if one does not fit five bits."""
    return _number(groups) if groups else 0


def _expand(hrp: str) -> bytes:
    raw = hrp.encode("ascii")
    return bytes([byte >> 5 for byte in raw]) + b"\x00" + bytes([byte & 31 for byte in raw])


def groups_of(letters: str) -> bytes:
    """The 5-bit groups that lower-case ``letters`` stand for; raises MalformedBech32."""
    if not letters.isascii():
        raise MalformedBech32("a character outside the alphabet")
    groups = letters.encode("ascii").translate(_GROUP_OF)
    if _NOT_A_LETTER in groups:
        raise MalformedBech32("a character outside the alphabet")
    return groups


def letters_of(groups: bytes) -> str:
    """The letters of 5-bit ``groups``; ValueError if one does not fit five bits."""
    if groups and max(groups) > 31:
        raise ValueError("a group of more than 5 bits")
    return groups.translate(_LETTERS + bytes(224)).decode("ascii")


def decode(text: str, max_length: int | None = None) -> tuple[str, bytes, Variant]:
    """Prefix (lower case), 5-bit groups without the checksum, and variant; raises MalformedBech32.

    Without ``max_length`` (BIP 173 says 90 for addresses) text of any length is taken, as BOLT 11 wants: the caller
    bounds what it reads.
    """
    if max_length is not None and len(text) > max_length:
        raise MalformedBech32(f"more than {max_length} characters")
    if not text.isascii():
        raise MalformedBech32("a character that is not ASCII")
    lower = text.lower()
    if text != lower and text != text.upper():
        raise MalformedBech32("upper and lower case mixed")
    hrp, separator, letters = lower.rpartition("1")
    if not separator or not hrp:
        raise MalformedBech32("no prefix")
    if min(hrp) < "!" or max(hrp) > "~":
        raise MalformedBech32("a prefix with unprintable characters")
    if len(letters) < _CHECKSUM_LENGTH:
        raise MalformedBech32("too short for its checksum")
    groups = groups_of(letters)
    try:
        variant = Variant(_polymod(_expand(hrp) + groups))
    except ValueError:
        raise MalformedBech32("wrong checksum, probably mistyped or cut off") from None
    return hrp, groups[:-_CHECKSUM_LENGTH], variant


def encode(hrp: str, groups: bytes, variant: Variant) -> str:
    """Lower-case text of ``groups`` behind ``hrp``; ValueError if a group or the prefix cannot be written."""
    if not hrp or hrp != hrp.lower() or min(hrp) < "!" or max(hrp) > "~":
        raise ValueError("a prefix that cannot be written")
    remainder = _polymod(_expand(hrp) + groups + bytes(_CHECKSUM_LENGTH)) ^ variant.value
    checksum = bytes([remainder >> 5 * (5 - place) & 31 for place in range(_CHECKSUM_LENGTH)])
    return f"{hrp}1{letters_of(groups + checksum)}"


def pack(groups: bytes, *, pad: bool = False, strict: bool = True) -> bytes:
    """5-bit groups to bytes, most significant bit first.

    ``pad``: fill the last byte with zero bits. Without it the rest is dropped; ``strict`` then raises MalformedBech32
    if that rest is a whole group or not zero, as BIP 173 demands and BOLT 11 fields do not. A group of more than 5 bits
    is a ValueError.
    """
    if not groups:
        return b""
    try:
        value = _number(groups)
    except ValueError:
        raise ValueError("a group of more than 5 bits") from None
    size, rest = divmod(5 * len(groups), 8)
    if pad:
        return (value << -5 * len(groups) % 8).to_bytes(size + (rest > 0), "big")
    if strict and (rest >= 5 or value & (1 << rest) - 1):
        raise MalformedBech32("padding that is too long or not zero")
    return (value >> rest).to_bytes(size, "big")


def unpack(data: bytes) -> bytes:
    """Bytes to 5-bit groups, the last one filled with zero bits."""
    return base64.b32encode(data).rstrip(b"=").translate(_GROUP_OF_BASE32)
