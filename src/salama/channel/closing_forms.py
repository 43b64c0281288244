"""Which outputs a simple closing transaction has: both sides' choices as tables (BOLT 2, B2.37, B2.38).

The closer pays and signs one or two forms, the closee takes exactly one. Whatever the two do not decide alike looks
like an invalid signature to one of them, so nothing but what both know decides: balances, scripts and the fee. We call
no output uneconomical that is not dust, since each side would be free to see that differently.
"""

from __future__ import annotations

from enum import Enum

from salama.base.units import Msat, Sat


class Form(Enum):
    """By the name of the record that carries its signature."""

    CLOSER_ONLY = "closer_output_only"
    CLOSEE_ONLY = "closee_output_only"
    BOTH = "closer_and_closee_outputs"

    @property
    def has_closer(self) -> bool:
        return self is not Form.CLOSEE_ONLY

    @property
    def has_closee(self) -> bool:
        return self is not Form.CLOSER_ONLY


def offered_forms(*, is_lesser: bool, is_own_dust: bool, is_closee_dust: bool) -> tuple[Form, ...]:
    """What the closer signs (B2.37).

    ``is_lesser``: its balance, to the millisatoshi and before the fee, is below the closee's. ``is_own_dust``,
    ``is_closee_dust``: the output would not be relayed, the closer's after the fee.
    """
    if is_lesser:
        return (Form.CLOSEE_ONLY,) if is_own_dust else (Form.BOTH,)
    return (Form.CLOSER_ONLY,) if is_closee_dust else (Form.CLOSER_ONLY, Form.BOTH)


def chosen_form(*, is_own_dust: bool, is_both_offered: bool) -> Form:
    """The one form that the closee may take (B2.38); if it was not offered, nothing is signed.

    ``is_own_dust``: the closee's output would not be relayed; an OP_RETURN always is.
    """
    if is_own_dust:
        return Form.CLOSER_ONLY
    return Form.BOTH if is_both_offered else Form.CLOSEE_ONLY


def affordable_fee(wanted: Sat, *, own: Msat, closee: Msat, own_dust: Sat) -> Sat:
    """The closer's fee: ``wanted``, or what its balance allows.

    The side with more must keep an output (B2.37: one that is not dust), of at least ``own_dust``; the other may pay
    with all that it has.
    """
    whole = int(own) // 1000
    most = whole if own < closee else max(0, whole - int(own_dust))
    return Sat(min(int(wanted), most))
