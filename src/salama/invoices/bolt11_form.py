"""The outer form of a BOLT 11 payment request: prefix, amount, time, tagged fields, signature (B11.01, B11.02).

Text becomes ``Parts`` and ``Parts`` become text; nothing is lost or reordered on the way, so that what was signed can
always be hashed again. What the fields mean is the business of ``bolt11``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from salama.base.units import MAX_SAT, MSAT_PER_SAT
from salama.bitcoin import bech32
from salama.crypto.hashes import sha256

MAX_TEXT: Final = 65_536
"""Characters of a payment request that we are willing to look at; a QR code ends at about 4,300."""

TIMESTAMP_GROUPS: Final = 7
SIGNATURE_GROUPS: Final = 104
MAX_FIELD_GROUPS: Final = 1023

_MSAT_PER_BTC: Final = 100_000_000 * MSAT_PER_SAT
_HRP: Final = re.compile(r"ln(bcrt|tbs|tb|bc)(?:([0-9]{1,20})([a-z]?))?", re.ASCII)
_MULTIPLIERS: Final = {"": 1, "m": 1_000, "u": 1_000_000, "n": 1_000_000_000, "p": 1_000_000_000_000}


class InvalidInvoice(ValueError):
    """Text that must not be paid. ``code`` is stable and snake_case, ``reason`` a sentence for a person."""

    def __init__(self, code: str, reason: str) -> None:
        self.code, self.reason = code, reason
        super().__init__(reason)


class Tagged(NamedTuple):
    """One tagged field: its 5-bit type and its content in 5-bit groups, one group a byte."""

    type: int
    groups: bytes


@dataclass(frozen=True, slots=True)
class Parts:
    """A payment request cut into its fields, in their order."""

    prefix: str
    """``bc``, ``tb``, ``tbs`` or ``bcrt``."""
    amount_text: str
    """Digits and multiplier as written, or nothing."""
    timestamp: int
    """Seconds since 1970, 35 bits."""
    tagged: tuple[Tagged, ...]
    signature: bytes = b""
    """64 bytes, r and s; empty while unsigned."""
    recovery_id: int = 0

    @property
    def hrp(self) -> str:
        return f"ln{self.prefix}{self.amount_text}"

    def _groups(self) -> bytes:
        parts = [bytes([self.timestamp >> shift & 31 for shift in (30, 25, 20, 15, 10, 5, 0)])]
        for kind, groups in self.tagged:
            parts += (bytes((kind, len(groups) >> 5, len(groups) & 31)), groups)
        return b"".join(parts)

    def signing_data(self) -> bytes:
        """What the signature covers: the prefix as text, then the groups packed and padded with zero bits."""
        return self.hrp.encode() + pack(self._groups(), pad=True)

    def digest(self) -> bytes:
        return sha256(self.signing_data())


def pack(groups: bytes, *, pad: bool = False) -> bytes:
    """5-bit groups to bytes. Without ``pad`` the spare bits must be fewer than five and zero, else ValueError."""
    return bech32.pack(groups, pad=pad)


def unpack(data: bytes) -> bytes:
    """Bytes to 5-bit groups, the last one filled with zero bits."""
    return bech32.unpack(data)


def number_of(groups: bytes) -> int:
    """Big-endian number in 5-bit groups (at most 1023 of them)."""
    return bech32.number(groups)


def minimal(value: int) -> bytes:
    """The fewest groups that hold ``value``."""
    return bytes(value >> shift & 31 for shift in range((value.bit_length() - 1) // 5 * 5, -1, -5)) if value else b""


def parse_amount(text: str) -> int:
    """Millisatoshis of digits and multiplier; raises InvalidInvoice."""
    digits, multiplier = (text, "") if text[-1].isdigit() else (text[:-1], text[-1])
    if multiplier not in _MULTIPLIERS:
        raise InvalidInvoice("bad_multiplier", f"the amount's multiplier {multiplier!r} is not one of m, u, n, p")
    if digits.startswith("0"):
        raise InvalidInvoice("bad_amount", "the amount is zero or has leading zeros")
    msat, rest = divmod(int(digits) * _MSAT_PER_BTC, _MULTIPLIERS[multiplier])
    if rest:
        raise InvalidInvoice("sub_millisatoshi_amount", "the amount is not a whole number of millisatoshis")
    if msat > MAX_SAT * MSAT_PER_SAT:
        raise InvalidInvoice("amount_too_large", "the amount exceeds all bitcoin there can be")
    return msat


def render_amount(msat: int) -> str:
    """The shortest digits and multiplier for ``msat`` millisatoshis."""
    for multiplier, per_btc in _MULTIPLIERS.items():
        value, rest = divmod(msat * per_btc, _MSAT_PER_BTC)
        if not rest:
            return f"{value}{multiplier}"
    raise AssertionError("every number of millisatoshis is a multiple of ten pico-bitcoin")


def split(text: str) -> Parts:
    """Cut a payment request into its parts; raises InvalidInvoice for every other text.

    White space around it and a ``lightning:`` scheme are taken off first.
    """
    if len(text) > MAX_TEXT:
        raise InvalidInvoice("too_long", f"{len(text)} characters are too many for a payment request")
    text = text.strip()
    if text[:10].lower() == "lightning:":
        text = text[10:]
    if not text.isascii():
        raise InvalidInvoice("not_ascii", "a payment request has ASCII characters only")
    if text.lower() != text and text.upper() != text:
        raise InvalidInvoice("mixed_case", "upper and lower case are mixed")
    text = text.lower()
    if "1" not in text:
        raise InvalidInvoice("no_separator", "there is no separator '1'")
    if not text.startswith("ln"):
        raise InvalidInvoice("unknown_prefix", "a payment request begins with ln")
    try:
        hrp, groups, variant = bech32.decode(text)
    except ValueError:
        raise InvalidInvoice("bad_checksum", "characters are missing or wrong: the checksum does not match") from None
    if variant is not bech32.Variant.BECH32:
        raise InvalidInvoice("bad_checksum", "the checksum is that of bech32m")
    match = _HRP.fullmatch(hrp)
    if match is None:
        raise InvalidInvoice("unknown_prefix", "the part before the separator names no known network and amount")
    prefix, digits, multiplier = match[1], match[2] or "", match[3] or ""
    if digits:
        parse_amount(digits + multiplier)
    if len(groups) < TIMESTAMP_GROUPS + SIGNATURE_GROUPS:
        raise InvalidInvoice("too_short", "there is no room for time and signature")
    body, tail = groups[:-SIGNATURE_GROUPS], groups[-SIGNATURE_GROUPS:]
    signature = pack(tail)
    if signature[64] > 3:
        raise InvalidInvoice("bad_signature", "the recovery id is not one of 0, 1, 2, 3")
    return Parts(
        prefix=prefix,
        amount_text=digits + multiplier,
        timestamp=number_of(body[:TIMESTAMP_GROUPS]),
        tagged=_split_tagged(body[TIMESTAMP_GROUPS:]),
        signature=signature[:64],
        recovery_id=signature[64],
    )


def _split_tagged(groups: bytes) -> tuple[Tagged, ...]:
    fields = []
    at = 0
    while at < len(groups):
        if at + 3 > len(groups):
            raise InvalidInvoice("truncated_field", "a tagged field has no length")
        end = at + 3 + (groups[at + 1] << 5 | groups[at + 2])
        if end > len(groups):
            raise InvalidInvoice("truncated_field", "a tagged field is longer than the payment request")
        fields.append(Tagged(groups[at], groups[at + 3 : end]))
        at = end
    return tuple(fields)


def join(parts: Parts) -> str:
    """The text of signed parts, in lower case; raises ValueError if they are not signed."""
    if len(parts.signature) != 64:
        raise ValueError("the payment request is not signed")
    groups = parts._groups() + unpack(parts.signature + bytes((parts.recovery_id,)))
    return bech32.encode(parts.hrp, groups, bech32.Variant.BECH32)
