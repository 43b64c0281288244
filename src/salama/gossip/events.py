"""What the gossip machine is told, what it asks of the shell, and what it wants kept (BOLT 7)."""

from __future__ import annotations

from dataclasses import dataclass, field

from salama.base.ids import NodeId, OutPoint, ShortChannelId, Txid
from salama.base.machine import Effect, Event, Row
from salama.base.units import Sat
from salama.bitcoin.tx import TxOut
from salama.codec.message import Message
from salama.wire.features import Features
from salama.wire.gossip import ChannelUpdate

# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerReady(Event):
    """Both ``init`` messages are exchanged. ``same_chain``: their ``networks``, if they sent any, include ours."""

    peer: NodeId
    features: Features
    same_chain: bool = True


@dataclass(frozen=True, slots=True)
class PeerGone(Event):
    peer: NodeId


@dataclass(frozen=True, slots=True)
class MessageReceived(Event):
    """One of the messages of ``wire.gossip``, except ``announcement_signatures``, which belongs to its channel."""

    peer: NodeId
    message: Message


@dataclass(frozen=True, slots=True)
class UtxoAnswered(Event):
    """The answer to ``LookUpUtxo``: the unspent output and its transaction, or None if there is none."""

    short_channel_id: ShortChannelId
    output: TxOut | None
    txid: Txid | None = None


@dataclass(frozen=True, slots=True)
class BlockArrived(Event):
    """``env.height`` is its height; ``spent`` are all outputs that its transactions spend."""

    spent: tuple[OutPoint, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class BlockRemoved(Event):
    """A reorganisation took away the block at ``height``; ``env.height`` is already lower."""

    height: int


@dataclass(frozen=True, slots=True)
class Ticked(Event):
    """``env.now`` moved on. ``busy`` peers have much unsent data and are given nothing that can wait."""

    busy: frozenset[NodeId] = frozenset()


@dataclass(frozen=True, slots=True)
class OwnMessage(Event):
    """A signed announcement of ours: it goes to every peer at once, whatever their filters.

    ``capacity`` and ``txid`` come with a ``channel_announcement``. An update with ``only_to`` concerns an unannounced
    channel and goes to that peer alone.
    """

    message: Message
    capacity: Sat | None = None
    txid: Txid | None = None
    only_to: NodeId | None = None


@dataclass(frozen=True, slots=True)
class OwnChannelKnown(Event):
    """A channel of ours with ``peer`` and every name under which the peer may announce its terms (B7.05)."""

    peer: NodeId
    short_channel_ids: tuple[ShortChannelId, ...]


@dataclass(frozen=True, slots=True)
class OwnChannelGone(Event):
    short_channel_ids: tuple[ShortChannelId, ...]


# --- effects --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send(Effect):
    """Send an encoded message, type included. Stored gossip goes out as the bytes that were signed."""

    peer: NodeId
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Warn(Effect):
    """Tell the peer what it did wrong and, if so, hang up."""

    peer: NodeId
    reason: str
    disconnect: bool = False


@dataclass(frozen=True, slots=True)
class LookUpUtxo(Effect):
    """Find the unspent output that ``short_channel_id`` names. Always answer with ``UtxoAnswered``, however late."""

    short_channel_id: ShortChannelId
    bitcoin_key_1: bytes = field(repr=False)
    bitcoin_key_2: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PeerPolicyLearned(Effect):
    """The terms on which a peer relays to us over our own channel; wanted for route hints."""

    peer: NodeId
    update: ChannelUpdate


@dataclass(frozen=True, slots=True)
class GraphSynced(Effect):
    """A range check with ``peer`` is through."""

    peer: NodeId


# --- rows -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GossipStored(Row):
    """Keep ``raw`` under ``key``, replacing what was there.

    ``order`` is 0 for channels, 1 for updates, 2 for nodes, 3 for peers' terms: they are loaded in this order.
    """

    key: bytes
    order: int
    raw: bytes = field(repr=False)
    capacity: Sat | None = None
    txid: Txid | None = None
    spent_height: int | None = None


@dataclass(frozen=True, slots=True)
class GossipDropped(Row):
    """Forget what is under ``key``, if anything is."""

    key: bytes


def channel_key(scid: int) -> bytes:
    return b"c" + scid.to_bytes(8, "big")


def update_key(scid: int, direction: int) -> bytes:
    return b"u" + scid.to_bytes(8, "big") + bytes((direction,))


def policy_key(scid: int) -> bytes:
    return b"p" + scid.to_bytes(8, "big")


def node_key(node_id: bytes) -> bytes:
    return b"n" + node_id
