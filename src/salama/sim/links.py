"""Connections between simulated machines: whole messages, in order, late, and lost with the connection.

The handshake is left out: a connection that stands is one between two authenticated nodes. Everything from ``init`` up
is the node's own code.
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

if TYPE_CHECKING:
    from salama.sim.machine import Machine
    from salama.sim.world import World


class SimConnection(Connection):
    """One end of a connection."""

    def __init__(self, network: Network, owner: Machine, peer: Machine, *, inbound: bool) -> None:
        self._network, self.owner, self.peer = network, owner, peer
        self.inbound, self.address = inbound, f"{peer.name}:9735"
        self.their_node_id = peer.node_id
        self.bytes_in = self.bytes_out = 0
        self.other: SimConnection
        self.inbox: deque[bytes] = deque()
        self.over = False
        self.cut_after: int | None = None
        """Messages that may still be sent before the connection breaks."""
        self.silent_until = 0.0
        """Nothing that is sent arrives before this time."""
        self.last_arrival = 0.0
        self._waiter: asyncio.Future[None] | None = None

    # --- what the node does -------------------------------------------------------------------------------------------

    def send(self, messages: Sequence[bytes]) -> None:
        if self.over or self.owner.is_dead:
            return
        world = self._network.world
        for message in messages:
            self.bytes_out += len(message)
            for sent in self.owner.says(self, message):
                if self.cut_after is not None:
                    if self.cut_after == 0:
                        self.owner.fault_happened("cut at a message")
                        self._network.cut(self)
                        return
                    self.cut_after -= 1
                self._carry(world, sent)

    def _carry(self, world: World, message: bytes) -> None:
        due = max(world.time + self._network.delay(), self.silent_until, self.last_arrival)
        self.last_arrival = due
        world.later(due, lambda: self.other.arrive(message))

    def arrive(self, message: bytes) -> None:
        if self.over or self.owner.is_dead:
            return
        self._network.world.note(f"{self.peer.name}>{self.owner.name} {_name(message)}")
        self.bytes_in += len(message)
        self.inbox.append(message)
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
            world = self._network.world
            due = max(world.time + self._network.delay(), self.silent_until, self.last_arrival)
            world.later(due, self.other.end)
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


def _name(message: bytes) -> str:
    kind = MESSAGES.get(int.from_bytes(message[:2], "big"))
    return f"{kind.NAME if kind else 'unknown'} {message[2:6].hex()} {sha256(message).hexdigest()[:12]}"


class SimListener:
    """Where a machine takes calls."""

    def __init__(self, machine: Machine, on_connection: Callable[[Connection], Awaitable[None]]) -> None:
        self._machine, self._on_connection = machine, on_connection

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

    def delay(self) -> float:
        """Seconds that a message travels."""
        return 0.005 + self._dice.random() * 0.06

    def batch(self) -> int:
        """Messages that come out of one read."""
        return 1 if self._dice.random() < 0.5 else 64

    async def connect(self, caller: Machine, address: PeerAddress, node_id: NodeId) -> Connection:
        await asyncio.sleep(2 * self.delay())
        if caller.is_dead:
            raise ConnectFailed("gone")
        callee = self.world.by_name.get(address.host)
        if callee is None or callee.listener is None or callee.is_dead or self.world.is_parted(caller, callee):
            raise ConnectFailed(f"{address} cannot be reached: connection refused")
        if callee.node_id != node_id:
            raise ConnectFailed(f"the handshake with {address} failed: it may be another node than the id says")
        near = SimConnection(self, caller, callee, inbound=False)
        far = SimConnection(self, callee, caller, inbound=True)
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
