"""What one machine of a node tells another does not wait for the disk; what the world sees does."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salama.base.machine import Effect, Event, Row, Transition
from salama.node.actor import Actor
from salama.storage import queries
from salama.storage.journal import Journal
from salama.storage.writes import PutKeyValue


@dataclass(frozen=True, slots=True)
class Go(Event):
    pass


@dataclass(frozen=True, slots=True)
class TellNeighbour(Effect):
    pass


@dataclass(frozen=True, slots=True)
class Speak(Effect):
    pass


class Machine(Actor[int]):
    """At each event writes under its name, if it is one that writes; tells its neighbour; and speaks."""

    INSIDE = (TellNeighbour,)

    def __init__(
        self, name: str, journal: Journal, log: list[Any], neighbour: "Machine | None", *, writes: bool
    ) -> None:
        super().__init__(name, 0, journal)
        self.log, self.neighbour, self.has_writes = log, neighbour, writes

    def turn(self, state: int, events: Sequence[Event]) -> Transition[int]:
        tell = (TellNeighbour(),) if self.neighbour is not None else ()
        return Transition(state + len(events), (Speak(), *tell))

    def writes(self, old: int, done: Transition[int]) -> list[Any]:
        return [PutKeyValue(self.name, b"x")] if self.has_writes else []

    def hand_over(self, told: Effect | Row) -> None:
        assert self.neighbour is not None
        self.log.append((self.name, "tells", self._on_disk()))
        self.neighbour.tell(Go())

    def perform(self, effect: Effect) -> None:
        assert isinstance(effect, Speak)
        self.log.append((self.name, "speaks", self._on_disk()))

    def _on_disk(self) -> list[str]:
        return [n for n in "abc" if self.journal.read_now(lambda db, n=n: queries.key_value(db, n)) is not None]


def run(tmp_path: Path, *, b_writes: bool) -> tuple[list[Any], int]:
    log: list[Any] = []

    async def main() -> int:
        with Journal.open(tmp_path) as journal:
            c = Machine("c", journal, log, None, writes=True)
            b = Machine("b", journal, log, c, writes=b_writes)
            a = Machine("a", journal, log, b, writes=True)
            tasks = [asyncio.create_task(one.run()) for one in (a, b, c)]
            a.tell(Go())
            for one in (a, b, c):
                await asyncio.wait_for(one.settled(), 5)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return journal.counters.syncs

    return log, asyncio.run(main())


def test_neighbours_are_told_before_the_sync_and_nobody_speaks_before_it(tmp_path: Path) -> None:
    log, syncs = run(tmp_path, b_writes=True)
    assert log[:2] == [("a", "tells", []), ("b", "tells", [])]
    assert {(name, tuple(disk)) for name, what, disk in log if what == "speaks"} == {
        (name, ("a", "b", "c")) for name in "abc"
    }
    assert syncs == 1


def test_who_has_nothing_to_write_speaks_no_earlier_than_what_it_was_told(tmp_path: Path) -> None:
    log, _ = run(tmp_path, b_writes=False)
    (spoken,) = [disk for name, what, disk in log if (name, what) == ("b", "speaks")]
    assert "a" in spoken
