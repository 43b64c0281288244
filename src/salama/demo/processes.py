"""The processes of a demo: started, heard once, watched, and ended on every way out.

Each child leads a session of its own, so that a Ctrl-C in the terminal reaches the demo alone and the demo ends its
children in order. If the demo itself is killed, the kernel ends them (Linux).
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

READY_SECONDS: Final = 30.0
"""Longest start of a process before we give it up."""
STOP_SECONDS: Final = 8.0
"""Time a process has to end by itself before it is killed."""
_PR_SET_PDEATHSIG: Final = 1


class ProcessFailed(Exception):
    """A process did not start or ended by itself. ``reason`` is a sentence, ``log`` where to read more."""

    def __init__(self, name: str, reason: str, log: Path) -> None:
        self.name, self.reason, self.log = name, reason, log
        super().__init__(f"{name}: {reason}")


def _tie_to(parent: int) -> None:
    """In the child, before it runs: end with the parent, also if that is killed. Elsewhere than on Linux, nothing."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        os._exit(1)


@dataclass(slots=True, eq=False)
class Child:
    """One running process. ``ready`` is the line of JSON that it said when it answered."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    """Where its standard error goes."""
    ready: dict[str, Any] = field(default_factory=dict)
    _drain: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process.returncode is None

    def send_signal(self, number: signal.Signals) -> None:
        """To the child and whatever it may have started."""
        if self.is_running:
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                return

    async def kill(self) -> None:
        """SIGKILL: it gets no chance to write anything down."""
        self.send_signal(signal.SIGKILL)
        await self._ended()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL for one that does not listen."""
        self.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
        except TimeoutError:
            self.send_signal(signal.SIGKILL)
        await self._ended()

    async def _ended(self) -> None:
        await self.process.wait()
        if self._drain is not None:
            self._drain.cancel()
            await asyncio.gather(self._drain, return_exceptions=True)

    async def hear(self) -> None:
        """Wait for its first line. Raises ProcessFailed."""
        assert self.process.stdout is not None
        try:
            line = await asyncio.wait_for(self.process.stdout.readline(), READY_SECONDS)
        except TimeoutError:
            raise ProcessFailed(self.name, f"did not answer within {READY_SECONDS:.0f} seconds", self.log) from None
        try:
            said = json.loads(line) if line else {}
        except ValueError:
            said = {}
        if not isinstance(said, dict) or said.get("ready") is not True:
            raise ProcessFailed(self.name, f"did not start: {self._last_words(said)}", self.log)
        self.ready = said
        self._drain = asyncio.create_task(self._drain_output(self.process.stdout))

    def _last_words(self, said: object) -> str:
        if isinstance(said, dict) and isinstance(said.get("error"), str):
            return str(said["error"])
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "it ended without a word"

    @staticmethod
    async def _drain_output(stream: asyncio.StreamReader) -> None:
        # A pipe that nobody reads would stop a talkative child once it is full.
        while await stream.read(1 << 16):
            pass


class Processes:
    """All children of a demo."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.children: list[Child] = []
        self.program: tuple[str, ...] = ("-m", "salama")
        """What Python runs; tests put something around it."""

    async def start(self, name: str, arguments: Sequence[str]) -> Child:
        """Run ``salama`` with ``arguments`` and wait until it is ready. Raises ProcessFailed.

        Its standard error goes to ``<name>.stderr`` beside the data directories.
        """
        log = self._directory / f"{name}.stderr"
        parent = os.getpid()
        with log.open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self.program,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                preexec_fn=lambda: _tie_to(parent),
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        child = Child(name, process, log)
        self.children.append(child)
        await child.hear()
        return child

    def dead(self) -> Child | None:
        """A child that ended though nobody asked it to."""
        return next((child for child in self.children if not child.is_running), None)

    def forget(self, child: Child) -> None:
        """Take a child that was ended on purpose off the list."""
        self.children.remove(child)

    async def stop(self, children: Sequence[Child]) -> None:
        """End these, together, and forget them."""
        await asyncio.gather(*(child.stop() for child in children))
        for child in children:
            self.forget(child)

    async def stop_all(self) -> None:
        """End every child; nothing of a demo runs afterwards."""
        await asyncio.gather(*(child.stop() for child in self.children), return_exceptions=True)
        self.children.clear()

    def kill_all(self) -> None:
        """At once and without waiting, for the second Ctrl-C."""
        for child in self.children:
            child.send_signal(signal.SIGKILL)
