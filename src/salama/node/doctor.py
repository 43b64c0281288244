"""`salama doctor`: what a node needs from the machine that it runs on, looked at one by one, and changed nowhere.

It works beside a running node and where there is none yet. What needs the Bitcoin network is in ``doctor_chain``.
"""

from __future__ import annotations

import fcntl
import os
import re
import resource
import socket
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Final

from salama.base.machine import CommandRefused
from salama.node.config import FILE_NAME, Config
from salama.node.seed import FILE_NAME as SEED_NAME
from salama.node.seed import read_file as read_seed
from salama.node.seed_file import Sealed
from salama.storage.backup import BACKUP_NAME
from salama.storage.database import DATABASE_NAME, open_reader
from salama.storage.directory import LOCK_NAME
from salama.storage.errors import StorageFault
from salama.storage.schema import SCHEMA_VERSION

OLDEST_SQLITE: Final = (3, 37, 0)
"""Before it, a table cannot be STRICT."""
LITTLE_SPACE: Final = 1 << 30
NO_SPACE: Final = 100 << 20
SLOW_SYNC: Final = 0.05
"""Seconds: each hop of a payment waits for a few syncs."""
SYNCS: Final = 15
FEW_FILES: Final = 1024
"""Open files: a socket for each peer, and what is needed besides."""
NETWORK_FILE_SYSTEMS: Final = frozenset(("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph"))
FIRST_DAY: Final = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""No machine that runs this can be earlier."""


class Verdict(Enum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what was seen, and what to do about it unless it is well."""

    check: str
    verdict: Verdict
    seen: str
    remedy: str = ""


def _ok(check: str, seen: str) -> Finding:
    return Finding(check, Verdict.OK, seen)


def _warn(check: str, seen: str, remedy: str) -> Finding:
    return Finding(check, Verdict.WARN, seen, remedy)


def _fail(check: str, seen: str, remedy: str) -> Finding:
    return Finding(check, Verdict.FAIL, seen, remedy)


def look_at_program() -> Iterator[Finding]:
    """Python, SQLite, the libraries, and whether the curve computes."""
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield _ok("python", version)
    else:
        yield _fail("python", version, "Use Python 3.11, 3.12 or 3.13.")
    if sqlite3.sqlite_version_info >= OLDEST_SQLITE:
        yield _ok("sqlite", sqlite3.sqlite_version)
    else:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        yield _fail("sqlite", sqlite3.sqlite_version, f"Use a Python that comes with SQLite {oldest} or later.")
    yield _libraries()
    yield _curve()


def _libraries() -> Finding:
    try:
        wanted = [one for one in metadata.requires("salama") or () if "extra ==" not in one]
    except metadata.PackageNotFoundError:
        return _warn("libraries", "this Salama is not installed as a package", "Install it with pip.")
    missing, versions = [], []
    for name in (re.match(r"[A-Za-z0-9._-]+", one) for one in wanted):
        assert name is not None
        try:
            versions.append(f"{name.group()} {metadata.version(name.group())}")
        except metadata.PackageNotFoundError:
            missing.append(name.group())
    if missing:
        return _fail("libraries", f"missing: {', '.join(missing)}", "Install Salama again.")
    return _ok("libraries", ", ".join(versions))


def _curve() -> Finding:
    try:
        from salama.crypto import secp256k1

        secret, digest = bytes(31) + b"\x01", b"\x07" * 32
        key = secp256k1.public_key(secret)
        if secp256k1.verify(key, digest, secp256k1.sign(secret, digest)):
            return _ok("curve", "signs and verifies")
        return _fail("curve", "a signature of its own does not verify", "Install Salama again; test the memory.")
    except Exception as error:
        return _fail("curve", f"{type(error).__name__}: {error}", "Install Salama again.")


def look_at_directory(directory: Path) -> Iterator[Finding]:
    """Who may read it, the disk below, and how long a sync takes."""
    if not directory.exists():
        yield _warn("directory", f"{directory} is not there yet", "The first start makes it.")
    elif not directory.is_dir():
        yield _fail("directory", f"{directory} is no directory", "Choose another one with --dir.")
        return
    else:
        yield _permissions(directory)
    nearest = next(path for path in (directory, *directory.parents) if path.is_dir())
    kind = _file_system(nearest)
    if kind in NETWORK_FILE_SYSTEMS:
        yield _fail("file system", kind, "Use a disk of this machine: locks and syncs over a network lie.")
    elif kind:
        yield _ok("file system", kind)
    found = os.statvfs(nearest)
    free = found.f_bavail * found.f_frsize
    words = f"{free / (1 << 30):.1f} GiB free"
    if free < NO_SPACE:
        yield _fail("disk space", words, "Make room: the node stops when it cannot write.")
    elif free < LITTLE_SPACE:
        yield _warn("disk space", words, "Make room soon.")
    else:
        yield _ok("disk space", words)
    yield _sync_speed(nearest)


def _permissions(directory: Path) -> Finding:
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        return _fail("directory", f"{directory} cannot be written", "Give it to the user who runs the node.")
    if directory.stat().st_uid != os.geteuid():
        return _warn("directory", f"{directory} belongs to somebody else", "Run this as the user who runs the node.")
    secret = [directory / name for name in (SEED_NAME, DATABASE_NAME, FILE_NAME)]
    open_files = [path for path in secret if path.exists() and path.stat().st_mode & 0o077]
    if open_files and directory.stat().st_mode & 0o077:
        names = " ".join(map(str, open_files))
        return _fail("directory", f"others on this machine can read {names}", f"chmod 600 {names}")
    if directory.stat().st_mode & 0o077:
        return _warn("directory", f"others on this machine can look into {directory}", f"chmod 700 {directory}")
    return _ok("directory", f"{directory}, private")


def _file_system(path: Path) -> str:
    """Kind of the file system below ``path``; empty where that is not told."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text("utf-8", "replace").splitlines()]
    except OSError:
        return ""
    real = path.resolve()
    below = [(where, kind) for where, kind in mounts if real.is_relative_to(where.encode().decode("unicode_escape"))]
    return max(below, key=lambda mount: len(mount[0]))[1] if below else ""


def _sync_speed(directory: Path) -> Finding:
    took = []
    try:
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".salama-doctor") as file:
            for _ in range(SYNCS):
                file.write(bytes(4096))
                file.flush()
                started = time.perf_counter()
                os.fsync(file.fileno())
                took.append(time.perf_counter() - started)
    except OSError as error:
        return _fail("disk sync", f"{directory}: {error.strerror}", "The node must be able to write there.")
    median = statistics.median(took)
    words = f"{median * 1000:.1f} ms, worst {max(took) * 1000:.0f} ms"
    if median > SLOW_SYNC:
        return _warn("disk sync", words, "Use an SSD: every payment waits for the disk several times.")
    return _ok("disk sync", words)


def look_at_machine() -> Iterator[Finding]:
    """Clock and limits."""
    now = time.time()
    shown = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if now < FIRST_DAY:
        yield _fail("clock", shown, "Set the clock: invoices and gossip carry times.")
    else:
        yield _ok("clock", shown)
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < FEW_FILES:
        yield _warn("open files", f"at most {files}", f"ulimit -n {max(FEW_FILES, min(most, 4096))}")
    else:
        yield _ok("open files", f"at most {files}")


def look_at_data(directory: Path) -> Iterator[Finding]:
    """The words, the database, and who uses them."""
    if not directory.is_dir():
        return
    yield _seed(directory)
    yield _lock(directory)
    path = directory / DATABASE_NAME
    if not path.exists():
        yield _warn("database", "not there yet", "The first start makes it.")
        return
    yield _database(path)


def _seed(directory: Path) -> Finding:
    if not (directory / SEED_NAME).exists():
        if (directory / DATABASE_NAME).exists():
            return _fail("seed", f"{SEED_NAME} is missing", "Put it back from your backup before you start the node.")
        return _warn("seed", "not there yet", "The first start makes it; `salama init` restores one.")
    try:
        sealed = isinstance(read_seed(directory), Sealed)
    except CommandRefused as refused:
        return _fail("seed", refused.reason, refused.remedy)
    except OSError as error:
        return _fail("seed", f"{error.filename}: {error.strerror}", "Let the user who runs the node read it.")
    return _ok("seed", "sealed under a passphrase" if sealed else "there, in the clear")


def held_by(directory: Path) -> int | None:
    """Process that runs a node on ``directory``, 0 if it is not told, None if nobody does."""
    try:
        descriptor = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # Shared: two doctors do not disturb each other, and for an instant a start would wait no longer than for us.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        text = os.pread(descriptor, 20, 0).strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(descriptor)
    return None


def _lock(directory: Path) -> Finding:
    holder = held_by(directory)
    return _ok(
        "process", "no node runs here" if holder is None else f"a node runs here (process {holder or 'unknown'})"
    )


def _reader(path: Path) -> sqlite3.Connection:
    log = path.with_name(f"{path.name}-wal")
    if log.exists():  # a node runs, or ended without folding its log
        return open_reader(path)
    # Else an ordinary reader would leave an empty log behind.
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)


def _database(path: Path) -> Finding:
    try:
        reader = _reader(path)
        try:
            (version,) = reader.execute("PRAGMA user_version").fetchone()
            found = [str(row[0]) for row in reader.execute("PRAGMA quick_check(3)")]
        finally:
            reader.close()
    except (StorageFault, sqlite3.Error) as fault:
        return _fail("database", str(fault), "Do not delete it; see `salama recover` and your copies.")
    if version > SCHEMA_VERSION:
        seen = f"written by a newer Salama (schema {version}, this one knows up to {SCHEMA_VERSION})"
        return _fail("database", seen, "Use that version.")
    if found != ["ok"]:
        return _fail("database", "; ".join(found)[:300], "Do not delete it; see `salama recover` and your copies.")
    size = path.stat().st_size / (1 << 20)
    older = "" if version == SCHEMA_VERSION else f", schema {version} becomes {SCHEMA_VERSION} at the next start"
    return _ok("database", f"sound, {size:.1f} MiB{older}")


def look_at_backup(config: Config) -> Finding:
    """The backup of the channels, and whether a copy of it is elsewhere."""
    path = config.directory / BACKUP_NAME
    try:
        age = time.time() - path.stat().st_mtime
    except OSError:
        return _warn("backup", f"{path.name} is not there", "The node writes it at its next start.")
    seen = f"{path.name} was written {age / 3600:.0f} hours ago"
    missing = [copy for copy in config.backup_copies if not copy.exists()]
    if missing:
        return _warn("backup", f"{missing[0]} is not there", "Plug in the disk, or change backup_copies.")
    if not config.backup_copies:
        return _warn("backup", f"{seen}, on this disk only", "Name a place on another disk in backup_copies.")
    return _ok("backup", f"{seen}; {len(config.backup_copies)} copies")


def look_at_port(config: Config, running: bool) -> Finding:
    """Whether peers can come in. From inside nobody can tell whether a router lets them."""
    where = config.listen
    if where is None:
        return _warn("port", "listens to nobody", "Peers can then not connect to you; set listen if they should.")
    try:
        if running:
            with socket.create_connection((where.host, where.port), 3):
                pass
        else:
            family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((where.host, where.port))
    except OSError as error:
        reason = f"{where}: {error.strerror or error}"
        if running:
            remedy = "Was the node that runs here started with other settings than these?"
            return _fail("port", f"{where} does not answer: {error.strerror or error}", remedy)
        return _fail("port", reason, "Choose another with listen, or end what uses it.")
    seen = f"{where} {'answers' if running else 'is free'}"
    if where.host in ("127.0.0.1", "::1", "localhost"):
        return _warn("port", f"{seen}, for this machine only", "Set listen to 0.0.0.0:PORT for peers from elsewhere.")
    return _ok("port", f"{seen}; whether a router lets peers in cannot be seen from here")
