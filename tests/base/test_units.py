"""Units keep to their range and to their own kind (B1.01, immunity A7)."""

from __future__ import annotations

import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salama.base.units import MAX_SAT, BlockHeight, CltvExpiry, FeeratePerKw, Msat, OutOfRange, Sat, Unit

UNITS = (Sat, Msat, FeeratePerKw, BlockHeight, CltvExpiry)


@pytest.mark.parametrize("unit", UNITS)
def test_bounds_are_inclusive_and_enforced(unit: type[Unit]) -> None:
    assert unit(unit.MAX) == unit.MAX and unit(0) == 0
    for outside in (-1, unit.MAX + 1, 1 << 64, 10**5000):
        with pytest.raises(OutOfRange) as refused:
            unit(outside)
        assert len(str(refused.value)) < 100


def test_all_bitcoin_fits_and_one_more_does_not() -> None:
    assert Sat(MAX_SAT).msat == Msat(MAX_SAT * 1000)
    with pytest.raises(OutOfRange):
        Sat(MAX_SAT) + Sat(1)
    with pytest.raises(OutOfRange):
        Sat(0) - Sat(1)
    with pytest.raises(OutOfRange):
        Sat.total([Sat(MAX_SAT), Sat(1)])


@pytest.mark.parametrize("operation", [operator.add, operator.sub])
@pytest.mark.parametrize(
    ("one", "other"), [(Sat(5), Msat(5)), (Msat(5), Sat(5)), (Msat(1), BlockHeight(1)), (FeeratePerKw(1), Sat(1))]
)
def test_kinds_do_not_mix(operation: object, one: object, other: object) -> None:
    with pytest.raises(TypeError):
        operation(one, other)  # type: ignore[operator]


@given(st.integers(0, Msat.MAX))
def test_whole_satoshis_never_round_up(amount: int) -> None:
    assert 0 <= amount - Msat(amount).sat.msat < 1000


@given(st.integers(0, 10_000), st.integers(0, 400_000))
def test_a_fee_is_rounded_down(rate: int, weight: int) -> None:
    fee = FeeratePerKw(rate).fee(weight)
    assert 1000 * fee <= rate * weight < 1000 * (fee + 1)


def test_with_a_plain_number_the_unit_is_left() -> None:
    assert type(Sat(5) + 5) is int and type(5 - Sat(5)) is int and Sat(1) - 5 == -4
    assert type(Sat(5) + Sat(5)) is Sat and type(Sat(5) - Sat(5)) is Sat


def test_between_two_heights_lies_a_number_of_blocks() -> None:
    assert type(BlockHeight(100) + 6) is int and 106 - BlockHeight(100) == 6
    assert CltvExpiry(150) - BlockHeight(100) == 50 and BlockHeight(100) - BlockHeight(150) == -50
