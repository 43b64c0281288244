"""Closing transactions, legacy and simple (BOLT 3, B3.08).

Which of the variants is signed or accepted is the business of ``closing``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from salama.base.ids import OutPoint
from salama.base.units import Msat, Sat
from salama.bitcoin.script import is_op_return
from salama.bitcoin.tx import RBF_SEQUENCE, Tx, TxIn, TxOut

_FINAL_SEQUENCE: Final = 0xFFFFFFFF


class ClosingImpossible(ValueError):
    """No closing transaction can be made so: the payer cannot pay the fee, or no output would be left."""


@dataclass(frozen=True, slots=True)
class ClosingTx:
    """An unsigned closing transaction. An index is None if that side has no output."""

    tx: Tx
    capacity: Sat
    fee: Sat
    """What the miner gets, dropped outputs and fractions included."""
    our_index: int | None
    their_index: int | None
    funding_script: bytes = field(repr=False)


def make_closing_tx(
    *,
    funding: OutPoint,
    capacity: Sat,
    funding_script: bytes,
    our_balance: Msat,
    their_balance: Msat,
    our_script: bytes,
    their_script: bytes,
    fee: Sat,
    dust_limit: Sat,
    we_are_opener: bool,
    with_ours: bool = True,
    with_theirs: bool = True,
) -> ClosingTx:
    """The transaction that ``closing_signed`` signs (legacy closing).

    The opener pays ``fee``. Outputs below ``dust_limit`` (the signer's own) are left out; a side may also leave out its
    own on purpose (``with_ours``, ``with_theirs``). Raises ClosingImpossible.
    """
    ours, theirs = int(our_balance) // 1000, int(their_balance) // 1000
    if we_are_opener:
        ours -= int(fee)
    else:
        theirs -= int(fee)
    if ours < 0 or theirs < 0:
        raise ClosingImpossible(f"a fee of {fee} sat is more than the opener has")
    dust = int(dust_limit)
    return _closing_tx(
        funding=funding,
        capacity=capacity,
        funding_script=funding_script,
        ours=(ours, our_script) if with_ours and ours >= dust else None,
        theirs=(theirs, their_script) if with_theirs and theirs >= dust else None,
        sequence=_FINAL_SEQUENCE,
        locktime=0,
    )


def make_simple_closing_tx(
    *,
    funding: OutPoint,
    capacity: Sat,
    funding_script: bytes,
    our_balance: Msat,
    their_balance: Msat,
    our_script: bytes,
    their_script: bytes,
    fee: Sat,
    locktime: int,
    we_are_closer: bool,
    with_closer: bool,
    with_closee: bool,
) -> ClosingTx:
    """One of the transactions that ``closing_complete`` signs (``option_simple_close``).

    The closer pays ``fee``; an OP_RETURN output carries nothing, and what its owner had goes to fees. Dust is the
    caller's choice, by ``with_closer`` and ``with_closee``. Raises ClosingImpossible.
    """
    ours, theirs = int(our_balance) // 1000, int(their_balance) // 1000
    if we_are_closer:
        ours -= int(fee)
    else:
        theirs -= int(fee)
    if ours < 0 or theirs < 0:
        raise ClosingImpossible(f"a fee of {fee} sat is more than the closer has")
    with_ours, with_theirs = (with_closer, with_closee) if we_are_closer else (with_closee, with_closer)
    return _closing_tx(
        funding=funding,
        capacity=capacity,
        funding_script=funding_script,
        ours=(0 if is_op_return(our_script) else ours, our_script) if with_ours else None,
        theirs=(0 if is_op_return(their_script) else theirs, their_script) if with_theirs else None,
        sequence=RBF_SEQUENCE,
        locktime=locktime,
    )


def _closing_tx(
    *,
    funding: OutPoint,
    capacity: Sat,
    funding_script: bytes,
    ours: tuple[int, bytes] | None,
    theirs: tuple[int, bytes] | None,
    sequence: int,
    locktime: int,
) -> ClosingTx:
    # Both sides sort the same way (B3.02). Two outputs alike in amount and script are interchangeable.
    present = sorted(
        (*amount_and_script, mine) for amount_and_script, mine in ((ours, True), (theirs, False)) if amount_and_script
    )
    if not present:
        raise ClosingImpossible("no output would be left")
    outputs = tuple(TxOut(Sat(amount), script) for amount, script, _ in present)
    fee = int(capacity) - sum(amount for amount, _, _ in present)
    if fee < 0:
        raise ClosingImpossible(f"the balances exceed the channel by {-fee} sat")
    owners = [mine for _, _, mine in present]
    return ClosingTx(
        tx=Tx(2, (TxIn(funding, sequence),), outputs, locktime),
        capacity=capacity,
        fee=Sat(fee),
        our_index=owners.index(True) if True in owners else None,
        their_index=owners.index(False) if False in owners else None,
        funding_script=funding_script,
    )
