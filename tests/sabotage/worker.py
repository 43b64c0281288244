"""Runs named tests in forks of itself, so that what they import from elsewhere is imported once and not for each fault.

    python -m tests.sabotage.worker       in a copy of the tree

It reads a line of JSON for each run (``tests``, ``output``: a file, ``seconds``: most it may take) and answers with one
(``status``: pytest's, null if it was not done in time; ``cpu``: seconds of it and of whatever it started). Nothing of
the tree itself is imported here: each run sees the files as they are at that moment.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, settings

PROFILE: Final = "sabotage"
# The same examples each time, or a fault would be noticed today and not tomorrow; and nobody reads the smallest one.
# And a busy machine must not look like a fault that was noticed.
settings.register_profile(
    PROFILE,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)
ARGUMENTS: Final = ("-rfE", "--tb=line", "--assert=plain", "-p", "no:randomly", f"--hypothesis-profile={PROFILE}")
LOOK_SECONDS: Final = 0.01


def _foreign() -> list[str]:
    """Modules that are not of the tree."""
    here = str(Path.cwd())
    found = [(name, getattr(module, "__file__", None) or "") for name, module in list(sys.modules.items())]
    return [name for name, file in found if file and not file.startswith(here) and name != "__main__"]


def _child(tests: list[str], output: Path) -> None:
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(file, 1)
    os.dup2(file, 2)
    status = 1
    try:
        status = int(pytest.main([*ARGUMENTS, *tests]))
    except BaseException:  # pytest's own end may fail after a test that has left something open
        traceback.print_exc()
    try:
        output.with_suffix(".modules").write_text("\n".join(_foreign()), "utf-8")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _wait(pid: int, seconds: float) -> tuple[int | None, float]:
    """The status (None: it had to be ended) and the seconds of processor time."""
    deadline = time.monotonic() + seconds
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
            _, _, usage = os.wait4(pid, 0)
            return None, usage.ru_utime + usage.ru_stime
        time.sleep(LOOK_SECONDS)


def _learn(output: Path) -> None:
    """Import what the run imported, for the next ones."""
    listed = output.with_suffix(".modules")
    for name in listed.read_text("utf-8").splitlines() if listed.exists() else ():
        if name not in sys.modules:
            try:
                importlib.import_module(name)
            except Exception:  # the run that needs it will say what is wrong
                continue
    listed.unlink(missing_ok=True)


def run(request: dict[str, Any]) -> dict[str, Any]:
    """One run; see the module."""
    output = Path(request["output"])
    gc.freeze()
    pid = os.fork()
    if pid == 0:
        _child(request["tests"], output)
    status, cpu = _wait(pid, request["seconds"])
    _learn(output)
    return {"status": status, "cpu": cpu}


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
