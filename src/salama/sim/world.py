"""The world in a bottle: machines, a chain and a network under one clock and one seed.

Whoever has something to do waits in a list; the world's dice pick who goes on, and only when nobody can does time pass
to the next moment at which something is due. Everything that happens is noted, and the notes' hash
tells two runs apart.
"""

from __future__ import annotations

import heapq
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from salama.base.ids import Txid
from salama.sim.chain import Bitcoin
from salama.sim.links import Network
from salama.sim.loop import NodeLoop
from salama.sim.machine import EPOCH, Machine

Tell = Callable[[str], None]


class World:
    """Owns time, order and dice."""

    def __init__(
        self,
        seed: int,
        directory: Path,
        *,
        max_steps: int | None = None,
        tell: Tell | None = None,
        is_hasty: bool = False,
    ) -> None:
        self.seed, self.directory = seed, directory
        self.time = 0.0
        self.steps = 0
        self.max_steps, self.tell, self.is_hasty = max_steps, tell, is_hasty
        self.counts: Counter[str] = Counter()
        self.crash_points: Counter[str] = Counter()
        self.problems: list[str] = []
        self._known_problems: set[str] = set()
        self.notes = 0
        self._hash = sha256()
        self._dice = self.dice("order")
        self._restarts = self.dice("restarts")
        self._heap: list[tuple[float, int, NodeLoop | None, Any]] = []
        self._sequence = 0
        self._ready: list[NodeLoop] = []
        self.chain = Bitcoin(self.dice("chain"), lambda: EPOCH + self.time)
        self.network = Network(self)
        self.machines: list[Machine] = []
        self.by_name: dict[str, Machine] = {}
        self.forced: set[bytes] = set()
        """Channels that somebody wanted closed by force."""
        self.first_offers: dict[Txid, str] = {}
        """Who was the first to publish a transaction."""
        self.parted: set[tuple[str, str]] = set()
        self.check: Callable[[Machine], None] = lambda machine: None
        """Called with each machine that has just done something."""

    def dice(self, name: str) -> Random:
        """A stream of randomness of its own for every purpose, so that one more draw here changes nothing there."""
        return Random(f"{self.seed} {name}")

    def add_machine(self) -> Machine:
        machine = Machine(self, len(self.machines), self.directory / f"n{len(self.machines)}")
        self.machines.append(machine)
        self.by_name[machine.name] = machine
        return machine

    # --- what is told -------------------------------------------------------------------------------------------------

    def note(self, what: str) -> None:
        """A line of the story."""
        line = f"{self.time:.6f} {what}"
        self.notes += 1
        self._hash.update(line.encode() + b"\n")
        if self.tell is not None:
            self.tell(f"[{self.steps}] {line}")

    def count(self, what: str) -> None:
        self.counts[what] += 1

    @property
    def hash(self) -> str:
        """Of everything noted so far."""
        return self._hash.hexdigest()

    def problem(self, what: str) -> None:
        """Something that must never be."""
        if len(self.problems) < 50 and what not in self._known_problems:
            self._known_problems.add(what)
            self.problems.append(f"[{self.steps}] {self.time:.3f} {what}")
        self.note(f"PROBLEM {what}")

    def went_wrong(self, loop: NodeLoop, what: str, error: BaseException | None) -> None:
        if loop.dead:
            return
        trace = "".join(traceback.format_exception(error)) if error is not None else ""
        self.problem(f"{loop.name}: {what}: {error!r}")
        if self.tell is not None:
            self.tell(trace)

    # --- time and order -----------------------------------------------------------------------------------------------

    def is_ready(self, loop: NodeLoop) -> None:
        self._ready.append(loop)

    def at(self, when: float, loop: NodeLoop | None, handle: Any) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (max(when, self.time), self._sequence, loop, handle))

    def later(self, when: float, what: Callable[[], None]) -> None:
        """Have the world itself do something at a time."""
        self.at(when, None, what)

    def run(self, story: Coroutine[Any, Any, None]) -> None:
        """Until the story is told."""
        loop = NodeLoop(self, "director")
        task = loop.create_task(story)
        try:
            while not task.done():
                if not self._step():
                    self.problem("nobody has anything to do, and the story is not over")
                    break
                if self.max_steps is not None and self.steps >= self.max_steps:
                    break
                if self.is_hasty and self.problems:
                    break
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error
        finally:
            self._end(loop)

    def _step(self) -> bool:
        ready = self._ready
        while ready:
            at = int(self._dice.random() * len(ready))
            loop = ready[at]
            if loop.dead or not loop.ready:
                ready[at] = ready[-1]
                ready.pop()
                continue
            self.steps += 1
            machine = self.by_name.get(loop.name)
            if machine is not None and machine.fuse is not None:
                machine.fuse.run(loop.step)
                self._perhaps_bury(machine)
            else:
                loop.step()
            if machine is not None:
                self.check(machine)
            return True
        while self._heap:
            when, _, owner, item = heapq.heappop(self._heap)
            if owner is None:
                self.time = when
                item()
                return True
            if not owner.dead and not item.cancelled():
                self.time = when
                owner.ready.append(item)
                if len(owner.ready) == 1:
                    self.is_ready(owner)
                return True
        return False

    def _perhaps_bury(self, machine: Machine) -> None:
        if machine.loop is not None and machine.loop.dead:
            machine.clean_up()
            self.stopped(machine)

    def _end(self, director: NodeLoop) -> None:
        for machine in self.machines:
            machine.power_cut("the end")
            machine.clean_up()
        director.unwind()
        self._heap.clear()

    # --- power --------------------------------------------------------------------------------------------------------

    def crashed(self, machine: Machine, where: str) -> None:
        self.count("power cut at a line")
        self.crash_points[where] += 1

    def pull_the_plug(self, machine: Machine, kind: str = "power cut when idle") -> None:
        """Cut a machine's power between two of its callbacks."""
        if not machine.is_dead:
            self.count(kind)
            machine.power_cut("idle")
            machine.clean_up()
            self.stopped(machine)

    def stopped(self, machine: Machine) -> None:
        """It comes back after a while."""
        self.later(self.time + 0.2 + self._restarts.random() ** 2 * 8, machine.boot)

    def is_parted(self, one: Machine, other: Machine) -> bool:
        return (one.name, other.name) in self.parted or (other.name, one.name) in self.parted
