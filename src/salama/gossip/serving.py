"""Giving gossip out: answers to queries, the backlog that a filter asks for, and the staggered relay (B7.07-B7.10).

Each answer is a job that yields encoded messages; a peer has at most one job of each kind and is served within its
allowance of bytes, so that neither a greedy nor a slow peer makes us hold more than one message of its answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from salama.base.ids import NodeId, ShortChannelId
from salama.gossip.graph import Graph
from salama.gossip.state import Peer, Turn
from salama.wire.gossip import (
    WANT_ANNOUNCEMENT,
    WANT_CHECKSUMS,
    WANT_NODE_1,
    WANT_NODE_2,
    WANT_TIMESTAMPS,
    WANT_UPDATE_1,
    WANT_UPDATE_2,
    ChannelUpdateChecksums,
    ChannelUpdateTimestamps,
    GossipTimestampFilter,
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyChannelRange,
    ReplyShortChannelIdsEnd,
)

_EVERYTHING: Final = WANT_ANNOUNCEMENT | WANT_UPDATE_1 | WANT_UPDATE_2 | WANT_NODE_1 | WANT_NODE_2
_LAST_BLOCK: Final = 0xFFFFFFFF
_IDS, _RANGE, _BACKLOG, _RELAY = "ids", "range", "backlog", "relay"
_ORDER: Final = (_RANGE, _IDS, _RELAY, _BACKLOG)


# --- range queries --------------------------------------------------------------------------------------------------


def receive_query_range(turn: Turn, node_id: NodeId, query: QueryChannelRange) -> None:
    peer = turn.state.peers.get(node_id)
    if peer is None:
        return
    if _RANGE in peer.jobs:
        turn.warn(node_id, "query_channel_range before the last one was answered")
        return
    graph = turn.graph if query.chain_hash == turn.env.chain_hash else None
    peer.jobs[_RANGE] = range_replies(graph, query, turn.limits.reply_ids)
    peer.unpaid.add(_RANGE)
    serve(turn, peer)


def range_replies(graph: Graph | None, query: QueryChannelRange, most: int) -> Iterator[bytes]:
    """The answer in increasing order, without gaps, overlapping only in a block that is cut; without graph, empty."""
    first = query.first_blocknum
    end = min(first + max(1, query.number_of_blocks), _LAST_BLOCK)
    option = query.query_option or 0
    scids = graph.with_updates(first, end) if graph is not None else []
    columns = bool(option & WANT_TIMESTAMPS) + bool(option & WANT_CHECKSUMS)
    most = max(1, most // (1 + columns))
    at = 0
    while True:
        portion = scids[at : at + most]
        at += len(portion)
        final = at >= len(scids)
        reached = end if final else portion[-1].height + 1
        yield ReplyChannelRange(
            chain_hash=query.chain_hash,
            first_blocknum=first,
            number_of_blocks=max(1, reached - first),
            sync_complete=int(final),
            encoded_short_ids=tuple(portion),
            timestamps_tlv=_timestamps(graph, portion) if option & WANT_TIMESTAMPS else None,
            checksums_tlv=_checksums(graph, portion) if option & WANT_CHECKSUMS else None,
        ).encode()
        if final:
            return
        # The next portion may begin in the same block.
        first = min(reached, scids[at].height)


def _timestamps(graph: Graph | None, scids: Sequence[ShortChannelId]) -> tuple[ChannelUpdateTimestamps, ...]:
    return tuple(ChannelUpdateTimestamps(*graph.timestamps(scid)) for scid in scids) if graph is not None else ()


def _checksums(graph: Graph | None, scids: Sequence[ShortChannelId]) -> tuple[ChannelUpdateChecksums, ...]:
    if graph is None or not scids:
        return ()
    return tuple(ChannelUpdateChecksums(*pair) for pair in graph.checksums(scids))


# --- queries for channels -------------------------------------------------------------------------------------------


def receive_query_ids(turn: Turn, node_id: NodeId, query: QueryShortChannelIds) -> None:
    peer = turn.state.peers.get(node_id)
    if peer is None:
        return
    if _IDS in peer.jobs:
        turn.warn(node_id, "query_short_channel_ids before the last one was answered")
        return
    if query.query_flags is not None and len(query.query_flags) != len(query.encoded_short_ids):
        turn.warn(node_id, "query_short_channel_ids whose flags differ in number", disconnect=True)
        return
    graph = turn.graph if query.chain_hash == turn.env.chain_hash else None
    peer.jobs[_IDS] = channel_answers(graph, query)
    peer.unpaid.add(_IDS)
    serve(turn, peer)


def channel_answers(graph: Graph | None, query: QueryShortChannelIds) -> Iterator[bytes]:
    """Channels with their updates, then nodes, each once, then the end marker."""
    nodes: dict[NodeId, None] = {}
    flags = query.query_flags or (_EVERYTHING,) * len(query.encoded_short_ids)
    if graph is not None:
        for scid, wanted in zip(query.encoded_short_ids, flags, strict=True):
            ends = graph.nodes_of(scid)
            if ends is None or not any(graph.timestamps(scid)):
                continue
            parts = (
                graph.channel_announcement(scid) if wanted & WANT_ANNOUNCEMENT else None,
                graph.channel_update(scid, 0) if wanted & WANT_UPDATE_1 else None,
                graph.channel_update(scid, 1) if wanted & WANT_UPDATE_2 else None,
            )
            yield from (part for part in parts if part is not None)
            if wanted & WANT_NODE_1:
                nodes[ends[0]] = None
            if wanted & WANT_NODE_2:
                nodes[ends[1]] = None
        for node_id in nodes:
            announcement = graph.node_announcement(node_id)
            if announcement is not None:
                yield announcement
    yield ReplyShortChannelIdsEnd(chain_hash=query.chain_hash, full_information=int(graph is not None)).encode()


# --- filters and the backlog ----------------------------------------------------------------------------------------


def receive_filter(turn: Turn, node_id: NodeId, message: GossipTimestampFilter) -> None:
    peer = turn.state.peers.get(node_id)
    if peer is None or message.chain_hash != turn.env.chain_hash:
        return
    wanted = message.first_timestamp, message.first_timestamp + message.timestamp_range
    if wanted == peer.filter:
        # Sent again: the backlog is not read twice for the asking (B7.10).
        return
    if peer.filter is None:
        peer.relayed = turn.state.sequence
    peer.filter = wanted
    peer.jobs.pop(_BACKLOG, None)
    if message.timestamp_range and message.first_timestamp <= turn.env.now:
        peer.jobs[_BACKLOG] = backlog(turn.graph, *wanted)
        peer.unpaid.add(_BACKLOG)
        serve(turn, peer)


def backlog(graph: Graph, first: int, end: int) -> Iterator[bytes]:
    """Everything stamped from ``first`` up to before ``end``, channels before their updates before nodes."""
    scids, nodes = graph.heard_between(first, end)
    for scid in scids:
        stamps = graph.timestamps(scid)
        announcement = graph.channel_announcement(scid)
        if announcement is None or graph.is_spent(scid):
            continue
        yield announcement
        for direction, stamp in enumerate(stamps):
            update = graph.channel_update(scid, direction) if first <= stamp < end else None
            if update is not None:
                yield update
    for node_id in nodes:
        message = graph.node_announcement(node_id)
        if message is not None:
            yield message


# --- the staggered relay --------------------------------------------------------------------------------------------


def flush(turn: Turn) -> None:
    """Give every peer with a filter what came since the last flush, newest versions only (B7.07)."""
    state = turn.state
    for peer in state.peers.values():
        if peer.filter is None or not peer.same_chain or _RELAY in peer.jobs or peer.node_id in state.busy:
            continue
        keys = []
        for key, (sequence, origin) in reversed(state.log.items()):
            if sequence <= peer.relayed:
                break
            if origin != peer.node_id:
                keys.append(key)
        peer.relayed = state.sequence
        if keys:
            keys.reverse()
            keys.sort(key=lambda key: b"cun".index(key[0]))
            peer.jobs[_RELAY] = relay(turn.graph, keys, *peer.filter)
            serve(turn, peer)
    oldest = min((peer.relayed for peer in state.peers.values() if peer.filter is not None), default=state.sequence)
    while state.log and next(iter(state.log.values()))[0] <= oldest:
        state.log.popitem(last=False)


def relay(graph: Graph, keys: Sequence[bytes], first: int, end: int) -> Iterator[bytes]:
    """The items behind ``keys`` that the filter lets through: channels, then updates, then nodes."""
    for key in keys:
        message = _item(graph, key, first, end)
        if message is not None:
            yield message


def _item(graph: Graph, key: bytes, first: int, end: int) -> bytes | None:
    kind, name = key[:1], key[1:]
    if kind == b"n":
        return graph.node_announcement(name) if first <= graph.node_timestamp(name) < end else None
    scid = int.from_bytes(name[:8], "big")
    stamps = graph.timestamps(scid)
    if kind == b"u":
        return graph.channel_update(scid, name[8]) if first <= stamps[name[8]] < end else None
    # An announcement has the time of its updates, and is not worth sending without one.
    if graph.is_spent(scid) or not any(first <= stamp < end for stamp in stamps if stamp):
        return None
    return graph.channel_announcement(scid)


# --- allowances -----------------------------------------------------------------------------------------------------


def serve(turn: Turn, peer: Peer) -> None:
    """Go on with the peer's answers as far as its allowance reaches."""
    limits, now = turn.limits, turn.env.now
    if peer.node_id in turn.state.busy:
        return
    credit = peer.credit.refill(now, limits.send_rate, limits.send_burst)
    peer.queries.refill(now, 1 / limits.query_interval, limits.query_burst)
    for kind in _ORDER:
        job = peer.jobs.get(kind)
        if job is None or credit <= 0:
            continue
        if kind == _BACKLOG and not _may_stream(turn, peer):
            continue
        if kind in peer.unpaid:
            if peer.queries.level < 1:
                continue
            peer.queries.level -= 1
            peer.unpaid.discard(kind)
        for data in job:
            turn.send(peer.node_id, data)
            credit -= len(data)
            if credit <= 0:
                break
        else:
            del peer.jobs[kind]
    peer.credit.level = credit


def _may_stream(turn: Turn, peer: Peer) -> bool:
    """Only so many backlogs at a time, the longest connected peers first."""
    streaming = [other for other in turn.state.peers.values() if _BACKLOG in other.jobs]
    return peer in streaming[: turn.limits.streams]


def serve_all(turn: Turn) -> None:
    for peer in turn.state.peers.values():
        if peer.jobs:
            serve(turn, peer)
