"""The only entrance to a channel: events in, transitions out (BOLT 2)."""

from __future__ import annotations

from collections.abc import Sequence

from salama.base.machine import Event, Transition
from salama.channel.env import ChannelEnv
from salama.channel.state import AnyChannel, Channel, ChannelRecord


def step(channel: AnyChannel, event: Event, env: ChannelEnv) -> Transition[AnyChannel]:
    """One event. Raises PeerViolation (the peer broke a rule) or CommandRefused (a user's command cannot be done)."""
    raise NotImplementedError


def turn(channel: AnyChannel, events: Sequence[Event], env: ChannelEnv) -> Transition[AnyChannel]:
    """A batch of events, then whatever is due: at most one ``commitment_signed``, ``shutdown``, ``closing_signed``.

    Never raises for what a peer sent: a violation becomes its reaction as effects, and the state before that event is
    kept. A refused command becomes ``CommandAnswered``, a refused HTLC ``AddRefused``.
    """
    raise NotImplementedError


def resume(record: ChannelRecord, env: ChannelEnv) -> Transition[Channel]:
    """A channel as start-up finds it: what to watch, what to publish again, which HTLCs still wait for a decision."""
    raise NotImplementedError
