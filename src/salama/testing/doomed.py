"""A node on a disk that can lose power: ``python -m salama.testing.doomed [options] -- run --network ...``.

On SIGUSR2, at once or a few writes or syncs later, it leaves of its database what a power cut would leave, and is gone
as if killed. Until then everything is written as ever, and what is safe is known from the syncs that SQLite asked for.

    --seed N           what is left to luck
    --synchronous X    OFF: a node that does not sync, to see that the test notices
    --moments FILE     a line for each moment that matters to the order of things (``moments_of``)
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import threading
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from salama.channel.events import Send
from salama.cli.main import main
from salama.net.tcp import Connection
from salama.node.channels import ChannelActor
from salama.storage import database
from salama.storage.journal import Journal
from salama.testing import sqlite_vfs
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

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
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
                moment(f"{name} {path.name}")
            self._count("after", name)
            return result

    def _count(self, when: str, name: str) -> None:
        if self.moments_left and (name == "sync" or not self.only_syncs):
            self.moments_left -= 1
            if not self.moments_left:
                self._end(f"{when} a {name}")

    # --- the end ------------------------------------------------------------------------------------------------------

    def doom(self) -> None:
        """In a thread: the power fails now or soon."""
        if self.dice.random() < 0.2:
            with self.lock:
                self._end("at any time")
        with self.lock:
            self.only_syncs = self.dice.random() < 0.4
            self.moments_left = self.dice.randint(1, MAX_SYNCS if self.only_syncs else MAX_MOMENTS)
        time.sleep(SOON)
        with self.lock:
            self._end("idle")

    def _end(self, where: str) -> None:
        """With the lock held, so that nothing more gets to the disk and nobody hears of a sync."""
        pending = [change for file in self.files.values() for change in file.pending]
        report = {
            "where": where,
            "changes": len(pending),
            "bytes": sum(len(data or b"") for _, data in pending),
            "pages_of_database": sum(
                len(file.pending) for path, file in self.files.items() if path.name == database.DATABASE_NAME
            ),
        }
        for path, file in self.files.items():
            left = path.with_name(path.name + "-left")
            left.write_bytes(file.after_power_cut(self.dice))
            left.replace(path)
        for path in self.files:
            # The index of the log is shared memory.
            path.with_name(database.DATABASE_NAME + "-shm").unlink(missing_ok=True)
            path.with_name(REPORT).write_text(json.dumps(report))
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)


# --- moments ----------------------------------------------------------------------------------------------------------

_moments: int | None = None


def moment(what: str) -> None:
    """Note that something happened, before anything else can: one system call."""
    if _moments is not None:
        os.write(_moments, f"{what}\n".encode())


_TIMED: Final = {132: "commitment_signed", 133: "revoke_and_ack"}


def _named(message: bytes) -> str | None:
    name = _TIMED.get(int.from_bytes(message[:2], "big"))
    return name and f"{name} {hashlib.sha256(message).hexdigest()[:16]}"


def note_moments(path: Path) -> None:
    """Write ``made``, ``begin`` and ``sent`` to ``path``, and what the disk does in between.

    ``made``: a turn produced the message and its writes are about to be handed in. ``begin``: the journal starts the
    next transaction. ``sent``: the message is about to be given to the socket.
    """
    global _moments
    _moments = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    writes, apply, send = ChannelActor.writes, Journal._apply, Connection.send

    def noted_writes(self: ChannelActor, old: Any, done: Any) -> Any:
        found = writes(self, old, done)
        for effect in done.effects:
            if isinstance(effect, Send) and (name := _named(effect.message.encode())):
                moment(f"made {name}")
        return found

    def noted_apply(self: Journal, group: Any) -> Any:
        moment("begin")
        return apply(self, group)

    def noted_send(self: Connection, messages: Sequence[bytes]) -> None:
        for message in messages:
            if name := _named(message):
                moment(f"sent {name}")
        send(self, messages)

    ChannelActor.writes = noted_writes  # type: ignore[method-assign]
    Journal._apply = noted_apply  # type: ignore[method-assign]
    Connection.send = noted_send  # type: ignore[method-assign]


def run() -> None:
    """The program."""
    split = sys.argv.index("--")
    parser = ArgumentParser("doomed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--synchronous", default="FULL", choices=("FULL", "NORMAL", "OFF"))
    parser.add_argument("--moments", type=Path)
    options = parser.parse_args(sys.argv[1:split])
    disk = DoomedDisk(random.Random(options.seed))
    sqlite_vfs.watch(disk)
    # After the node's own settings, so that these stand.
    pragmas = (*database._WRITER_PRAGMAS, f"PRAGMA synchronous = {options.synchronous}")
    setattr(database, "_WRITER_PRAGMAS", pragmas)  # noqa: B010
    if options.moments:
        note_moments(options.moments)
    # In a thread: the handler itself may interrupt whoever holds the disk's lock.
    signal.signal(signal.SIGUSR2, lambda *_: threading.Thread(target=disk.doom, daemon=True).start())
    sys.argv = ["salama", *sys.argv[split + 1 :]]
    main()


if __name__ == "__main__":
    run()
