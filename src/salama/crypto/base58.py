"""Base58 with a four-byte checksum: extended keys and legacy addresses."""

from __future__ import annotations

from salama.crypto.hashes import sha256d

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUES = {character: value for value, character in enumerate(_ALPHABET)}
MAX_TEXT = 256  # the arithmetic is quadratic; an extended key has 111 characters


class InvalidBase58(ValueError):
    """Text that is not Base58, or whose checksum is wrong."""


def render(payload: bytes) -> str:
    """``payload`` with its checksum as text."""
    data = payload + sha256d(payload)[:4]
    number = int.from_bytes(data, "big")
    digits = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_ALPHABET[digit])
    zeros = len(data) - len(data.lstrip(b"\x00"))
    return "1" * zeros + "".join(reversed(digits))


def parse(text: str) -> bytes:
    """The payload without its checksum. Raises InvalidBase58."""
    if len(text) > MAX_TEXT:
        raise InvalidBase58(f"longer than {MAX_TEXT} characters")
    number = 0
    for character in text:
        value = _VALUES.get(character)
        if value is None:
            raise InvalidBase58("a character outside the alphabet")
        number = number * 58 + value
    zeros = len(text) - len(text.lstrip("1"))
    data = bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
    if len(data) < 4 or sha256d(data[:-4])[:4] != data[-4:]:
        raise InvalidBase58("wrong checksum")
    return data[:-4]
