"""An event loop for each simulated machine: asyncio's own tasks and futures; time and order belong to the world."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

MAX_DRAIN = 20_000
"""Callbacks that the remains of a crashed machine may run before something is badly wrong."""


class Scheduler(Protocol):
    """Whoever decides when a loop goes on."""

    time: float

    def is_ready(self, loop: NodeLoop) -> None: ...
    def at(self, when: float, loop: NodeLoop, handle: asyncio.TimerHandle) -> None: ...
    def went_wrong(self, loop: NodeLoop, what: str, error: BaseException | None) -> None: ...


_Base: Any = asyncio.AbstractEventLoop
"""Untyped: what asyncio asks for beyond tasks, futures and timers (sockets, processes, signals) is left out."""


class NodeLoop(_Base):  # type: ignore[misc]
    """Callbacks run in the order in which they were scheduled, one at each ``step``; nothing happens by itself.

    A dead loop takes nothing more: what still runs on it is the unwinding of a machine that has crashed.
    """

    def __init__(self, world: Scheduler, name: str) -> None:
        self.world, self.name = world, name
        self.ready: deque[asyncio.Handle] = deque()
        self.dead = False
        self._tasks: list[asyncio.Task[Any]] = []
        self._prune_at = 64

    # --- what asyncio asks for ----------------------------------------------------------------------------------------

    def time(self) -> float:
        return self.world.time

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self.ready.append(handle)
        if len(self.ready) == 1 and not self.dead:
            self.world.is_ready(self)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.world.time + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if not self.dead:
            self.world.at(when, self, handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Coroutine[Any, Any, T], *, name: object = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        task = asyncio.Task(coro, loop=self, name=str(name) if name else None, context=context)
        self._tasks.append(task)
        if len(self._tasks) > self._prune_at:
            self._tasks = [task for task in self._tasks if not task.done()]
            self._prune_at = 2 * len(self._tasks) + 64
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """At once: a thread's timing would be nobody's to decide."""
        future: asyncio.Future[T] = asyncio.Future(loop=self)
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self.dead

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.dead:
            self.world.went_wrong(self, str(context.get("message")), context.get("exception"))

    # --- what the world does ------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Run the oldest callback."""
        handle = self.ready.popleft()
        if not handle.cancelled():
            asyncio._set_running_loop(self)
            try:
                handle._run()
            finally:
                asyncio._set_running_loop(None)

    def unwind(self) -> None:
        """Cancel every task of the crashed machine, and let them end; the world outside is closed to them already."""
        self.dead = True
        for _ in range(3):
            for task in [task for task in self._tasks if not task.done()]:
                task.cancel()
            for _ in range(MAX_DRAIN):
                if not self.ready:
                    break
                self.step()
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.exception()  # seen: a crash is no news
        self._tasks.clear()
        self.ready.clear()
