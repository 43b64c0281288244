"""Writers that are really killed, and a disk that is really full, each in a process of its own."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from salama.storage import queries
from salama.storage.errors import DataDirectoryInUse
from salama.storage.journal import Journal

# Ten actors; each commit writes two rows that must appear together, and is reported only after it returned.
WRITER = """
import asyncio, resource, sys
from pathlib import Path
from salama.storage.errors import JournalFailed
from salama.storage.journal import Journal
from salama.storage.writes import PutKeyValue

journal = Journal.open(Path(sys.argv[1]))
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))

async def actor(name):
    n = 0
    while True:
        value = b"%d" % n + b"." + bytes(500)
        await journal.commit([PutKeyValue(f"{name}.left", value), PutKeyValue(f"{name}.right", value)])
        sys.stdout.write(f"{name} {n}\\n")
        sys.stdout.flush()
        n += 1

async def main():
    results = await asyncio.gather(*[actor(name) for name in range(10)], return_exceptions=True)
    failed = sum(isinstance(result, JournalFailed) for result in results)
    sys.stdout.write(f"failed {failed}\\n")
    sys.stdout.flush()

print("ready", flush=True)
asyncio.run(main())
"""


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(directory), *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def read_back(directory: Path) -> dict[int, int]:
    """The number that each actor had reached; asserts that both rows of a commit are there or neither."""
    found = {}
    with Journal.open(directory) as journal:
        assert journal.check() == []
        for name in range(10):
            left, right = (
                journal.read_now(lambda c, key=f"{name}.{side}": queries.key_value(c, key))
                for side in ("left", "right")
            )
            assert left == right
            found[name] = -1 if left is None else int(left.partition(b".")[0])
    return found


def reported(lines: list[str]) -> dict[int, int]:
    last = dict.fromkeys(range(10), -1)
    for line in lines:
        name, _, number = line.partition(" ")
        if line.endswith("\n") and name.isdigit():
            last[int(name)] = int(number)
    return last


@pytest.mark.parametrize("seed", range(3))
def test_what_was_reported_as_committed_survives_a_kill(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(2):
        process = start(tmp_path)
        time.sleep(dice.uniform(0.005, 0.2))
        process.kill()
        assert process.stdout is not None
        lines = process.stdout.readlines()
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        said, found = reported(lines), read_back(tmp_path)
        # At most one commit of each actor was on its way when the end came.
        assert all(said[name] <= found[name] <= said[name] + 1 or said[name] == -1 for name in range(10)), (said, found)


def test_a_disk_that_fills_up_stops_everybody_and_keeps_what_was_said(tmp_path: Path) -> None:
    process = start(tmp_path, "1000000")
    assert process.stdout is not None
    lines = process.stdout.readlines()
    process.stdout.close()
    assert process.wait() == 0
    assert lines[-1] == "failed 10\n"
    said, found = reported(lines[:-1]), read_back(tmp_path)
    assert max(said.values()) > 0
    # A commit whose sync failed may be on disk or not; it was not said.
    assert all(said[name] <= found[name] <= said[name] + 1 for name in range(10)), (said, found)


def test_a_second_process_is_turned_away_until_the_first_is_gone(tmp_path: Path) -> None:
    process = start(tmp_path)
    with pytest.raises(DataDirectoryInUse, match=rf"in use by another Salama \(process {process.pid}\)"):
        Journal.open(tmp_path)
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    Journal.open(tmp_path).close()
