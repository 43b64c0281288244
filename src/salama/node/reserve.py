"""The fee reserve of this node's channels: computed before each new one, and told with the balance (immunity C20)."""

from __future__ import annotations

from collections.abc import Iterable

from salama.base.units import Sat
from salama.channel.commitments import format_of
from salama.channel.deadlines import CHILD_WEIGHT, CLAIM_EXTRAS
from salama.channel.formats import ANCHORS, CommitmentFormat
from salama.channel.policy import Policy
from salama.channel.state import AnyChannel, ChannelRecord, Opening, OpeningStage, Phase
from salama.wallet.reserve import Exposure, Terms, required

_SIGNED = 224
"""Weight units of the witness that spends the funding."""


def terms_of(policy: Policy) -> Terms:
    return Terms(policy.reserve_feerate, policy.unreserved_capacity)


def exposure(format: CommitmentFormat, capacity: Sat, paid: Sat, htlcs: int) -> Exposure:
    """Of a channel whose commitments have ``htlcs`` HTLCs."""
    commitment = format.commitment_weight + _SIGNED + format.htlc_output_weight * htlcs
    claim = max(format.htlc_timeout_weight, format.htlc_success_weight) + CLAIM_EXTRAS
    return Exposure(capacity, commitment + CHILD_WEIGHT, paid, claim * htlcs)


def exposure_of(record: ChannelRecord, policy: Policy) -> Exposure:
    """Of a channel as it is, with as many HTLCs as it has or may soon have."""
    format, spec = format_of(record), record.funding.local.spec
    htlcs = max(policy.reserve_htlcs, len(record.htlcs))
    paid = format.commit_fee(spec.feerate, len(spec.htlcs))
    return exposure(format, record.funding.capacity, paid, htlcs)


def exposure_of_new(capacity: Sat, policy: Policy) -> Exposure:
    """Of a channel that may come."""
    return exposure(ANCHORS, capacity, Sat(0), policy.reserve_htlcs)


def exposures(states: Iterable[AnyChannel], policy: Policy) -> list[Exposure]:
    """Of every channel that we may have to close by force, our own openings included.

    What a stranger offered and nobody has paid for does not count, or offers alone could keep others away (immunity
    A4); nor does what is closing, whose fees are under way.
    """
    found: list[Exposure] = []
    for state in states:
        if isinstance(state, Opening):
            if state.stage is not OpeningStage.ABANDONED and state.funding_feerate is not None:
                found.append(exposure_of_new(state.open.funding_satoshis, policy))
        elif state.record.phase is not Phase.CLOSED and state.record.spend is None and is_paid_for(state.record):
            found.append(exposure_of(state.record, policy))
    return found


def is_paid_for(record: ChannelRecord) -> bool:
    """Whether a channel's funding cost somebody something: it is in a block, or it is ours."""
    return record.params.is_opener or record.funding.confirmation is not None


def missing(channels: list[Exposure], policy: Policy, available: int) -> str:
    """Why the wallet is too poor for ``channels``, for a person; empty if it is not. ``available`` in satoshis."""
    needed = int(required(channels, terms_of(policy)))
    if not needed or available >= needed:
        return ""
    rate = int(policy.reserve_feerate) // 250
    return (
        f"closing all {len(channels)} channels by force at {rate} sat/vbyte would take {needed:,} sat of fees from the "
        f"wallet, and it would have {max(0, available):,} sat"
    )
