"""Connections between simulated machines: encrypted bytes, in order, late, in pieces, and lost with the connection.

Handshake, frames and everything above are the node's own code (``transport.noise``); only the socket is made up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

from salama.base.ids import NodeId
from salama.codec.message import MESSAGES
from salama.net.tcp import ConnectFailed, Connection, PeerAddress
from salama.transport.noise import HandshakeFailed, Initiator, Responder, Session, StaticKey, TransportCorrupted
from salama.wire import Error, UpdateAddHtlc, UpdateFailHtlc, UpdateFailMalformedHtlc, UpdateFulfillHtlc, Warning

if TYPE_CHECKING:
    from salama.sim.machine import Machine
    from salama.sim.world import World

OUTCOMES = (UpdateFulfillHtlc, UpdateFailHtlc, UpdateFailMalformedHtlc)
"""What removes an HTLC."""
ABOUT_HTLC = tuple(kind.TYPE for kind in (UpdateAddHtlc, *OUTCOMES))
COMPLAINTS = (Error.TYPE, Warning.TYPE)


class SimConnection(Connection):
    """One end of a connection."""

    def __init__(self, network: Network, owner: Machine, peer: Machine, session: Session, *, inbound: bool) -> None:
        self._network, self.owner, self.peer, self._session = network, owner, peer, session
        self.inbound, self.address = inbound, f"{peer.name}:9735"
        self.their_node_id = peer.node_id
        self.bytes_in = self.bytes_out = 0
        self.other: SimConnection
        self.inbox: deque[bytes] = deque()
        self.over = False
        self.cut_after: int | None = None
        """Messages that may still be sent before the connection breaks."""
        self.cut_at_byte: int | None = None
        """Bytes that still arrive before the connection breaks, the last ones in the middle of a frame."""
        self.alter_after: int | None = None
        """Messages that are sent before one has a wrong bit."""
        self.silent_until = 0.0
        """Nothing that is sent arrives before this time."""
        self.slowness = 1.0
        self.last_arrival = 0.0
        self._waiter: asyncio.Future[None] | None = None

    # --- what the node does -------------------------------------------------------------------------------------------

    def send(self, messages: Sequence[bytes]) -> None:
        """What is sent together arrives together, unless the network takes it apart."""
        if self.over or self.owner.is_dead:
            return
        data = bytearray()
        for said in [said for message in messages for said in self.owner.says(self, message)]:
            if self.cut_after is not None:
                if self.cut_after == 0:
                    self.owner.fault_happened("cut at a message")
                    self._network.cut(self)
                    return
                self.cut_after -= 1
            self._network.said(self, said)
            data += self._perhaps_altered(self._session.encrypt(said))
        self.bytes_out += len(data)
        if self.cut_at_byte is not None:
            if len(data) > self.cut_at_byte:
                self._break_off(bytes(data[: self.cut_at_byte]))
                return
            self.cut_at_byte = max(1, self.cut_at_byte - len(data))
        for piece in self._network.pieces(bytes(data)):
            self._carry(piece)

    def _perhaps_altered(self, frame: bytes) -> bytes:
        if self.alter_after is None:
            return frame
        self.alter_after -= 1
        if self.alter_after >= 0:
            return frame
        self.alter_after = None
        self.owner.fault_happened("bit altered")
        return self._network.altered(frame)

    def _break_off(self, beginning: bytes) -> None:
        """All that was sent arrives, the last frame in part; what the other side sends does not."""
        self.owner.fault_happened("cut at a byte")
        self._carry(beginning)
        self.over = True
        self._network.world.later(self.last_arrival, self.other.end)
        self._wake()

    def _carry(self, data: bytes) -> None:
        due = self._due()
        self.last_arrival = due
        self._network.world.later(due, lambda: self.other.arrive(data))

    def _due(self) -> float:
        travel = self._network.delay() * self.slowness
        return max(self._network.world.time + travel, self.silent_until, self.last_arrival)

    def arrive(self, data: bytes) -> None:
        if self.over or self.owner.is_dead:
            return
        self.bytes_in += len(data)
        try:
            messages = self._session.feed(data)
        except TransportCorrupted as broken:
            messages = list(broken.messages)
            self._network.world.note(f"{self.owner.name}: cannot read what {self.peer.name} sends")
            self._network.cut(self)
        for message in messages:
            self._network.world.note(f"{self.peer.name}>{self.owner.name} {told(message)}")
            self.owner.hears(message)
        self.inbox.extend(messages)
        self._wake()

    async def receive(self) -> list[bytes]:
        while not self.inbox:
            if self.over or self.owner.is_dead:
                return []
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        most = self._network.batch()
        return [self.inbox.popleft() for _ in range(min(most, len(self.inbox)))]

    async def close(self) -> None:
        if not self.over and not self.owner.is_dead:
            self.over = True
            self._network.world.later(self._due(), self.other.end)
        self._wake()

    def abort(self) -> None:
        if not self.over and not self.owner.is_dead:
            self._network.cut(self)

    # --- what the world does ------------------------------------------------------------------------------------------

    def end(self) -> None:
        """The other side has closed: what arrived before may still be read."""
        self.over = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done() and not self.owner.is_dead:
            self._waiter.set_result(None)


def told(message: bytes) -> str:
    """A message in a line of the story: its name, the channel it is about, and of HTLCs which one."""
    number = int.from_bytes(message[:2], "big")
    kind = MESSAGES.get(number)
    words = [kind.NAME if kind else f"unknown type {number}", message[2:6].hex()]
    if number in ABOUT_HTLC:
        words.append(f"#{int.from_bytes(message[34:42], 'big')}")
    if number == UpdateAddHtlc.TYPE:
        expiry = int.from_bytes(message[82:86], "big")
        words.append(f"{int.from_bytes(message[42:50], 'big')} msat to {message[50:56].hex()} until {expiry}")
    if number in COMPLAINTS:
        words.append(repr(message[36:136])[1:])
    return " ".join([*words, f"({sha256(message).hexdigest()[:8]})"])


class SimListener:
    """Where a machine takes calls."""

    def __init__(
        self, machine: Machine, our_key: StaticKey, on_connection: Callable[[Connection], Awaitable[None]]
    ) -> None:
        self._machine, self.our_key, self._on_connection = machine, our_key, on_connection

    async def start(self, address: PeerAddress) -> PeerAddress:
        self._machine.listener = self
        return address

    async def stop(self) -> None:
        if self._machine.listener is self:
            self._machine.listener = None

    def take(self, connection: Connection) -> None:
        loop = self._machine.loop
        assert loop is not None
        loop.create_task(self._serve(connection), name="inbound")

    async def _serve(self, connection: Connection) -> None:
        await self._on_connection(connection)


class Network:
    """Every connection of the world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._dice = world.dice("network")
        self.alive: list[SimConnection] = []
        self.said: Callable[[SimConnection, bytes], None] = lambda connection, message: None
        """Called with every message as it leaves a machine."""

    def delay(self) -> float:
        """Seconds that a message travels."""
        return 0.005 + self._dice.random() * 0.06

    def batch(self) -> int:
        """Messages that come out of one read."""
        return 1 if self._dice.random() < 0.5 else 64

    def pieces(self, data: bytes) -> Sequence[bytes]:
        """What arrives at once: mostly all of it."""
        if len(data) < 2 or self._dice.random() >= 0.2:
            return (data,)
        at = self._dice.randrange(1, len(data))
        return data[:at], data[at:]

    def altered(self, frame: bytes) -> bytes:
        """One bit of it wrong."""
        at = self._dice.randrange(len(frame))
        return frame[:at] + bytes([frame[at] ^ 1 << self._dice.randrange(8)]) + frame[at + 1 :]

    def _shake_hands(self, our_key: StaticKey, node_id: NodeId, their_key: StaticKey) -> tuple[Session, Session]:
        """Raises HandshakeFailed."""
        caller = Initiator(our_key, node_id, self._dice.randbytes(32))
        callee = Responder(their_key, self._dice.randbytes(32))
        act_three, session = caller.receive_act_two(callee.receive_act_one(caller.act_one))
        return session, callee.receive_act_three(act_three)

    async def connect(self, caller: Machine, address: PeerAddress, node_id: NodeId, our_key: StaticKey) -> Connection:
        await asyncio.sleep(2 * self.delay())
        if caller.is_dead:
            raise ConnectFailed("gone")
        callee = self.world.by_name.get(address.host)
        if callee is None or callee.listener is None or callee.is_dead or self.world.is_parted(caller, callee):
            raise ConnectFailed(f"{address} cannot be reached: connection refused")
        try:
            calling, called = self._shake_hands(our_key, node_id, callee.listener.our_key)
        except HandshakeFailed:
            raise ConnectFailed(f"the handshake with {address} failed: it may be another node") from None
        near = SimConnection(self, caller, callee, calling, inbound=False)
        far = SimConnection(self, callee, caller, called, inbound=True)
        near.other, far.other = far, near
        self.alive = [one for one in self.alive if not one.over]
        self.alive.append(near)
        callee.listener.take(far)
        return near

    def cut(self, connection: SimConnection) -> None:
        """Both ends find out, each in its own time; what was on its way is lost."""
        for end in (connection, connection.other):
            end.over = True
            self.world.later(self.world.time + self.delay() * 4 * self._dice.random(), end._wake)

    def of(self, machine: Machine) -> list[SimConnection]:
        return [one for one in self.alive if not one.over and machine in (one.owner, one.peer)]
