#!/usr/bin/env python3
"""Writes docs/coverage.md: which capabilities of the BOLTs are cited where, in the code and in the tests.

A capability's handle is the number of its BOLT and its place in it, ``B2.52``; ``B2.45 to B2.53`` cites all between.
With ``--check`` nothing is written and the exit status says whether the page is up to date.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict

from made_file import ROOT, write_or_check

PAGE = ROOT / "docs" / "coverage.md"
HANDLE = re.compile(r"\bB(1[012]|[0-9])\.([0-9]{2})\b(?:\s*(?:-|to|\N{EN DASH})\s*B\1\.([0-9]{2})\b)?")
TITLES = {
    0: "Introduction",
    1: "Base protocol",
    2: "Peer protocol",
    3: "Transactions",
    4: "Onion routing",
    5: "On-chain handling",
    7: "Gossip",
    8: "Transport",
    9: "Features",
    10: "DNS bootstrap",
    11: "Invoices",
    12: "Offers",
}

Places = dict[tuple[int, int], set[str]]


def citations(folder: str) -> Places:
    """For each handle the files under ``folder`` that cite it."""
    found: Places = defaultdict(set)
    for path in sorted((ROOT / folder).rglob("*.py")):
        for match in HANDLE.finditer(path.read_text(encoding="utf-8")):
            bolt, first = int(match[1]), int(match[2])
            for number in range(first, int(match[3] or first) + 1):
                found[bolt, number].add(str(path.relative_to(ROOT)))
    return found


def page() -> str:
    """The page as text."""
    code, tests = citations("src"), citations("tests")
    lines = [
        "# Which capabilities are cited where",
        "",
        "Made by `scripts/coverage_page.py` from the handles in docstrings and comments; do not edit. A handle that is",
        "missing is not built, or its author forgot to cite it. [spec.md](spec.md) says which text the handles count.",
        "",
    ]
    handles = sorted(code.keys() | tests.keys())
    tested = sum(1 for handle in handles if tests.get(handle))
    lines += [f"{len(handles)} capabilities are cited, {tested} of them by a test.", ""]
    for bolt in sorted({bolt for bolt, _ in handles}):
        lines += [f"## BOLT {bolt}: {TITLES.get(bolt, '')}", "", "| handle | code | tests |", "|---|---|---|"]
        for handle in handles:
            if handle[0] == bolt:
                lines.append(f"| B{bolt}.{handle[1]:02d} | {_shown(code, handle)} | {_shown(tests, handle)} |")
        lines.append("")
    return "\n".join(lines)


def _shown(places: Places, handle: tuple[int, int]) -> str:
    names = sorted(places.get(handle, ()))
    return ", ".join(f"`{name.removeprefix('src/salama/').removeprefix('tests/')}`" for name in names)


if __name__ == "__main__":
    sys.exit(write_or_check(PAGE, page()))
