"""Bech32 and bech32m text (BIP 173, BIP 350) for addresses, and without a length limit for invoices (BOLT 11).

Data travels as ``bytes`` of 5-bit groups, one group a byte. BOLT 12 uses the alphabet without a checksum:
``groups_of`` and ``letters_of`` serve it.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

ALPHABET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"

_CHECKSUM_LENGTH = 6
_LETTERS: Final = ALPHABET.encode()
_NOT_A_LETTER = 0xFF
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


def _polymod(groups: bytes) -> int:
    register = 1
    feedback = _FEEDBACK
    for group in groups:
        register = (register & 0x1FFFFFF) << 5 ^ group ^ feedback[register >> 25]
    return register


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


def convert_bits(data: bytes, from_bits: int, to_bits: int, *, pad: bool, strict: bool = True) -> bytes:
    """Regroup bits, most significant first.

    ``pad``: fill the last group with zeros (8 to 5). Without it the rest is dropped (5 to 8); ``strict`` then raises
    MalformedBech32 if that rest is a whole group or not zero, as BIP 173 demands and BOLT 11 fields do not. A value of
    more than ``from_bits`` bits is a ValueError.
    """
    accumulator = held = 0
    result = bytearray()
    mask = (1 << to_bits) - 1
    for value in data:
        if value >> from_bits:
            raise ValueError(f"a group of more than {from_bits} bits")
        accumulator = accumulator << from_bits | value
        held += from_bits
        while held >= to_bits:
            held -= to_bits
            result.append(accumulator >> held & mask)
        accumulator &= (1 << held) - 1
    if pad:
        if held:
            result.append(accumulator << to_bits - held & mask)
    elif strict and (held >= from_bits or accumulator):
        raise MalformedBech32("padding that is too long or not zero")
    return bytes(result)
