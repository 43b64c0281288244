"""Gossip's actor: the graph, its storage, look-ups on the chain, and our own announcements (BOLT 7)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec

from salama.base.ids import BlockHash, NodeId, ShortChannelId, Txid
from salama.base.machine import Effect, Event, Transition
from salama.base.units import BlockHeight, Sat
from salama.chain.backend import BackendError, BackendUnavailable, ChainBackend
from salama.channel.state import ChannelRecord, Phase
from salama.crypto.hashes import sha256d
from salama.gossip.announce import (
    alias_text,
    direction_of,
    make_channel_update,
    make_node_announcement,
    next_timestamp,
    says_the_same,
)
from salama.gossip.events import (
    GossipDropped,
    GossipStored,
    GraphSynced,
    LookUpUtxo,
    OwnChannelGone,
    OwnChannelKnown,
    OwnMessage,
    PeerPolicyLearned,
    Send,
    Ticked,
    UtxoAnswered,
    Warn,
)
from salama.gossip.graph import Graph
from salama.gossip.state import GossipEnv, GossipState
from salama.gossip.sync import restore, turn
from salama.net.tcp import PeerAddress
from salama.node.actor import Actor
from salama.node.outside import Outside
from salama.node.peers import Peers, short
from salama.payments.views import RelayPolicy
from salama.signer.local import LocalSigner
from salama.storage import queries
from salama.storage.journal import Journal
from salama.storage.writes import AnyWrite, DropGossip, PutGossip
from salama.wire import ChannelAnnouncement, ChannelUpdate, NodeAnnouncement, decode_message
from salama.wire.addresses import decode_addresses
from salama.wire.features import Features

log = logging.getLogger("salama.gossip")

LOOKUPS_AT_ONCE = 8
TICK_SECONDS = 0.25
REFRESH_SECONDS = 7 * 86_400
"""Our updates are repeated at half the age at which others forget them (B7.06)."""
_KIND = 0
"""All gossip rows share one kind; their order is part of the stored value."""


class _Stored(msgspec.Struct, array_like=True):
    order: int
    raw: bytes
    capacity: int | None
    txid: bytes | None
    spent_height: int | None


class GossipActor(Actor[GossipState]):
    """Keeps the graph and tells the network about us."""

    BATCH = 256
    """An announcement has four signatures to check, and strangers may send as many as they like (immunity H7)."""

    def __init__(
        self,
        journal: Journal,
        signer: LocalSigner,
        backend: ChainBackend,
        peers: Callable[[], Peers],
        height: Callable[[], BlockHeight],
        *,
        chain_hash: BlockHash,
        alias: str,
        features: Features,
        flush_seconds: float,
        outside: Outside | None = None,
    ) -> None:
        super().__init__("gossip", GossipState(Graph(chain_hash)), journal)
        self._signer, self._backend, self._peers, self._height = signer, backend, peers, height
        self._chain_hash, self._alias, self._features = chain_hash, alias, features
        self._flush_seconds = flush_seconds
        self._outside = outside or Outside()
        self._lookups = asyncio.Semaphore(LOOKUPS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._own: dict[ShortChannelId, ChannelUpdate] = {}
        self.addresses: tuple[PeerAddress, ...] = ()

    @property
    def graph(self) -> Graph:
        return self.state.graph

    def load(self) -> None:
        """Fill the graph from the journal, before any peer is served."""
        rows: list[GossipStored] = []
        after = b""
        while page := self.journal.read_now(lambda db, start=after: queries.gossip_after(db, _KIND, start, 1000)):  # type: ignore[misc]
            for key, value in page:
                one = msgspec.msgpack.decode(value, type=_Stored)
                capacity = None if one.capacity is None else Sat(one.capacity)
                txid = None if one.txid is None else Txid(one.txid)
                rows.append(GossipStored(key, one.order, one.raw, capacity, txid, one.spent_height))
            after = page[-1][0]
        self.state = restore(self._chain_hash, sorted(rows, key=lambda row: row.order))

    async def tick(self) -> None:
        """Flush, prune and time-outs, for ever."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.tell(Ticked())

    # --- what we say --------------------------------------------------------------------------------------------------

    def channel_known(self, record: ChannelRecord, names: tuple[ShortChannelId, ...]) -> None:
        self.tell(OwnChannelKnown(record.params.their_node_id, names))

    def channel_gone(self, names: tuple[ShortChannelId, ...]) -> None:
        self.tell(OwnChannelGone(names))

    def tell_peer(self, record: ChannelRecord, policy: RelayPolicy) -> None:
        """Our terms for an unannounced channel, to its peer alone (B7.05)."""
        name = record.their_alias or record.funding.short_channel_id
        if name is not None and record.phase is Phase.NORMAL:
            self._update(record, name, policy, private=True)

    def announce(self, record: ChannelRecord, announcement: ChannelAnnouncement, policy: RelayPolicy) -> None:
        """The channel may be known to everybody: announcement, our update, ourselves, in this order (B7.07)."""
        if announcement.short_channel_id not in self.graph:
            self.tell(OwnMessage(announcement, record.funding.capacity, record.funding.outpoint.txid))
        self.update(record, policy)
        self.announce_node()

    def update(self, record: ChannelRecord, policy: RelayPolicy) -> None:
        """Our terms for an announced channel; disabled once it is shutting down."""
        scid = record.funding.short_channel_id
        if scid is not None:
            self._update(record, scid, policy, private=False)

    def _update(self, record: ChannelRecord, name: ShortChannelId, policy: RelayPolicy, *, private: bool) -> None:
        last = self._own.get(name)
        theirs = record.params.their_node_id
        said = self.graph.timestamps(name)[direction_of(self._signer.node_id, theirs)]
        made = make_channel_update(
            chain_hash=self._chain_hash,
            short_channel_id=name,
            our_node_id=self._signer.node_id,
            their_node_id=theirs,
            # Strictly newer than anything we have said, also when the clock was set back.
            timestamp=next_timestamp(self._outside.now(), max(said, last.timestamp if last else 0)),
            cltv_expiry_delta=policy.cltv_expiry_delta,
            htlc_minimum=policy.htlc_minimum,
            htlc_maximum=policy.htlc_maximum,
            fee_base_msat=policy.fee_base_msat,
            fee_proportional_millionths=policy.fee_proportional_millionths,
            disable=record.phase is not Phase.NORMAL,
            private=private,
        )
        if last is not None and says_the_same(made, last) and made.timestamp - last.timestamp < REFRESH_SECONDS:
            if private:
                self.tell(OwnMessage(last, only_to=theirs))
            return
        signed = replace(made, signature=self._sign(made.signed_part))
        self._own[name] = signed
        self.tell(OwnMessage(signed, only_to=theirs if private else None))

    def announce_node(self) -> None:
        """Who we are and where we listen."""
        own = self.state.own_node
        made = make_node_announcement(
            node_id=self._signer.node_id,
            timestamp=next_timestamp(self._outside.now(), own.timestamp if own else 0),
            alias=self._alias,
            rgb_color=bytes(self._signer.node_id[1:4]),
            features=self._features,
        )
        if own is not None and (own.alias, own.features, own.addresses) == (made.alias, made.features, made.addresses):
            if made.timestamp - own.timestamp < REFRESH_SECONDS:
                return
        self.tell(OwnMessage(replace(made, signature=self._sign(made.signed_part))))

    def _sign(self, signed_part: bytes) -> bytes:
        return self._signer.sign_digest_with_node_key(sha256d(signed_part))

    # --- the actor ----------------------------------------------------------------------------------------------------

    def turn(self, state: GossipState, events: Sequence[Event]) -> Transition[GossipState]:
        env = GossipEnv(
            now=self._outside.now(),
            height=int(self._height()),
            chain_hash=self._chain_hash,
            our_node_id=self._signer.node_id,
            flush_interval=self._flush_seconds,
        )
        return turn(state, events, env)

    def writes(self, old: GossipState, done: Transition[GossipState]) -> list[AnyWrite]:
        writes: list[AnyWrite] = []
        for row in done.rows:
            if isinstance(row, GossipStored):
                one = _Stored(
                    row.order,
                    row.raw,
                    None if row.capacity is None else int(row.capacity),
                    None if row.txid is None else bytes(row.txid),
                    row.spent_height,
                )
                writes.append(PutGossip(_KIND, row.key, msgspec.msgpack.encode(one)))
            elif isinstance(row, GossipDropped):
                writes.append(DropGossip(_KIND, row.key))
            else:
                writes.append(row)
        return writes

    def perform(self, effect: Effect) -> None:
        match effect:
            case Send(peer, data):
                connected = self._peers().connected.get(peer)
                if connected is not None:
                    connected.send_raw(data)
            case Warn(peer, reason, disconnect):
                connected = self._peers().connected.get(peer)
                log.info("%s: gossip: %s", short(peer), reason)
                if connected is not None and disconnect:
                    connected.disconnect(reason)
            case LookUpUtxo(scid):
                task = asyncio.create_task(self._look_up(scid))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case PeerPolicyLearned() | GraphSynced():
                pass

    async def _look_up(self, scid: ShortChannelId) -> None:
        async with self._lookups:
            pause = 0.5
            while True:
                try:
                    found = await self._backend.utxo_by_scid(scid)
                    break
                except BackendError:
                    found = None
                    break
                except BackendUnavailable:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, 60.0)
        self.tell(UtxoAnswered(scid, *((found[1], found[0].txid) if found else (None, None))))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def node_addresses(graph: Graph, node_id: NodeId) -> tuple[str, ...]:
    """Where a node says that it can be reached, by IP address or name."""
    raw = graph.node_announcement(node_id)
    message = None if raw is None else decode_message(raw)
    if not isinstance(message, NodeAnnouncement):
        return ()
    return tuple(str(one) for one in decode_addresses(message.addresses))[:4]


def node_alias(graph: Graph, node_id: NodeId) -> str:
    """The alias that a node has announced, safe to show; empty if none."""
    raw = graph.node_announcement(node_id)
    if raw is None:
        return ""
    message = decode_message(raw)
    return alias_text(message.alias) if isinstance(message, NodeAnnouncement) else ""
