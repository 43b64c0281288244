"""The devnet's memory: one append-only file of blocks, mempool transactions and reorg commands.

The consensus library keeps its own files but cannot be told to flush them, so they are scratch, and this file is what a
restart believes. Each record carries its length and a checksum. A process killed in the middle of a write leaves a torn
last record, which the next start cuts off; damage before the last record is reported, never skipped.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from struct import Struct
from typing import Final

MAGIC: Final = b"salama devnet 1\n"
_HEAD: Final = Struct("<IB")
_CHECKSUM: Final = Struct("<I")
_READ_CHUNK: Final = 1 << 20
# Twice what any legal block serialises to.
MAX_PAYLOAD: Final = 8_000_000


class DamagedLog(Exception):
    """The log is not one of ours, or a record before the last one fails its checksum."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"{path}: {reason}")


class Kind(IntEnum):
    """What a record holds."""

    BLOCK = 1  # a whole block that consensus accepted
    MEMPOOL_TX = 2  # a transaction the mempool took
    INVALIDATED = 3  # 32 bytes of block hash
    RECONSIDERED = 4  # 32 bytes of block hash


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record; ``offset`` is where its payload starts in the file."""

    kind: Kind
    payload: bytes
    offset: int


class BlockLog:
    """The open file. One writer, which holds the lock of the data directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._end = os.fstat(self._file).st_size
        if self._end < len(MAGIC):
            # Also a file whose very first write was torn: there is nothing in it to lose.
            self._truncate(0)
            self._write(MAGIC)
        elif os.pread(self._file, len(MAGIC), 0) != MAGIC:
            os.close(self._file)
            raise DamagedLog(path, "not a devnet block log of a version this program reads")

    def replay(self) -> Iterator[LogRecord]:
        """Every whole record from the start; cuts a torn one off the end. Raises DamagedLog.

        To be run to its end once, before the first append.
        """
        at, size = len(MAGIC), self._end
        while at < size:
            head = self._read(at, _HEAD.size)
            if len(head) < _HEAD.size:
                break
            length, kind = _HEAD.unpack(head)
            end = at + _HEAD.size + length + _CHECKSUM.size
            if end > size:
                if length > MAX_PAYLOAD:
                    raise DamagedLog(self._path, f"impossible record length at byte {at}")
                break
            body = self._read(at + _HEAD.size, length + _CHECKSUM.size)
            payload, checksum = body[:length], body[length:]
            if zlib.crc32(payload, zlib.crc32(head)) != _CHECKSUM.unpack(checksum)[0]:
                if end == size:
                    break
                raise DamagedLog(self._path, f"wrong checksum at byte {at}")
            try:
                known = Kind(kind)
            except ValueError:
                raise DamagedLog(self._path, f"unknown record kind {kind} at byte {at}") from None
            yield LogRecord(known, payload, at + _HEAD.size)
            at = end
        if at < size:
            self._truncate(at)

    def append(self, kind: Kind, payload: bytes) -> int:
        """Hands one record to the operating system and returns the offset of its payload.

        No fsync: the log survives the death of this process at any instruction, not the death of the machine.
        """
        head = _HEAD.pack(len(payload), kind)
        offset = self._end + _HEAD.size
        self._write(head + payload + _CHECKSUM.pack(zlib.crc32(payload, zlib.crc32(head))))
        return offset

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes of a payload, as ``append`` and ``replay`` located it."""
        data = self._read(offset, length)
        if len(data) != length:
            raise DamagedLog(self._path, f"shorter than {offset + length} bytes")
        return data

    def close(self) -> None:
        os.close(self._file)

    def _read(self, offset: int, length: int) -> bytes:
        if length <= _READ_CHUNK:
            return os.pread(self._file, length, offset)
        parts: list[bytes] = []
        while length > 0:
            part = os.pread(self._file, min(length, _READ_CHUNK), offset)
            if not part:
                break
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return b"".join(parts)

    def _write(self, data: bytes) -> None:
        view, at = memoryview(data), self._end
        try:
            while view:
                written = os.pwrite(self._file, view, at)
                view, at = view[written:], at + written
        except OSError:
            # A full disk must not leave half a record in front of the next one.
            os.ftruncate(self._file, self._end)
            raise
        self._end = at

    def _truncate(self, size: int) -> None:
        os.ftruncate(self._file, size)
        self._end = size
