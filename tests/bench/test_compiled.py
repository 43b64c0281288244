"""Byte code that the measurements make beforehand is never older than its source."""

import os
import subprocess
import sys
from pathlib import Path

from bench.compiled import compile_sources


def says(place: Path) -> str:
    """What a process that writes no byte code itself makes of the module there."""
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(place)}
    return subprocess.run(
        [sys.executable, "-c", "import words"], env=env, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_it_is_made_once_and_a_change_of_the_same_size_and_date_is_seen(tmp_path: Path) -> None:
    source = tmp_path / "words.py"
    source.write_text("print('one')")
    date = source.stat().st_mtime_ns
    assert compile_sources(tmp_path) == 1
    assert compile_sources(tmp_path) == 0
    assert says(tmp_path) == "one"
    source.write_text("print('two')")
    os.utime(source, ns=(date, date))
    assert says(tmp_path) == "two"
    assert compile_sources(tmp_path) == 1
    assert says(tmp_path) == "two"


def test_what_cannot_be_compiled_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "whole.py").write_text("print(1)")
    compile_sources(tmp_path)
    assert compile_sources(tmp_path) <= 1
