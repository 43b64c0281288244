"""The only entrance to a channel: events in, transitions out (BOLT 2).

    step      one event, by the table of ``dispatch`` or by the rules below where the table has nothing
    turn      a batch of events, then what is due: one of each of ``DUE``, in that order
    resume    what start-up asks of the shell for a channel found on disk

The shell has the owed signatures answered (``signing.complete``), writes record and rows, and only then does the
effects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from salama.base.ids import Side
from salama.base.machine import CommandRefused, Effect, Event, PeerViolation, Row, Transition
from salama.base.values import replace
from salama.channel import closing, confirming, failing, held, normal, opening, reestablish, simple_close
from salama.channel.dispatch import TABLE
from salama.channel.env import ChannelEnv
from salama.channel.events import (
    AddHtlc,
    AddRefused,
    Broadcast,
    CloseChannel,
    CommandAnswered,
    FeeratesChanged,
    ForceClose,
    ForgetChannel,
    FundingMade,
    FundingRefused,
    MessageReceived,
    PublishFunding,
    ReleaseFunding,
)
from salama.channel.opening import InboundOpen, OpenRequest, accept_inbound, open_channel
from salama.channel.state import AnyChannel, Channel, ChannelRecord, LinkState, Opening, Phase
from salama.wire.gossip import AnnouncementSignatures
from salama.wire.opening import ChannelReady

__all__ = [
    "InboundOpen",
    "OpenRequest",
    "UnexpectedMessage",
    "accept_inbound",
    "open_channel",
    "resume",
    "step",
    "turn",
]


class UnexpectedMessage(PeerViolation):
    """A message that has no place where the channel stands."""


Due = Callable[[Channel, ChannelEnv], Transition[Channel] | None]

DUE: Final[tuple[Due, ...]] = (
    confirming.ready_if_due,
    normal.commit_if_due,
    confirming.announce_if_due,
    closing.shutdown_if_due,
    closing.negotiation_if_due,
    simple_close.offer_if_due,
)
"""What the end of a turn may bring, in the order in which the messages must go out."""

EARLY = (ChannelReady, AnnouncementSignatures)
"""Sent by some peers before ``channel_reestablish``: harmless, and repeated when it matters."""


def step(channel: AnyChannel, event: Event, env: ChannelEnv) -> Transition[AnyChannel]:
    """One event. Raises PeerViolation (the peer broke a rule) or CommandRefused (a command cannot be done)."""
    subject: object = event.message if isinstance(event, MessageReceived) else event
    if isinstance(channel, Opening):
        return opening.step_opening(channel, event, type(subject), subject, env)
    handler = TABLE.get((channel.record.phase, channel.link_state, type(subject)))
    if handler is not None:
        return handler(channel, subject, env)
    if subject is not event:
        return _unregistered_message(channel, type(subject))
    return _unregistered_event(channel, event)


def _unregistered_message(channel: Channel, kind: type) -> Transition[AnyChannel]:
    if channel.link is None or channel.record.phase in (Phase.ON_CHAIN, Phase.CLOSED):
        # Left over from a connection that is gone, or for a channel that only the chain can change.
        return Transition(channel)
    if channel.link.state is LinkState.SYNCING:
        if issubclass(kind, EARLY) or channel.record.stale:
            return Transition(channel)
        raise UnexpectedMessage(f"{kind.__name__} before channel_reestablish")
    raise UnexpectedMessage(f"{kind.__name__} while the channel is {channel.record.phase.value}")


def _unregistered_event(channel: Channel, event: Event) -> Transition[AnyChannel]:
    phase = channel.record.phase
    if isinstance(event, AddHtlc):
        if phase is Phase.NORMAL:
            code, reason = "not_ready", "the peer of the channel is not connected"
        elif phase is Phase.AWAITING_FUNDING:
            code, reason = "not_ready", "the channel is not open yet"
        else:
            code, reason = "closing", "the channel is being closed"
        return Transition(channel, (AddRefused(event.origin, code, reason),))
    if isinstance(event, FeeratesChanged | FundingRefused):
        return Transition(channel)
    if isinstance(event, FundingMade):
        return Transition(channel, (ReleaseFunding(),))
    if isinstance(event, CloseChannel | ForceClose):
        raise CommandRefused("closing_already", f"the channel is {phase.value}")
    if isinstance(event, PublishFunding):
        raise CommandRefused("not_held", f"the channel is {phase.value}")
    if isinstance(event, ForgetChannel):
        raise CommandRefused("funding_signed", "the peer may hold a signature for this channel", "close it instead")
    raise TypeError(f"a channel does not know {type(event).__name__}")


def turn(channel: AnyChannel, events: Sequence[Event], env: ChannelEnv) -> Transition[AnyChannel]:
    """A batch of events, then whatever is due: at most one ``commitment_signed``, one ``shutdown``, and one
    proposal for the closing transaction.

    Never raises for what a peer sent: a violation becomes its reaction as effects, and the state before that event is
    kept. A refused command becomes ``CommandAnswered``, a refused HTLC ``AddRefused``.
    """
    effects: list[Effect] = []
    rows: list[Row] = []
    for event in events:
        try:
            done = step(channel, event, env)
        except PeerViolation as violation:
            done = (
                opening.react_opening(channel, violation)
                if isinstance(channel, Opening)
                else failing.react(channel, violation)
            )
        except CommandRefused as refusal:
            done = Transition(channel, (CommandAnswered(refusal.code, refusal.reason, event),))
        # An opening answers whoever began it, with whatever event its end comes.
        effects += done.effects if isinstance(channel, Opening) else _addressed(done.effects, event)
        channel = done.state
        rows += done.rows
    if isinstance(channel, Channel):
        for due in DUE:
            try:
                more = due(channel, env)
            except PeerViolation as violation:
                more = failing.react(channel, violation)
            if more is not None:
                channel = more.state
                effects += more.effects
                rows += more.rows
    return Transition(channel, tuple(effects), tuple(rows))


def _addressed(effects: Sequence[Effect], event: Event) -> list[Effect]:
    """``effects`` with its command in each answer."""
    return [replace(one, command=event) if isinstance(one, CommandAnswered) else one for one in effects]


def resume(record: ChannelRecord, env: ChannelEnv) -> Transition[Channel]:
    """A channel as start-up finds it: what to watch, what to publish again, which HTLCs still wait for a decision.

    Handoffs and rows are in the database already; nothing is said to a peer.
    """
    if record.phase is Phase.CLOSED:
        return Transition(Channel(record))
    effects: list[Effect] = [opening.watch(record)]
    funding = record.funding
    if funding.tx is not None and funding.confirmation is None:
        effects.append(Broadcast(funding.tx, "funding"))
    if record.spend is None:
        if record.phase is Phase.ON_CHAIN and not record.stale:
            effects.append(failing.owed_local_commitment(record, record.error))
        else:
            effects += closing.owed_closes(record, env)
    if record.their_announcement is not None and confirming.may_announce(record, env):
        effects.append(confirming.owed_announcement(record, send=False))
    undecided = [
        htlc
        for htlc in record.htlcs.values()
        if htlc.side is Side.INCOMING and htlc.removal is None and record.is_added_irrevocably(htlc)
    ]
    effects += normal.committed_effects(record, undecided, env)
    return Transition(Channel(record), tuple(effects))


_REGISTERED = (held, reestablish)
"""Imported for what it registers."""
