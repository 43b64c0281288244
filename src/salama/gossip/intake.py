"""Taking announcements in: cheap checks first, then signatures, then the chain, then the graph (B7.03-B7.06, B7.10).

Nothing is believed, stored or relayed before its signatures are verified and, for a channel, its funding output was
seen. A peer is blamed for what it could have checked itself; being late, early or redundant is no fault.

DEVIATION: nobody is blacklisted. A second announcement of the same output, or a second update with the same timestamp,
is ignored; forgetting all channels of the nodes named in them would arm whoever holds one leaked key.
"""

from __future__ import annotations

from collections.abc import Iterable

from salama.base.ids import NodeId, ShortChannelId
from salama.base.units import Sat
from salama.codec.message import Message
from salama.gossip.asking import ask_for_unknown
from salama.gossip.events import (
    GossipStored,
    LookUpUtxo,
    OwnMessage,
    PeerPolicyLearned,
    UtxoAnswered,
    channel_key,
    node_key,
    policy_key,
    update_key,
)
from salama.gossip.state import Bucket, Lookup, Turn
from salama.gossip.verify import (
    SignatureCheck,
    announcement_fault,
    channel_announcement_checks,
    channel_update_check,
    funding_script,
    node_announcement_check,
    node_fault,
)
from salama.gossip.views import UpdateResult
from salama.wire.addresses import count_hostnames
from salama.wire.gossip import ChannelAnnouncement, ChannelUpdate, NodeAnnouncement

_USUAL = {ChannelAnnouncement: 430, ChannelUpdate: 136, NodeAnnouncement: 140}
"""Bytes of a message without variable fields."""


# --- before the turn: everything whose signature will be asked for --------------------------------------------------


def checks_ahead(turn: Turn, messages: Iterable[Message]) -> list[SignatureCheck]:
    """The signatures of a batch of messages that will probably have to be verified, for one call."""
    checks: list[SignatureCheck] = []
    fresh: dict[int, tuple[NodeId, NodeId]] = {}
    for message in messages:
        if isinstance(message, ChannelAnnouncement):
            if _is_new_channel(turn, message) and message.short_channel_id not in fresh:
                fresh[message.short_channel_id] = message.node_id_1, message.node_id_2
                checks.extend(channel_announcement_checks(message))
        elif isinstance(message, ChannelUpdate):
            ends = _ends(turn, message.short_channel_id) or fresh.get(message.short_channel_id)
            if ends is not None and not _is_old_update(turn, message):
                checks.append(channel_update_check(message, ends))
        elif isinstance(message, NodeAnnouncement):
            if turn.graph.has_node(message.node_id) and not _is_old_node(turn, message):
                checks.append(node_announcement_check(message))
    return checks


def _ends(turn: Turn, scid: int) -> tuple[NodeId, NodeId] | None:
    """The nodes of a channel in the graph or on its way there."""
    lookup = turn.state.lookups.get(scid)
    if lookup is not None:
        return lookup.announcement.node_id_1, lookup.announcement.node_id_2
    return turn.graph.nodes_of(scid)


def _is_old_update(turn: Turn, update: ChannelUpdate) -> bool:
    return turn.graph.check_update(update) not in (UpdateResult.APPLIED, UpdateResult.UNKNOWN_CHANNEL)


def _is_old_node(turn: Turn, announcement: NodeAnnouncement) -> bool:
    return announcement.timestamp <= turn.graph.node_timestamp(announcement.node_id)


def _is_new_channel(turn: Turn, announcement: ChannelAnnouncement) -> bool:
    """Whether an announcement deserves the price of four signatures."""
    state, scid = turn.state, announcement.short_channel_id
    return (
        announcement.chain_hash == turn.env.chain_hash
        and scid not in turn.graph
        and scid not in state.lookups
        and scid not in state.rejected
        and _deep_at(turn, scid) <= turn.env.height + turn.limits.early_blocks
        and len(turn.graph) < turn.limits.channels
    )


def _deep_at(turn: Turn, scid: ShortChannelId) -> int:
    """The height at which the channel's funding transaction is deep enough to be announced."""
    return scid.height + turn.limits.announce_depth - 1


def _is_too_long(turn: Turn, message: ChannelAnnouncement | ChannelUpdate | NodeAnnouncement) -> bool:
    variable = len(message.tail)
    if not isinstance(message, ChannelUpdate):
        variable += len(message.features)
    if isinstance(message, NodeAnnouncement):
        variable += len(message.addresses)
    return _USUAL[type(message)] + variable > turn.limits.message_bytes


# --- channel_announcement -------------------------------------------------------------------------------------------


def receive_channel(turn: Turn, peer: NodeId, announcement: ChannelAnnouncement) -> None:
    if _is_too_long(turn, announcement) or not _is_new_channel(turn, announcement):
        return
    sender = turn.state.peers.get(peer)
    if sender is None or sender.lookups >= turn.limits.lookups_per_peer:
        return
    if len(turn.state.lookups) >= turn.limits.lookups:
        return
    fault = announcement_fault(announcement)
    if fault is None and not turn.is_signed(*channel_announcement_checks(announcement)):
        fault = "channel_announcement with a bad signature"
    if fault is not None:
        turn.warn(peer, fault, disconnect=True)
        return
    sender.lookups += 1
    turn.state.lookups[announcement.short_channel_id] = Lookup(announcement, peer)
    _ask_chain(turn, announcement.short_channel_id)


def _ask_chain(turn: Turn, scid: ShortChannelId) -> None:
    """Look the funding output up, or wait until it is deep enough in our own chain."""
    if _deep_at(turn, scid) > turn.env.height:
        turn.state.early.add(scid)
        return
    turn.state.early.discard(scid)
    lookup = turn.state.lookups[scid]
    lookup.asked = True
    turn.effects.append(LookUpUtxo(scid, lookup.announcement.bitcoin_key_1, lookup.announcement.bitcoin_key_2))


def ask_chain_for_early(turn: Turn) -> None:
    """A block came: announcements that were ahead of our chain may be deep enough now."""
    for scid in sorted(turn.state.early):
        _ask_chain(turn, ShortChannelId(scid))


def receive_utxo(turn: Turn, answer: UtxoAnswered) -> None:
    """The chain's answer: the channel exists, or it is remembered as one that does not."""
    state, scid = turn.state, answer.short_channel_id
    lookup = _close_lookup(turn, scid)
    if lookup is None:
        return
    announcement = lookup.announcement
    script = funding_script(announcement.bitcoin_key_1, announcement.bitcoin_key_2)
    if answer.output is None or answer.output.script != script:
        state.rejected[scid] = None
        if len(state.rejected) > turn.limits.rejected:
            state.rejected.popitem(last=False)
        for direction in (0, 1):
            state.orphan_updates.pop((scid, direction), None)
        return
    turn.graph.add_channel(announcement, answer.output.value, answer.txid)
    turn.rows.append(GossipStored(channel_key(scid), 0, announcement.encode(), answer.output.value, answer.txid))
    for update in lookup.updates.values():
        _apply_update(turn, lookup.peer, update)
    _publish_waiting(turn, scid)
    _adopt_orphans(turn, scid)


def _close_lookup(turn: Turn, scid: int) -> Lookup | None:
    lookup = turn.state.lookups.pop(scid, None)
    if lookup is None:
        return None
    turn.state.early.discard(scid)
    sender = turn.state.peers.get(lookup.peer)
    if sender is not None:
        # It may have reconnected since, and is then counted from zero.
        sender.lookups = max(0, sender.lookups - 1)
    return lookup


def _adopt_orphans(turn: Turn, scid: int) -> None:
    """What arrived before its channel, now that it can be verified."""
    state = turn.state
    for direction in (0, 1):
        orphan = state.orphan_updates.pop((scid, direction), None)
        if orphan is not None:
            receive_update(turn, orphan[1], orphan[0])
    for node_id in turn.graph.nodes_of(scid) or ():
        waiting = state.orphan_nodes.pop(node_id, None)
        if waiting is not None:
            receive_node(turn, waiting[1], waiting[0])


# --- channel_update -------------------------------------------------------------------------------------------------


def receive_update(turn: Turn, peer: NodeId, update: ChannelUpdate) -> None:
    state, env, scid = turn.state, turn.env, update.short_channel_id
    if update.chain_hash != env.chain_hash or _is_too_long(turn, update):
        return
    if not 0 < update.timestamp <= env.now + turn.limits.future:
        return
    if state.own_names.get(scid) == peer:
        _receive_policy(turn, peer, update)
    if not update.may_forward or scid in state.rejected:
        return
    ends = _ends(turn, scid)
    if ends is None:
        _keep_orphan_update(turn, peer, update)
        return
    if ends[update.direction] == env.our_node_id:
        # Only we speak for ourselves, and then not by way of the network.
        return
    lookup = state.lookups.get(scid)
    known = lookup.updates.get(update.direction) if lookup is not None else None
    if (known is not None and update.timestamp <= known.timestamp) or _is_old_update(turn, update):
        return
    if not turn.is_signed(channel_update_check(update, ends)):
        turn.warn(peer, "channel_update with a bad signature", disconnect=True)
        return
    if not _may_speak(turn, update_key(scid, update.direction)):
        return
    if lookup is not None:
        lookup.updates[update.direction] = update
        return
    _apply_update(turn, peer, update)


def _receive_policy(turn: Turn, peer: NodeId, update: ChannelUpdate) -> None:
    """A peer's terms for our own channel: believed whether the channel is announced or not (B7.05)."""
    ours = turn.env.our_node_id
    if update.direction != int(peer > ours):
        return
    known = turn.state.policies.get(update.short_channel_id)
    if known is not None and update.timestamp <= known.timestamp:
        return
    if not turn.is_signed(channel_update_check(update, (min(ours, peer), max(ours, peer)))):
        turn.warn(peer, "channel_update with a bad signature", disconnect=True)
        return
    turn.state.policies[update.short_channel_id] = update
    turn.rows.append(GossipStored(policy_key(update.short_channel_id), 3, update.encode()))
    turn.effects.append(PeerPolicyLearned(peer, update))


def _keep_orphan_update(turn: Turn, peer: NodeId, update: ChannelUpdate) -> None:
    """Its channel may follow; only the newest of each direction, and the least recently heard goes first."""
    state, key = turn.state, (int(update.short_channel_id), update.direction)
    known = state.orphan_updates.get(key)
    if known is not None and update.timestamp <= known[0].timestamp:
        return
    if known is None:
        ask_for_unknown(turn, peer, update.short_channel_id)
    state.orphan_updates[key] = update, peer
    state.orphan_updates.move_to_end(key)
    if len(state.orphan_updates) > turn.limits.orphan_updates:
        state.orphan_updates.popitem(last=False)


def _apply_update(turn: Turn, origin: NodeId | None, update: ChannelUpdate) -> bool:
    """Into the graph, onto the disk and into the relay log, behind its channel if that was not relayed yet.

    Without ``origin`` it is our own, which does not wait for a flush.
    """
    scid = update.short_channel_id
    silent = not any(turn.graph.timestamps(scid))
    if turn.graph.apply_update(update) is not UpdateResult.APPLIED:
        return False
    key = update_key(scid, update.direction)
    turn.rows.append(GossipStored(key, 1, update.encode()))
    if origin is not None:
        if silent:
            turn.note(channel_key(scid), origin)
        turn.note(key, origin)
    return True


def _may_speak(turn: Turn, author: bytes) -> bool:
    """Take one token of an author's; what it signed beyond its rate is dropped (B7.10)."""
    authors, limits = turn.state.authors, turn.limits
    bucket = authors.pop(author, None) or Bucket(limits.update_burst, turn.env.now)
    authors[author] = bucket
    if len(authors) > limits.update_authors:
        authors.popitem(last=False)
    if bucket.refill(turn.env.now, 1 / limits.update_interval, limits.update_burst) < 1:
        return False
    bucket.level -= 1
    return True


# --- node_announcement ----------------------------------------------------------------------------------------------


def receive_node(turn: Turn, peer: NodeId, announcement: NodeAnnouncement) -> None:
    env, node_id = turn.env, announcement.node_id
    if _is_too_long(turn, announcement) or node_id == env.our_node_id:
        return
    if not 0 < announcement.timestamp <= env.now + turn.limits.future:
        return
    if not turn.graph.has_node(node_id):
        _keep_orphan_node(turn, peer, announcement)
        return
    if _is_old_node(turn, announcement):
        return
    if not turn.is_signed(node_announcement_check(announcement)):
        turn.warn(peer, "node_announcement with a bad signature", disconnect=True)
        return
    fault = node_fault(announcement)
    if fault is not None:
        turn.warn(peer, fault)
        return
    if _may_speak(turn, node_key(node_id)):
        _apply_node(turn, peer, announcement)


def _keep_orphan_node(turn: Turn, peer: NodeId, announcement: NodeAnnouncement) -> None:
    state = turn.state
    known = state.orphan_nodes.get(announcement.node_id)
    if known is not None and announcement.timestamp <= known[0].timestamp:
        return
    state.orphan_nodes[announcement.node_id] = announcement, peer
    state.orphan_nodes.move_to_end(announcement.node_id)
    if len(state.orphan_nodes) > turn.limits.orphan_nodes:
        state.orphan_nodes.popitem(last=False)


def _apply_node(turn: Turn, origin: NodeId | None, announcement: NodeAnnouncement) -> None:
    if not turn.graph.apply_node(announcement):
        return
    key = node_key(announcement.node_id)
    turn.rows.append(GossipStored(key, 2, announcement.encode()))
    if origin is not None and count_hostnames(announcement.addresses) <= 1:
        turn.note(key, origin)


# --- our own --------------------------------------------------------------------------------------------------------


def take_own(turn: Turn, event: OwnMessage) -> None:
    """What we announce ourselves needs no verification, and everybody gets it at once, in the right order (B7.07)."""
    message, state = event.message, turn.state
    if isinstance(message, ChannelAnnouncement):
        scid = message.short_channel_id
        if turn.graph.add_channel(message, event.capacity or Sat(0), event.txid):
            turn.rows.append(GossipStored(channel_key(scid), 0, message.encode(), event.capacity, event.txid))
        # The peer may have been faster, and its announcement of the same channel be in the graph or on its way.
        lookup = _close_lookup(turn, scid)
        _publish_waiting(turn, scid)
        for update in lookup.updates.values() if lookup is not None else ():
            _apply_update(turn, lookup.peer if lookup is not None else None, update)
        _adopt_orphans(turn, scid)
    elif isinstance(message, ChannelUpdate):
        if event.only_to is not None:
            if event.only_to in state.peers:
                turn.send(event.only_to, message.encode())
        elif message.short_channel_id in turn.graph:
            _publish_update(turn, message)
        else:
            state.own_updates[message.short_channel_id] = message
    elif isinstance(message, NodeAnnouncement):
        state.own_node = message
        _publish_node(turn, message)


def _publish_waiting(turn: Turn, scid: int) -> None:
    """A channel came into the graph: what we said about it or about ourselves may have waited for it."""
    state = turn.state
    waiting = state.own_updates.pop(scid, None)
    if waiting is not None:
        _publish_update(turn, waiting)
    if state.own_node is not None:
        _publish_node(turn, state.own_node)


def _publish_update(turn: Turn, update: ChannelUpdate) -> None:
    scid = update.short_channel_id
    silent = not turn.graph.timestamps(scid)[update.direction]
    if not _apply_update(turn, None, update):
        return
    announcement = turn.graph.channel_announcement(scid)
    for peer in turn.state.peers.values():
        if peer.same_chain:
            if silent and announcement is not None:
                turn.send(peer.node_id, announcement)
            turn.send(peer.node_id, update.encode())


def _publish_node(turn: Turn, announcement: NodeAnnouncement) -> None:
    if not turn.graph.has_node(announcement.node_id) or _is_old_node(turn, announcement):
        return
    _apply_node(turn, None, announcement)
    for peer in turn.state.peers.values():
        if peer.same_chain:
            turn.send(peer.node_id, announcement.encode())


def own_announcements(turn: Turn) -> list[bytes]:
    """Everything about our announced channels and ourselves, for a peer that just connected."""
    graph, ours = turn.graph, turn.env.our_node_id
    messages: list[bytes | None] = []
    for scid in graph.channels_of(ours):
        ends = graph.nodes_of(scid)
        if ends is None or graph.is_spent(scid):
            continue
        update = graph.channel_update(scid, ends.index(ours))
        if update is not None:
            messages += (graph.channel_announcement(scid), update)
    if messages:
        messages.append(graph.node_announcement(ours))
    return [message for message in messages if message is not None]
