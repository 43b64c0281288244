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
    """How far an HTLC has come: who said what last of adding it, then of removing it. First ten: we offered it.

    The names of ``WITHIN_A_TURN`` stand for moments that nobody sees: a signature of the peer is answered by our
    revocation in the same write.
    """

    SENT_ADD_HTLC = "sent_add_htlc"
    """Taken, and waiting for our next signature."""
    SENT_ADD_COMMIT = "sent_add_commit"
    RCVD_ADD_REVOCATION = "rcvd_add_revocation"
    RCVD_ADD_ACK_COMMIT = "rcvd_add_ack_commit"
    SENT_ADD_ACK_REVOCATION = "sent_add_ack_revocation"
    """In every commitment that can be published."""
    RCVD_REMOVE_HTLC = "rcvd_remove_htlc"
    RCVD_REMOVE_COMMIT = "rcvd_remove_commit"
    SENT_REMOVE_REVOCATION = "sent_remove_revocation"
    SENT_REMOVE_ACK_COMMIT = "sent_remove_ack_commit"
    RCVD_REMOVE_ACK_REVOCATION = "rcvd_remove_ack_revocation"
    """Gone, or never there."""

    RCVD_ADD_HTLC = "rcvd_add_htlc"
    RCVD_ADD_COMMIT = "rcvd_add_commit"
    SENT_ADD_REVOCATION = "sent_add_revocation"
    SENT_ADD_ACK_COMMIT = "sent_add_ack_commit"
    RCVD_ADD_ACK_REVOCATION = "rcvd_add_ack_revocation"
    """In every commitment that can be published, whether decided or not."""
    SENT_REMOVE_HTLC = "sent_remove_htlc"
    SENT_REMOVE_COMMIT = "sent_remove_commit"
    RCVD_REMOVE_REVOCATION = "rcvd_remove_revocation"
    RCVD_REMOVE_ACK_COMMIT = "rcvd_remove_ack_commit"
    SENT_REMOVE_ACK_REVOCATION = "sent_remove_ack_revocation"
    """Gone, or never there."""


WITHIN_A_TURN = frozenset(
    (
        HtlcState.RCVD_ADD_ACK_COMMIT,
        HtlcState.RCVD_REMOVE_COMMIT,
        HtlcState.RCVD_ADD_COMMIT,
        HtlcState.RCVD_REMOVE_ACK_COMMIT,
    )
)
"""A signature of the peer and our revocation are one turn."""


def htlc_state(channel: Channel, ref: HtlcRef) -> HtlcState:
    """Of any HTLC of the channel by its id; one that is not known counts as gone."""
    record, link = channel.record, channel.link
    htlc = record.htlcs.get(htlc_key(ref.side, ref.id))
    if ref.side is Side.OUTGOING:
        queued = link is not None and 0 <= ref.id - record.next_outgoing_id < len(link.queued_adds)
        if htlc is None:
            return HtlcState.SENT_ADD_HTLC if queued else HtlcState.RCVD_REMOVE_ACK_REVOCATION
        return _state_of_ours(record, htlc, link is not None and ref.id in link.their_removals)
    if htlc is None:
        received = link is not None and any(one.id == ref.id for one in link.their_adds)
        return HtlcState.RCVD_ADD_HTLC if received else HtlcState.SENT_REMOVE_ACK_REVOCATION
    return _state_of_theirs(record, htlc, link is not None and ref.id in link.queued_removals)


def _state_of_ours(record: ChannelRecord, htlc: Htlc, is_removal_heard: bool) -> HtlcState:
    assert htlc.first_remote is not None, "ours are in the record from our first signature on"
    if htlc.last_remote is not None:
        return HtlcState.SENT_REMOVE_ACK_COMMIT
    if htlc.last_local is not None:
        return HtlcState.SENT_REMOVE_REVOCATION
    if is_removal_heard:
        return HtlcState.RCVD_REMOVE_HTLC
    if htlc.first_remote > record.funding.remote.number:
        return HtlcState.SENT_ADD_COMMIT
    return HtlcState.RCVD_ADD_REVOCATION if htlc.first_local is None else HtlcState.SENT_ADD_ACK_REVOCATION


def _state_of_theirs(record: ChannelRecord, htlc: Htlc, is_removal_queued: bool) -> HtlcState:
    acknowledged = record.funding.remote.number
    if htlc.last_remote is not None:
        is_revoked = htlc.last_remote < acknowledged
        return HtlcState.RCVD_REMOVE_REVOCATION if is_revoked else HtlcState.SENT_REMOVE_COMMIT
    if htlc.first_remote is None:
        return HtlcState.SENT_ADD_REVOCATION
    if htlc.first_remote > acknowledged:
        return HtlcState.SENT_ADD_ACK_COMMIT
    return HtlcState.SENT_REMOVE_HTLC if is_removal_queued else HtlcState.RCVD_ADD_ACK_REVOCATION


def outcome(htlc: Htlc) -> str:
    """One word for people."""
    match htlc.removal:
        case Fulfilment():
            return "settled"
        case Failure() | MalformedFailure():
            return "failed"
        case None:
            return "pending"
