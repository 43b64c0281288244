#!/usr/bin/env python3
"""Writes docs/sabotage.md: which promises are broken on purpose, and which tests must notice.

The source is the headers of tests/sabotage/patches. With ``--check`` nothing is written and the exit status says
whether the page is up to date.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from made_file import ROOT, write_or_check

sys.path.insert(0, str(ROOT))

from tests.sabotage.run import Patch, read_patches

PAGE = ROOT / "docs" / "sabotage.md"


def page(patches: list[Patch]) -> str:
    """The page as text."""
    rooms: dict[str, list[Patch]] = defaultdict(list)
    for patch in patches:
        rooms["/".join(Path(patch.files[0]).parts[2:-1]) or "salama"].append(patch)
    lines = [
        "# Promises that are broken on purpose",
        "",
        "Made by `scripts/sabotage_page.py` from the patches in `tests/sabotage`; do not edit. `make sabotage` breaks",
        "each promise in a copy of the tree and demands that the tests beside it turn red; how, says",
        "[the page beside the patches](../tests/sabotage/README.md).",
        "",
        f"{len(patches)} faults.",
    ]
    for room in sorted(rooms):
        lines += ["", f"## {room}", "", "| fault | the promise that it breaks | noticed by |", "|---|---|---|"]
        for patch in rooms[room]:
            tests = "<br>".join(f"`{test.partition('::')[2] or test}`" for test in patch.tests)
            lines.append(f"| {patch.name} | {patch.promise.replace('|', '/')} | {tests} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(write_or_check(PAGE, page(read_patches())))
