"""A signed network on a pretended chain, and gossip machines wired to each other in virtual time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from salama.base.ids import NodeId, OutPoint, ShortChannelId, Txid
from salama.base.machine import Effect, Event, Row
from salama.base.units import Msat, Sat
from salama.bitcoin.networks import REGTEST
from salama.bitcoin.tx import TxOut
from salama.codec.message import Message, decode_message
from salama.crypto import secp256k1
from salama.crypto.hashes import sha256
from salama.gossip import announce, sync
from salama.gossip.events import (
    BlockArrived,
    GossipDropped,
    GossipStored,
    LookUpUtxo,
    MessageReceived,
    PeerGone,
    PeerReady,
    Send,
    Ticked,
    UtxoAnswered,
    Warn,
)
from salama.gossip.limits import Limits
from salama.gossip.state import GossipEnv, GossipState
from salama.gossip.verify import funding_script
from salama.wire.features import GOSSIP_QUERIES, GOSSIP_QUERIES_EX, Features
from salama.wire.gossip import ChannelAnnouncement, ChannelUpdate, NodeAnnouncement

EXTENDED = Features.of(optional=[GOSSIP_QUERIES, GOSSIP_QUERIES_EX])
PLAIN = Features.of(optional=[GOSSIP_QUERIES])
START = 1_700_000_000


@dataclass(frozen=True, slots=True)
class Author:
    """Somebody with keys."""

    secret: bytes = field(repr=False)
    node_id: NodeId

    @classmethod
    def of(cls, name: str | int) -> Author:
        secret = sha256(f"author {name}".encode())
        return cls(secret, NodeId(secp256k1.public_key(secret)))

    def node(self, timestamp: int = START, alias: str = "", features: Features = EXTENDED) -> NodeAnnouncement:
        made = announce.make_node_announcement(
            node_id=self.node_id, timestamp=timestamp, alias=alias, rgb_color=b"\0\0\0", features=features
        )
        return announce.signed(made, secp256k1.sign(self.secret, announce.digest(made)))


@dataclass(frozen=True, slots=True)
class SignedChannel:
    """A channel between two authors with everything that can be said about it."""

    ends: tuple[Author, Author]
    announcement: ChannelAnnouncement
    capacity: Sat
    txid: Txid

    @property
    def scid(self) -> ShortChannelId:
        return self.announcement.short_channel_id

    @property
    def output(self) -> TxOut:
        keys = self.announcement.bitcoin_key_1, self.announcement.bitcoin_key_2
        return TxOut(self.capacity, funding_script(*keys))

    def update(
        self, direction: int, timestamp: int = START, *, disable: bool = False, fee_base_msat: int = 1000
    ) -> ChannelUpdate:
        made = announce.make_channel_update(
            chain_hash=REGTEST.chain_hash,
            short_channel_id=self.scid,
            our_node_id=self.ends[direction].node_id,
            their_node_id=self.ends[1 - direction].node_id,
            timestamp=timestamp,
            cltv_expiry_delta=40,
            htlc_minimum=Msat(1),
            htlc_maximum=self.capacity.msat,
            fee_base_msat=fee_base_msat,
            fee_proportional_millionths=100,
            disable=disable,
        )
        return announce.signed(made, secp256k1.sign(self.ends[direction].secret, announce.digest(made)))

    def everything(self, timestamp: int = START) -> list[Message]:
        return [self.announcement, self.update(0, timestamp), self.update(1, timestamp)]


def signed_channel(one: Author, other: Author, scid: ShortChannelId, capacity: int = 1_000_000) -> SignedChannel:
    """Announced by both, with funding keys of their own; the ends are in the order of the announcement."""
    ends = (one, other) if one.node_id < other.node_id else (other, one)
    funding = [sha256(end.secret + scid.to_bytes(8, "big")) for end in ends]
    made = announce.make_channel_announcement(
        chain_hash=REGTEST.chain_hash,
        short_channel_id=scid,
        our_node_id=ends[0].node_id,
        our_funding_key=secp256k1.public_key(funding[0]),
        their_node_id=ends[1].node_id,
        their_funding_key=secp256k1.public_key(funding[1]),
    )
    digest = announce.digest(made)
    return SignedChannel(
        ends,
        ChannelAnnouncement(
            node_signature_1=secp256k1.sign(ends[0].secret, digest),
            node_signature_2=secp256k1.sign(ends[1].secret, digest),
            bitcoin_signature_1=secp256k1.sign(funding[0], digest),
            bitcoin_signature_2=secp256k1.sign(funding[1], digest),
            features=made.features,
            chain_hash=made.chain_hash,
            short_channel_id=scid,
            node_id_1=made.node_id_1,
            node_id_2=made.node_id_2,
            bitcoin_key_1=made.bitcoin_key_1,
            bitcoin_key_2=made.bitcoin_key_2,
        ),
        Sat(capacity),
        Txid(sha256(b"funding" + scid.to_bytes(8, "big"))),
    )


@dataclass
class GossipNode:
    """One machine with what it sent, warned and stored."""

    author: Author
    state: GossipState
    features: Features = EXTENDED
    limits: Limits = field(default_factory=Limits)
    sent: list[tuple[NodeId, Message]] = field(default_factory=list)
    warnings: list[Warn] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    disk: dict[bytes, GossipStored] = field(default_factory=dict)

    @property
    def node_id(self) -> NodeId:
        return self.author.node_id

    def sent_to(self, peer: NodeId) -> list[Message]:
        return [message for to, message in self.sent if to == peer]

    def stored(self) -> list[GossipStored]:
        return sorted(self.disk.values(), key=lambda row: row.order)


class GossipNet:
    """Machines, links and a chain. Messages travel encoded; look-ups are answered at once unless ``slow_chain``."""

    def __init__(self, height: int = 1000, flush_interval: float = 60.0) -> None:
        self.now = float(START + 10)
        self.height = height
        self.flush_interval = flush_interval
        self.nodes: dict[NodeId, GossipNode] = {}
        self.links: set[frozenset[NodeId]] = set()
        self.chain: dict[ShortChannelId, SignedChannel] = {}
        self.slow_chain = False
        self._waiting: deque[tuple[GossipNode, Event]] = deque()

    def env(self, node: GossipNode) -> GossipEnv:
        return GossipEnv(
            now=self.now,
            height=self.height,
            chain_hash=REGTEST.chain_hash,
            our_node_id=node.node_id,
            limits=node.limits,
            flush_interval=self.flush_interval,
        )

    def add(self, name: str, *, features: Features = EXTENDED, limits: Limits | None = None) -> GossipNode:
        node = GossipNode(Author.of(name), sync.restore(REGTEST.chain_hash, ()), features, limits or Limits())
        self.nodes[node.node_id] = node
        return node

    def restart(self, node: GossipNode) -> None:
        """Begin again from what is on its disk."""
        node.state = sync.restore(REGTEST.chain_hash, node.stored())

    def mine(self, channels: Iterable[SignedChannel]) -> None:
        for channel in channels:
            self.chain[channel.scid] = channel

    def give(self, node: GossipNode, *events: Event) -> None:
        """Tell ``node`` these events as one batch, then let everything that follows from them happen."""
        self._turn(node, events)
        self._settle()

    def hear(self, node: GossipNode, peer: NodeId, *messages: Message) -> None:
        """Messages from ``peer``, which need not be a machine of this net."""
        self.give(node, *(MessageReceived(peer, decode_message(m.encode())) for m in messages))

    def connect(self, one: GossipNode, other: GossipNode) -> None:
        self.links.add(frozenset((one.node_id, other.node_id)))
        self._waiting.append((one, PeerReady(other.node_id, other.features)))
        self._waiting.append((other, PeerReady(one.node_id, one.features)))
        self._settle()

    def disconnect(self, one: GossipNode, other: GossipNode) -> None:
        self.links.discard(frozenset((one.node_id, other.node_id)))
        self.give(one, PeerGone(other.node_id))
        self.give(other, PeerGone(one.node_id))

    def pass_time(self, seconds: float, step: float = 1.0) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + step)
            for node in self.nodes.values():
                self._turn(node, (Ticked(),))
            self._settle()

    def mine_block(self, *, spending: Sequence[SignedChannel] = ()) -> None:
        self.height += 1
        for channel in spending:
            self.chain.pop(channel.scid, None)
        spent = tuple(OutPoint(channel.txid, channel.scid.vout) for channel in spending)
        for node in self.nodes.values():
            self.give(node, BlockArrived(spent))

    def _settle(self) -> None:
        while self._waiting:
            node, event = self._waiting.popleft()
            self._turn(node, (event,))

    def _turn(self, node: GossipNode, events: Sequence[Event]) -> None:
        transition = sync.turn(node.state, events, self.env(node))
        self._keep(node, transition.rows)
        for effect in transition.effects:
            node.effects.append(effect)
            if isinstance(effect, Send):
                message = decode_message(effect.data)
                node.sent.append((effect.peer, message))
                if frozenset((node.node_id, effect.peer)) in self.links:
                    self._waiting.append((self.nodes[effect.peer], MessageReceived(node.node_id, message)))
            elif isinstance(effect, Warn):
                node.warnings.append(effect)
            elif isinstance(effect, LookUpUtxo) and not self.slow_chain:
                self._waiting.append((node, self.answer(effect.short_channel_id)))

    def answer(self, scid: ShortChannelId) -> UtxoAnswered:
        channel = self.chain.get(scid)
        return UtxoAnswered(scid, None) if channel is None else UtxoAnswered(scid, channel.output, channel.txid)

    def _keep(self, node: GossipNode, rows: Iterable[Row]) -> None:
        for row in rows:
            if isinstance(row, GossipStored):
                node.disk[row.key] = row
            elif isinstance(row, GossipDropped):
                node.disk.pop(row.key, None)
