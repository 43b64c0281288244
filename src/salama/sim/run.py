"""Seeds on the command line: run them, tell what happened, and how to see a failure again."""

from __future__ import annotations

import gc
import logging
import os
import shlex
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from salama.sim.director import SMALL, Size, Story, large
from salama.sim.faults import HAPPENINGS, KINDS
from salama.sim.shrinking import shrink, story_of
from salama.sim.world import Tell, World

PLAN_SEEDS = 500
PLAN_CRASHES, PLAN_PLACES, PLAN_EACH_FAULT, PLAN_SUCCESS = 1000, 40, 100, 0.6
"""What so many large worlds must at least have gone through: power cuts, at how many different places; each fault and
each thing that users do under load; and the share of payments that succeed all the same."""
POWER_CUTS = ("power cut at a line", "power cut when idle", "power cut in a write")
UNDER_LOAD = ("channels opened under load", "private channels", "force closes", "succeeded in parts")
DISCONNECTS = ("cut", "cut at a message", "cut at a byte", "bit altered")


@dataclass(slots=True)
class Result:
    """What one seed came to."""

    seed: int
    hash: str
    problems: list[str]
    counts: Counter[str]
    crash_points: Counter[str]
    steps: int
    seconds: float = field(compare=False)

    @property
    def line(self) -> str:
        c = self.counts
        crashes = sum(c[kind] for kind in POWER_CUTS)
        verdict = "FAILED" if self.problems else "ok"
        channels, disconnects = c["channels"] + c["private channels"], sum(c[kind] for kind in DISCONNECTS)
        return (
            f"seed {self.seed} {verdict} channels={channels} payments={c['payments']} succeeded={c['succeeded']}"
            f" crashes={crashes} points={len(self.crash_points)} reorgs={c['reorganisation']}"
            f" disconnects={disconnects} steps={self.steps} hash={self.hash[:16]}"
        )


def run_seed(
    seed: int, size: Size = SMALL, *, max_steps: int | None = None, tell: Tell | None = None, is_hasty: bool = False
) -> Result:
    """One world from its beginning to its judgement, or if ``is_hasty`` to its first problem.

    ``tell`` is called with each line of its story.
    """
    started = time.process_time()
    memory = Path("/dev/shm")
    with (
        _silence(),
        warnings.catch_warnings(),
        tempfile.TemporaryDirectory(prefix="salama-sim-", dir=memory if os.access(memory, os.W_OK) else None) as home,
    ):
        # A power cut leaves coroutines behind that never began.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        world = World(seed, Path(home), max_steps=max_steps, tell=tell, is_hasty=is_hasty)
        world.run(Story(world, size).play())
        gc.collect()
    took = time.process_time() - started
    return Result(seed, world.hash, world.problems, world.counts, world.crash_points, world.steps, took)


@contextmanager
def _silence() -> Iterator[None]:
    """Machines of a world log nothing: its story tells what happens."""
    logger = logging.getLogger("salama")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def missing(total: Counter[str], points: Counter[str], seeds: int) -> list[str]:
    """What ``seeds`` large worlds fall short of their share of the plan by."""
    share = seeds / PLAN_SEEDS
    lies = sum(number for name, number in total.items() if name.startswith("hostile "))
    wanted: list[tuple[str, int, float]] = [
        ("power cuts", sum(total[kind] for kind in POWER_CUTS), PLAN_CRASHES * share),
        ("places of power cuts", len(points), PLAN_PLACES),
        ("payments that succeeded", total["succeeded"], PLAN_SUCCESS * max(1, total["payments"])),
        ("lies", lies, PLAN_EACH_FAULT * share),
    ]
    wanted += [(name, total[name], PLAN_EACH_FAULT * share) for name in (*HAPPENINGS, *UNDER_LOAD)]
    return [f"{name}: {got} of {least:.0f}" for name, got, least in wanted if got < least]


def _range(text: str) -> range:
    first, _, last = text.partition("..")
    return range(int(first), int(last or first) + 1)


@click.command()
@click.argument("seeds", default="1..20")
@click.option("--replay", is_flag=True, help="Tell everything that happens.")
@click.option("--steps", type=int, default=None, help="End after so many steps.")
@click.option("--large", "is_large", is_flag=True, help="5 to 20 nodes, more payments, more faults.")
@click.option("--nodes", default="", help="How many machines: 5 or 5..8.")
@click.option("--payments", type=int, default=None, help="How many payments are tried.")
@click.option("--seconds", type=float, default=None, help="Virtual time that they take.")
@click.option("--faults", type=float, default=None, help="Faults a second.")
@click.option("--only", default="", help=f"Kinds of faults, comma-separated: {', '.join(KINDS)}.")
@click.option("--openings", type=int, default=None, help="How many channels are opened while payments are made.")
@click.option("--forced", type=int, default=None, help="How many channels are closed by force.")
@click.option("--lies", type=float, default=None, help="Chance of a lie in each channel message of one machine.")
@click.option("--shrink", "shrinking", is_flag=True, help="Look for the smallest world in which a seed still fails.")
@click.option("--jobs", type=click.IntRange(1), default=1, help="Worlds that run at the same time.")
@click.option("--counts", is_flag=True, help="Fail if large worlds do not go through all that they are meant to.")
def main(
    seeds: str,
    replay: bool,
    steps: int | None,
    is_large: bool,
    shrinking: bool,
    only: str,
    jobs: int,
    counts: bool,
    **given: Any,
) -> None:
    """Run the world for every seed in SEEDS (7, or 1..500)."""
    total: Counter[str] = Counter()
    points: Counter[str] = Counter()
    failed: list[int] = []
    sizes = {seed: _size(large(seed) if is_large else SMALL, only, **given) for seed in _range(seeds)}
    for result in _results(sizes, jobs, max_steps=steps, tell=_aloud if replay else None):
        print(f"{result.line} cpu={result.seconds:.1f}s", flush=True)
        total += result.counts
        points += result.crash_points
        if result.problems:
            failed.append(result.seed)
            for problem in result.problems:
                print(f"    {problem}")
            size = sizes[result.seed]
            if shrinking:
                size = shrink(result.seed, size, run_seed, lambda line: print(f"    {line}", flush=True))
                for line in story_of(result.seed, size, run_seed):
                    print(f"    | {line}")
            print(f"    see it again: {_again(result.seed, size)} --replay", flush=True)
    _sums(total, points, failed)
    short = missing(total, points, len(sizes)) if counts else []
    for one in short:
        print(f"too few {one}")
    sys.exit(1 if failed or short else 0)


def _aloud(line: str) -> None:
    print(line, flush=True)


def _results(sizes: dict[int, Size], jobs: int, **how: Any) -> Iterator[Result]:
    """In the order of the seeds."""
    run = partial(run_seed, **how)
    if jobs == 1:
        yield from map(run, sizes.keys(), sizes.values())
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(run, sizes.keys(), sizes.values())


def _again(seed: int, size: Size) -> str:
    """The command that runs the same world."""
    words = [f"python -m salama.sim {seed} --nodes {size.nodes[0]}..{size.nodes[1]} --payments {size.payments}"]
    words.append(f"--seconds {size.seconds:g} --faults {size.faults:g} --openings {size.openings}")
    if size.forced:
        words.append(f"--forced {size.forced}")
    if size.lies:
        words.append(f"--lies {size.lies:g}")
    if size.only:
        words.append(f"--only {shlex.quote(','.join(kind for kind in KINDS if kind in size.only))}")
    return " ".join(words)


def _size(size: Size, only: str, *, nodes: str, **numbers: float | None) -> Size:
    changed: dict[str, Any] = {name: number for name, number in numbers.items() if number is not None}
    if nodes:
        chosen = _range(nodes)
        changed["nodes"] = (chosen[0], chosen[-1])
    return replace(size, only=frozenset(kind for kind in only.split(",") if kind), **changed)


def _sums(total: Counter[str], points: Counter[str], failed: list[int]) -> None:
    print()
    for name, number in sorted(total.items()):
        print(f"{number:8} {name}")
    print(f"{len(points):8} distinct places of power cuts")
    if total["payments"]:
        print(f"{100 * total['succeeded'] // total['payments']:7}% of payments succeeded")
    if failed:
        print(f"failed: {failed}")
