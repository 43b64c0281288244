"""What the gossip machine remembers, and one turn of it.

Mutable like the graph it belongs to (a named exception to the frozen states), and bounded by ``Limits``.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from salama.base.ids import BlockHash, NodeId, ShortChannelId
from salama.base.machine import Effect, Row
from salama.gossip.events import GossipDropped, Send, Warn, channel_key, node_key, update_key
from salama.gossip.graph import Graph
from salama.gossip.limits import Limits
from salama.gossip.verify import SignatureCheck, Verify, verify_in_turn
from salama.wire.features import GOSSIP_QUERIES, GOSSIP_QUERIES_EX, Features
from salama.wire.gossip import ChannelAnnouncement, ChannelUpdate, NodeAnnouncement

_DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class GossipEnv:
    """The world at the moment of a turn. ``now`` in unix seconds; ``flush_interval`` in seconds (B7.07)."""

    now: float
    height: int
    chain_hash: BlockHash
    our_node_id: NodeId
    verify: Verify = verify_in_turn
    limits: Limits = _DEFAULT_LIMITS
    flush_interval: float = 60.0


@dataclass(slots=True)
class Bucket:
    """Tokens that come back with time; ``level`` as of ``at``."""

    level: float
    at: float

    def refill(self, now: float, rate: float, most: float) -> float:
        self.level = min(most, self.level + max(0.0, now - self.at) * rate)
        self.at = now
        return self.level


@dataclass(slots=True)
class RangeQuery:
    """Our ``query_channel_range`` that a peer is answering."""

    end: int
    """First block behind the range."""
    reached: int = 0
    replies: int = 0


@dataclass(slots=True)
class Peer:
    """A connected peer: what it wants from us and what we are asking of it."""

    node_id: NodeId
    features: Features
    same_chain: bool
    credit: Bucket
    """Bytes of stored gossip that it may be sent."""
    queries: Bucket
    """Queries of its that may be answered at once."""
    filter: tuple[int, int] | None = None
    """First timestamp and the one behind the last that it wants relayed."""
    relayed: int = 0
    """Sequence number in the relay log up to which it has everything."""
    jobs: dict[str, Iterator[bytes]] = field(default_factory=dict)
    """Answers under way, by kind: at most one of each."""
    unpaid: set[str] = field(default_factory=set)
    """Kinds of jobs that have not taken their query token yet."""
    asked_for_gossip: bool = False
    range_query: RangeQuery | None = None
    outstanding: bool = False
    """A ``query_short_channel_ids`` of ours is not answered completely yet."""
    wanted: deque[tuple[ShortChannelId, int]] = field(default_factory=deque)
    """Channels to ask for, with query flags."""
    lookups: int = 0
    """Announcements from it whose output is being looked up."""
    progress: float = 0.0
    """When it last answered something."""

    @property
    def offers_queries(self) -> bool:
        return self.features.has(GOSSIP_QUERIES)

    @property
    def offers_extended(self) -> bool:
        return self.features.has(GOSSIP_QUERIES_EX)


@dataclass(slots=True)
class Lookup:
    """A verified announcement whose funding output is not seen yet, with the updates that came meanwhile."""

    announcement: ChannelAnnouncement
    peer: NodeId
    asked: bool = False
    updates: dict[int, ChannelUpdate] = field(default_factory=dict)


class GossipState:
    """The graph, the peers, and everything between arrival and acceptance."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.peers: dict[NodeId, Peer] = {}
        self.busy: frozenset[NodeId] = frozenset()
        # On the way in.
        self.lookups: dict[int, Lookup] = {}
        self.early: set[int] = set()
        """Lookups that wait until their block is deep enough for us."""
        self.orphan_updates: OrderedDict[tuple[int, int], tuple[ChannelUpdate, NodeId]] = OrderedDict()
        self.orphan_nodes: OrderedDict[NodeId, tuple[NodeAnnouncement, NodeId]] = OrderedDict()
        self.rejected: OrderedDict[int, None] = OrderedDict()
        self.authors: OrderedDict[bytes, Bucket] = OrderedDict()
        # Ourselves.
        self.own_names: dict[int, NodeId] = {}
        """Every name of our channels, with the peer at the other end."""
        self.own_updates: dict[int, ChannelUpdate] = {}
        """Our updates whose channel is not in the graph yet."""
        self.own_node: NodeAnnouncement | None = None
        self.policies: dict[int, ChannelUpdate] = {}
        """What our channels' peers ask for relaying to us, by the name they used."""
        # On the way out.
        self.log: OrderedDict[bytes, tuple[int, NodeId | None]] = OrderedDict()
        """Fresh items by row key, oldest first: sequence number and who told us."""
        self.sequence = 0
        self.next_flush = 0.0
        self.next_prune = 0.0
        # Checking ranges.
        self.syncing: NodeId | None = None
        self.synced: OrderedDict[NodeId, float] = OrderedDict()
        """Peers whose range was checked, and when; the longest ago first."""

    def peer_policy(self, scid: int) -> ChannelUpdate | None:
        """The terms of our peer for relaying to us over the channel it calls ``scid``."""
        return self.policies.get(scid)


class Turn:
    """One batch of events: what it changed and what it asks for."""

    def __init__(self, state: GossipState, env: GossipEnv) -> None:
        self.state, self.env = state, env
        self.effects: list[Effect] = []
        self.rows: list[Row] = []
        self._verified: dict[SignatureCheck, bool] = {}

    @property
    def graph(self) -> Graph:
        return self.state.graph

    @property
    def limits(self) -> Limits:
        return self.env.limits

    def send(self, peer: NodeId, data: bytes) -> None:
        self.effects.append(Send(peer, data))

    def warn(self, peer: NodeId, reason: str, *, disconnect: bool = False) -> None:
        self.effects.append(Warn(peer, reason, disconnect))

    def verify_ahead(self, checks: list[SignatureCheck]) -> None:
        """Verify a batch at once; ``is_signed`` then finds the answers."""
        if checks:
            self._verified.update(zip(checks, self.env.verify(checks), strict=True))

    def is_signed(self, *checks: SignatureCheck) -> bool:
        missing = [check for check in checks if check not in self._verified]
        self.verify_ahead(missing)
        return all(self._verified[check] for check in checks)

    def note(self, key: bytes, origin: NodeId | None) -> None:
        """Put an item at the end of the relay log."""
        state = self.state
        state.sequence += 1
        state.log.pop(key, None)
        state.log[key] = state.sequence, origin
        if len(state.log) > self.limits.relay_log:
            state.log.popitem(last=False)

    def forget(self, key: bytes) -> None:
        self.rows.append(GossipDropped(key))
        self.state.log.pop(key, None)

    def remove_channel(self, scid: int) -> None:
        """Take a channel out of the graph and off the disk, and its nodes if it was their last one."""
        ends = self.graph.nodes_of(scid)
        if ends is None:
            return
        self.graph.remove_channel(scid)
        for key in (channel_key(scid), update_key(scid, 0), update_key(scid, 1)):
            self.forget(key)
        for node_id in ends:
            if not self.graph.has_node(node_id):
                self.forget(node_key(node_id))
