"""What the nodes said to each other, read from their own logs: nothing in a narration is made up.

At level debug a node logs the name of every message it sends or receives (logger ``salama.wire``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

LOG_NAME: Final = "salama.log"
_LINE: Final = re.compile(r"(\S+) DEBUG salama\.wire(?: \[[^]]*\])?: ([0-9a-f]+) > ([a-z_]+)")


@dataclass(frozen=True, slots=True)
class Spoken:
    """Messages that one node sent to another in one breath. ``at`` in seconds since the epoch."""

    at: float
    sender: str
    receiver: str
    messages: tuple[str, ...]


class Logs:
    """The logs of some nodes, read from where one looked last."""

    def __init__(self, directory: Path, node_ids: Mapping[str, str]) -> None:
        self._paths = {name: directory / name / LOG_NAME for name in node_ids}
        self._names = {node_id[:12]: name for name, node_id in node_ids.items()}
        self._read_to: dict[str, int] = {}

    def mark(self) -> None:
        """Forget everything that was said so far."""
        self._read_to = {name: path.stat().st_size for name, path in self._paths.items()}

    def spoken(self, kinds: Iterable[str]) -> list[Spoken]:
        """Messages of these names sent since the mark, in order of time; those of one breath together."""
        wanted, found = frozenset(kinds), []
        for name, path in self._paths.items():
            with path.open("rb") as log:
                log.seek(self._read_to.get(name, 0))
                lines = log.read().decode(errors="replace").splitlines()
            for line in lines:
                match = _LINE.match(line)
                if match is not None and match[3] in wanted:
                    at = datetime.fromisoformat(match[1]).timestamp()
                    found.append(Spoken(at, name, self._names.get(match[2], match[2]), (match[3],)))
        found.sort(key=lambda one: one.at)
        return _breaths(found)


def _breaths(single: list[Spoken]) -> list[Spoken]:
    together: list[Spoken] = []
    for one in single:
        last = together[-1] if together else None
        if last is not None and (last.sender, last.receiver) == (one.sender, one.receiver):
            together[-1] = Spoken(last.at, last.sender, last.receiver, last.messages + one.messages)
        else:
            together.append(one)
    return together
