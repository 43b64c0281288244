"""Amounts, fee rates and heights that cannot be mixed up or leave their range (BOLT 1, B1.01).

Each unit is an ``int`` whose constructor checks its range and whose addition and subtraction refuse another unit.
Inner loops may fall back to plain ints; the unit is checked again when a result is put back into its type.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Self

MAX_SAT = 21_000_000 * 100_000_000
MSAT_PER_SAT = 1000


class OutOfRange(ValueError):
    """A number does not fit its unit."""

    def __init__(self, unit: str, value: int) -> None:
        self.unit, self.value = unit, value
        # Never render a number of unbounded length: int -> str is quadratic and limited by the interpreter.
        shown = value if abs(value) < 1 << 70 else "a number of more than 70 bits"
        super().__init__(f"{shown} is not a valid {unit}")


class Unit(int):
    """An ``int`` in ``MIN..MAX`` that adds, subtracts and compares only with its own kind."""

    MIN: ClassVar[int] = 0
    MAX: ClassVar[int]
    __slots__ = ()

    def __new__(cls, value: int) -> Self:
        if not cls.MIN <= value <= cls.MAX:
            raise OutOfRange(cls.__name__, value)
        return int.__new__(cls, value)

    def __add__(self, other: Self) -> Self:  # type: ignore[override]
        if other.__class__ is not self.__class__:
            return NotImplemented
        return self.__class__(int(self) + int(other))

    def __sub__(self, other: Self) -> Self:  # type: ignore[override]
        if other.__class__ is not self.__class__:
            return NotImplemented
        return self.__class__(int(self) - int(other))

    # Without these, int's own reflected operations would let ``1 + Sat(1)`` or ``Msat(1) + Sat(1)`` through.
    def __radd__(self, other: object) -> Self:
        return NotImplemented

    def __rsub__(self, other: object) -> Self:
        return NotImplemented

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({int(self)})"

    def __str__(self) -> str:
        return int.__repr__(self)

    @classmethod
    def total(cls, amounts: Iterable[Self]) -> Self:
        """Sum of ``amounts`` (zero of none), checked once at the end."""
        return cls(sum(map(int, amounts)))


class Sat(Unit):
    """Satoshis, 0 to 21 million bitcoin."""

    MAX = MAX_SAT
    __slots__ = ()

    @property
    def msat(self) -> Msat:
        return Msat(int(self) * MSAT_PER_SAT)


class Msat(Unit):
    """Millisatoshis, 0 to 21 million bitcoin."""

    MAX = MAX_SAT * MSAT_PER_SAT
    __slots__ = ()

    @property
    def sat(self) -> Sat:
        """Whole satoshis, the remainder dropped (BOLT 3 never rounds up on chain)."""
        return Sat(int(self) // MSAT_PER_SAT)


class FeeratePerKw(Unit):
    """Satoshis per 1000 weight units, as in ``feerate_per_kw``."""

    MAX = 0xFFFFFFFF
    __slots__ = ()

    def fee(self, weight: int) -> Sat:
        """Fee of ``weight`` weight units, rounded down (BOLT 3, B3.06)."""
        return Sat(int(self) * weight // 1000)


class BlockHeight(Unit):
    """Height of a block; the genesis block has height 0."""

    MAX = 499_999_999
    __slots__ = ()


class CltvExpiry(Unit):
    """Absolute block height in a ``cltv_expiry`` field; below 500,000,000 so that it can never be a time (BOLT 2)."""

    MAX = 499_999_999
    __slots__ = ()
