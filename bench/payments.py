"""Rows a, a1 and b: payments over one channel, one at a time, and through a node that forwards."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from bench.load import run, summary
from salama.testing.network import LocalNetwork, LocalNode

LIMITS: Final = ("max_accepted_htlcs=483", "max_dust_exposure=5000000000")
"""Beyond the default policy, because a hundred payments are in flight; printed with the results."""
SETTINGS: Final = ("log_level=info", "poll_seconds=0.5", *LIMITS)
CAPACITY: Final = "8btc"
"""Enough for every payment of a set to go the same way."""
NON_DUST: Final = "10000sat"
DUST: Final = "1sat"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is measured."""

    warm_up: int
    payments: int
    one_at_a_time: int
    runs: int


FULL: Final = Amount(warm_up=500, payments=10_000, one_at_a_time=500, runs=3)
QUICK: Final = Amount(warm_up=200, payments=1_000, one_at_a_time=100, runs=3)


@contextmanager
def line_of(*names: str) -> Iterator[tuple[LocalNetwork, list[LocalNode]]]:
    """Nodes in a row, each with a channel to the next that holds ``CAPACITY``."""
    with TemporaryDirectory(prefix="salama-bench-") as place, LocalNetwork(Path(place)) as network:
        nodes = [network.start(name, *SETTINGS) for name in names]
        network.fund(*nodes)
        for opener, peer in itertools.pairwise(nodes):
            network.open(opener, peer, CAPACITY)
        network.known(len(nodes) - 1)
        yield network, nodes


def payments(nodes: Sequence[LocalNode], how: Amount, in_flight: int, amount: str, say: Say) -> dict[str, Any]:
    """A row: so many runs of so many payments."""
    count = how.payments if in_flight > 1 else how.one_at_a_time
    runs = []
    for number in range(how.runs):
        one = run(nodes, amount, count, in_flight)
        say(
            f"  run {number + 1}: {one.per_second:.0f}/s, {one.paid} of {count} paid, cpu "
            + ", ".join(f"{name} {seconds / count * 1000:.2f} ms" for name, seconds in one.cpu.items())
        )
        for reason, times in one.failures.items():
            say(f"  FAILED {times} times: {reason}")
        runs.append(one)
    return summary(runs, in_flight, amount) | {"limits": list(LIMITS)}


def one_channel(how: Amount, say: Say) -> dict[str, dict[str, Any]]:
    """Rows a and a1."""
    with line_of("alice", "bob") as (_, nodes):
        run(nodes, NON_DUST, how.warm_up, 100)
        found = {}
        say("a: one channel, 100 in flight, 10,000 sat")
        found["a"] = payments(nodes, how, 100, NON_DUST, say)
        say("a: one channel, 30 in flight, 10,000 sat")
        found["a"]["in_flight_30"] = payments(nodes, how, 30, NON_DUST, say)
        say("a: one channel, 100 in flight, 1 sat")
        found["a"]["dust"] = payments(nodes, how, 100, DUST, say)
        say("a1: one channel, one at a time, 10,000 sat")
        found["a1"] = payments(nodes, how, 1, NON_DUST, say)
        return found


def two_hops(how: Amount, say: Say) -> dict[str, dict[str, Any]]:
    """Row b."""
    with line_of("alice", "bob", "carol") as (_, nodes):
        run(nodes, NON_DUST, how.warm_up, 100)
        say("b: through one forwarding node, 100 in flight, 10,000 sat")
        return {"b": payments(nodes, how, 100, NON_DUST, say)}
