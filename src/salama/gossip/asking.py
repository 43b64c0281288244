"""Catching up with the network: which peers we let relay to us, and what we query from them (B7.07-B7.09).

A few peers send us all new gossip; the others only their own. Now and then the channels of one peer are compared with
ours, block range first, then whatever is missing or newer, in portions that our own chain look-ups can keep up with.
"""

from __future__ import annotations

from typing import Final

from salama.base.ids import NodeId, ShortChannelId
from salama.gossip.events import GraphSynced
from salama.gossip.state import Peer, RangeQuery, Turn
from salama.wire.gossip import (
    WANT_ANNOUNCEMENT,
    WANT_CHECKSUMS,
    WANT_NODE_1,
    WANT_NODE_2,
    WANT_TIMESTAMPS,
    WANT_UPDATE_1,
    WANT_UPDATE_2,
    GossipTimestampFilter,
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyChannelRange,
    ReplyShortChannelIdsEnd,
)

_EVERYTHING: Final = WANT_ANNOUNCEMENT | WANT_UPDATE_1 | WANT_UPDATE_2 | WANT_NODE_1 | WANT_NODE_2
_NEVER: Final = 0xFFFFFFFF
_ALL_BLOCKS: Final = 0xFFFFFFFF
_OVERLAP: Final = 3_600
"""Seconds that we ask back behind what we have, for clocks that differ."""
FIRST_PEERS: Final = 3
"""Peers whose range is checked as soon as they connect: one alone may know nothing, or lie."""


# --- whom we let relay to us ----------------------------------------------------------------------------------------


def ask_for_gossip(turn: Turn, peer: Peer) -> None:
    """Tell a fresh peer what it may relay to us: everything new, or nothing but its own (B7.07)."""
    if not peer.same_chain:
        return
    wanted = peer.offers_queries and _listening(turn) < turn.limits.sync_peers
    _send_filter(turn, peer, wanted)
    if wanted:
        peer.asked_for_gossip = True


def _listening(turn: Turn) -> int:
    return sum(peer.asked_for_gossip for peer in turn.state.peers.values())


def _send_filter(turn: Turn, peer: Peer, wanted: bool) -> None:
    first = _NEVER
    if wanted:
        # What is older than our newest update comes with the range check, if the peer can compare timestamps.
        known = turn.graph.latest_timestamp()
        since = turn.env.now if peer.offers_extended or not known else min(turn.env.now, known)
        first = max(0, int(since) - _OVERLAP)
    turn.send(
        peer.node_id,
        GossipTimestampFilter(
            chain_hash=turn.env.chain_hash, first_timestamp=first, timestamp_range=_NEVER if wanted else 0
        ).encode(),
    )


def replace_listener(turn: Turn) -> None:
    """A peer left: let another one relay to us instead."""
    for peer in turn.state.peers.values():
        if _listening(turn) >= turn.limits.sync_peers:
            return
        if peer.same_chain and peer.offers_queries and not peer.asked_for_gossip:
            peer.asked_for_gossip = True
            _send_filter(turn, peer, wanted=True)


# --- comparing ranges -----------------------------------------------------------------------------------------------


def start_sync(turn: Turn) -> None:
    """Begin a range check if none is under way, somebody can be asked, and it is time."""
    state, env = turn.state, turn.env
    if state.syncing is not None:
        return
    able = [peer for peer in state.peers.values() if peer.same_chain and peer.offers_queries]
    fresh = [peer for peer in able if peer.node_id not in state.synced]
    if fresh and len(state.synced) < FIRST_PEERS:
        _query_range(turn, fresh[0])
        return
    last = max(state.synced.values(), default=0.0)
    if able and env.now - last >= turn.limits.resync_interval:
        _query_range(turn, min(able, key=lambda peer: state.synced.get(peer.node_id, 0.0)))


def _query_range(turn: Turn, peer: Peer) -> None:
    turn.state.syncing = peer.node_id
    peer.range_query, peer.progress = RangeQuery(end=_ALL_BLOCKS), turn.env.now
    turn.send(
        peer.node_id,
        QueryChannelRange(
            chain_hash=turn.env.chain_hash,
            first_blocknum=0,
            number_of_blocks=_ALL_BLOCKS,
            query_option=WANT_TIMESTAMPS | WANT_CHECKSUMS if peer.offers_extended else None,
        ).encode(),
    )


def receive_range(turn: Turn, node_id: NodeId, reply: ReplyChannelRange) -> None:
    peer = turn.state.peers.get(node_id)
    if peer is None or peer.range_query is None or reply.chain_hash != turn.env.chain_hash:
        return
    query = peer.range_query
    query.replies += 1
    if query.replies > turn.limits.range_replies or reply.first_blocknum < query.reached:
        turn.warn(node_id, "reply_channel_range out of order or without end")
        stop_sync(turn, peer)
        return
    query.reached, peer.progress = reply.first_blocknum, turn.env.now
    scids = reply.encoded_short_ids
    stamps, sums = reply.timestamps_tlv, reply.checksums_tlv
    if (stamps is not None and len(stamps) != len(scids)) or (sums is not None and len(sums) != len(scids)):
        turn.warn(node_id, "reply_channel_range whose columns differ in length")
        stop_sync(turn, peer)
        return
    for at, scid in enumerate(scids):
        flags = _missing(turn, scid, stamps[at] if stamps else None, sums[at] if sums else None)
        if flags and len(peer.wanted) < turn.limits.wanted:
            peer.wanted.append((scid, flags))
    if reply.sync_complete:
        peer.range_query = None
    ask_more(turn, peer)


def _missing(turn: Turn, scid: ShortChannelId, stamps: tuple[int, int] | None, sums: tuple[int, int] | None) -> int:
    """Query flags for what the peer has of this channel and we do not."""
    state, env = turn.state, turn.env
    if scid in state.lookups or scid in state.rejected or scid.height > env.height:
        return 0
    stale = env.now - turn.limits.stale_after
    if scid not in turn.graph:
        if stamps is not None and max(stamps) < stale:
            return 0
        return _EVERYTHING
    if stamps is None:
        return 0
    flags = 0
    ours = turn.graph.timestamps(scid)
    newer = [theirs > known and theirs >= stale for theirs, known in zip(stamps, ours, strict=True)]
    if any(newer) and sums is not None:
        known_sums = turn.graph.checksums([scid])[0]
        newer = [n and theirs != known for n, theirs, known in zip(newer, sums, known_sums, strict=True)]
    if newer[0]:
        flags |= WANT_UPDATE_1
    if newer[1]:
        flags |= WANT_UPDATE_2
    return flags


# --- fetching -------------------------------------------------------------------------------------------------------


def ask_more(turn: Turn, peer: Peer) -> None:
    """Query the next portion once the last one is answered and mostly looked up; notice when all is done."""
    if peer.outstanding:
        return
    if peer.wanted:
        if peer.lookups > turn.limits.lookups_per_peer - turn.limits.ask_ids:
            return
        count = min(len(peer.wanted), turn.limits.ask_ids)
        portion = dict(sorted(peer.wanted.popleft() for _ in range(count)))
        # A peer without extended queries answers with everything, known or not.
        flags = tuple(portion.values()) if peer.offers_extended else None
        peer.outstanding, peer.progress = True, turn.env.now
        turn.send(
            peer.node_id,
            QueryShortChannelIds(
                chain_hash=turn.env.chain_hash, encoded_short_ids=tuple(portion), query_flags=flags
            ).encode(),
        )
    elif peer.range_query is None and turn.state.syncing == peer.node_id:
        turn.state.syncing = None
        turn.state.synced.pop(peer.node_id, None)
        turn.state.synced[peer.node_id] = turn.env.now
        if len(turn.state.synced) > turn.limits.peers:
            turn.state.synced.popitem(last=False)
        turn.effects.append(GraphSynced(peer.node_id))
        start_sync(turn)


def receive_end(turn: Turn, node_id: NodeId, reply: ReplyShortChannelIdsEnd) -> None:
    peer = turn.state.peers.get(node_id)
    if peer is None or not peer.outstanding:
        return
    peer.outstanding, peer.progress = False, turn.env.now
    ask_more(turn, peer)


def ask_for_unknown(turn: Turn, node_id: NodeId, scid: ShortChannelId) -> None:
    """A peer sent an update for a channel we never heard of: it may know the announcement."""
    peer = turn.state.peers.get(node_id)
    if peer is None or not peer.asked_for_gossip or scid.height > turn.env.height:
        return
    if len(peer.wanted) < turn.limits.wanted:
        peer.wanted.append((scid, _EVERYTHING))


def stop_sync(turn: Turn, peer: Peer) -> None:
    """Give up asking this peer for now."""
    peer.range_query, peer.outstanding = None, False
    peer.wanted.clear()
    if turn.state.syncing == peer.node_id:
        turn.state.syncing = None
        # As if checked, so that another one is next.
        turn.state.synced[peer.node_id] = turn.env.now


def watch_answers(turn: Turn) -> None:
    """Give up on peers that do not answer, and go on with those that did."""
    for peer in turn.state.peers.values():
        waiting = peer.outstanding or peer.range_query is not None
        if waiting and turn.env.now - peer.progress > turn.limits.query_timeout:
            stop_sync(turn, peer)
        else:
            ask_more(turn, peer)
    start_sync(turn)
