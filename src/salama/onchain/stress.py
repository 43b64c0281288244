"""What closing a channel by force would cost at a rate, before it comes to that (BOLT 5, B5.03, B5.10; immunity C20).

    rehearse(record, feerate) -> lines     our commitment, then each claim that would follow

The planner itself answers, for our commitment as it would be published now, and for each claim alone, with no deadline
pressing: what it would pay, from whose coins, and whether its budget allows the rate at all. Claims that share a
transaction cost less than the sum of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from salama.base.ids import OutPoint, Txid
from salama.base.units import BlockHeight, FeeratePerKw, Sat
from salama.base.values import replace
from salama.channel.commitments import local_commitment_tx
from salama.channel.state import ChannelRecord
from salama.onchain.bump import URGENT, Parent, World, plan
from salama.onchain.claims import Claim, Way, claim_anchor, claim_delayed
from salama.onchain.identify import identify
from salama.onchain.outputs import Output, Role, outputs_of
from salama.onchain.resolve import Facts, resolve
from salama.wallet.coins import Coin
from salama.wallet.keys import KeyPath
from salama.wallet.selection import fee_for

SIGNED_WEIGHT = 2 + 222
"""What the witness of the funding's input adds to a commitment (weight units)."""
_LATER = BlockHeight(499_000_000)
"""A height at which every delay and every expiry is over."""
_RICH = Coin(OutPoint(Txid(bytes(32)), 0), Sat(10**14), b"", KeyPath("wpkh", 0, 0), BlockHeight(1))
"""Pays for anything, to see what is asked."""


@dataclass(frozen=True, slots=True)
class Line:
    """One transaction that closing would take."""

    what: str
    amount: Sat
    """What depends on it."""
    fee: Sat
    """0 if nothing would be paid at all."""
    from_wallet: bool
    is_economic: bool
    """False: its budget does not allow the rate. It would offer less and wait, or be left alone."""


def commitment_to_confirm(record: ChannelRecord) -> tuple[tuple[Output, ...], Parent]:
    """The outputs of our latest commitment, and the transaction as a child sees it."""
    commitment = local_commitment_tx(record, record.funding, record.funding.local)
    parent = Parent(commitment.tx.txid, commitment.tx.weight + SIGNED_WEIGHT, commitment.fee)
    return outputs_of(commitment, record.funding), parent


def stake_of(outputs: Sequence[Output], balance: Role) -> int:
    """Satoshis that wait for the commitment's confirmation; ``balance`` is the output with our balance."""
    return sum(int(one.amount) for one in outputs if one.role in (balance, Role.HTLC))


def rehearse(record: ChannelRecord, feerate: FeeratePerKw) -> tuple[Line, ...]:
    """Every transaction of our own close at ``feerate``; empty if nothing of it would be ours."""
    outputs, parent = commitment_to_confirm(record)
    stake = stake_of(outputs, Role.TO_LOCAL)
    if not stake:
        return ()
    lines: list[Line] = []
    anchor = next((one for one in outputs if one.role is Role.OUR_ANCHOR), None)
    if int(parent.fee) >= fee_for(feerate, parent.weight) or anchor is None:
        lines.append(Line("our commitment", Sat(stake), Sat(0), from_wallet=False, is_economic=True))
    else:
        world = World(BlockHeight(0), feerate, record.params.closing_script, parent=parent, stake=stake)
        lines.append(replace(_line(claim_anchor(anchor), world), what="our commitment", amount=Sat(stake)))
    close = identify(record, local_commitment_tx(record, record.funding, record.funding.local).tx, lambda number: ())
    assert close is not None, "it spends our funding"
    world = World(BlockHeight(0), feerate, record.params.closing_script)
    for status in resolve(record, Facts(_LATER, close, 1)).statuses:
        if status.claim is not None and status.claim.way is not Way.ANCHOR:
            deadline = None if status.claim.deadline is None else URGENT
            lines.append(_line(replace(status.claim, deadline=deadline), world))
            if status.claim.second_stage is not None and lines[-1].is_economic:
                made = replace(status.output, script=close.second_stage_script, role=Role.SECOND_STAGE)
                lines.append(_line(claim_delayed(close, made, 1), world))
    return tuple(lines)


def _line(claim: Claim, world: World) -> Line:
    made = plan("", (claim,), (), world)
    for wanted in made.wanted:
        made = plan("", (claim,), (), replace(world, offered={wanted.purpose: (_RICH,)}))
    if not made.drafts:
        return Line(claim.way.value, claim.amount, Sat(0), from_wallet=False, is_economic=False)
    sweep = made.drafts[0].sweep
    is_economic = int(sweep.feerate) >= int(world.feerate)
    return Line(claim.way.value, claim.amount, sweep.fee, bool(sweep.coins), is_economic)
