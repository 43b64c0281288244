"""I8 packages that are not what they were (PyPI: typing errors in names, stolen accounts, 2017 to 2026)

What failed: a package was replaced, or one with a similar name was taken, and ran with the wallet's rights.

Defence: scripts/setup and packaging/Containerfile install what requirements.lock names, at one version each, with its
hash, from wheels that run nothing while they are installed. The core keeps to 25 packages at most.

Not covered: a package that was bad when its hash was taken.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "requirements-test.lock")
PINNED = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^\s;]+)(?: ; [^\\]+)? \\$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}(?: \\)?$")
MAX_CORE = 25


def packages(lock: str) -> dict[str, int]:
    """Names, and how many hashes each has; anything else in the file is an error."""
    found: dict[str, int] = {}
    name = ""
    for line in (ROOT / lock).read_text("utf-8").splitlines():
        if pinned := PINNED.match(line):
            name = pinned[1]
            found[name] = 0
        else:
            assert HASH.match(line) and name, line
            found[name] += 1
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_has_one_version_and_hashes(lock: str) -> None:
    found = packages(lock)
    assert len(found) >= 8
    assert all(found.values()), found


def test_the_core_is_small_and_the_tests_use_the_same() -> None:
    core, test = (packages(lock) for lock in LOCKS)
    assert len(core) <= MAX_CORE, sorted(core)
    lines = [set((ROOT / lock).read_text("utf-8").splitlines()) for lock in LOCKS]
    assert {line for line in lines[0] if PINNED.match(line)} <= lines[1]
    assert core.keys() <= test.keys()


@pytest.mark.parametrize("script", ["scripts/setup", "packaging/Containerfile"])
def test_nothing_is_installed_without_its_hash(script: str) -> None:
    text = (ROOT / script).read_text("utf-8").replace("\\\n", " ")
    installs = [line for line in text.splitlines() if re.search(r"\bpip install\b", line)]
    assert installs
    for line in installs:
        for command in re.findall(r"pip install[^&]*", line):
            offline = "--no-deps" in command and ("--no-index" in command or "-e" in command or "editable" in command)
            assert "--require-hashes" in command or offline, command
