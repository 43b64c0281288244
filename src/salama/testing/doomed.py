"""A node on a disk that can lose power: ``python -m salama.testing.doomed [options] -- run --network ...``.

On SIGUSR2, at once or a few writes or syncs later, it leaves of its database what a power cut would leave, and is gone
as if killed. Until then everything is written as ever, and what is safe is known from the syncs that SQLite asked for.

    --seed N           what is left to luck
    --synchronous X    OFF: a node that does not sync, to see that the test notices
    --moments FILE     a line for each moment that matters to the order of things (``moments_of``)
"""

from __future__ import annotations

import faulthandler
import hashlib
import os
import random
import signal
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from salama.channel.events import Send
from salama.cli.main import main
from salama.net.tcp import Connection
from salama.node.channel_actor import ChannelActor
from salama.storage import database
from salama.storage.journal import Journal
from salama.testing import sqlite_vfs
from salama.testing.doomed_disk import DoomedDisk

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
    parser.add_argument("--synchronous", choices=("FULL", "NORMAL", "OFF"))
    parser.add_argument("--moments", type=Path)
    options = parser.parse_args(sys.argv[1:split])
    faulthandler.enable()
    disk = DoomedDisk(random.Random(options.seed), moment)
    sqlite_vfs.watch(disk)
    if options.synchronous:
        # After the node's own settings, so that this stands.
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
