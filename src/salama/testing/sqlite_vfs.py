"""A look over SQLite's shoulder: every write, truncation and sync of a database's files passes by a ``Watcher``.

The library that Python's own ``sqlite3`` module uses is the one that is watched, so that what is tested is what runs.
Its table of functions for the operating system is changed in place: ``xOpen`` gives each file of a database a copy
of its methods in which those that change it are ours. They tell the watcher and then call the old ones.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from ctypes import c_char_p, c_int, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

_OPEN_MAIN_DB: Final = 0x100
_OPEN_MAIN_JOURNAL: Final = 0x800
_OPEN_WAL: Final = 0x80000
_WATCHED: Final = _OPEN_MAIN_DB | _OPEN_MAIN_JOURNAL | _OPEN_WAL
_IOERR: Final = 10

# Calls through these give up the interpreter lock, calls from SQLite take it.
_Open = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_Close = ctypes.CFUNCTYPE(c_int, c_void_p)
_Write = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_Truncate = ctypes.CFUNCTYPE(c_int, c_void_p, c_int64)
_Sync = ctypes.CFUNCTYPE(c_int, c_void_p, c_int)


class _Vfs(ctypes.Structure):
    """The beginning of ``sqlite3_vfs``."""

    _fields_: ClassVar = [
        ("version", c_int),
        ("file_size", c_int),
        ("longest_path", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("app_data", c_void_p),
        ("open", c_void_p),
    ]


class _Methods(ctypes.Structure):
    """``sqlite3_io_methods``, version 3."""

    _fields_: ClassVar = [
        ("version", c_int),
        ("close", c_void_p),
        ("read", c_void_p),
        ("write", c_void_p),
        ("truncate", c_void_p),
        ("sync", c_void_p),
        ("others", c_void_p * 13),
    ]


class _File(ctypes.Structure):
    """The beginning of ``sqlite3_file``."""

    _fields_: ClassVar = [("methods", c_void_p)]


class Watcher(Protocol):
    """Is told in whatever thread SQLite runs in. ``do`` does the thing; its answer is SQLite's."""

    def opened(self, path: Path) -> None: ...
    def closed(self, path: Path) -> None: ...
    def write(self, path: Path, offset: int, data: bytes, do: Callable[[], int]) -> int: ...
    def truncate(self, path: Path, size: int, do: Callable[[], int]) -> int: ...
    def sync(self, path: Path, do: Callable[[], int]) -> int: ...


class NotReachable(Exception):
    """This Python keeps its SQLite to itself."""


def _library() -> ctypes.CDLL:
    import _sqlite3

    library = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
    try:
        library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
        library.sqlite3_vfs_find.argtypes = [c_char_p]
        library.sqlite3_sourceid.restype = c_char_p
    except AttributeError:
        raise NotReachable("the sqlite3 module does not show the functions of its library") from None
    with closing(sqlite3.connect(":memory:")) as memory:
        (used,) = memory.execute("SELECT sqlite_source_id()").fetchone()
    if library.sqlite3_sourceid().decode() != used:
        raise NotReachable("the sqlite3 module uses another library than the one found")
    return library


def is_reachable() -> bool:
    """Whether ``watch`` works with this Python."""
    if sys.platform != "linux":
        return False
    try:
        _library()
    except (NotReachable, OSError):
        return False
    return True


def watch(watcher: Watcher) -> None:
    """From now on, for the whole process and for good. Raises NotReachable."""
    vfs = _library().sqlite3_vfs_find(None).contents
    _kept.append(_Hooks(vfs, watcher))


_kept: list[Any] = []
"""What SQLite holds pointers to must never be collected."""


@dataclass(frozen=True, slots=True)
class _Table:
    """The methods of one kind of file (a log is not locked like a database), ours among them, and the old ones."""

    ours: _Methods
    close: Callable[[int], int]
    write: Callable[[int, int, int, int], int]
    truncate: Callable[[int, int], int]
    sync: Callable[[int, int], int]


class _Hooks:
    def __init__(self, vfs: _Vfs, watcher: Watcher) -> None:
        self.watcher = watcher
        self.files: dict[int, tuple[Path, _Table]] = {}
        self.tables: dict[int, _Table] = {}
        self.original_open = _Open(vfs.open)
        self.callbacks = (
            _Open(self.guarded(self.open)),
            _Close(self.guarded(self.close)),
            _Write(self.guarded(self.write)),
            _Truncate(self.guarded(self.truncate)),
            _Sync(self.guarded(self.sync)),
        )
        vfs.open = _address(self.callbacks[0])

    @staticmethod
    def guarded(hook: Callable[..., int]) -> Callable[..., int]:
        """A fault of ours is an error of the disk: never silence."""

        def call(*arguments: Any) -> int:
            try:
                return hook(*arguments)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                return _IOERR

        return call

    def open(self, vfs: int, name: int | None, file: int, flags: int, out: int | None) -> int:
        # A name is passed as its address: SQLite keeps that, and reads more behind it.
        result: int = self.original_open(vfs, name, file, flags, out)
        if result or name is None or not flags & _WATCHED:
            return result
        there = _File.from_address(file)
        table = self.table(there.methods)
        there.methods = ctypes.addressof(table.ours)
        path = Path(os.fsdecode(ctypes.string_at(name)))
        self.files[file] = (path, table)
        self.watcher.opened(path)
        return 0

    def table(self, address: int) -> _Table:
        """The methods at ``address`` with ours among them."""
        if address not in self.tables:
            ours = _Methods.from_buffer_copy(_Methods.from_address(address))
            old = _Table(ours, _Close(ours.close), _Write(ours.write), _Truncate(ours.truncate), _Sync(ours.sync))
            _, close, write, truncate, sync = self.callbacks
            ours.close, ours.write = _address(close), _address(write)
            ours.truncate, ours.sync = _address(truncate), _address(sync)
            self.tables[address] = old
        return self.tables[address]

    def close(self, file: int) -> int:
        path, table = self.files.pop(file)
        result = table.close(file)
        self.watcher.closed(path)
        return result

    def write(self, file: int, data: int, size: int, offset: int) -> int:
        path, table = self.files[file]
        written = ctypes.string_at(data, size)
        return self.watcher.write(path, offset, written, lambda: table.write(file, data, size, offset))

    def truncate(self, file: int, size: int) -> int:
        path, table = self.files[file]
        return self.watcher.truncate(path, size, lambda: table.truncate(file, size))

    def sync(self, file: int, flags: int) -> int:
        path, table = self.files[file]
        return self.watcher.sync(path, lambda: table.sync(file, flags))


def _address(callback: Any) -> int:
    return int(ctypes.cast(callback, c_void_p).value or 0)
