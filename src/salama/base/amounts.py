"""Amounts as people write them: a number with its unit, never a bare number, never a float."""

from __future__ import annotations

import re
from decimal import Decimal

from salama.base.machine import CommandRefused
from salama.base.units import MSAT_PER_SAT, Msat, OutOfRange

_UNITS = {
    "msat": Decimal(1),
    "sat": Decimal(1000),
    "sats": Decimal(1000),
    "ksat": Decimal(1_000_000),
    "k": Decimal(1_000_000),
    "btc": Decimal(100_000_000_000),
}
_PATTERN = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,11})?) ?([a-z]{1,4})")


def parse_amount(text: str) -> Msat:
    """``1000sat``, ``5000msat``, ``25k`` (thousand satoshis) or ``0.001btc``; refuses anything else with a remedy."""
    match = _PATTERN.fullmatch(text.strip().lower().replace("_", ""))
    unit = _UNITS.get(match.group(2)) if match else None
    if match is None or unit is None:
        raise CommandRefused(
            "bad_amount",
            f"{text[:40]!r} is not an amount.",
            "Write a number with its unit: 1000sat, 5000msat, 25k or 0.001btc.",
        )
    msat = Decimal(match.group(1)) * unit
    if msat != msat.to_integral_value():
        raise CommandRefused("bad_amount", f"{text[:40]!r} is finer than a millisatoshi.", "Use fewer decimals.")
    try:
        return Msat(int(msat))
    except OutOfRange:
        raise CommandRefused("bad_amount", f"{text[:40]!r} is more than all bitcoin.", "") from None


def render_amount(msat: int) -> str:
    """Satoshis with thousands separated, millisatoshis only where there are any."""
    sat, rest = divmod(msat, MSAT_PER_SAT)
    return f"{sat:,}" + (f".{rest:03d}" if rest else "") + " sat"
