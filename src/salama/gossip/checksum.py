"""CRC32C (Castagnoli), by which peers compare updates without sending them (BOLT 7, B7.08; RFC 3720 appendix B.4)."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

_POLYNOMIAL: Final = 0x82F63B78


def _byte_table() -> tuple[int, ...]:
    table = []
    for register in range(256):
        for _ in range(8):
            register = register >> 1 ^ (_POLYNOMIAL if register & 1 else 0)
        table.append(register)
    return tuple(table)


_TABLE: Final = _byte_table()
_COLUMN_TABLE: Final = np.array(_TABLE, np.uint32)


def crc32c(data: bytes) -> int:
    """Checksum of ``data``."""
    return _register(data) ^ 0xFFFFFFFF


def _register(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register = register >> 8 ^ _TABLE[(register ^ byte) & 0xFF]
    return register


def crc32c_rows(prefix: bytes, rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Checksums of ``prefix`` followed by each row of a matrix of bytes: a whole range reply at once."""
    registers = np.full(len(rows), _register(prefix), np.uint32)
    for column in rows.T:
        registers = registers >> np.uint32(8) ^ _COLUMN_TABLE[(registers ^ column) & np.uint32(0xFF)]
    return registers ^ np.uint32(0xFFFFFFFF)
