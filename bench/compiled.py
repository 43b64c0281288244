"""Byte code beside the sources, as an installed package has it.

Where Python is told to write none (``PYTHONDONTWRITEBYTECODE``), each process compiles the whole house again: a third
of what a start costs, and nothing that a user would wait for. What is made here is bound to the content of each source
and not to its date, so that code which changed since is never run.
"""

from __future__ import annotations

import importlib.util
import py_compile
from pathlib import Path
from typing import Final

import salama

SOURCES: Final = Path(salama.__file__).parent
_HEADER: Final = 16
_CHECKED_HASH: Final = (0b11).to_bytes(4, "little")


def compile_sources(sources: Path = SOURCES) -> int:
    """Make what is missing or out of date; how many files that were. What cannot be written is left out."""
    made = 0
    for source in sources.rglob("*.py"):
        cached = Path(importlib.util.cache_from_source(str(source)))
        wanted = importlib.util.MAGIC_NUMBER + _CHECKED_HASH + importlib.util.source_hash(source.read_bytes())
        try:
            with cached.open("rb") as file:
                found = file.read(_HEADER)
        except OSError:
            found = b""
        if found == wanted:
            continue
        try:
            py_compile.compile(str(source), quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
        except OSError:
            continue
        made += 1
    return made
