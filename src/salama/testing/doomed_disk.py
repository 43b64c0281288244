"""A watched disk that loses power on request, at a moment left to luck, and the whole process with it."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from salama.storage.database import DATABASE_NAME
from salama.testing.volatile_disk import VolatileFile

REPORT: Final = "power-cut.json"
"""Beside the database: what the last power cut took."""
SOON: Final = 0.5
"""Seconds after which the power fails though the disk is idle."""
MAX_MOMENTS: Final = 80
MAX_SYNCS: Final = 6
"""Before and after each write and each sync is a moment at which the power may fail: one of so many to come."""


class DoomedDisk:
    """Knows of each file of the database what would survive, and makes it so."""

    def __init__(self, dice: random.Random, note: Callable[[str], None] = lambda what: None) -> None:
        self.dice, self.note = dice, note
        self.files: dict[Path, VolatileFile] = {}
        self.handles: dict[Path, int] = {}
        self.lock = threading.Lock()
        self.moments_left = 0
        """The power fails when this comes down to 0; 0 while nothing is planned."""
        self.only_syncs = False

    # --- the watcher --------------------------------------------------------------------------------------------------

    def opened(self, path: Path) -> None:
        with self.lock:
            self.handles[path] = self.handles.get(path, 0) + 1
            if path not in self.files:
                self.files[path] = VolatileFile(bytearray(path.read_bytes()))

    def closed(self, path: Path) -> None:
        with self.lock:
            self.handles[path] -= 1
            if not self.handles[path]:
                del self.files[path]

    def write(self, path: Path, offset: int, data: bytes, do: Callable[[], int]) -> int:
        return self._operation(path, "write", do, lambda file: file.write(offset, data))

    def truncate(self, path: Path, size: int, do: Callable[[], int]) -> int:
        return self._operation(path, "truncate", do, lambda file: file.truncate(size))

    def sync(self, path: Path, do: Callable[[], int]) -> int:
        return self._operation(path, "sync", do, lambda file: file.sync())

    def _operation(self, path: Path, name: str, do: Callable[[], int], then: Callable[[VolatileFile], None]) -> int:
        with self.lock:
            self._count("before", name)
            result = do()
            if result == 0:
                then(self.files[path])
                self.note(f"{name} {path.name}")
            self._count("after", name)
            return result

    def _count(self, when: str, name: str) -> None:
        if self.moments_left and (name == "sync" or not self.only_syncs):
            self.moments_left -= 1
            if not self.moments_left:
                self.end(f"{when} a {name}")

    # --- the end ------------------------------------------------------------------------------------------------------

    def doom(self) -> None:
        """In a thread: the power fails now or soon."""
        if self.dice.random() < 0.2:
            with self.lock:
                self.end("at any time")
        with self.lock:
            self.only_syncs = self.dice.random() < 0.4
            self.moments_left = self.dice.randint(1, MAX_SYNCS if self.only_syncs else MAX_MOMENTS)
        time.sleep(SOON)
        with self.lock:
            self.end("idle")

    def end(self, where: str) -> None:
        """Now. With the lock held, so that nothing more gets to the disk and nobody hears of a sync."""
        pending = [change for file in self.files.values() for change in file.pending]
        report = {
            "where": where,
            "changes": len(pending),
            "bytes": sum(len(data or b"") for _, data in pending),
            "pages_of_database": sum(
                len(file.pending) for path, file in self.files.items() if path.name == DATABASE_NAME
            ),
        }
        for path, file in self.files.items():
            left = path.with_name(path.name + "-left")
            left.write_bytes(file.after_power_cut(self.dice))
            left.replace(path)
        for path in self.files:
            # The index of the log is shared memory.
            path.with_name(DATABASE_NAME + "-shm").unlink(missing_ok=True)
            path.with_name(REPORT).write_text(json.dumps(report))
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
