"""The only loop: decide, sign, commit, act, in that order and no other (architecture, "The only loop")."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from salama.base.machine import Effect, Event, Owed, Row, Transition
from salama.node.actor import Actor
from salama.storage.errors import JournalFailed


@dataclass(frozen=True, slots=True)
class Add(Event):
    number: int


@dataclass(frozen=True, slots=True)
class Say(Effect):
    total: int


@dataclass(frozen=True, slots=True)
class OweSignature(Owed):
    total: int


@dataclass(frozen=True, slots=True)
class Total(Row):
    total: int


class Disk:
    """Stands for the journal: remembers what was committed, and lets a test hold or break a commit."""

    def __init__(self, log: list[tuple[str, Any]]) -> None:
        self.log, self.failure = log, ""
        self.gate = asyncio.Event()
        self.gate.set()

    def submit(self, writes: Sequence[Row]) -> asyncio.Task[None]:
        self.log.append(("submitted", list(writes)))
        return asyncio.create_task(self._commit(writes))

    async def _commit(self, writes: Sequence[Row]) -> None:
        await self.gate.wait()
        if self.failure:
            raise JournalFailed(self.failure)
        self.log.append(("on disk", list(writes)))


class Counter(Actor[int]):
    """Adds numbers, writes the sum, and says it once a signature is there. A negative number makes it stumble."""

    def __init__(self, log: list[tuple[str, Any]]) -> None:
        self.log = log
        self.disk = Disk(log)
        super().__init__("counter", 0, self.disk)  # type: ignore[arg-type]
        self.faults: list[Exception] = []

    def turn(self, state: int, events: Sequence[Event]) -> Transition[int]:
        for event in events:
            assert isinstance(event, Add)
            if event.number < 0:
                raise ArithmeticError("negative")
            state += event.number
        return Transition(state, (OweSignature(state), Say(state)), (Total(state),))

    async def complete(self, done: Transition[int]) -> Transition[int]:
        self.log.append(("signed", [o.total for o in done.owed if isinstance(o, OweSignature)]))
        return replace(done, effects=tuple(Say(-e.total) if isinstance(e, OweSignature) else e for e in done.effects))  # type: ignore[attr-defined]

    def writes(self, old: int, done: Transition[int]) -> list[Any]:
        return list(done.rows)

    def perform(self, effect: Effect) -> None:
        assert isinstance(effect, Say)
        self.log.append(("said", (effect.total, self.state)))

    def installed(self, old: int, done: Transition[int]) -> None:
        self.log.append(("installed", self.state))

    def finished(self) -> None:
        self.log.append(("finished", None))

    def on_fault(self, error: Exception) -> None:
        self.faults.append(error)


def words(log: list[tuple[str, Any]]) -> list[str]:
    return [word for word, _ in log]


async def until_idle(actor: Counter) -> None:
    await asyncio.wait_for(actor.settled(), 2)


def test_nothing_is_said_before_it_is_on_disk() -> None:
    async def main() -> None:
        log: list[tuple[str, Any]] = []
        actor = Counter(log)
        task = asyncio.create_task(actor.run())
        actor.disk.gate.clear()
        actor.tell(Add(5))
        await asyncio.sleep(0.02)
        assert words(log) == ["signed", "submitted"]
        assert actor.state == 0
        actor.disk.gate.set()
        await until_idle(actor)
        assert words(log) == ["signed", "submitted", "on disk", "installed", "said", "said", "finished"]
        # Effects keep their order, and find the new state in place.
        assert [what for word, what in log if word == "said"] == [(-5, 5), (5, 5)]
        assert actor.state == 5
        task.cancel()

    asyncio.run(main())


def test_what_waits_is_one_batch_and_one_commit() -> None:
    async def main() -> None:
        log: list[tuple[str, Any]] = []
        actor = Counter(log)
        for number in range(100):
            actor.tell(Add(number))
        assert actor.waiting == 100
        task = asyncio.create_task(actor.run())
        await until_idle(actor)
        assert [what for word, what in log if word == "on disk"] == [[Total(4950)]]
        task.cancel()

    asyncio.run(main())


def test_events_that_come_during_a_commit_are_the_next_batch() -> None:
    async def main() -> None:
        log: list[tuple[str, Any]] = []
        actor = Counter(log)
        task = asyncio.create_task(actor.run())
        actor.disk.gate.clear()
        actor.tell(Add(1))
        await asyncio.sleep(0.01)
        actor.tell(Add(2))
        actor.tell(Add(3))
        actor.disk.gate.set()
        await until_idle(actor)
        assert [what for word, what in log if word == "on disk"] == [[Total(1)], [Total(6)]]
        task.cancel()

    asyncio.run(main())


def test_a_failed_commit_ends_the_actor_with_nothing_said() -> None:
    async def main() -> None:
        log: list[tuple[str, Any]] = []
        actor = Counter(log)
        actor.disk.failure = "disk full"
        actor.tell(Add(5))
        with pytest.raises(JournalFailed):
            await asyncio.wait_for(actor.run(), 2)
        assert words(log) == ["signed", "submitted"]
        assert actor.state == 0
        assert actor.faults == []

    asyncio.run(main())


def test_a_turn_that_fails_freezes_the_actor_and_says_nothing() -> None:
    async def main() -> None:
        log: list[tuple[str, Any]] = []
        actor = Counter(log)
        task = asyncio.create_task(actor.run())
        actor.tell(Add(1))
        await until_idle(actor)
        log.clear()
        actor.tell(Add(2))
        actor.tell(Add(-1))
        await until_idle(actor)
        assert "negative" in actor.frozen
        assert len(actor.faults) == 1
        assert (actor.state, log) == (1, [])
        # and it stays so: the next events are not handled by a machine in an unknown state
        actor.tell(Add(4))
        await until_idle(actor)
        assert (actor.state, log) == (1, [])
        task.cancel()

    asyncio.run(main())


def test_nobody_waits_for_an_actor_that_was_ended() -> None:
    """A channel may be retired while the chain waits for every channel to have handled a block."""

    async def main() -> None:
        log: list[tuple[str, Any]] = []
        actor = Counter(log)
        task = asyncio.create_task(actor.run())
        actor.disk.gate.clear()
        actor.tell(Add(5))
        await asyncio.sleep(0.01)
        task.cancel()
        await until_idle(actor)
        actor.tell(Add(6))
        await until_idle(actor)
        assert actor.waiting == 0
        assert words(log) == ["signed", "submitted"]

    asyncio.run(main())


def test_nobody_waits_for_an_actor_whose_commit_failed() -> None:
    async def main() -> None:
        actor = Counter([])
        actor.disk.failure = "disk full"
        task = asyncio.create_task(actor.run())
        actor.tell(Add(5))
        actor.tell(Add(6))
        await until_idle(actor)
        with pytest.raises(JournalFailed):
            await task

    asyncio.run(main())
