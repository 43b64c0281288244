"""An actor that said nothing outside takes the answer of another machine at once: one sync for both of its turns."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salama.base.machine import Effect, Event, Row, Transition
from salama.node.actor import Actor
from salama.storage import queries
from salama.storage.journal import Journal
from salama.storage.writes import PutKeyValue


@dataclass(frozen=True, slots=True)
class Asked(Event):
    """For the teller, which asks its neighbour."""

    loudly: bool = False


@dataclass(frozen=True, slots=True)
class Question(Event):
    pass


@dataclass(frozen=True, slots=True)
class Answer(Event):
    pass


@dataclass(frozen=True, slots=True)
class Tell(Effect):
    event: Event


@dataclass(frozen=True, slots=True)
class Speak(Effect):
    pass


class Machine(Actor[tuple[str, ...]]):
    """Writes the kind of each event under its own name and that kind, and tells the other machine what follows."""

    INSIDE = (Tell,)
    ENDURED = (Asked,)

    def __init__(self, name: str, journal: Journal, *, stumbles: bool = False) -> None:
        super().__init__(name, (), journal)
        self.other: Machine = self
        self.stumbles, self.spoken = stumbles, list[tuple[tuple[str, ...], list[str]]]()
        self.seen_when_told: list[tuple[str, ...]] = []

    def turn(self, state: tuple[str, ...], events: Sequence[Event]) -> Transition[tuple[str, ...]]:
        effects: list[Effect] = []
        for event in events:
            match event:
                case Asked(loudly):
                    effects += [Tell(Question()), *([Speak()] if loudly else [])]
                case Question():
                    effects.append(Tell(Answer()))
                case Answer():
                    if self.stumbles:
                        raise ArithmeticError("stumbled")
                    effects.append(Speak())
        return Transition((*state, *(type(event).__name__ for event in events)), tuple(effects))

    def writes(self, old: tuple[str, ...], done: Transition[tuple[str, ...]]) -> list[Any]:
        return [PutKeyValue(f"{self.name} {kind}", b"x") for kind in done.state[len(old) :]]

    def hand_over(self, told: Effect | Row) -> None:
        assert isinstance(told, Tell)
        self.other.seen_when_told.append(self.state)
        self.other.tell(told.event)

    def perform(self, effect: Effect) -> None:
        self.spoken.append((self.state, on_disk(self.journal)))


class Teller(Machine):
    GOES_ON = True


def on_disk(journal: Journal) -> list[str]:
    names = ["teller Asked", "neighbour Question", "teller Answer"]
    return [n for n in names if journal.read_now(lambda db, n=n: queries.key_value(db, n)) is not None]


def run(tmp_path: Path, *asked: Asked, stumbles: bool = False, prepare: Callable[[Machine], None] | None = None) -> Any:
    """The teller after it was asked, how many syncs that took, and what is on disk."""

    async def main() -> Any:
        with Journal.open(tmp_path) as journal:
            teller, neighbour = Teller("teller", journal, stumbles=stumbles), Machine("neighbour", journal)
            teller.other, neighbour.other = neighbour, teller
            if prepare is not None:
                prepare(teller)
            tasks = [asyncio.create_task(one.run()) for one in (teller, neighbour)]
            await asyncio.sleep(0)
            for event in asked:
                teller.tell(event)
            for one in (teller, neighbour, teller):
                await asyncio.wait_for(one.settled(), 5)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return teller, journal.counters.syncs, on_disk(journal)

    return asyncio.run(main())


def test_the_answer_shares_the_sync_and_is_spoken_of_after_it(tmp_path: Path) -> None:
    teller, syncs, _ = run(tmp_path, Asked())
    assert syncs == 1
    assert teller.spoken == [(("Asked", "Answer"), ["teller Asked", "neighbour Question", "teller Answer"])]
    # Nothing was in place before it was on disk: whoever looked saw the state that the disk had.
    assert teller.seen_when_told == [()]


def test_who_has_words_for_the_world_does_not_wait_for_an_answer(tmp_path: Path) -> None:
    teller, syncs, _ = run(tmp_path, Asked(loudly=True))
    assert syncs == 2
    assert teller.spoken[0] == (("Asked",), ["teller Asked", "neighbour Question"])


def test_a_fault_over_the_answer_leaves_what_was_decided_before(tmp_path: Path) -> None:
    teller, _, disk = run(tmp_path, Asked(), stumbles=True)
    assert "stumbled" in teller.frozen
    assert (teller.state, teller.spoken) == (("Asked",), [])
    assert disk == ["teller Asked", "neighbour Question"]


def test_a_frozen_actor_does_not_go_on(tmp_path: Path) -> None:
    def freeze(teller: Machine) -> None:
        teller.frozen = "for the test"

    teller, _, disk = run(tmp_path, Asked(), prepare=freeze)
    assert (teller.state, teller.spoken) == (("Asked",), [])
    assert disk == ["teller Asked", "neighbour Question"]
