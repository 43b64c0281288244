"""What happens in one seed: machines boot, open channels, pay each other while things break, and are judged when all is
well again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import NamedTuple

from salama.api.channels_schema import CloseParams, OpenParams
from salama.api.methods import Methods
from salama.api.peers_schema import ConnectParams
from salama.api.wallet_schema import NewAddrParams
from salama.base.machine import CommandRefused
from salama.base.units import FeeratePerKw, Sat
from salama.bitcoin.address import parse as parse_address
from salama.bitcoin.networks import REGTEST
from salama.bitcoin.tx import TxOut
from salama.channel.state import Channel, LinkState, Phase
from salama.sim import faults, hostile, invariants
from salama.sim.machine import Machine, MachineDown, within
from salama.sim.traffic import Traffic
from salama.sim.words import Words
from salama.sim.world import World
from salama.storage.errors import StorageFault


@dataclass(frozen=True, slots=True)
class Size:
    """How much happens in a seed."""

    nodes: tuple[int, int] = (5, 8)
    payments: int = 60
    seconds: float = 40.0
    """Virtual time of traffic and faults."""
    faults: float = 1.0
    """Faults a second; 0 for a world in which nothing breaks."""
    only: frozenset[str] = frozenset()
    """Kinds of faults allowed; empty for all."""
    openings: int = 2
    """Channels that are opened while payments are under way."""
    forced: int = 0
    """Channels that somebody closes by force while payments are under way."""
    lies: float = 0.0
    """Chance of each channel message of one hostile machine to be twisted; 0 for a world of honest ones."""


SMALL = Size()
LARGE = Size(nodes=(5, 20), payments=100, seconds=40.0, faults=1.7)


def large(seed: int) -> Size:
    """All faults on: in every fifth world somebody goes to the chain by force, in every eighth somebody lies."""
    size = replace(LARGE, forced=2) if seed % 5 == 0 else LARGE
    return replace(size, lies=0.1) if seed % 8 == 0 else size


class Edge(NamedTuple):
    """Two machines that have a channel, or want one."""

    one: Machine
    other: Machine
    private: bool = False


class Story:
    """One seed under way."""

    def __init__(self, world: World, size: Size) -> None:
        self.world, self.size = world, size
        self.edges: list[Edge] = []
        self.dice = world.dice("story")
        self.mining_pause = 1.5

    # --- the course ---------------------------------------------------------------------------------------------------

    async def play(self) -> None:
        world = self.world
        books, words = invariants.Books(world), Words(world)
        world.check = books.look
        world.network.said = words.said
        world.chain.on_offer = lambda who, tx: invariants.check_offer(world, who, tx)
        for _ in range(self.dice.randint(*self.size.nodes)):
            world.add_machine()
        self._draw_edges()
        for machine in world.machines:
            machine.boot()
        await self._all_up()
        await self._hand_out_coins()
        mining = asyncio.ensure_future(self._mine())
        troubles = faults.Faults(world, self.size.faults, self.size.only)
        breaking = asyncio.ensure_future(troubles.run())
        await self._settle_in()
        if self.size.lies:
            liar = self.dice.choice(world.machines)
            liar.is_hostile = True
            liar.on_say = hostile.Liar(world, liar.name, self.size.lies).says
        forcing = asyncio.ensure_future(self._force_some())
        opening = asyncio.ensure_future(self._open_some())
        traffic = Traffic(world, self.size.payments, self.size.seconds)
        await traffic.flows()
        await asyncio.gather(forcing, opening)
        for task in (mining, breaking):
            if task.done():
                await task  # it never ends by itself: this raises what ended it
        breaking.cancel()
        troubles.heal()
        for machine in world.machines:
            machine.on_say = None
        world.note("healing")
        await self._quiet("after the traffic")
        await self._close_some()
        await self._quiet("after the closes")
        mining.cancel()
        books.look_at_all()
        words.judge()
        invariants.judge(world, traffic.tried)

    def _draw_edges(self) -> None:
        """A tree, so that everybody can reach everybody, half as many edges again, and a second channel for somebody.

        Who hangs on one channel only may have it unannounced; so may extra ones be.
        """
        machines = self.world.machines
        tree = [(machines[at], machines[self.dice.randrange(at)]) for at in range(1, len(machines))]
        inner = {other.name for _, other in tree}
        self.edges = [Edge(one, other, one.name not in inner and self.dice.random() < 0.3) for one, other in tree]
        for _ in range(len(machines) // 2 + 1):
            one, other = self.dice.sample(machines, 2)
            self.edges.append(Edge(one, other, self.dice.random() < 0.2))
        self.edges.append(self.dice.choice(self.edges))

    async def _all_up(self) -> None:
        while not all(machine.is_up for machine in self.world.machines):
            await asyncio.sleep(0.2)

    async def _hand_out_coins(self) -> None:
        outputs: list[TxOut] = []
        for machine in self.world.machines:
            for _ in range(4):
                made = await machine.ask(lambda node: Methods(node).newaddr(NewAddrParams()))
                outputs.append(TxOut(Sat(3_000_000), parse_address(made.address, REGTEST)))
        self.world.chain.give(outputs)
        self.world.chain.mine()
        await asyncio.sleep(3)

    async def _mine(self) -> None:
        while True:
            await asyncio.sleep(self.dice.uniform(0.3, 1.0) * self.mining_pause)
            block = self.world.chain.mine()
            self.world.note(f"block {self.world.chain.height} {len(block.txs)} {block.hash.hex()[:12]}")

    # --- channels -----------------------------------------------------------------------------------------------------

    async def _settle_in(self) -> None:
        """Open the channels, and wait until most of them work."""
        await asyncio.gather(*(self._open(edge) for edge in self.edges))
        public = sum(not edge.private for edge in self.edges)
        for _ in range(60):
            up = [m.node for m in self.world.machines if m.node is not None and m.is_up]
            ready = sum(view.ready for node in up for view in node.channels.views().values())
            known = min((len(node.gossip.graph) for node in up), default=0)
            if ready >= 1.4 * len(self.edges) and known >= 0.7 * public:
                break
            await asyncio.sleep(1.0)
        self.world.note(f"settled in: {ready} ready ends, graphs of {known} or more")
        self.mining_pause = 6.0

    async def _open_some(self) -> None:
        """Under load."""
        for _ in range(self.size.openings):
            await asyncio.sleep(self.dice.uniform(0.2, 1.0) * self.size.seconds / self.size.openings)
            one, other = self.dice.sample(self.world.machines, 2)
            edge = Edge(one, other, self.dice.random() < 0.3)
            self.edges.append(edge)
            if await self._open(edge):
                self.world.count("channels opened under load")

    async def _open(self, edge: Edge) -> bool:
        """Whether it worked in the end."""
        one, other, private = edge
        amount = self.dice.randint(200_000, 2_000_000)
        push = invariants.push_of(amount)
        where = f"{other.node_id}@{other.name}:9735"
        params = OpenParams(peer=where, amount=f"{amount}sat", push=f"{push}sat", private=private)
        for _ in range(8):
            try:
                await self._connect(one, other)
                opened = await within(20, one.ask(lambda node: Methods(node).open(params)))
            except (MachineDown, CommandRefused, TimeoutError, StorageFault) as error:
                self.world.note(f"{one.name}: opening with {other.name} came to nothing: {error}")
                await asyncio.sleep(self.dice.uniform(0.5, 3.0))
                continue
            self.world.note(f"{one.name}: opens {opened.channel_id[:12]} with {other.name}")
            self.world.count("private channels" if private else "channels")
            return True
        return False

    async def _close_some(self) -> None:
        closing = []
        for machine in self.world.machines:
            if machine.node is None or not machine.is_up or self.dice.random() > 0.5:
                continue
            names = [str(c) for c, v in machine.node.channels.views().items() if v.ready]
            if names:
                closing.append(self._close(machine, self.dice.choice(names)))
        # With the next block every opener wants another fee rate, in the middle of the closing or just before it.
        self.world.chain.feerate = FeeratePerKw(int(1000 * 2 ** self.dice.uniform(-1.5, 2.5)))
        self.world.note(f"feerate {self.world.chain.feerate}")
        await asyncio.gather(*closing)

    async def _close(self, machine: Machine, name: str) -> None:
        await asyncio.sleep(self.dice.uniform(0, 5))
        try:
            await within(60, machine.ask(lambda node: Methods(node).close(CloseParams(channel=name, wait=20))))
            self.world.count("closes")
        except (CommandRefused, MachineDown, TimeoutError) as error:
            self.world.note(f"{machine.name}: close of {name[:12]}: {error}")

    async def _force_some(self) -> None:
        for _ in range(self.size.forced):
            await asyncio.sleep(self.dice.uniform(0.2, 1.0) * self.size.seconds / self.size.forced)
            machine = self.dice.choice(self.world.machines)
            if machine.node is None or not machine.is_up:
                continue
            ready = [c for c, v in machine.node.channels.views().items() if v.ready]
            if ready:
                chosen = self.dice.choice(ready)
                self.world.forced.add(bytes(chosen))
                await self._force(machine, str(chosen))

    async def _force(self, machine: Machine, name: str) -> None:
        params = CloseParams(channel=name, force=True, wait=0)
        try:
            await machine.ask(lambda node: Methods(node).close(params))
            self.world.count("force closes")
            self.world.note(f"{machine.name}: closes {name[:12]} by force")
        except (CommandRefused, MachineDown, StorageFault) as error:
            self.world.note(f"{machine.name}: force close of {name[:12]}: {error}")

    # --- the end ------------------------------------------------------------------------------------------------------

    async def _quiet(self, when: str) -> None:
        """With everybody connected and nothing broken, all that was begun must come to an end."""
        await self._all_up()
        # What is not worth its claim on chain comes back only when the deadline upstream nears, hundreds of blocks on.
        for at in range(300 if self.world.forced else 75):
            if at % 10 == 0:
                await self._reconnect()
            if at == 5 and self.world.forced:
                self.mining_pause = 0.6  # what waits for an expiry shall not wait for ever
            if not (unrest := self._unrest()):
                self.world.note(f"quiet {when}")
                return
            await asyncio.sleep(2.0)
        for one in unrest:
            self.world.problem(f"{when}: never came to rest: {one}")

    async def _reconnect(self) -> None:
        for one, other, _ in self.edges:
            try:
                await self._connect(one, other)
            except (MachineDown, CommandRefused) as error:
                self.world.note(f"{one.name}: no connection with {other.name}: {error}")

    async def _connect(self, one: Machine, other: Machine) -> None:
        params = ConnectParams(peer=f"{other.node_id}@{other.name}:9735")
        await one.ask(lambda node: Methods(node).connect(params))

    def _unrest(self) -> list[str]:
        found: list[str] = []
        for machine in self.world.machines:
            if machine.node is None or not machine.is_up:
                found.append(f"{machine.name} is not up")
                continue
            if not self.size.lies:
                found += [
                    f"{machine.name} pays {payment_hash}"
                    for payment_hash, one in machine.node.payments.state.payments.items()
                    if not one.payment.in_flight or not invariants.is_not_worth_claiming(self.world, one.payment)
                ]
            for actor in machine.node.channels.by_id.values():
                channel = actor.state
                if isinstance(channel, Channel) and channel.record.phase in (Phase.NORMAL, Phase.SHUTTING_DOWN):
                    if self.size.lies:
                        # A channel that went to the chain because of the liar keeps what it was part of waiting.
                        if invariants.has_liar(self.world, channel.record) or channel.link_state is LinkState.READY:
                            continue
                    name = f"{machine.name} {str(channel.record.channel_id)[:12]} {channel.record.phase.value}"
                    if channel.link_state is not LinkState.READY:
                        found.append(f"{name} is not connected")
                    for htlc in channel.record.htlcs.values():
                        found.append(f"{name} has HTLC {htlc.side.value} {htlc.id}")
                    if channel.record.is_awaiting_revocation or channel.record.owes_signature:
                        found.append(f"{name} is in the middle of a commitment")
        return found
