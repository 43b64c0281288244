"""What the kernel saw of a node: its writes and syncs by ``strace``, whatever the node itself says of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

NOTE = re.compile(r'^\d+ +write\(\d+<[^>]*\.moments>, "((?:made|begin|sent)[^"\\]*)\\n"')
WRITE = re.compile(r"^\d+ +pwrite64\(\d+<[^>]*-wal>")
SYNC = re.compile(r"^(\d+) +f(?:data)?sync\(\d+<([^>]*)>(.*)$")
RESUMED = re.compile(r"^(\d+) +<\.\.\. f(?:data)?sync resumed>(.*)$")
DONE = re.compile(r"= 0$")


def can_trace() -> bool:
    """Whether there is an strace that may trace."""
    strace = shutil.which("strace")
    return strace is not None and subprocess.run([strace, "-f", "true"], capture_output=True).returncode == 0


def traced(calls: Path, notes: Path) -> tuple[str, ...]:
    """What Python runs to become an strace that writes to ``calls`` and runs a node that writes to ``notes``."""
    strace = ("strace", "-f", "-y", "-s", "64", "-e", "trace=write,pwrite64,fsync,fdatasync", "-o", str(calls))
    become = f"import os, sys; os.execvp('strace', [*{strace!r}, sys.executable, *sys.argv[1:]])"
    return ("-c", become, "-m", "salama.testing.doomed", "--moments", str(notes), "--")


def moments_in(calls: str) -> Iterator[str]:
    """The moments of ``moments.order_of`` in an strace: the node's notes, but writes and syncs as the kernel did them.

    A write counts when it begins, a sync when it has ended well.
    """
    waiting: dict[str, str] = {}
    for line in calls.splitlines():
        if note := NOTE.match(line):
            yield note[1]
        elif WRITE.match(line):
            yield "write -wal"
        elif sync := SYNC.match(line):
            if sync[3].endswith("<unfinished ...>"):
                waiting[sync[1]] = sync[2]
            elif DONE.search(sync[3]):
                yield f"sync {Path(sync[2]).name}"
        elif resumed := RESUMED.match(line):
            path = waiting.pop(resumed[1])
            if DONE.search(resumed[2]):
                yield f"sync {Path(path).name}"
