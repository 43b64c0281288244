"""The only loop: events in, one turn, one request to the signer, one commit, then the effects.

    events = everything waiting in the inbox
    done   = turn(state, events)
    if done.owed: done = complete(done, await answers)
    await journal.commit(writes(state, done), meanwhile=hand_over)
    state  = done.state
    perform(each effect)

No effect that the world can see is performed before the commit has returned; if the commit fails the node stops and
nothing was said. What only another machine of this node is told is handed over at once: whatever that machine commits
then comes behind our own writes in the same order, often in the same transaction, and it too says nothing before.
An actor that ``GOES_ON`` takes what that machine answers at once as its next turn, still before the commit: both turns
share it, and neither is in place, or says anything, before.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from salama.base.machine import Effect, Event, Row, Transition
from salama.storage.errors import StorageFault
from salama.storage.journal import Journal
from salama.storage.writes import AnyWrite

log = logging.getLogger("salama.actor")

S = TypeVar("S")

MAX_BATCH = 4096
"""Events taken into one turn, so that no turn holds the event loop for long."""


@dataclass(frozen=True, slots=True)
class _Decided(Generic[S]):
    """A turn that was taken, and its way to the disk."""

    old: S
    done: Transition[S]
    seen: tuple[Effect, ...]
    """Effects that the world sees: after the commit."""
    is_told: bool
    """Another machine of this node heard of it."""
    written: Awaitable[None] | None
    """The commit, which has its place in the journal's order; None if nothing waits for the disk."""


class Actor(ABC, Generic[S]):
    """One machine with its inbox. ``tell`` from anywhere in the event loop."""

    INSIDE: ClassVar[tuple[type, ...]] = ()
    """Effects and rows that only tell another machine of this node something, by ``hand_over``."""
    GOES_ON: ClassVar[bool] = False
    """Whether an answer to what it told another machine is taken at once, if the world was told nothing."""
    ENDURED: ClassVar[tuple[type, ...]] = ()
    """Events that a frozen actor handles all the same, one at a time."""
    BATCH: ClassVar[int] = MAX_BATCH
    """Most events of one turn; fewer where one event may cost a tenth of a millisecond."""

    def __init__(self, name: str, state: S, journal: Journal) -> None:
        self.name, self.state, self.journal = name, state, journal
        self.frozen = ""
        """Why this actor takes no more events, empty while it is well."""
        self._inbox: deque[Event] = deque()
        self._batch: Sequence[Event] = ()
        """The events of the turn that is being decided."""
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._has_ended = False

    # --- what an actor is ---------------------------------------------------------------------------------------------

    @abstractmethod
    def turn(self, state: S, events: Sequence[Event]) -> Transition[S]:
        """Pure: the machine's own ``turn`` with the environment of this moment."""

    async def prepare(self, events: Sequence[Event]) -> Sequence[Event]:
        """Add to the events what only the shell can know, before the turn."""
        return events

    async def complete(self, done: Transition[S]) -> Transition[S]:
        """Have the signer answer what is owed and put the answers in place."""
        raise NotImplementedError

    @abstractmethod
    def writes(self, old: S, done: Transition[S]) -> list[AnyWrite]:
        """What must be on disk before the effects."""

    @abstractmethod
    def perform(self, effect: Effect) -> None:
        """Do one effect; never blocks."""

    def hand_over(self, told: Effect | Row) -> None:
        """Tell another machine what is INSIDE; its commits come behind ours. Never blocks, says nothing outside."""
        raise NotImplementedError

    def installed(self, old: S, done: Transition[S]) -> None:
        """The new state is in place and on disk, the effects come next."""

    async def secured(self, old: S, done: Transition[S]) -> None:
        """Return once whatever else must outlive this machine is safe: no effect is done before."""

    def finished(self) -> None:
        """Every effect of the turn is done."""

    def on_fault(self, error: Exception) -> None:
        """A turn failed unexpectedly: the batch is dropped and the actor frozen."""

    # --- the loop -----------------------------------------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        """Queue an event; it is handled in order, in the next turn. An actor that has ended hears nothing."""
        if self._has_ended:
            return
        self._inbox.append(event)
        self._idle.clear()
        self._wake.set()

    @property
    def waiting(self) -> int:
        """Events that wait for a turn."""
        return len(self._inbox)

    async def settled(self) -> None:
        """Return once the inbox is empty and the last turn is over."""
        await self._idle.wait()

    async def run(self) -> None:
        """Until cancelled. Raises StorageFault: the node must stop."""
        try:
            await self._run()
        finally:
            # Nobody shall wait for what will not be handled any more.
            self._has_ended = True
            self._inbox.clear()
            self._idle.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._inbox:
                events = self._take()
                if self.frozen:
                    await self._endure(events)
                    continue
                try:
                    await self._one_turn(events)
                except StorageFault:
                    raise
                except Exception as error:
                    log.exception("%s: a turn over %d events failed; frozen", self.name, len(self._batch))
                    self.frozen = f"{type(error).__name__}: {error}"
                    self.on_fault(error)
                    await self._endure(self._batch)
                if len(events) == self.BATCH:
                    # A turn without writes waits for nobody, and the inbox may be full of such (immunity H7).
                    await asyncio.sleep(0)
            self._idle.set()

    def _take(self) -> Sequence[Event]:
        return [self._inbox.popleft() for _ in range(min(len(self._inbox), self.BATCH))]

    async def _endure(self, events: Sequence[Event]) -> None:
        for event in events:
            if not isinstance(event, self.ENDURED):
                continue
            try:
                await self._one_turn([event])
            except StorageFault:
                raise
            except Exception:
                log.exception("%s: frozen, and cannot handle %s", self.name, type(event).__name__)

    async def _one_turn(self, events: Sequence[Event]) -> None:
        turns = [await self._decide(self.state, events)]
        fault: Exception | None = None
        while self.GOES_ON and not self.frozen and turns[-1].is_told and not turns[-1].seen:
            await asyncio.sleep(0)  # whoever was told has its turn
            if not self._inbox:
                break
            try:
                turns.append(await self._decide(turns[-1].done.state, self._take()))
            except Exception as error:
                fault = error  # what was decided before it stands
                break
        for one in turns:
            await self._conclude(one)
        if fault is not None:
            raise fault

    async def _decide(self, old: S, events: Sequence[Event]) -> _Decided[S]:
        self._batch = events
        events = await self.prepare(events)
        done = self.turn(old, events)
        if done.owed:
            done = await self.complete(done)
        produced: tuple[Effect | Row, ...] = (*done.rows, *done.effects)
        inside = [told for told in produced if isinstance(told, self.INSIDE)]
        seen = tuple([effect for effect in done.effects if not isinstance(effect, self.INSIDE)])
        writes = self.writes(old, done)

        def meanwhile() -> None:
            for told in inside:
                self.hand_over(told)

        written: Awaitable[None] | None = None
        if inside:
            written = self.journal.submit(writes, meanwhile=meanwhile)
        elif writes or seen:
            # Without writes too: what led to these effects may be on its way to the disk.
            written = self.journal.submit(writes)
        return _Decided(old, done, seen, bool(inside), written)

    async def _conclude(self, turn: _Decided[S]) -> None:
        if turn.written is not None:
            await turn.written
        self.state = turn.done.state
        self.installed(turn.old, turn.done)
        await self.secured(turn.old, turn.done)
        for effect in turn.seen:
            self.perform(effect)
        self.finished()
