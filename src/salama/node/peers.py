"""Connections with peers: ``init``, messages to their machines, reconnecting with back-off (BOLT 1: B1.05, B1.06)."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from salama.base.ids import NodeId
from salama.base.machine import CommandRefused
from salama.net.tcp import ConnectFailed, Connection, PeerAddress
from salama.node.outside import Outside
from salama.transport import session as link
from salama.transport.noise import StaticKey
from salama.wire import Init, Message
from salama.wire.features import Features

log = logging.getLogger("salama.peers")
wire_log = logging.getLogger("salama.wire")
"""Names of the messages that channels exchange, at level debug: ``NODE > sent`` and ``NODE < received``."""

MAX_RECONNECT_SECONDS = 300.0
MAX_PEERS_WITHOUT_CHANNEL = 100
"""Strangers who may be connected at a time (immunity E2)."""
MAX_BACKLOG = 2048
"""Messages of one peer that wait for their machines before its socket is not read any more."""
READY_TIMEOUT = 20.0


class Listeners(Protocol):
    """What the node does with a peer's messages."""

    def peer_ready(self, peer: Peer) -> None: ...
    def peer_gone(self, peer: Peer) -> None: ...
    def message(self, peer: Peer, message: Message) -> None: ...
    def has_channel(self, node_id: NodeId) -> bool: ...
    def backlog(self, peer: Peer) -> int: ...


@dataclass(slots=True, eq=False)
class Peer:
    """One connected peer."""

    connection: Connection
    session: link.Session
    since: float
    features: Features = field(default_factory=lambda: Features.of())
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    _out: list[bytes] = field(default_factory=list)
    _closing: str = ""

    @property
    def node_id(self) -> NodeId:
        return self.connection.their_node_id

    def send(self, message: Message) -> None:
        """Queue a message; all that one tick of the loop queues goes out in one write."""
        if wire_log.isEnabledFor(logging.DEBUG):
            wire_log.debug("%s > %s", short(self.node_id), message.NAME)
        self.send_raw(message.encode())

    def send_raw(self, data: bytes) -> None:
        """Queue a message that is encoded already."""
        if not self._out:
            asyncio.get_running_loop().call_soon(self.flush)
        self._out.append(data)

    def flush(self) -> None:
        """Hand over what was queued at once."""
        if self._out:
            self.connection.send(self._out)
            self._out = []

    def disconnect(self, reason: str) -> None:
        """Close after what was queued is sent."""
        if not self._closing:
            self._closing = reason
            log.info("%s: disconnecting: %s", short(self.node_id), reason)
            asyncio.get_running_loop().call_soon(self._finish)

    def _finish(self) -> None:
        self.flush()
        task = asyncio.create_task(self.connection.close())
        _CLOSING.add(task)
        task.add_done_callback(_CLOSING.discard)


_CLOSING: set[asyncio.Task[None]] = set()


def short(node_id: NodeId) -> str:
    """A node id as it is told apart in a log."""
    return str(node_id)[:12]


class Peers:
    """All connections of this node."""

    def __init__(
        self,
        our_key: StaticKey,
        our_init: Init,
        listeners: Listeners,
        reconnect_seconds: float,
        outside: Outside | None = None,
    ) -> None:
        self._our_key, self._listeners = our_key, listeners
        self._outside = outside or Outside()
        self._terms = link.Terms(our_init)
        self._first_pause = reconnect_seconds
        self._listener = self._outside.listener(our_key, self._serve)
        self.connected: dict[NodeId, Peer] = {}
        self.addresses: dict[NodeId, PeerAddress] = {}
        self.elsewhere: dict[NodeId, tuple[PeerAddress, ...]] = {}
        """Where else a peer may be, if it is not found at its address."""
        self._wanted: dict[NodeId, asyncio.Task[None]] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def listen(self, address: PeerAddress) -> PeerAddress:
        return await self._listener.start(address)

    async def connect(self, node_id: NodeId, address: PeerAddress) -> Peer:
        """Connect, or return the connection that stands. Raises CommandRefused."""
        peer = self.connected.get(node_id)
        if peer is None:
            try:
                connection = await self._outside.connect(address, node_id, self._our_key)
            except ConnectFailed as failed:
                raise CommandRefused("connect_failed", failed.reason[0].upper() + failed.reason[1:] + ".") from None
            task = asyncio.create_task(self._serve(connection), name=f"peer {short(node_id)}")
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
            await asyncio.sleep(0)
            peer = self.connected.get(node_id)
        if peer is not None:
            try:
                async with asyncio.timeout(READY_TIMEOUT):
                    await peer.ready.wait()
            except TimeoutError:
                peer = None
        if peer is None or peer is not self.connected.get(node_id):
            raise CommandRefused("connect_failed", f"{address} closed the connection.", "Look into its log.")
        self.addresses[node_id] = address
        return peer

    def keep(self, node_id: NodeId) -> None:
        """Stay connected to a peer whose address is known: call it again whenever it is lost."""
        if node_id in self.addresses and node_id not in self._wanted and not self._stopping:
            task = asyncio.create_task(self._keep(node_id), name=f"keep {short(node_id)}")
            self._wanted[node_id] = task

    def let_go(self, node_id: NodeId) -> None:
        """Do not call this peer again by ourselves."""
        if (task := self._wanted.pop(node_id, None)) is not None:
            task.cancel()

    async def _keep(self, node_id: NodeId) -> None:
        pause = self._first_pause
        while True:
            if node_id not in self.connected:
                try:
                    await self.connect(node_id, self.addresses[node_id])
                except CommandRefused as refused:
                    log.debug("%s: %s", short(node_id), refused.reason)
                    if others := self.elsewhere.get(node_id):
                        self.elsewhere[node_id] = (*others[1:], self.addresses[node_id])
                        self.addresses[node_id] = others[0]
            if node_id in self.connected:
                pause = self._first_pause
                await asyncio.sleep(self._first_pause)
            else:
                # Spread over half to all of the pause, so that a restarted hub is not called by everybody at once.
                await asyncio.sleep(pause * (0.5 + self._outside.below(1000) / 2000))
                pause = min(2 * pause, MAX_RECONNECT_SECONDS)

    # --- one connection -----------------------------------------------------------------------------------------------

    async def _serve(self, connection: Connection) -> None:
        node_id = connection.their_node_id
        old = self.connected.get(node_id)
        if not self._may_stay(connection, old):
            connection.abort()
            return
        if old is not None:
            # Settle the old one first: its channels must see a disconnection before they see the new connection.
            old.connection.abort()
            self._gone(old)
        connection.is_friend = partial(self._listeners.has_channel, node_id)
        now = self._outside.monotonic()
        started = link.start(self._terms, now)
        peer = Peer(connection, started.state, now)
        self.connected[node_id] = peer
        timer = asyncio.create_task(self._watch_time(peer))
        try:
            self._perform(peer, started.effects)
            while messages := await connection.receive():
                event = link.MessagesReceived(tuple(messages))
                self._advance(peer, event)
                if peer.session.is_closed:
                    break
                while self._listeners.backlog(peer) > MAX_BACKLOG:
                    await asyncio.sleep(0.01)
        except Exception:
            # Whatever a peer can make go wrong here ends its own connection and nothing else (immunity H5).
            log.exception("%s: the connection failed", short(node_id))
        finally:
            timer.cancel()
            try:
                self._gone(peer)
                peer.flush()  # our last words, if the peer gave cause for any
            except Exception:
                log.exception("%s: saying goodbye failed", short(node_id))
            await connection.close()

    def _may_stay(self, new: Connection, old: Peer | None) -> bool:
        """Which of two connections with one peer stays; both ends decide alike (B1.06)."""
        if self._stopping:
            return False
        if old is None:
            strangers = sum(not self._listeners.has_channel(n) for n in self.connected)
            known = self._listeners.has_channel(new.their_node_id)
            return not new.inbound or known or strangers < MAX_PEERS_WITHOUT_CHANNEL
        crossed = new.inbound != old.connection.inbound and self._outside.monotonic() - old.since < 10
        if not crossed:
            return True  # the peer knows best that the old one is dead
        we_are_lower = self._our_key.point < bytes(new.their_node_id)
        return new.inbound != we_are_lower  # both keep the one that the lower node id dialled

    async def _watch_time(self, peer: Peer) -> None:
        while (wake_at := peer.session.wake_at) is not None:
            await asyncio.sleep(max(0.05, wake_at - self._outside.monotonic()))
            self._advance(peer, link.TimePassed())

    def _advance(self, peer: Peer, event: link.MessagesReceived | link.TimePassed) -> None:
        done = link.step(peer.session, event, self._outside.monotonic())
        peer.session = done.state
        self._perform(peer, done.effects)

    def _perform(self, peer: Peer, effects: tuple[object, ...]) -> None:
        for effect in effects:
            match effect:
                case link.Deliver(message):
                    if wire_log.isEnabledFor(logging.DEBUG):
                        wire_log.debug("%s < %s", short(peer.node_id), message.NAME)
                    self._listeners.message(peer, message)
                case link.Send(message):
                    peer.send(message)
                case link.PeerReady(their_init):
                    peer.features = their_init.all_features
                    peer.ready.set()
                    log.info(
                        "%s: connected %s %s",
                        short(peer.node_id),
                        "from" if peer.connection.inbound else "to",
                        peer.connection.address,
                    )
                    self._listeners.peer_ready(peer)
                case link.Disconnect(reason):
                    peer.disconnect(reason)

    def _gone(self, peer: Peer) -> None:
        if self.connected.get(peer.node_id) is peer:
            del self.connected[peer.node_id]
            if peer.ready.is_set():
                log.info("%s: disconnected", short(peer.node_id))
                self._listeners.peer_gone(peer)
            peer.ready.set()  # whoever waits learns that it is over

    async def stop(self) -> None:
        self._stopping = True
        for task in self._wanted.values():
            task.cancel()
        await asyncio.gather(*self._wanted.values(), return_exceptions=True)
        for peer in list(self.connected.values()):
            peer.connection.abort()
        await self._listener.stop()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
