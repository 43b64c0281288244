"""Every row of the two tables of a simple close, and what a closer can pay (B2.37, B2.38)."""

from __future__ import annotations

from itertools import product

import pytest

from salama.base.units import Msat, Sat
from salama.channel.closing_forms import Form, affordable_fee, chosen_form, offered_forms

CLOSER, CLOSEE, BOTH = Form.CLOSER_ONLY, Form.CLOSEE_ONLY, Form.BOTH


@pytest.mark.parametrize(
    ("is_lesser", "is_own_dust", "is_closee_dust", "expected"),
    [
        (True, True, False, (CLOSEE,)),
        (True, True, True, (CLOSEE,)),
        (True, False, False, (BOTH,)),
        (True, False, True, (BOTH,)),
        (False, False, True, (CLOSER,)),
        (False, True, True, (CLOSER,)),
        (False, False, False, (CLOSER, BOTH)),
        (False, True, False, (CLOSER, BOTH)),
    ],
)
def test_what_the_closer_signs(
    is_lesser: bool, is_own_dust: bool, is_closee_dust: bool, expected: tuple[Form, ...]
) -> None:
    forms = offered_forms(is_lesser=is_lesser, is_own_dust=is_own_dust, is_closee_dust=is_closee_dust)
    assert forms == expected
    assert is_lesser != (CLOSER in forms), "only who has less may leave itself out, only who has not may stand alone"


@pytest.mark.parametrize(
    ("is_own_dust", "is_both_offered", "expected"),
    [(True, True, CLOSER), (True, False, CLOSER), (False, True, BOTH), (False, False, CLOSEE)],
)
def test_what_the_closee_takes(is_own_dust: bool, is_both_offered: bool, expected: Form) -> None:
    assert chosen_form(is_own_dust=is_own_dust, is_both_offered=is_both_offered) is expected


def test_two_of_us_always_find_a_form() -> None:
    """Whoever has more is never dust; but for that every combination ends in a form that was offered."""
    for is_lesser, closer_dust, closee_dust in product((True, False), repeat=3):
        if (closee_dust and is_lesser) or (closer_dust and not is_lesser):
            continue
        forms = offered_forms(is_lesser=is_lesser, is_own_dust=closer_dust, is_closee_dust=closee_dust)
        assert chosen_form(is_own_dust=closee_dust, is_both_offered=BOTH in forms) in forms


def test_the_forms_name_their_outputs() -> None:
    assert [(form.has_closer, form.has_closee) for form in (CLOSER, CLOSEE, BOTH)] == [
        (True, False),
        (False, True),
        (True, True),
    ]


@pytest.mark.parametrize(
    ("wanted", "own", "closee", "expected"),
    [
        (700, 400_000_000, 600_000_000, 700),
        (700, 699_999, 600_000_000, 699),
        (700, 0, 600_000_000, 0),
        (700, 600_000_000, 400_000_000, 700),
        (700, 900_000, 100_000, 606),
        (700, 500_000, 500_000, 206),
        (700, 200_000, 100_000, 0),
    ],
)
def test_what_a_closer_can_pay(wanted: int, own: int, closee: int, expected: int) -> None:
    assert affordable_fee(Sat(wanted), own=Msat(own), closee=Msat(closee), own_dust=Sat(294)) == Sat(expected)
