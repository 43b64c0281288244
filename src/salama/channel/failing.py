"""Giving a channel up, and what the peer is told of it (BOLT 1 on ``error``, BOLT 5 "failing a channel", B2.49).

The one way onto the chain from our side: publish our latest commitment. A channel whose data we lost never takes it.
"""

from __future__ import annotations

from salama.base.machine import CommandRefused, Effect, PeerViolation, Reaction, Row, Transition
from salama.base.values import replace
from salama.channel.commitments import local_commitment_tx
from salama.channel.dispatch import ALL_PHASES, CONNECTED, OPEN_PHASES, on
from salama.channel.env import ChannelEnv
from salama.channel.events import AddDropped, CommandAnswered, Disconnect, ForceClose, PublicEvent, Send
from salama.channel.signing import OwePublication
from salama.channel.state import Channel, ChannelRecord, Link, Phase
from salama.channel.transactions import commitment_sighash
from salama.wire.setup import Error, Warning

MAX_SHOWN = 500
"""Characters of a peer's words that we keep."""


def owed_local_commitment(record: ChannelRecord, why: str) -> OwePublication:
    """What publishes our latest commitment transaction."""
    funding = record.funding
    commitment = local_commitment_tx(record, funding, funding.local)
    return OwePublication(
        key_index=record.params.key_index,
        digest=commitment_sighash(commitment),
        tx=commitment.tx,
        commitment_number=funding.local.number,
        our_funding_pubkey=funding.our_funding_pubkey,
        their_funding_pubkey=funding.their_funding_pubkey,
        their_signature=funding.local.signature,
        why=why,
    )


def dropped_adds(link: Link | None) -> tuple[Effect, ...]:
    """What a link that goes away never signed."""
    return () if link is None else tuple(AddDropped(add.origin) for add in link.queued_adds)


def fail_channel(channel: Channel, reason: str, *, asked_by_user: bool = False) -> Transition[Channel]:
    """Publish our commitment and have nothing more to do with the peer; again, it changes nothing.

    Where a closing transaction is agreed on, only the user can still want the commitment: peers that have forgotten a
    closed channel answer with an error, and that must not cost us a second close.
    """
    record = channel.record
    if record.phase not in OPEN_PHASES:
        return Transition(channel)
    effects: list[Effect] = list(dropped_adds(channel.link))
    if channel.link is not None:
        effects.append(Send(Error(channel_id=record.channel_id, data=reason.encode())))
    is_closed = record.spend is not None or record.mutual_close is not None
    if record.stale or (is_closed and not asked_by_user):
        # If stale, our commitment is revoked: who publishes it would lose everything.
        return Transition(Channel(record, None), tuple(effects))
    effects.append(owed_local_commitment(record, reason))
    rows: tuple[Row, ...] = (
        PublicEvent("channel.force_closed", (("channel_id", str(record.channel_id)), ("reason", reason))),
    )
    return Transition(Channel(replace(record, phase=Phase.ON_CHAIN, error=reason), None), tuple(effects), rows)


def react(channel: Channel, violation: PeerViolation) -> Transition[Channel]:
    """Turn a violation into what it leads to. The state is the one before the event that violated."""
    reason, record = violation.reason, channel.record
    if violation.reaction is Reaction.FAIL_CHANNEL:
        return fail_channel(channel, reason)
    told: Effect
    if violation.reaction in (Reaction.WARN, Reaction.FAIL_HTLC):
        told = Send(Warning(channel_id=record.channel_id, data=reason.encode()))
    else:
        told = Send(Error(channel_id=record.channel_id, data=reason.encode()))
    effects = (*dropped_adds(channel.link), told, Disconnect(reason))
    return Transition(Channel(record, None), effects)


@on(ForceClose, phases=OPEN_PHASES)
def force_close(channel: Channel, event: ForceClose, env: ChannelEnv) -> Transition[Channel]:
    if channel.record.stale:
        raise CommandRefused(
            "data_lost",
            "the peer proved that our data is old: publishing our commitment would lose all of it",
            "wait until the peer closes the channel, or restore a newer database",
        )
    if channel.record.spend is not None:
        raise CommandRefused("closing_already", "the closing transaction is on the chain")
    failed = fail_channel(channel, event.reason, asked_by_user=True)
    return Transition(failed.state, (*failed.effects, CommandAnswered("", "closing")), failed.rows)


@on(Error, phases=ALL_PHASES, links=CONNECTED)
def receive_error(channel: Channel, message: Error, env: ChannelEnv) -> Transition[Channel]:
    """The peer has given the channel up (B1.06)."""
    words = message.data[:MAX_SHOWN].decode("ascii", "backslashreplace")
    said = "".join(c if c.isprintable() else "?" for c in words)
    return fail_channel(channel, f"the peer sent an error: {said}")


@on(Warning, phases=ALL_PHASES, links=CONNECTED)
def receive_warning(channel: Channel, message: Warning, env: ChannelEnv) -> Transition[Channel]:
    """Words for a log, which the shell keeps."""
    return Transition(channel)
