"""A simulated computer that runs one real node: it boots, loses power at any line, and boots again from its disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from salama.base.ids import NodeId
from salama.bitcoin.networks import REGTEST
from salama.chain.backend import BackendUnavailable, ChainBackend
from salama.channel.policy import DEFAULT_POLICY
from salama.crypto.hashes import sha256
from salama.net.tcp import Connection, PeerAddress
from salama.node.config import Config
from salama.node.node import Node
from salama.node.outside import Accepting, Outside
from salama.signer.local import LocalSigner
from salama.sim.chain import SimBackend
from salama.sim.crashes import Fuse, PowerCut
from salama.sim.disk import SimJournal
from salama.sim.links import OUTCOMES, SimConnection, SimListener
from salama.sim.loop import NodeLoop
from salama.storage.errors import StorageFault
from salama.storage.journal import Journal
from salama.transport.noise import StaticKey
from salama.wire import RevokeAndAck

if TYPE_CHECKING:
    from salama.sim.world import World

T = TypeVar("T")

EPOCH = 1_700_000_000
MOMENTS = {
    "power cut after an outcome": tuple(kind.TYPE for kind in OUTCOMES),
    "power cut after a revocation": (RevokeAndAck.TYPE,),
}
"""When power may fail on purpose: soon after a message of these types has arrived. The first ones remove an HTLC, the
last one makes HTLCs and their removals irrevocable."""


class MachineDown(Exception):
    """Whom we asked is not there to answer."""


async def within(seconds: float, answer: asyncio.Future[T]) -> T:
    """What somebody who was asked says in so many seconds. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        return await answer


class _SimOutside(Outside):
    """The machine as its node sees it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._dice = machine.world.dice(f"{machine.name} life {machine.lives}")

    def now(self) -> float:
        return EPOCH + self._machine.world.time + self._machine.skew_now

    def monotonic(self) -> float:
        return self._machine.world.time

    def entropy(self, size: int) -> bytes:
        return self._dice.randbytes(size)

    def seed(self, config: Config) -> bytes:
        return self._machine.seed

    def journal(self, config: Config) -> Journal:
        self._machine.journal = SimJournal(self._machine)
        return self._machine.journal

    def backend(self, config: Config) -> ChainBackend:
        return SimBackend(self._machine, self._machine.world.chain)

    async def connect(self, address: PeerAddress, their_node_id: NodeId, our_key: StaticKey) -> Connection:
        return await self._machine.world.network.connect(self._machine, address, their_node_id, our_key)

    def listener(self, our_key: StaticKey, on_connection: Callable[[Connection], Awaitable[None]]) -> Accepting:
        return SimListener(self._machine, our_key, on_connection)


class Machine:
    """One computer. ``boot`` and ``power_cut`` may be called by the world at any time."""

    def __init__(self, world: World, index: int, directory: Path) -> None:
        self.world, self.index, self.name = world, index, f"n{index}"
        self.directory = directory
        self.seed = sha256(b"%d machine %d" % (world.seed, index)) * 2
        self.node_id = LocalSigner(self.seed).node_id
        self.skew = world.dice(f"{self.name} clock").uniform(-20, 20)
        self.dice = world.dice(f"{self.name} hardware")
        self.config = Config(
            directory=directory,
            network=REGTEST,
            bitcoind="",
            listen=PeerAddress(self.name, 9735),
            alias=self.name,
            policy=replace(DEFAULT_POLICY, min_to_self_delay=144),
            gossip_flush_seconds=1.0,
        )
        self.lives = 0
        self.loop: NodeLoop | None = None
        self.node: Node | None = None
        self.journal: SimJournal | None = None
        self.listener: SimListener | None = None
        self.outside = _SimOutside(self)
        self.is_up = False
        self.is_hostile = False
        self.fuse: Fuse | None = None
        self.disk_fault = ""
        self.disk_slow = 1.0
        self.dies_in_write = 0
        """In how many writes to the disk its power fails; 0 for never."""
        self.dies_after = ""
        """One of ``MOMENTS``: its power fails soon after it, each of its writers on its own until then."""
        self._writes_apart = False
        self.backend_down = False
        self._drift, self._drifts_since = 0.0, 0.0
        self._asked: list[asyncio.Future[Any]] = []
        self.on_say: Callable[[SimConnection, bytes], list[bytes]] | None = None

    # --- its hardware -------------------------------------------------------------------------------------------------

    @property
    def is_dead(self) -> bool:
        """No power."""
        return self.loop is None or self.loop.dead

    def disk_latency(self) -> float:
        return (0.0005 + self.dice.random() * 0.004) * self.disk_slow

    @property
    def skew_now(self) -> float:
        """Seconds that its clock is ahead of the world's."""
        return self.skew + self._drift * (self.world.time - self._drifts_since)

    def drift(self, rate: float) -> None:
        """From now on its clock gains ``rate`` seconds a second."""
        self.skew = self.skew_now
        self._drift, self._drifts_since = rate, self.world.time

    def hears(self, message: bytes) -> None:
        """A message has arrived."""
        if self.dies_after and int.from_bytes(message[:2], "big") in MOMENTS[self.dies_after]:
            self.fault_happened(self.dies_after)
            self.dies_after, self._writes_apart = "", True
            self.dies_in_write = self.dice.randint(1, 4)

    def writes_together(self, count: int) -> int:
        """How many of ``count`` writers that wait share a transaction: mostly all."""
        if self._writes_apart:
            return 1
        return count if self.dice.random() < 0.7 else self.dice.randint(1, count)

    def writes(self, seconds: float) -> None:
        """A transaction is on its way to the disk and takes so long."""
        if self.dies_in_write:
            self.dies_in_write -= 1
            if not self.dies_in_write:
                moment = self.world.time + seconds * self.dice.random()
                self.world.later(moment, lambda: self.world.pull_the_plug(self, "power cut in a write"))

    def backend_latency(self) -> float:
        if self.is_dead:
            raise PowerCut
        return self.dice.random() * 0.01

    def fault_happened(self, kind: str) -> None:
        self.world.count(kind)
        self.world.note(f"{self.name}: {kind}")

    def says(self, connection: SimConnection, message: bytes) -> list[bytes]:
        """What really goes out when the node sends ``message``."""
        return [message] if self.on_say is None else self.on_say(connection, message)

    # --- power --------------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        if not self.is_dead:
            return
        self.lives += 1
        self.world.note(f"{self.name}: boots ({self.lives})")
        self.outside = _SimOutside(self)
        self.loop = NodeLoop(self.world, self.name)
        self.disk_fault, self.dies_in_write, self._writes_apart = "", 0, False
        self.node = Node(self.config, self.outside)
        self.loop.create_task(self._live(self.node, self.loop), name=f"{self.name} main")

    async def _live(self, node: Node, loop: NodeLoop) -> None:
        ready: asyncio.Future[None] = loop.create_future()
        ready.add_done_callback(self._ready)
        try:
            await node.run(ready)
            self.world.note(f"{self.name}: stopped")
        except (StorageFault, BackendUnavailable) as fault:
            self.world.note(f"{self.name}: stopped by {type(fault).__name__}")
        except Exception as error:
            self.world.went_wrong(loop, "the node ended with an error", error)
        if not loop.dead:
            self._off()
            self.world.stopped(self)

    def _ready(self, ready: asyncio.Future[None]) -> None:
        if not ready.cancelled() and not self.is_dead:
            self.is_up = True
            self.world.note(f"{self.name}: is up")

    def power_cut(self, where: str) -> None:
        """At once. The rest of what the machine was doing unwinds without touching the world."""
        if self.loop is None or self.loop.dead:
            return
        self.world.note(f"{self.name}: power cut at {where}")
        self.loop.dead = True
        if self.journal is not None and not self.journal._closed:
            self.journal.power_cut()

    def clean_up(self) -> None:
        """After a power cut, once nothing of the machine is on the stack any more."""
        loop = self.loop
        if loop is not None:
            loop.unwind()
        self._off()

    def _off(self) -> None:
        if self.loop is not None:
            self.loop.dead = True
        self.is_up, self.node, self.listener, self.fuse, self.loop = False, None, None, None, None
        for connection in self.world.network.of(self):
            self.world.network.cut(connection)
        asked, self._asked = self._asked, []
        for answer in asked:
            if not answer.done():
                answer.set_exception(MachineDown(self.name))

    def light_fuse(self, lines: int) -> None:
        """Cut the power after so many more lines of the shell."""
        if not self.is_dead:
            self.fuse = Fuse(lines, self._burnt)

    def _burnt(self, where: str) -> None:
        self.world.crashed(self, where)
        self.power_cut(where)

    # --- asking it ----------------------------------------------------------------------------------------------------

    def ask(self, question: Callable[[Node], Coroutine[Any, Any, T]]) -> asyncio.Future[T]:
        """Have the node do something, like a user at its terminal; MachineDown if it dies meanwhile."""
        asker = asyncio.get_running_loop()
        answer: asyncio.Future[T] = asker.create_future()
        if not self.is_up or self.node is None or self.loop is None:
            answer.set_exception(MachineDown(self.name))
            return answer
        loop = self.loop
        task = loop.create_task(question(self.node), name="user")
        self._asked = [one for one in self._asked if not one.done()]
        self._asked.append(answer)

        def done(task: asyncio.Task[T]) -> None:
            # Whatever a dying machine says is only that it died.
            error = MachineDown(self.name) if task.cancelled() or loop.dead else task.exception()
            if answer.done():
                return
            if error is None:
                answer.set_result(task.result())
            else:
                answer.set_exception(MachineDown(self.name) if isinstance(error, PowerCut) else error)

        task.add_done_callback(done)
        return answer
