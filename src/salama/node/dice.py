"""The system's randomness, tested before a seed is made from it and watched while it is (immunity I7).

There is one source and no fallback: a source that fails, repeats itself or is plainly not random stops us. The bounds
are so wide that a healthy source fails about once in 2^60 tests; a test cannot prove randomness, only notice that it is
gone.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from itertools import groupby
from typing import Final

from salama.base.machine import CommandRefused

Source = Callable[[int], bytes]

SAMPLE: Final = 2500
"""Bytes looked at: 20,000 bits."""
ONES: Final = range(9_300, 10_701)
"""How many of them may be ones: 10,000, give or take ten standard deviations."""
LONGEST_RUN: Final = 9
"""Times that one byte may follow itself."""
MOST_OF_ONE: Final = 60
"""Times that one of the 256 bytes may occur; ten are to be expected."""
BLOCK: Final = 32
"""Bytes of which no two pieces are ever alike."""


def system(size: int) -> bytes:
    """The operating system's randomness."""
    return os.urandom(size)


class EntropyFailed(CommandRefused):
    """The source of randomness cannot be trusted, so nothing was made from it."""

    def __init__(self, symptom: str) -> None:
        super().__init__(
            "no_randomness",
            f"The system's randomness failed its test: {symptom}.",
            "Do not use this machine for keys before it is repaired.",
        )


def check_source(source: Source = system) -> None:
    """Draw a sample from ``source`` and look at it. Raises EntropyFailed, and what the source itself raises."""
    sample = source(SAMPLE)
    if len(sample) != SAMPLE:
        raise EntropyFailed(f"{len(sample)} bytes came where {SAMPLE} were asked for")
    ones = int.from_bytes(sample, "big").bit_count()
    if ones not in ONES:
        raise EntropyFailed(f"{ones} of {8 * SAMPLE} bits are ones")
    if max(sum(1 for _ in run) for _, run in groupby(sample)) > LONGEST_RUN:
        raise EntropyFailed("a byte repeats itself")
    if Counter(sample).most_common(1)[0][1] > MOST_OF_ONE:
        raise EntropyFailed("a byte occurs too often")
    pieces = [sample[at : at + BLOCK] for at in range(0, SAMPLE - BLOCK + 1, BLOCK)]
    pieces += [source(BLOCK), source(BLOCK)]
    if len(set(pieces)) != len(pieces):
        raise EntropyFailed("it says the same twice")


def fresh(size: int, source: Source = system) -> bytes:
    """``size`` secret bytes for a seed, from a source that has just passed its test. Raises EntropyFailed."""
    check_source(source)
    made = source(size)
    if len(made) != size or len(set(made)) < size // 4:
        raise EntropyFailed("what it gave for the seed is not random")
    return made
