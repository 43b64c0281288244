"""What people and programs ask about a channel; nothing here is needed to run one.

Amounts of ``spendable`` and ``receivable`` are what one more HTLC could carry now, after reserves, fees and
everything that is under way; balances are what each side owns outside HTLCs in our own commitment.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from salama.base.ids import HtlcRef, Side
from salama.base.units import Msat
from salama.channel import limits
from salama.channel.env import ChannelEnv
from salama.channel.spec import htlc_key
from salama.channel.state import Channel, ChannelRecord, Failure, Fulfilment, Htlc, LinkState, MalformedFailure, Phase


@dataclass(frozen=True, slots=True)
class Balances:
    """Who owns what in our latest commitment, before fees."""

    ours: Msat
    theirs: Msat
    outgoing: Msat
    """In HTLCs that we offered."""
    incoming: Msat


def balances(record: ChannelRecord) -> Balances:
    spec = record.funding.local.spec
    held = {
        side: Msat.total(htlc.amount for htlc in spec.htlcs.values() if htlc.side is side)
        for side in (Side.OUTGOING, Side.INCOMING)
    }
    return Balances(spec.our_balance, spec.their_balance, held[Side.OUTGOING], held[Side.INCOMING])


def is_usable(channel: Channel) -> bool:
    """Whether an HTLC could be offered now, if a limit does not forbid it."""
    return channel.link_state is LinkState.READY and channel.record.phase is Phase.NORMAL


def spendable(channel: Channel, env: ChannelEnv) -> Msat:
    """The largest HTLC that we may offer now; zero while the channel is not usable."""
    if channel.link is None or not is_usable(channel):
        return Msat(0)
    return limits.spendable(channel.record, limits.exposures(channel.record, channel.link), env)


def receivable(channel: Channel) -> Msat:
    """The largest HTLC that the peer may offer now; zero while the channel is not usable."""
    if channel.link is None or not is_usable(channel):
        return Msat(0)
    return limits.receivable(channel.record, limits.exposures(channel.record, channel.link))


class HtlcState(Enum):
    """How far an HTLC has come."""

    ADDING = "adding"
    """Signed by its sender; some commitment that can still be published lacks it."""
    COMMITTED = "committed"
    """In every commitment that can be published, and undecided."""
    DECIDED = "decided"
    """What becomes of it is known; every commitment still holds it."""
    REMOVING = "removing"
    """Some commitment that can be published holds it no more."""
    GONE = "gone"


def htlc_state(record: ChannelRecord, ref: HtlcRef) -> HtlcState:
    """Of an HTLC that was signed at some time; GONE also if there never was one."""
    htlc = record.htlcs.get(htlc_key(ref.side, ref.id))
    if htlc is None:
        return HtlcState.GONE
    if htlc.last_remote is not None or htlc.last_local is not None:
        return HtlcState.REMOVING
    if not record.is_added_irrevocably(htlc):
        return HtlcState.ADDING
    return HtlcState.COMMITTED if htlc.removal is None else HtlcState.DECIDED


def outcome(htlc: Htlc) -> str:
    """One word for people."""
    match htlc.removal:
        case Fulfilment():
            return "settled"
        case Failure() | MalformedFailure():
            return "failed"
        case None:
            return "pending"
