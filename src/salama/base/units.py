"""Amounts, fee rates and heights that cannot be mixed up or leave their range (BOLT 1, B1.01).

Each unit is an ``int`` whose constructor checks its range and whose addition and subtraction refuse another unit.
Inner loops may fall back to plain ints; the unit is checked again when a result is put back into its type.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Self, overload

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
    """An ``int`` in ``MIN..MAX``.

    With its own kind it adds and subtracts to its own kind, range checked. Another kind is a TypeError. A plain int
    gives a plain int, which is checked again when it is put back into a unit.
    """

    MIN: ClassVar[int] = 0
    MAX: ClassVar[int]
    __slots__ = ()

    def __new__(cls, value: int) -> Self:
        if not cls.MIN <= value <= cls.MAX:
            raise OutOfRange(cls.__name__, value)
        return int.__new__(cls, value)

    @overload
    def __add__(self, other: Self) -> Self: ...
    @overload
    def __add__(self, other: int) -> int: ...
    def __add__(self, other: int) -> int:
        if other.__class__ is self.__class__:
            return self.__class__(int(self) + int(other))
        return int(self) + _plain(other, "+", self)

    @overload
    def __sub__(self, other: Self) -> Self: ...
    @overload
    def __sub__(self, other: int) -> int: ...
    def __sub__(self, other: int) -> int:
        if other.__class__ is self.__class__:
            return self.__class__(int(self) - int(other))
        return int(self) - _plain(other, "-", self)

    def __radd__(self, other: int) -> int:
        return _plain(other, "+", self) + int(self)

    def __rsub__(self, other: int) -> int:
        return _plain(other, "-", self) - int(self)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({int(self)})"

    def __str__(self) -> str:
        return int.__repr__(self)

    @classmethod
    def total(cls, amounts: Iterable[Self]) -> Self:
        """Sum of ``amounts`` (zero of none), checked once at the end."""
        return cls(sum(map(int, amounts)))


def _plain(other: int, operation: str, unit: Unit) -> int:
    """``other`` if it is a plain number; two heights are no two kinds (a number of blocks lies between them)."""
    if other.__class__ is int or (isinstance(other, Height) and isinstance(unit, Height)):
        return int(other)
    raise TypeError(f"{unit.__class__.__name__} {operation} {other.__class__.__name__}")


class Height(Unit):
    """A position in the chain; the difference of two of them is a plain number of blocks."""

    MAX = 499_999_999
    __slots__ = ()

    def __sub__(self, other: int) -> int:  # type: ignore[override]
        return int(self) - _plain(other, "-", self)


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


class BlockHeight(Height):
    """Height of a block; the genesis block has height 0."""

    __slots__ = ()


class CltvExpiry(Height):
    """Absolute block height in a ``cltv_expiry`` field; below 500,000,000 so that it can never be a time (BOLT 2)."""

    __slots__ = ()
