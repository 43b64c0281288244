"""What breaks, how often, and how all of it is put right again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from salama.base.units import FeeratePerKw
from salama.sim.links import SimConnection
from salama.sim.machine import Machine
from salama.sim.world import World

KINDS = (
    "fuse",
    "plug",
    "cut",
    "cut at a message",
    "cut at a byte",
    "altered bit",
    "silence",
    "slow peer",
    "part",
    "torn write",
    "outcome",
    "revocation",
    "disk write",
    "disk commit",
    "slow disk",
    "back-end",
    "reorganisation",
    "feerate",
    "clock",
    "clock drift",
    "clock far off",
)
HAPPENINGS = (
    "power cut at a line",
    "power cut when idle",
    "power cut in a write",
    "power cut after an outcome",
    "power cut after a revocation",
    "torn write",
    "write lost",
    "write that nobody heard of",
    "cut",
    "cut at a message",
    "cut at a byte",
    "bit altered",
    "silence",
    "slow peer",
    "parted",
    "disk write failed",
    "disk commit failed",
    "slow disk",
    "chain back-end away",
    "reorganisation",
    "feerate change",
    "clock jumped",
    "clock drifted",
    "clock far off",
)
"""As what the faults are counted when they take effect."""


class Faults:
    """Breaks something at random moments. Each kind counts as it takes effect."""

    def __init__(self, world: World, rate: float, only: frozenset[str] = frozenset()) -> None:
        self.world, self._rate = world, rate
        self._dice = world.dice("faults")
        kinds: list[tuple[int, str, Callable[[Machine], None]]] = [
            (12, "fuse", self._light_fuse),
            (2, "plug", self._pull_plug),
            (5, "cut", self._cut),
            (5, "cut at a message", self._cut_at_message),
            (4, "cut at a byte", self._cut_at_byte),
            (2, "altered bit", self._alter),
            (3, "silence", self._silence),
            (2, "slow peer", self._slow_down),
            (2, "part", self._part),
            (6, "torn write", self._tear_write),
            (4, "outcome", partial(self._die_after, "power cut after an outcome")),
            (3, "revocation", partial(self._die_after, "power cut after a revocation")),
            (2, "disk write", self._fail_write),
            (2, "disk commit", self._fail_commit),
            (2, "slow disk", self._slow_disk),
            (2, "back-end", self._back_end_away),
            (2, "reorganisation", self._reorganise),
            (2, "feerate", self._change_feerate),
            (2, "clock", self._jump_clock),
            (2, "clock drift", self._drift),
            (1, "clock far off", self._clock_far_off),
        ]
        assert tuple(name for _, name, _ in kinds) == KINDS
        self._kinds = [(weight, kind) for weight, name, kind in kinds if not only or name in only]

    async def run(self) -> None:
        """Until cancelled."""
        if self._rate <= 0 or not self._kinds:
            return
        weights = [weight for weight, _ in self._kinds]
        while True:
            await asyncio.sleep(self._dice.expovariate(self._rate))
            _, kind = self._dice.choices(self._kinds, weights)[0]
            machine = self._dice.choice(self.world.machines)
            # Not from here: nobody's callback may be on the stack when a machine dies.
            self.world.later(self.world.time, partial(kind, machine))

    def heal(self) -> None:
        """From now on nothing is broken; machines without power come back by themselves."""
        world = self.world
        world.parted.clear()
        for machine in world.machines:
            machine.disk_fault, machine.disk_slow, machine.backend_down, machine.fuse = "", 1.0, False, None
            machine.dies_in_write, machine.dies_after = 0, ""
            machine.drift(0.0)
        for connection in world.network.alive:
            for end in (connection, connection.other):
                end.cut_after = end.cut_at_byte = end.alter_after = None
                end.silent_until, end.slowness = 0.0, 1.0

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        self.world.later(self.world.time + seconds, what)

    def _some_end(self, machine: Machine) -> SimConnection | None:
        """Either end of one of its connections."""
        connections = self.world.network.of(machine)
        if not connections:
            return None
        one = self._dice.choice(connections)
        return self._dice.choice((one, one.other))

    # --- the kinds ----------------------------------------------------------------------------------------------------

    def _light_fuse(self, machine: Machine) -> None:
        machine.light_fuse(1 + int(self._dice.random() ** 2 * 600))

    def _pull_plug(self, machine: Machine) -> None:
        self.world.pull_the_plug(machine)

    def _cut(self, machine: Machine) -> None:
        if connections := self.world.network.of(machine):
            machine.fault_happened("cut")
            self.world.network.cut(self._dice.choice(connections))

    def _cut_at_message(self, machine: Machine) -> None:
        if end := self._some_end(machine):
            end.cut_after = self._dice.randrange(12)

    def _cut_at_byte(self, machine: Machine) -> None:
        if end := self._some_end(machine):
            end.cut_at_byte = self._dice.randrange(1, 4000)

    def _alter(self, machine: Machine) -> None:
        if end := self._some_end(machine):
            end.alter_after = self._dice.randrange(8)

    def _slow_down(self, machine: Machine) -> None:
        if connections := self.world.network.of(machine):
            one = self._dice.choice(connections)
            machine.fault_happened("slow peer")
            ends = (one, one.other) if self._dice.random() < 0.5 else (one,)
            for end in ends:
                end.slowness = self._dice.uniform(10, 60)

            def mend() -> None:
                for end in ends:
                    end.slowness = 1.0

            self._later(self._dice.uniform(2, 20), mend)

    def _tear_write(self, machine: Machine) -> None:
        machine.dies_in_write = 1

    def _die_after(self, moment: str, machine: Machine) -> None:
        machine.dies_after = moment

    def _silence(self, machine: Machine) -> None:
        if connections := self.world.network.of(machine):
            one = self._dice.choice(connections)
            machine.fault_happened("silence")
            until = self.world.time + self._dice.uniform(1, 20)
            for end in (one, one.other) if self._dice.random() < 0.5 else (one,):
                end.silent_until = until

    def _part(self, machine: Machine) -> None:
        other = self._dice.choice(self.world.machines)
        if other is machine:
            return
        machine.fault_happened("parted")
        pair = (machine.name, other.name)
        self.world.parted.add(pair)
        for connection in self.world.network.of(machine):
            if other in (connection.owner, connection.peer):
                self.world.network.cut(connection)
        self._later(self._dice.uniform(1, 10), lambda: self.world.parted.discard(pair))

    def _fail_write(self, machine: Machine) -> None:
        machine.disk_fault = "write"

    def _fail_commit(self, machine: Machine) -> None:
        machine.disk_fault = "commit"

    def _slow_disk(self, machine: Machine) -> None:
        machine.fault_happened("slow disk")
        machine.disk_slow = self._dice.uniform(10, 300)

        def mend() -> None:
            machine.disk_slow = 1.0

        self._later(self._dice.uniform(1, 8), mend)

    def _back_end_away(self, machine: Machine) -> None:
        machine.backend_down = True

        def mend() -> None:
            machine.backend_down = False

        self._later(self._dice.uniform(1, 10), mend)

    def _reorganise(self, machine: Machine) -> None:
        self.world.count("reorganisation")
        depth = self._dice.choice((1, 1, 1, 2, 2))
        self.world.chain.reorganise(depth)
        self.world.note(f"reorganisation of {depth} blocks, now {self.world.chain.height}")

    def _change_feerate(self, machine: Machine) -> None:
        self.world.count("feerate change")
        self.world.chain.feerate = FeeratePerKw(int(1000 * 2 ** self._dice.uniform(-1.5, 2.5)))
        self.world.note(f"feerate {self.world.chain.feerate}")

    def _jump_clock(self, machine: Machine) -> None:
        machine.fault_happened("clock jumped")
        machine.skew += self._dice.uniform(-15, 15)

    def _drift(self, machine: Machine) -> None:
        machine.fault_happened("clock drifted")
        machine.drift(self._dice.uniform(-0.5, 1.0))
        self._later(self._dice.uniform(5, 30), lambda: machine.drift(0.0))

    def _clock_far_off(self, machine: Machine) -> None:
        machine.fault_happened("clock far off")
        seconds = self._dice.choice((-1, 1)) * self._dice.uniform(60, 3000)
        machine.skew += seconds

        def set_right() -> None:
            machine.skew -= seconds

        self._later(self._dice.uniform(2, 15), set_right)
