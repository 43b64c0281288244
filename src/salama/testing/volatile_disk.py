"""What a disk has of a file after the power went: all that was synced, and of the rest whatever luck left there.

The model is that of SQLite's own documentation: a sync of a file is a barrier for this file alone; between two of them
the disk may take writes in any order, whole or in part; bytes that no write touched keep their value.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

SECTOR: Final = 512
"""What a disk writes at once, if at all."""


@dataclass(slots=True, eq=False)
class VolatileFile:
    """A file: what is safe of it, and what was done to it since."""

    durable: bytearray
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    """Offset and bytes of a write; a length and None of a truncation."""

    def write(self, offset: int, data: bytes) -> None:
        self.pending.append((offset, data))

    def truncate(self, size: int) -> None:
        self.pending.append((size, None))

    def sync(self) -> None:
        """Everything so far is safe."""
        for change in self.pending:
            _apply(self.durable, *change)
        self.pending.clear()

    def after_power_cut(self, dice: random.Random) -> bytes:
        """What is found at the next start."""
        found = bytearray(self.durable)
        for offset, data in _survivors(self.pending, dice):
            _apply(found, offset, data)
        return bytes(found)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _survivors(pending: list[tuple[int, bytes | None]], dice: random.Random) -> Iterator[tuple[int, bytes | None]]:
    """Four kinds of luck. Of the first few, the last is torn."""
    kind = dice.choice(("nothing", "the first", "some sectors", "everything"))
    if kind == "nothing":
        return
    if kind == "some sectors":
        for offset, data in pending:
            if data is None:
                if dice.random() < 0.5:
                    yield offset, None
                continue
            for start in range(0, len(data), SECTOR):
                if dice.random() < 0.5:
                    yield offset + start, data[start : start + SECTOR]
        return
    count = len(pending) if kind == "everything" else dice.randint(0, len(pending))
    yield from pending[:count]
    # The one after those was being written: part of it is there, and then perhaps rubbish.
    if count < len(pending):
        offset, data = pending[count]
        if data:
            torn = data[: dice.randrange(len(data))]
            yield offset, torn
            if dice.random() < 0.5:
                yield offset + len(torn), dice.randbytes(min(SECTOR, len(data) - len(torn)))
