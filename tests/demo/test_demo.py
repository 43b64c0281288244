"""The demo on real processes: played once, audited, audited again after a forgery, interrupted, killed."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from salama.demo.books.__main__ import _served
from salama.demo.books.check import check

SALAMA = (sys.executable, "-m", "salama")
ACTS = ("A chain and four nodes", "Bitcoin", "Channels", "through Bob", "micro-payments", "fail", "killed", "Closing")
PATIENCE = 120
"""Seconds, for a busy machine; the demo itself takes about seven."""


@pytest.fixture
def short_path() -> Iterator[Path]:
    """pytest's own temporary directories can be too long for a Unix socket."""
    made = Path(tempfile.mkdtemp(prefix="sd-", dir="/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def processes_with(text: str) -> list[int]:
    """Living processes whose command line holds ``text``, this one and zombies left aside."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if text.encode() in command:
                found.append(int(entry.name))
    return found


def none_left(text: str, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while processes_with(text):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def start_demo(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [*SALAMA, "demo", "--keep", str(directory), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1)


def rest_of(demo: subprocess.Popen[str]) -> str:
    """What the demo still says, to its end. ``communicate`` would lose what ``readline`` has read beyond its line."""
    assert demo.stdout is not None
    impatience = threading.Timer(PATIENCE, demo.kill)
    impatience.start()
    try:
        with demo.stdout as lines:
            rest = lines.read()
        demo.wait()
    finally:
        impatience.cancel()
    return rest


def books(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "salama.demo.books", str(directory)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_demo_plays_and_its_books_notice_a_single_satoshi(short_path: Path) -> None:
    kept = short_path / "kept"
    began = time.monotonic()
    demo = start_demo(kept, "--payments", "20")
    assert demo.stdout is not None
    first = demo.stdout.readline()
    assert time.monotonic() - began < 5, "first output within five seconds"
    story = first + rest_of(demo)
    assert demo.returncode == 0, story
    assert all(act in story for act in ACTS), story
    assert "temporary_channel_failure" in story and "unknown_destination" in story
    assert "The books balance to the last satoshi." in story
    assert "\x1b" not in story, "plain text when piped"
    assert max(len(line) for line in story.splitlines() if "salama.demo.books" not in line) <= 100
    assert none_left(str(kept))

    _check_forgeries(kept)
    _forge(kept, "invoices", "received_msat", "received_msat > 0", 1000, node="carol")
    again = books(kept)
    assert again.returncode == 1, again.stdout
    assert "The books do not balance." in again.stdout
    assert none_left(str(kept))


FORGERIES = (
    ("alice", "payments", "amount_msat", "status = 'succeeded'", 1000),
    ("alice", "payments", "fee_msat", "fee_msat > 0", -1000),
    ("carol", "invoices", "received_msat", "received_msat > 0", -1000),
    ("bob", "forwards", "msat_in", "status = 'settled'", 1000),
    ("bob", "forwards", "msat_out", "status = 'settled'", -1),
    ("bob", "htlcs", "amount_msat", "side = 1", 1000),
    ("dave", "htlcs", "amount_msat", "side = 0", -1000),
    ("dave", "wallet_transactions", "received_sat", "received_sat > 0", 1),
    ("alice", "wallet_transactions", "spent_sat", "spent_sat > 0", -1),
)


def _check_forgeries(kept: Path) -> None:
    """One satoshi (or a thousandth) moved anywhere is found, and found no more once it is moved back."""
    with _served(kept / "chain") as rpc:
        assert check(kept, rpc).problems == []
        for node, table, column, where, by in FORGERIES:
            _forge(kept, table, column, where, by, node=node)
            assert check(kept, rpc).problems, f"{column} of {node}'s {table} moved by {by} and nobody noticed"
            _forge(kept, table, column, where, -by, node=node)
        _forge_outcome(kept)
        assert any("says" in problem for problem in check(kept, rpc).problems)


def _forge(kept: Path, table: str, column: str, where: str, by: int, *, node: str) -> None:
    """Move an amount in the first row that fits; the amounts are large enough for it to fit afterwards, too."""
    with sqlite3.connect(kept / node / "salama.sqlite3") as db:
        first = f"SELECT rowid FROM {table} WHERE {where} ORDER BY rowid LIMIT 1"
        changed = db.execute(f"UPDATE {table} SET {column} = {column} + ? WHERE rowid = ({first})", (by,)).rowcount
    db.close()
    assert changed == 1


def _forge_outcome(kept: Path) -> None:
    """Bob claims to have failed a payment that he relayed and was paid for."""
    with sqlite3.connect(kept / "bob" / "salama.sqlite3") as db:
        one = "rowid = (SELECT rowid FROM forwards WHERE status = 'settled' LIMIT 1)"
        db.execute(f"UPDATE forwards SET status = 'failed' WHERE {one}")
    db.close()


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        (signal.SIGKILL, -signal.SIGKILL),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
)
def test_interrupted_demo_leaves_no_process_behind(short_path: Path, number: signal.Signals, status: int) -> None:
    kept = short_path / "kept"
    demo = start_demo(kept, "--payments", "20000")
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("2."):
            break
    assert len(processes_with(str(kept))) >= 6, "the demo, the chain and four nodes"
    demo.send_signal(number)
    rest = rest_of(demo)
    assert demo.returncode == status, rest
    assert none_left(str(kept))


def test_directory_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    command = [*SALAMA, "demo", "--keep", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1 and "is not empty" in done.stderr
    assert (tmp_path / "mine").read_text() == "precious"
