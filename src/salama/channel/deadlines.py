"""Whether an HTLC's deadline is worth a close on the chain (B2.49; BOLT 2 on ``cltv_expiry_delta``, BOLT 5).

# DEVIATION: BOLT 2 fails a channel for every HTLC that is past its deadline. Where the chain would cost more than the
HTLC brings, the channel stays: dust has no output to claim, and a small HTLC may be worth less than its own claim.
Nobody waits for it: what was relayed is failed upstream before its deadline there (``payments.forwarding``). A peer
that holds such HTLCs back gains less by it than our own close would have cost; all of them together count, and the
market is asked again at every block.
"""

from __future__ import annotations

from typing import Final

from salama.base.ids import Side
from salama.channel.commitments import format_of
from salama.channel.env import ChannelEnv
from salama.channel.state import ChannelRecord, Fulfilment, Htlc

EARLY_FAIL_BACK: Final = 3
"""Blocks before the expiry of an incoming HTLC at which it is failed in any case, if what we offered for it is still
undecided: its channel shall not be closed for an HTLC that could not be collected any more."""

CHILD_WEIGHT: Final = 800
"""Of the transaction that pays for our commitment: its anchor, one coin, change (weight units)."""
CLAIM_EXTRAS: Final = 450
"""What an HTLC transaction grows by when its fee is attached: one coin and change (weight units)."""
SWEEP_WEIGHT: Final = 450
"""Of an input that brings delayed money home, with a transaction around it (weight units)."""


def missed_deadline(record: ChannelRecord, env: ChannelEnv) -> str:
    """Why the channel must go on chain now, or "": an HTLC is about to cost more than the chain does."""
    overdue = [(htlc, why) for htlc in record.htlcs.values() if (why := _overdue(htlc, env))]
    on_chain = [(htlc, why) for htlc, why in overdue if _has_output(record, htlc)]
    if not on_chain:
        return ""
    brings = sum(_worth(record, htlc, env) for htlc, _ in on_chain)
    if brings <= closing_cost(record, env):
        return ""
    return max(on_chain, key=lambda pair: int(pair[0].amount))[1]


def _overdue(htlc: Htlc, env: ChannelEnv) -> str:
    height, expiry = int(env.height), int(htlc.cltv_expiry)
    if htlc.side is Side.OUTGOING:
        return f"outgoing HTLC {htlc.id} is past its expiry" if height >= expiry + env.policy.offered_grace else ""
    if isinstance(htlc.removal, Fulfilment) and height >= expiry - env.policy.fulfil_margin:
        return f"incoming HTLC {htlc.id} is paid but not settled, and expires soon"
    return ""


def _has_output(record: ChannelRecord, htlc: Htlc) -> bool:
    """Whether either side's commitment has an output for an HTLC of this amount."""
    format, funding, params = format_of(record), record.funding, record.params
    is_ours = htlc.side is Side.OUTGOING
    return not (
        format.is_trimmed(funding.local.spec.feerate, params.ours.dust_limit, htlc.amount, offered=is_ours)
        and format.is_trimmed(
            funding.latest_remote.spec.feerate, params.theirs.dust_limit, htlc.amount, offered=not is_ours
        )
    )


def _worth(record: ChannelRecord, htlc: Htlc, env: ChannelEnv) -> int:
    """Satoshis that the HTLC brings beyond the cost of its own claims; not below zero: nobody must claim it."""
    format = format_of(record)
    stage = format.htlc_timeout_weight if htlc.side is Side.OUTGOING else format.htlc_success_weight
    cost = env.feerates.commitment.fee(stage + CLAIM_EXTRAS + SWEEP_WEIGHT)
    return max(0, int(htlc.amount) // 1000 - int(cost))


def closing_cost(record: ChannelRecord, env: ChannelEnv) -> int:
    """Satoshis for getting our latest commitment confirmed, and our balance home, at the market's rate."""
    format = format_of(record)
    outputs = format.htlc_output_weight * len(record.funding.local.spec.htlcs)
    weight = format.commitment_weight + outputs + CHILD_WEIGHT + SWEEP_WEIGHT
    return int(env.feerates.commitment.fee(weight))
