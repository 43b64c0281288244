"""The machine's own figures, without which no other figure means anything."""

from __future__ import annotations

import hashlib
import os
import platform
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from salama.crypto import secp256k1
from salama.crypto.secrets import SecretKey

SIGNATURES: Final = 2000
SYNCS: Final = 300
_PAGE: Final = bytes(4096)


def _microseconds(times: int, work: Callable[[], object]) -> float:
    started = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - started) / times * 1e6


def measure(directory: Path) -> dict[str, Any]:
    """Signatures, verifications and syncs; ``directory`` lies where the databases will."""
    key, digest = SecretKey(hashlib.sha256(b"bench").digest()), hashlib.sha256(b"digest").digest()
    signature, point = secp256k1.sign(key, digest), key.public_key
    path = directory / "syncs"
    with path.open("wb", buffering=0) as file:
        # Written before, as SQLite's log is after its first round: growing a file costs the file system more.
        for _ in range(SYNCS):
            file.write(_PAGE)
        os.fsync(file.fileno())
        file.seek(0)

        def sync() -> None:
            file.write(_PAGE)
            os.fdatasync(file.fileno())

        sync_us = _microseconds(SYNCS, sync)
    path.unlink()
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "sign_us": round(_microseconds(SIGNATURES, lambda: secp256k1.sign(key, digest)), 1),
        "verify_us": round(_microseconds(SIGNATURES, lambda: secp256k1.verify(point, digest, signature)), 1),
        "syncs_per_s": round(1e6 / sync_us),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def cpu_seconds(pid: int) -> float:
    """What all threads of a process have used so far (Linux), to the nanosecond: ticks of 10 ms are too coarse."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except OSError:
            continue  # a thread that ended in between
    return total / 1e9


def resident_kb(pid: int) -> int:
    """Resident memory of a process (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
