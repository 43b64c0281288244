"""Amounts as the books show them."""

from __future__ import annotations

from typing import Final

MSAT: Final = 1000
"""Millisatoshis in a satoshi."""


def render_msat(msat: int, *, signed: bool = False) -> str:
    """Satoshis with thousands separated, thousandths only where there are any; a signed zero is a dot."""
    if signed and msat == 0:
        return "·"
    whole, rest = divmod(abs(msat), MSAT)
    shown = f"{whole:,}" + (f".{rest:03d}" if rest else "")
    return ("-" if msat < 0 else "+" if signed else "") + shown
