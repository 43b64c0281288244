"""What the chain tells a channel: the funding's depth, ``channel_ready``, announcing, deadlines, the end (B2.06,
B2.49, B7.02)."""

from __future__ import annotations

from salama.base.ids import Side
from salama.base.machine import Effect, PeerViolation, Row, Transition
from salama.base.values import replace
from salama.channel.closing import owed_closes
from salama.channel.deadlines import missed_deadline
from salama.channel.dispatch import ALL_PHASES, OPEN_PHASES, READY, on
from salama.channel.env import ChannelEnv
from salama.channel.events import (
    BlockArrived,
    Broadcast,
    FundingConfirmed,
    FundingSpent,
    FundingUnconfirmed,
    FundingUnspent,
    HandoffKey,
    HtlcFailed,
    PublicEvent,
    ResolvedOnChain,
    Send,
)
from salama.channel.failing import dropped_adds, fail_channel
from salama.channel.normal import linked
from salama.channel.signing import OweAnnouncement
from salama.channel.state import (
    ActiveFunding,
    Channel,
    ChannelRecord,
    Confirmation,
    Fulfilment,
    FundingSpend,
    LinkState,
    Phase,
)
from salama.channel.transactions import decode_commitment_number, funding_output, obscuring_factor
from salama.crypto.hashes import sha256d
from salama.wire.gossip import AnnouncementSignatures, ChannelAnnouncement
from salama.wire.opening import ChannelReady
from salama.wire.setup import Error, Warning

COINBASE_MATURITY = 100


def depth(record: ChannelRecord, env: ChannelEnv) -> int:
    """Confirmations of the funding, 0 if it is in no block."""
    where = record.funding.confirmation
    return 0 if where is None else max(0, int(env.height) - int(where.height) + 1)


def needed_depth(record: ChannelRecord) -> int:
    """Confirmations before use. A coinbase cannot be spent before it matures, not even by a penalty (immunity A10)."""
    where = record.funding.confirmation
    is_coinbase = where is not None and where.index == 0
    return max(record.params.minimum_depth, COINBASE_MATURITY) if is_coinbase else record.params.minimum_depth


def _row(name: str, record: ChannelRecord, *more: tuple[str, str | int | bool]) -> Row:
    return PublicEvent(name, (("channel_id", str(record.channel_id)), *more))


# --- the funding transaction -----------------------------------------------------------------------------------------


@on(FundingConfirmed, phases=ALL_PHASES)
def funding_confirmed(channel: Channel, event: FundingConfirmed, env: ChannelEnv) -> Transition[Channel]:
    """Keep where the funding stands, if it is what was agreed on to the satoshi.

    Another transaction says nothing about ours, and ends nothing (immunity A2); ours without the output never was one.
    """
    record = channel.record
    funding = record.funding
    where = Confirmation(event.height, event.index)
    if funding.confirmation == where or record.phase is Phase.CLOSED or event.tx.txid != funding.outpoint.txid:
        return Transition(channel)
    agreed = funding_output(funding.capacity, funding.our_funding_pubkey, funding.their_funding_pubkey)
    vout = funding.outpoint.vout
    if vout >= len(event.tx.outputs) or event.tx.outputs[vout] != agreed:
        return close_for_good(channel, "the funding output is not what was agreed on")
    return Transition(_with_funding(channel, replace(funding, confirmation=where)))


@on(FundingUnconfirmed, phases=ALL_PHASES)
def funding_unconfirmed(channel: Channel, event: FundingUnconfirmed, env: ChannelEnv) -> Transition[Channel]:
    funding = channel.record.funding
    if funding.confirmation is None:
        return Transition(channel)
    changed = _with_funding(channel, replace(funding, confirmation=None))
    # It was paid for once: the time after which it is given up begins anew.
    changed = Channel(replace(changed.record, opened_at=env.height), changed.link)
    # No back-end need remember it: whoever made it publishes it again.
    again = () if funding.tx is None else (Broadcast(funding.tx, "funding"),)
    return Transition(changed, again, (_row("channel.funding_unconfirmed", channel.record),))


def _with_funding(channel: Channel, funding: ActiveFunding) -> Channel:
    """In another place, or in none: what was signed for the announcement named the old one."""
    record = replace(channel.record, active=(funding, *channel.record.active[1:]), their_announcement=None)
    link = channel.link
    return Channel(record, link and replace(link, is_announcement_sent=False))


def close_for_good(channel: Channel, reason: str) -> Transition[Channel]:
    """There is no money in this channel, or no longer any: nothing has to be published."""
    record = channel.record
    effects: list[Effect] = list(dropped_adds(channel.link))
    if channel.link is not None:
        effects.append(Send(Error(channel_id=record.channel_id, data=reason.encode())))
    rows = [_row("channel.closed", record, ("reason", reason))]
    if record.spend is None:
        # Used before it was funded, and never funded: no chain will ever tell what became of what we offered.
        rows += [
            HtlcFailed(HandoffKey(record.channel_id, htlc.id), htlc.origin)
            for htlc in record.htlcs.values()
            if htlc.side is Side.OUTGOING and htlc.origin is not None and not isinstance(htlc.removal, Fulfilment)
        ]
    return Transition(Channel(replace(record, phase=Phase.CLOSED, error=reason), None), tuple(effects), tuple(rows))


@on(FundingSpent, phases=ALL_PHASES)
def funding_spent(channel: Channel, event: FundingSpent, env: ChannelEnv) -> Transition[Channel]:
    """A closing transaction leaves nothing to do; anything else is for ``onchain``."""
    record = channel.record
    spend = FundingSpend(event.tx, event.height)
    if record.spend == spend or record.phase is Phase.CLOSED:
        return Transition(channel)
    record = replace(record, spend=spend)
    if not is_mutual_close(record) and record.phase is not Phase.ON_CHAIN:
        record = replace(record, phase=Phase.ON_CHAIN, error=record.error or "a commitment transaction is on the chain")
    elif is_mutual_close(record):
        record = replace(record, phase=Phase.NEGOTIATING)
    row = _row("channel.spent", record, ("txid", str(event.tx.txid)), ("mutual", is_mutual_close(record)))
    return Transition(Channel(record, None), dropped_adds(channel.link), (row,))


@on(FundingUnspent, phases=ALL_PHASES)
def funding_unspent(channel: Channel, event: FundingUnspent, env: ChannelEnv) -> Transition[Channel]:
    """What spent the funding may come back, or something else may: the phase stays as it is."""
    record = channel.record
    if record.spend is None or record.phase is Phase.CLOSED:
        return Transition(channel)
    row = _row("channel.unspent", record, ("txid", str(record.spend.tx.txid)))
    return Transition(Channel(replace(record, spend=None), None), owed_closes(record, env), (row,))


@on(ResolvedOnChain, phases=ALL_PHASES)
def resolved_on_chain(channel: Channel, event: ResolvedOnChain, env: ChannelEnv) -> Transition[Channel]:
    if channel.record.phase is Phase.CLOSED:
        return Transition(channel)
    return close_for_good(channel, channel.record.error or "closed")


def is_mutual_close(record: ChannelRecord) -> bool:
    """Whether the funding was spent by a transaction that both of us signed to close; it carries no commitment
    number."""
    assert record.spend is not None, "asked of a funding that is spent"
    params = record.params
    factor = obscuring_factor(params.opener.basepoints.payment, params.accepter.basepoints.payment)
    return decode_commitment_number(record.spend.tx, factor) is None


# --- blocks and deadlines --------------------------------------------------------------------------------------------


@on(BlockArrived, phases=OPEN_PHASES)
def block_arrived(channel: Channel, event: BlockArrived, env: ChannelEnv) -> Transition[Channel]:
    record = channel.record
    if record.spend is not None:
        is_deep = int(env.height) - int(record.spend.height) + 1 >= env.policy.irrevocable_depth
        return close_for_good(channel, "closed") if is_deep else Transition(channel)
    if _is_void(record, env):
        return close_for_good(channel, "the funding did not confirm in time")
    reason = missed_deadline(record, env) if env.minds_deadlines else ""
    return fail_channel(channel, reason) if reason else Transition(channel)


@on(BlockArrived, phases=(Phase.ON_CHAIN, Phase.CLOSED))
def block_arrived_after_close(channel: Channel, event: BlockArrived, env: ChannelEnv) -> Transition[Channel]:
    """``onchain`` counts from here; except where a funding that never confirmed leaves nothing to count."""
    record = channel.record
    if record.phase is Phase.ON_CHAIN and record.spend is None and _is_void(record, env):
        return close_for_good(channel, "the funding did not confirm in time")
    return Transition(channel)


def _is_void(record: ChannelRecord, env: ChannelEnv) -> bool:
    """Whether there will never be anything to spend, in whatever phase the channel is: also one that is closed, or
    failed, before it was funded must end (B2.05, immunity A5).

    An opener keeps what it may have published; after a loss nobody knows whether it was, and the chain shows it.
    """
    waited = int(env.height) - int(record.opened_at)
    may_give_up = not record.params.is_opener or record.restored
    return may_give_up and record.funding.confirmation is None and waited > env.policy.funding_timeout


# --- channel_ready (B2.06) -------------------------------------------------------------------------------------------


class InvalidReady(PeerViolation):
    """A ``channel_ready`` that leaves the channel without a name."""


def ready_if_due(channel: Channel, env: ChannelEnv) -> Transition[Channel] | None:
    """Send ``channel_ready`` once the funding is deep enough, and again if the peer may have missed it.

    What was pushed to us cannot be spent before (B2.07): only then does the channel become NORMAL.
    """
    record, link = channel.record, channel.link
    if link is None or link.state is not LinkState.READY or link.is_ready_sent or record.phase not in OPEN_PHASES:
        return None
    if not record.our_ready and depth(record, env) < needed_depth(record):
        return None
    point = record.our_points.at(1)
    assert point is not None, "channel_ready is never repeated after the first commitments"
    message = ChannelReady(
        channel_id=record.channel_id, second_per_commitment_point=point, short_channel_id=record.our_alias
    )
    rows: tuple[Row, ...] = ()
    if not record.our_ready:
        record = replace(record, our_ready=True)
        record, rows = _opened_if_both(record)
    return Transition(Channel(record, replace(link, is_ready_sent=True)), (Send(message),), rows)


@on(ChannelReady, phases=OPEN_PHASES, links=READY)
def receive_ready(channel: Channel, message: ChannelReady, env: ChannelEnv) -> Transition[Channel]:
    """The first one counts; later ones may only bring another alias."""
    record = channel.record
    alias = message.short_channel_id
    if alias is None and record.their_alias is None and record.params.minimum_depth == 0:
        raise InvalidReady("channel_ready of a channel without confirmations, and without an alias")
    if alias is not None and alias != record.their_alias:
        record = replace(record, their_alias=alias)
    rows: tuple[Row, ...] = ()
    if not record.their_ready:
        record = replace(record, their_ready=True, their_next_point=message.second_per_commitment_point)
        record, rows = _opened_if_both(record)
    return Transition(Channel(record, channel.link), (), rows)


def _opened_if_both(record: ChannelRecord) -> tuple[ChannelRecord, tuple[Row, ...]]:
    if not (record.our_ready and record.their_ready and record.phase is Phase.AWAITING_FUNDING):
        return record, ()
    record = replace(record, phase=Phase.NORMAL)
    return record, (_row("channel.opened", record, ("peer", str(record.params.their_node_id))),)


# --- announcing (B7.02, B7.03) ---------------------------------------------------------------------------------------


class InvalidAnnouncement(PeerViolation):
    """``announcement_signatures`` that do not sign our channel."""


def unsigned_announcement(record: ChannelRecord) -> ChannelAnnouncement:
    """The announcement of a confirmed channel with empty signatures."""
    params, funding = record.params, record.funding
    scid = funding.short_channel_id
    assert scid is not None
    ends = sorted(
        (
            (params.our_node_id, funding.our_funding_pubkey),
            (params.their_node_id, funding.their_funding_pubkey),
        )
    )
    none = bytes(64)
    return ChannelAnnouncement(
        node_signature_1=none,
        node_signature_2=none,
        bitcoin_signature_1=none,
        bitcoin_signature_2=none,
        features=b"",
        chain_hash=params.chain_hash,
        short_channel_id=scid,
        node_id_1=ends[0][0],
        node_id_2=ends[1][0],
        bitcoin_key_1=ends[0][1],
        bitcoin_key_2=ends[1][1],
    )


def owed_announcement(record: ChannelRecord, *, send: bool) -> OweAnnouncement:
    announcement = unsigned_announcement(record)
    return OweAnnouncement(
        key_index=record.params.key_index,
        channel_id=record.channel_id,
        short_channel_id=announcement.short_channel_id,
        announcement=announcement,
        digest=sha256d(announcement.signed_part),
        we_are_first=announcement.node_id_1 == record.params.our_node_id,
        send=send,
        their_signatures=record.their_announcement,
    )


def may_announce(record: ChannelRecord, env: ChannelEnv) -> bool:
    return (
        record.params.announce
        and record.phase is Phase.NORMAL
        and record.our_shutdown is None
        and depth(record, env) >= env.policy.announce_depth
    )


def announce_if_due(channel: Channel, env: ChannelEnv) -> Transition[Channel] | None:
    """Sign the announcement once the funding is deep enough; a signature that came too early is looked at now."""
    record, link = channel.record, channel.link
    if link is None or link.state is not LinkState.READY or not may_announce(record, env):
        return None
    early = link.early_announcement
    if early is not None and early.short_channel_id == record.funding.short_channel_id:
        return receive_announcement(Channel(record, replace(link, early_announcement=None)), early, env)
    if link.is_announcement_sent or record.their_announcement is not None:
        # Whoever has the peer's half waits until the peer asks for ours by repeating its own.
        return None
    owed = owed_announcement(record, send=True)
    return Transition(Channel(record, replace(link, is_announcement_sent=True)), (owed,))


@on(AnnouncementSignatures, phases=OPEN_PHASES, links=READY)
def receive_announcement(channel: Channel, message: AnnouncementSignatures, env: ChannelEnv) -> Transition[Channel]:
    """Check and keep the peer's half; with ours the announcement is complete. It may cross our ``shutdown``."""
    record, link = channel.record, linked(channel)
    if not record.params.announce:
        return _warned(channel, "announcement_signatures for a private channel")
    if not may_announce(record, env):
        return Transition(Channel(record, replace(link, early_announcement=message)))
    announcement = unsigned_announcement(record)
    if message.short_channel_id != announcement.short_channel_id:
        # Perhaps the peer has heard of another branch of the chain before us.
        waiting = Channel(record, replace(link, early_announcement=message))
        return _warned(waiting, f"announcement_signatures for {message.short_channel_id}, not our funding")
    digest = sha256d(announcement.signed_part)
    checks = (
        (bytes(record.params.their_node_id), digest, message.node_signature),
        (record.funding.their_funding_pubkey, digest, message.bitcoin_signature),
    )
    if not env.verify(checks):
        raise InvalidAnnouncement("a signature of announcement_signatures is not valid")
    theirs = (message.node_signature, message.bitcoin_signature)
    if record.their_announcement == theirs and link.is_announcement_sent:
        # Once a connection is enough of an answer, or both sides would answer for ever.
        return Transition(channel)
    record = replace(record, their_announcement=theirs)
    owed = owed_announcement(record, send=not link.is_announcement_sent)
    return Transition(Channel(record, replace(link, is_announcement_sent=True)), (owed,))


def _warned(channel: Channel, reason: str) -> Transition[Channel]:
    return Transition(channel, (Send(Warning(channel_id=channel.record.channel_id, data=reason.encode())),))
