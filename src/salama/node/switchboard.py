"""Who hears what: from peers to channels and gossip, from channels to payments, gossip and the chain, and back.

Nothing is decided here. ``peers.Listeners`` and ``channel_actor.Surroundings`` say what is asked of this file.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from salama.base.ids import ChannelId, HtlcRef, NodeId, Side
from salama.base.machine import Event
from salama.channel.events import (
    AddDropped,
    AddHtlc,
    AddRefused,
    FailHtlc,
    HtlcCommitted,
    HtlcFailed,
    PreimageLearned,
    SettleHtlc,
)
from salama.channel.state import Channel, ChannelRecord, Phase
from salama.gossip.events import MessageReceived as GossipReceived
from salama.gossip.events import PeerGone as GossipPeerGone
from salama.gossip.events import PeerReady as GossipPeerReady
from salama.invoices.bolt11 import HintHop
from salama.node.channels import Channels, are_named_alike, scids_of
from salama.node.graph import GossipActor
from salama.node.onchain import Onchain
from salama.node.payments import Committed, PaymentsActor
from salama.node.peer_storage import PeerBoxes
from salama.node.peers import Peer, short
from salama.node.quiet_log import QuietLog
from salama.payments.events import ChannelGone, HandoffArrived, OfferRefused
from salama.transport.session import printable
from salama.wire import (
    ALL_CHANNELS,
    ChannelAnnouncement,
    ChannelUpdate,
    Error,
    GossipTimestampFilter,
    Message,
    NodeAnnouncement,
    OpenChannel,
    PeerStorage,
    PeerStorageRetrieval,
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyChannelRange,
    ReplyShortChannelIdsEnd,
    UpdateAddHtlc,
    Warning,
)

log = logging.getLogger("salama.node")


GOSSIP = (
    ChannelAnnouncement,
    ChannelUpdate,
    NodeAnnouncement,
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyChannelRange,
    ReplyShortChannelIdsEnd,
    GossipTimestampFilter,
)
MAX_HINTS = 4
"""Unannounced channels named in an invoice: enough to be paid, few enough to scan."""


class Switchboard:
    """Between the parts of a node; ``join`` them before the first of them speaks."""

    def __init__(self, tasks: asyncio.TaskGroup, monotonic: Callable[[], float]) -> None:
        self._tasks, self._words = tasks, QuietLog(log, monotonic)

    def join(
        self, channels: Channels, payments: PaymentsActor, gossip: GossipActor, onchain: Onchain, boxes: PeerBoxes
    ) -> None:
        """The parts, once they are made."""
        self._boxes = boxes
        self._channels, self._payments, self._gossip, self._onchain = channels, payments, gossip, onchain

    # --- what peers send (peers.Listeners) ----------------------------------------------------------------------------

    def peer_ready(self, peer: Peer) -> None:
        self._boxes.peer_ready(peer)  # before any channel says a word: it may be all that the peer has left
        self._channels.peer_ready(peer.node_id, peer.features)
        self._gossip.tell(GossipPeerReady(peer.node_id, peer.features))

    def peer_gone(self, peer: Peer) -> None:
        self._boxes.peer_gone(peer)
        self._channels.peer_gone(peer.node_id)
        self._gossip.tell(GossipPeerGone(peer.node_id))

    def has_channel(self, node_id: NodeId) -> bool:
        return self._channels.has_funded(node_id)

    def backlog(self, peer: Peer) -> int:
        return self._channels.backlog(peer.node_id) + self._gossip.waiting

    def message(self, peer: Peer, message: Message) -> None:
        if isinstance(message, GOSSIP):
            self._gossip.tell(GossipReceived(peer.node_id, message))
        elif isinstance(message, PeerStorage):
            self._boxes.received(peer, message)
        elif isinstance(message, PeerStorageRetrieval):
            self._boxes.returned(peer, message)
        elif isinstance(message, OpenChannel):
            self._tasks.create_task(self._channels.open_received(peer.node_id, message))
        elif isinstance(message, Error | Warning):
            self._words.warning("%s says: %s", short(peer.node_id), printable(message.data))
            whose = None if message.channel_id == ALL_CHANNELS else message.channel_id
            self._channels.message(peer.node_id, whose, message)
        else:
            self._channel_message(peer, message)

    def _channel_message(self, peer: Peer, message: Message) -> None:
        channel_id = getattr(message, "channel_id", None) or getattr(message, "temporary_channel_id", None)
        if channel_id is None:
            log.debug("%s: %s ignored", short(peer.node_id), message.NAME)
        elif not self._channels.message(peer.node_id, channel_id, message):
            # A channel that we do not know: say so, or the peer would wait for ever (B1.08).
            peer.send(Error(channel_id=channel_id, data=b"unknown channel"))

    def route_hints(self) -> tuple[tuple[HintHop, ...], ...]:
        """How to reach us over our unannounced channels: one hop each, on the peers' terms (B11.03)."""
        hints: list[tuple[HintHop, ...]] = []
        for actor in self._channels.by_id.values():
            channel = actor.state
            if not isinstance(channel, Channel) or channel.record.params.announce or len(hints) >= MAX_HINTS:
                continue
            record = channel.record
            names = [record.our_alias, record.funding.short_channel_id]
            policies = (self._gossip.state.peer_policy(name) for name in names if name is not None)
            policy = next((p for p in policies if p is not None), None)
            name = record.their_alias or record.funding.short_channel_id
            if policy is None or name is None or int(self._channels.can_receive(channel)) == 0:
                continue
            hop = HintHop(
                record.params.their_node_id,
                name,
                policy.fee_base_msat,
                policy.fee_proportional_millionths,
                policy.cltv_expiry_delta,
            )
            hints.append((hop,))
        return tuple(hints)

    # --- what channels report (channels.Surroundings) -----------------------------------------------------------------

    def htlc_committed(self, htlc: HtlcCommitted) -> None:
        self._payments.tell(Committed(htlc))

    def offer_ended(self, effect: AddRefused | AddDropped) -> None:
        if isinstance(effect, AddRefused):
            self._payments.tell(OfferRefused(effect.origin, effect.code, effect.reason))
        else:
            self._payments.tell(
                OfferRefused(effect.origin, "disconnected", "The peer disconnected before the HTLC was signed.")
            )

    def handed_over(self, handoff: PreimageLearned | HtlcFailed) -> None:
        self._payments.tell(HandoffArrived(handoff))

    def htlcs_offered(self, offered: Sequence[UpdateAddHtlc]) -> None:
        self._payments.look_ahead(offered)

    def announce(self, announcement: Message) -> None:
        assert isinstance(announcement, ChannelAnnouncement)
        channel_id = self._channels.by_scid.get(announcement.short_channel_id)
        actor = self._channels.by_id.get(channel_id) if channel_id is not None else None
        if actor is not None and actor.record is not None:
            self._gossip.announce(actor.record, announcement, self._channels.relay_policy(actor.record))

    def channel_changed(self, channel: Channel, old: ChannelRecord | None) -> None:
        """Tell gossip what it must know of a channel of ours."""
        record = channel.record
        self._onchain.channel_changed(channel)
        if old is None or not are_named_alike(old, record):
            self._gossip.channel_known(record, scids_of(record))
            if old is not None:
                # A reorganisation gave it another place: what stands at the old one is somebody else's channel now.
                self._gossip.channel_gone(tuple(name for name in scids_of(old) if name not in self._channels.by_scid))
        became_ready = record.phase is Phase.NORMAL and (old is None or old.phase is not Phase.NORMAL)
        if became_ready or (old is not None and old.their_alias != record.their_alias):
            self._gossip.tell_peer(record, self._channels.relay_policy(record))
        if old is not None and old.phase is Phase.NORMAL and record.phase is not Phase.NORMAL:
            scid = record.funding.short_channel_id
            if scid is not None and scid in self._gossip.graph:
                self._gossip.update(record, self._channels.relay_policy(record))
        if record.phase is Phase.CLOSED:
            self._gossip.channel_gone(scids_of(record))

    def to_channel(self, channel_id: ChannelId, event: Event) -> None:
        """A command of the payments for a channel; one that is gone refuses what it can no longer take."""
        actor = self._channels.by_id.get(channel_id)
        if actor is not None:
            actor.tell(event)
        elif isinstance(event, AddHtlc):
            self._payments.tell(OfferRefused(event.origin, "channel_gone", "The channel is closed."))
        elif isinstance(event, SettleHtlc | FailHtlc):
            log.warning("channel %s is gone: too late for %s %d", channel_id, type(event).__name__, event.id)
            self._payments.tell(ChannelGone(HtlcRef(channel_id, Side.INCOMING, event.id), event))
        else:
            log.error("channel %s is gone; %s is dropped", channel_id, type(event).__name__)
