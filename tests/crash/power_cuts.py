"""Power that fails under load through two hops, again and again, and what the three nodes own afterwards.

The nodes are real processes on a disk that knows what of its files is safe (``salama.testing.doomed``).
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench.kills import RECOVERY_SECONDS, SECONDS_EACH, Load, audit, come_to_rest, shares
from bench.payments import line_of

from salama.base.machine import CommandRefused
from salama.demo.processes import ProcessFailed
from salama.testing.doomed_disk import REPORT
from salama.testing.network import LocalNetwork, LocalNode, TookTooLong, until

BETWEEN = (0.02, 0.3)
"""Seconds of undisturbed load before a cut, drawn evenly."""
SIGNAL_SECONDS = 60.0
"""Most that it may take until a node is gone, on a busy machine."""


@dataclass(slots=True)
class Line:
    """Three nodes, each with a channel to the next, and what they own in them before anything was paid."""

    network: LocalNetwork
    nodes: list[LocalNode]
    before: dict[str, int]

    def start(self, node: LocalNode, *options: str) -> None:
        """Start a node that is not running, on a disk that can lose power. Raises ProcessFailed."""
        self.network.processes.program = ("-m", "salama.testing.doomed", *options, "--")
        self.network.start(node.name)

    def restart(self, node: LocalNode, *options: str) -> None:
        """The same for one that may be running."""
        if node.child.is_running:
            self.network.stop(node)
        self.start(node, *options)


@contextmanager
def line_of_three() -> Iterator[Line]:
    with line_of("alice", "bob", "carol") as (network, nodes):
        yield Line(network, nodes, shares(nodes))


@dataclass(slots=True)
class Outcome:
    """What was done, and what was wrong after it."""

    cuts: int = 0
    succeeded: int = 0
    wrong: list[str] = field(default_factory=list)
    moments: Counter[str] = field(default_factory=Counter)
    """Where the power failed, as often."""
    changes_lost: int = 0
    """Writes that had not been synced when it did."""


@dataclass(slots=True)
class PowerCuts:
    """Power cuts on a line of nodes."""

    line: Line
    dice: random.Random
    synchronous: str = "FULL"
    outcome: Outcome = field(default_factory=Outcome)

    def options(self) -> tuple[str, ...]:
        return ("--seed", str(self.dice.randrange(1 << 32)), "--synchronous", self.synchronous)

    def run(self, count: int) -> Outcome:
        """Have ``count`` nodes lose power, one, two or all three at a time; ends early when something is wrong."""
        line, nodes, outcome = self.line, self.line.nodes, self.outcome
        for node in nodes:
            line.restart(node, *self.options())
        load = Load(nodes[0], nodes[-1])
        load.start()
        try:
            until("the first payment", lambda: load.succeeded)
            end = time.perf_counter() + 60 + SECONDS_EACH * count
            while outcome.cuts < count and not outcome.wrong:
                if time.perf_counter() > end:
                    outcome.wrong.append(f"only {outcome.cuts} cuts of {count} in the time allowed")
                    break
                time.sleep(self.dice.uniform(*BETWEEN))
                self.one_round(self.dice.sample(nodes, self.dice.randint(1, min(3, count - outcome.cuts))), load)
        finally:
            if outcome.wrong:
                # Nobody waits for payments that will not end.
                for node in line.network.running():
                    line.network.kill(node)
            load.stop()
        outcome.succeeded = load.succeeded
        if not outcome.wrong:
            try:
                come_to_rest(nodes)
            except TookTooLong as late:
                outcome.wrong.append(str(late))
            outcome.wrong += audit(nodes, line.before)
        return outcome

    def one_round(self, victims: list[LocalNode], load: Load) -> None:
        line, outcome = self.line, self.outcome
        for victim in victims:
            victim.child.send_signal(signal.SIGUSR2)
        for victim in victims:
            if not self.is_gone(victim):
                return
            report = json.loads((victim.directory / REPORT).read_text())
            outcome.cuts += 1
            outcome.moments[report["where"]] += 1
            outcome.changes_lost += report["changes"]
        for victim in victims:
            try:
                line.start(victim, *self.options())
            except ProcessFailed as failed:
                outcome.wrong.append(f"{victim.name} does not start: {failed.reason}")
                return
        up, looks = time.perf_counter(), 0

        def goes_on() -> bool:
            nonlocal looks
            looks += 1
            if looks % 25 == 0:
                outcome.wrong += complaints(line.nodes)
            return load.last_began > up or bool(outcome.wrong)

        try:
            until("payments go through again", goes_on, RECOVERY_SECONDS)
        except TookTooLong as late:
            outcome.wrong.append(f"after cut {outcome.cuts}: {late}")

    @staticmethod
    def _last_words(victim: LocalNode) -> str:
        """Where each of its threads is (``faulthandler``)."""
        victim.child.send_signal(signal.SIGABRT)
        time.sleep(1.0)
        return victim.child.log.read_text(errors="replace")[-4000:]

    def is_gone(self, victim: LocalNode) -> bool:
        """Whether a node that was told to has lost its power; what is wrong if not."""
        try:
            status = self.line.network.ended(victim, SIGNAL_SECONDS)
        except TimeoutError:
            words = self._last_words(victim)
            self.outcome.wrong.append(f"cut {self.outcome.cuts + 1}: {victim.name} is still there: {words}")
            return False
        if status != -signal.SIGKILL:
            self.outcome.wrong.append(f"cut {self.outcome.cuts + 1}: {victim.name} ended with status {status}")
        return status == -signal.SIGKILL


def complaints(nodes: list[LocalNode]) -> list[str]:
    """Channels that are not what they were."""
    wrong = []
    for node in nodes:
        try:
            wrong += [f"{node.name}: {one['state']}" for one in node.channels() if one["state"] != "normal"]
        except (CommandRefused, OSError) as fault:
            wrong.append(f"{node.name} does not answer: {fault}")
    return wrong
