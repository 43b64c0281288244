"""F6 keys chosen to collide in a hash table (LDK 0.2.3, possiblyrandom)

What failed: with a hash that is not seeded, a peer that chooses the keys makes every look-up slow.

Defence: Python seeds the hash of bytes, but not of integers, and short channel ids are integers that peers choose.
base/ids.py:ShortChannelId is bounded to 64 bits, which leaves at most eight ids with one hash; the probing of a dict
mixes in the higher bits, and gossip/limits.py bounds what a stranger can put there at all.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from salama.base.ids import NodeId, ShortChannelId

MERSENNE = (1 << 61) - 1
"""Integers that differ by it have the same hash."""
COUNT = 20_000


class Counting(int):
    """An id that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counting.compared += 1
        return int.__eq__(self, other)

    __hash__ = int.__hash__


ATTACKS: dict[str, Callable[[int], int]] = {
    "honest": lambda n: (700_000 + n // 3) << 40 | (n % 3) << 16,
    "one hash": lambda n: n // 8 + n % 8 * MERSENNE,
    "same low bits": lambda n: n << 44,
    "same low bits, near": lambda n: n << 20,
    "low bits of a table": lambda n: (n << 17) % (1 << 64),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_choice_of_ids_makes_many_comparisons(attack: str) -> None:
    Counting.compared = 0
    table = {Counting(ATTACKS[attack](n)): n for n in range(COUNT)}
    assert len(table) == COUNT
    assert all(Counting(ATTACKS[attack](n)) in table for n in range(0, COUNT, 7))
    assert Counting.compared < 12 * COUNT, f"{Counting.compared} comparisons"


def test_ids_have_64_bits() -> None:
    """With more, any number of them would share one hash."""
    with pytest.raises(ValueError):
        ShortChannelId(1 << 64)
    assert hash(ShortChannelId(1)) == hash(ShortChannelId(1 + MERSENNE))


def test_ids_that_are_bytes_are_seeded() -> None:
    """The same id has another hash in another process."""
    import subprocess
    import sys

    one = "02" + "07" * 32
    code = f"from salama.base.ids import NodeId; print(hash(NodeId.fromhex('{one}')))"
    seen = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(seen) == 2 and isinstance(NodeId.fromhex(one), bytes)
