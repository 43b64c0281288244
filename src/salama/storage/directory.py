"""The data directory: made private, and locked so that one process at a time runs a node on it."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from salama.storage.errors import DataDirectoryInUse, DataDirectoryUnusable

LOCK_NAME: Final = "salama.lock"


def sync_directory(directory: Path) -> None:
    """Make created and renamed entries of ``directory`` durable (a file's own fsync does not do that)."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_private_file(path: Path) -> None:
    """Create ``path`` readable by its owner alone, or tighten it if it exists. SQLite's side files inherit the mode."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # The mode given to open is cut by the umask but never widened; an older file may be too open.
        if os.fstat(descriptor).st_mode & 0o777 != 0o600:
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A private, empty file beside ``path``, to be filled; at the end it takes the place of ``path``.

    After a crash ``path`` is whole, the old one or the new one. Raises OSError; then, or if the caller raises, the old
    one stands.
    """
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    make_private_file(fresh)
    yield fresh
    with fresh.open("rb+") as file:
        os.fsync(file.fileno())
    fresh.rename(path)
    sync_directory(path.parent)


class DirectoryLock:
    """An exclusive lock on a data directory, created (mode 0700) if needed; the kernel drops it with the process.

    Raises DataDirectoryInUse or DataDirectoryUnusable. The lock file is never removed: removing it would let a third
    process lock a new file of the same name while a second still waits on the old one.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = directory / LOCK_NAME
            make_private_file(path)
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as fault:
            raise DataDirectoryUnusable(directory, fault.strerror or str(fault)) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as fault:
            holder = _process_in(descriptor)
            os.close(descriptor)
            if fault.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise DataDirectoryInUse(directory, holder) from None
            raise DataDirectoryUnusable(directory, fault.strerror or str(fault)) from None
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Give the directory back; more than once does no harm."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _process_in(descriptor: int) -> int | None:
    text = os.pread(descriptor, 20, 0).strip()
    return int(text) if text.isdigit() else None
