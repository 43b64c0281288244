"""A file that a script makes: written anew, or with ``--check`` only held against what it should be."""

from __future__ import annotations

import sys
from collections.abc import Callable
from operator import eq
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def read(file: Path) -> str:
    """Empty if it is not there."""
    return file.read_text(encoding="utf-8") if file.exists() else ""


def write_or_check(file: Path, text: str, is_same: Callable[[str, str], bool] = eq) -> int:
    """The exit status of the script that makes ``file``; ``is_same`` says whether what is there will do."""
    if "--check" not in sys.argv[1:]:
        file.write_text(text, encoding="utf-8")
        return 0
    if is_same(read(file), text):
        return 0
    print(f"{file.relative_to(ROOT)} is not up to date: run scripts/{Path(sys.argv[0]).name}")
    return 1
