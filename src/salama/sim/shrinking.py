"""A smaller world in which a seed still fails, and of its story the lines that matter."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from salama.sim.director import Size
from salama.sim.faults import KINDS
from salama.sim.world import Tell

if TYPE_CHECKING:
    from salama.sim.run import Result

MOST_LINES = 80
"""Of a story that is told in short."""
_NAME = re.compile(r"\b(?:n\d+\b|[0-9a-f]{8})")
_LINE = re.compile(r"(n\d+): (?:boots|power cut|disk|stopped|closes)")


class Run(Protocol):
    """``run.run_seed``."""

    def __call__(self, seed: int, size: Size, *, is_hasty: bool, tell: Tell | None = None) -> Result: ...


def shrink(seed: int, size: Size, run: Run, say: Tell) -> Size:
    """A smaller world that still fails: fewer kinds of faults, fewer payments, fewer nodes, as long as it does."""

    def fails(smaller: Size, what: str) -> bool:
        try:
            still = bool(run(seed, smaller, is_hasty=True).problems)
        except Exception:
            still = True
        say(f"{what}: {'fails, too' if still else 'does not fail'}")
        return still

    if fails(none := replace(size, faults=0.0), "without faults"):
        size = none
    if size.forced and fails(none := replace(size, forced=0), "without forced closes"):
        size = none
    if size.openings and fails(none := replace(size, openings=0), "without later openings"):
        size = none
    if size.lies and fails(honest := replace(size, lies=0.0), "without lies"):
        size = honest
    if size.faults:
        for kind in KINDS:
            fewer = (size.only or frozenset(KINDS)) - {kind}
            if (
                kind in (size.only or KINDS)
                and fewer
                and fails(without := replace(size, only=fewer), f"without {kind}")
            ):
                size = without
    while size.payments > 4:
        half = replace(size, payments=size.payments // 2, seconds=size.seconds / 2)
        if not fails(half, f"{half.payments} payments"):
            break
        size = half
    while size.nodes[1] > 2 and fails(
        smaller := replace(size, nodes=(2, size.nodes[1] - 1)), f"at most {size.nodes[1] - 1} nodes"
    ):
        size = smaller
    return size


def story_of(seed: int, size: Size, run: Run) -> list[str]:
    """The last lines, up to the first problem, about the channels, payments and machines that the problem names."""
    lines: list[str] = []
    problems = run(seed, size, is_hasty=True, tell=lines.append).problems
    names = set(_NAME.findall(" ".join(problems)))

    def matters(line: str) -> bool:
        machine = _LINE.search(line)
        return any(name in line for name in names if len(name) == 8) or (machine is not None and machine[1] in names)

    told = [line for line in lines if matters(line)]
    left = len(lines) - len(told[-MOST_LINES:])
    return [f"({left} lines left out, --replay tells all)", *told[-MOST_LINES:]]
