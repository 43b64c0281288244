"""Seeds on the command line: run them, tell what happened, and how to see a failure again."""

from __future__ import annotations

import gc
import logging
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import click

from salama.sim.director import LARGE, SMALL, Size, Story
from salama.sim.world import World


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
        crashes = c["power cut at a line"] + c["power cut when idle"]
        verdict = "FAILED" if self.problems else "ok"
        return (
            f"seed {self.seed} {verdict} channels={c['channels']} payments={c['payments']} succeeded={c['succeeded']}"
            f" crashes={crashes} points={len(self.crash_points)} reorgs={c['reorganisation']}"
            f" disconnects={c['cut'] + c['cut at a message']} steps={self.steps} hash={self.hash[:16]}"
        )


def run_seed(seed: int, size: Size = SMALL, *, max_steps: int | None = None, tell: bool = False) -> Result:
    """One world from its beginning to its judgement."""
    started = time.process_time()
    logging.getLogger("salama").setLevel(logging.CRITICAL + 1)
    memory = Path("/dev/shm")
    with (
        warnings.catch_warnings(),
        tempfile.TemporaryDirectory(prefix="salama-sim-", dir=memory if os.access(memory, os.W_OK) else None) as home,
    ):
        # A power cut leaves coroutines behind that never began.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        world = World(seed, Path(home), max_steps=max_steps, tell=tell)
        world.run(Story(world, size).play())
        gc.collect()
    took = time.process_time() - started
    return Result(seed, world.hash, world.problems, world.counts, world.crash_points, world.steps, took)


def _range(text: str) -> range:
    first, _, last = text.partition("..")
    return range(int(first), int(last or first) + 1)


@click.command()
@click.argument("seeds", default="1..20")
@click.option("--replay", is_flag=True, help="Tell everything that happens.")
@click.option("--steps", type=int, default=None, help="End after so many steps.")
@click.option("--large", is_flag=True, help="5 to 20 nodes, more payments, more faults.")
@click.option("--faults", type=float, default=None, help="Faults a second.")
@click.option("--lies", type=float, default=0.0, help="Chance of a lie in each channel message of one machine.")
@click.option("--only", default="", help="Kinds of faults, comma-separated.")
def main(
    seeds: str, replay: bool, steps: int | None, large: bool, faults: float | None, lies: float, only: str
) -> None:
    """Run the world for every seed in SEEDS (7, or 1..500)."""
    size = _size(LARGE if large else SMALL, faults, lies, only)
    total: Counter[str] = Counter()
    points: Counter[str] = Counter()
    failed: list[int] = []
    for seed in _range(seeds):
        result = run_seed(seed, size, max_steps=steps, tell=replay)
        print(f"{result.line} cpu={result.seconds:.1f}s", flush=True)
        total += result.counts
        points += result.crash_points
        if result.problems:
            failed.append(seed)
            for problem in result.problems:
                print(f"    {problem}")
            print(f"    see it again: python -m salama.sim {seed} --replay{' --large' if large else ''}")
    _sums(total, points, failed)
    sys.exit(1 if failed else 0)


def _size(size: Size, faults: float | None, lies: float, only: str) -> Size:
    from dataclasses import replace

    kinds = frozenset(kind for kind in only.split(",") if kind)
    return replace(size, faults=size.faults if faults is None else faults, only=kinds, lies=lies)


def _sums(total: Counter[str], points: Counter[str], failed: list[int]) -> None:
    print()
    for name, number in sorted(total.items()):
        print(f"{number:8} {name}")
    print(f"{len(points):8} distinct places of power cuts")
    if total["payments"]:
        print(f"{100 * total['succeeded'] // total['payments']:7}% of payments succeeded")
    if failed:
        print(f"failed: {failed}")
