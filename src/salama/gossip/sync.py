"""The gossip machine's entrance: events in, a changed graph, messages and rows out (BOLT 7, B7.03-B7.12).

``intake`` decides what is believed, ``asking`` what we query, ``serving`` what we answer and relay. Time comes with
``env.now``: call ``turn`` with ``Ticked`` about as often as ``wake_at`` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from salama.base.ids import NodeId
from salama.base.machine import Event, Transition
from salama.base.units import Sat
from salama.codec.fields import Malformed
from salama.codec.message import Message, decode_message
from salama.gossip import asking, intake, serving
from salama.gossip.events import (
    BlockArrived,
    BlockRemoved,
    GossipStored,
    MessageReceived,
    OwnChannelGone,
    OwnChannelKnown,
    OwnMessage,
    PeerGone,
    PeerReady,
    Ticked,
    UtxoAnswered,
    channel_key,
    policy_key,
)
from salama.gossip.graph import Graph
from salama.gossip.state import Bucket, GossipEnv, GossipState, Peer, Turn
from salama.wire.gossip import (
    ChannelAnnouncement,
    ChannelUpdate,
    GossipTimestampFilter,
    NodeAnnouncement,
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyChannelRange,
    ReplyShortChannelIdsEnd,
)

__all__ = ["GossipEnv", "GossipState", "restore", "step", "turn", "wake_at"]

_PRUNE_INTERVAL = 600
_SILENT_BLOCKS = 2016
"""Blocks after which a channel that never sent an update is stale."""
_PUMP_INTERVAL = 0.1
_WATCH_INTERVAL = 1.0


def step(state: GossipState, event: Event, env: GossipEnv) -> Transition[GossipState]:
    """One event. The state is changed in place and comes back in the transition."""
    return turn(state, (event,), env)


def turn(state: GossipState, events: Sequence[Event], env: GossipEnv) -> Transition[GossipState]:
    """A batch of events in order; all signatures that it needs are verified in one call."""
    work = Turn(state, env)
    if len(events) > 1:
        received = [event.message for event in events if isinstance(event, MessageReceived)]
        work.verify_ahead(intake.checks_ahead(work, received))
    for event in events:
        handler = _EVENTS.get(type(event))
        if handler is not None:
            handler(work, event)
    return Transition(state, tuple(work.effects), tuple(work.rows))


def wake_at(state: GossipState, env: GossipEnv) -> float:
    """When ``Ticked`` should come next, in unix seconds."""
    times = [state.next_prune, env.now + _WATCH_INTERVAL if state.peers else state.next_prune]
    if state.log:
        times.append(state.next_flush)
    if any(peer.jobs for peer in state.peers.values()):
        times.append(env.now + _PUMP_INTERVAL)
    return max(env.now, min(times))


# --- peers ----------------------------------------------------------------------------------------------------------


def _peer_ready(work: Turn, event: PeerReady) -> None:
    state, limits, now = work.state, work.limits, work.env.now
    if len(state.peers) >= limits.peers and event.peer not in state.peers:
        return
    peer = Peer(
        node_id=event.peer,
        features=event.features,
        same_chain=event.same_chain,
        credit=Bucket(limits.send_burst, now),
        queries=Bucket(limits.query_burst, now),
    )
    state.peers[event.peer] = peer
    if not peer.same_chain:
        return
    asking.ask_for_gossip(work, peer)
    for data in intake.own_announcements(work):
        work.send(peer.node_id, data)
    asking.start_sync(work)


def _peer_gone(work: Turn, event: PeerGone) -> None:
    peer = work.state.peers.pop(event.peer, None)
    if peer is None:
        return
    asking.stop_sync(work, peer)
    asking.replace_listener(work)
    asking.start_sync(work)


def _received(work: Turn, event: MessageReceived) -> None:
    receiver = _RECEIVERS.get(type(event.message))
    if receiver is not None and event.peer in work.state.peers:
        receiver(work, event.peer, event.message)


_RECEIVERS: dict[type[Message], Callable[[Turn, NodeId, Any], None]] = {
    ChannelAnnouncement: intake.receive_channel,
    ChannelUpdate: intake.receive_update,
    NodeAnnouncement: intake.receive_node,
    QueryChannelRange: serving.receive_query_range,
    QueryShortChannelIds: serving.receive_query_ids,
    GossipTimestampFilter: serving.receive_filter,
    ReplyChannelRange: asking.receive_range,
    ReplyShortChannelIdsEnd: asking.receive_end,
}


# --- the chain ------------------------------------------------------------------------------------------------------


def _utxo_answered(work: Turn, event: UtxoAnswered) -> None:
    lookup = work.state.lookups.get(event.short_channel_id)
    intake.receive_utxo(work, event)
    peer = work.state.peers.get(lookup.peer) if lookup is not None else None
    if peer is not None and peer.wanted:
        asking.ask_more(work, peer)


def _block_arrived(work: Turn, event: BlockArrived) -> None:
    graph, height = work.graph, work.env.height
    for scid in graph.spent_by(event.spent):
        graph.channel_spent(scid, height)
        _store_channel(work, scid)
    for scid in graph.forgettable(height, work.limits.forget_blocks):
        work.remove_channel(scid)
    intake.ask_chain_for_early(work)


def _block_removed(work: Turn, event: BlockRemoved) -> None:
    """Spends in the lost block are undone, channels mined in it are gone; both may come again."""
    graph = work.graph
    work.state.rejected.clear()
    for scid in graph.spent_since(event.height):
        graph.channel_unspent(scid)
        _store_channel(work, scid)
    for scid in graph.mined_since(event.height):
        work.remove_channel(scid)


def _store_channel(work: Turn, scid: int) -> None:
    channel, raw = work.graph.channel(scid), work.graph.channel_announcement(scid)
    if channel is not None and raw is not None:
        work.rows.append(GossipStored(channel_key(scid), 0, raw, channel.capacity, channel.txid, channel.spent_height))


# --- time -----------------------------------------------------------------------------------------------------------


def _ticked(work: Turn, event: Ticked) -> None:
    state, env = work.state, work.env
    state.busy = event.busy
    if env.now >= state.next_flush:
        state.next_flush = env.now + env.flush_interval
        serving.flush(work)
    serving.serve_all(work)
    asking.watch_answers(work)
    if env.now >= state.next_prune:
        state.next_prune = env.now + _PRUNE_INTERVAL
        stale = work.graph.stale(
            env.now,
            work.limits.stale_after,
            silent_below=max(0, env.height - _SILENT_BLOCKS),
            keep=(env.our_node_id,),
        )
        for scid in stale:
            work.remove_channel(scid)


# --- ourselves ------------------------------------------------------------------------------------------------------


def _own_message(work: Turn, event: OwnMessage) -> None:
    intake.take_own(work, event)


def _own_channel_known(work: Turn, event: OwnChannelKnown) -> None:
    for scid in event.short_channel_ids:
        work.state.own_names[scid] = event.peer


def _own_channel_gone(work: Turn, event: OwnChannelGone) -> None:
    for scid in event.short_channel_ids:
        work.state.own_names.pop(scid, None)
        work.state.own_updates.pop(scid, None)
        if work.state.policies.pop(scid, None) is not None:
            work.forget(policy_key(scid))


_EVENTS: dict[type[Event], Callable[[Turn, Any], None]] = {
    PeerReady: _peer_ready,
    PeerGone: _peer_gone,
    MessageReceived: _received,
    UtxoAnswered: _utxo_answered,
    BlockArrived: _block_arrived,
    BlockRemoved: _block_removed,
    Ticked: _ticked,
    OwnMessage: _own_message,
    OwnChannelKnown: _own_channel_known,
    OwnChannelGone: _own_channel_gone,
}


# --- from the disk --------------------------------------------------------------------------------------------------


def restore(chain_hash: bytes, rows: Iterable[GossipStored]) -> GossipState:
    """The state that earlier ``GossipStored`` rows describe. Rows in ``order``; what cannot be read is left out."""
    state = GossipState(Graph(chain_hash))
    graph = state.graph
    spent: list[tuple[int, int]] = []
    for row in rows:
        try:
            message = decode_message(row.raw)
        except Malformed:
            continue
        if isinstance(message, ChannelAnnouncement):
            graph.add_channel(message, row.capacity or Sat(0), row.txid)
            if row.spent_height is not None:
                spent.append((message.short_channel_id, row.spent_height))
        elif isinstance(message, ChannelUpdate) and row.key == policy_key(message.short_channel_id):
            state.policies[message.short_channel_id] = message
        elif isinstance(message, ChannelUpdate):
            graph.apply_update(message)
        elif isinstance(message, NodeAnnouncement):
            graph.apply_node(message)
    # Last, because a channel that is marked as spent takes no ordinary update.
    for scid, height in spent:
        graph.channel_spent(scid, height)
    return state
