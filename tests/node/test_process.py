"""A node among other processes: what it tells of its start, and how it ends, also when it does not want to."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from salama.api.logs import LOG_NAME, LineFormatter, log_to
from salama.api.process import HURRIED, notify
from salama.testing.network import LocalNetwork

STUBBORN = """
import asyncio, os, sys
from salama.api import process
process.STOP_SECONDS = float(sys.argv[1])
async def main():
    process.stop_on_signals(lambda: print("asked", flush=True))
    print("ready", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def stubborn(seconds: float) -> subprocess.Popen[str]:
    """A process that never stops in good order."""
    command = [sys.executable, "-c", STUBBORN, str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_the_second_signal_ends_at_once() -> None:
    with stubborn(60) as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n"
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == HURRIED


def test_a_stop_that_takes_too_long_ends_at_once() -> None:
    with stubborn(0.05) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == HURRIED


def test_a_service_manager_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    notify("READY=1")  # there is none
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = f"{directory}/notify"
        manager.bind(path)
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"
        monkeypatch.setenv("NOTIFY_SOCKET", f"{directory}/gone")
        notify("READY=1")  # is no reason to fail
        monkeypatch.setenv("NOTIFY_SOCKET", "neither absolute nor abstract")
        notify("READY=1")


def test_the_log_tells_the_steps_of_the_start_and_of_the_end(network: LocalNetwork) -> None:
    node = network.start("stepwise")
    assert network.stop(node) == 0
    said = node.log()
    places = [said.index(step) for step in ("asking the chain", "channels in place", "reading the chain", "ready: ")]
    assert places == sorted(places)
    assert said.index("SIGTERM: stopping") < said.index("salama.daemon: stopped")
    assert node.complaints() == ""
    mode = (node.directory / LOG_NAME).stat().st_mode & 0o777
    assert mode == 0o600
    assert node.directory.stat().st_mode & 0o777 == 0o700


def line(message: str, *args: object, fault: BaseException | None = None) -> str:
    exc_info = (type(fault), fault, fault.__traceback__) if fault is not None else None
    record = logging.LogRecord("salama.test", logging.INFO, "here.py", 1, message, args, exc_info)
    return LineFormatter().format(record)


def test_a_stranger_cannot_forge_a_line() -> None:
    forged = "hello\n2026-01-01T00:00:00.000 INFO salama.node: all is well\x1b[2J\u202e"
    said = line("%s says: %s", "peer", forged)
    assert said.isprintable()
    assert "\\n2026" in said and "\\x1b" in said and "\\u202e" in said
    said = line("failed", fault=ValueError(forged))
    first, *rest = said.splitlines()
    assert first.endswith("failed")
    assert rest
    assert all(one.startswith("    ") and one.isprintable() for one in rest)
    assert len(line("%s", "x" * 100_000)) < 5_000


def test_a_line_names_the_task_that_wrote_it() -> None:
    async def play() -> list[str]:
        async def work() -> str:
            return line("done")

        named = asyncio.create_task(work(), name="channel 0011aabb")
        return [await named, await asyncio.create_task(work())]

    named, unnamed = asyncio.run(play())
    assert "salama.test [channel 0011aabb]: done" in named
    assert "salama.test: done" in unnamed
    assert "salama.test: done" in line("done")


def test_the_log_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from salama.api import logs

    monkeypatch.setattr(logs, "LOG_BYTES", 2000)
    monkeypatch.setattr(logs, "LOG_FILES", 2)
    root = logging.getLogger("salama")
    before = root.handlers[:], root.level, root.propagate
    log_to(tmp_path, "info")
    try:
        for n in range(200):
            root.info("line %d", n)
    finally:
        for handler in root.handlers[len(before[0]) :]:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(before[1])
        root.propagate = before[2]
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == [LOG_NAME, f"{LOG_NAME}.1", f"{LOG_NAME}.2"]
    assert all(path.stat().st_size <= 2000 for path in tmp_path.iterdir())
    assert "line 199" in (tmp_path / LOG_NAME).read_text()
