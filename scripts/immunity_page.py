#!/usr/bin/env python3
"""Writes docs/immunity.md: which published vulnerability is met by which defence, and by which test.

The source is the docstrings of tests/immunity/test_*.py. Each begins with a handle, a name and in brackets where it was
published; then paragraphs that begin ``What failed:``, ``Defence:`` and ``Not covered:``, and others. A file of several
handles has several such blocks, and its tests are named after them (``test_e4_...``). With ``--check`` nothing is
written and the exit status says whether the page is up to date.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from made_file import ROOT, read, write_or_check

PAGE = ROOT / "docs" / "immunity.md"
TESTS = ROOT / "tests" / "immunity"
HEAD = re.compile(r"^([A-K])([0-9]+) (.+?) \((.+)\)$")
CITATION = re.compile(r"\bimmunity ([A-K][0-9]+(?:(?:, | and )[A-K][0-9]+)*)")
PLACE = re.compile(r"\b((?:[a-z_0-9]+/)+[a-z_0-9]+\.py)(?::([A-Za-z_][\w.]*))?")
ELSEWHERE = "## Defences named in the code whose tests are in other rooms"
AREAS = {
    "A": "Opening channels",
    "B": "State machine and parsing",
    "C": "On the chain",
    "D": "Payments and privacy",
    "E": "Gossip",
    "F": "Other inputs",
    "G": "The chain's source",
    "H": "Resources and robustness",
    "I": "Credentials and supply chain",
    "J": "Backups",
    "K": "Open problems",
}


@dataclass
class Entry:
    """One handle in one file."""

    area: str
    number: int
    name: str
    reference: str
    file: str
    paragraphs: dict[str, str]
    also: list[str]
    tests: list[str] = field(default_factory=list)

    @property
    def handle(self) -> str:
        return f"{self.area}{self.number}"

    @property
    def key(self) -> tuple[str, int]:
        return self.area, self.number


def entries() -> list[Entry]:
    """Everything that the tests say of themselves, in order. Raises ValueError for a docstring of another form."""
    found = [entry for path in sorted(TESTS.glob("test_*.py")) for entry in _entries_of(path)]
    return sorted(found, key=lambda entry: entry.key)


def _entries_of(path: Path) -> Iterator[Entry]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    paragraphs = [" ".join(p.split()) for p in (ast.get_docstring(tree) or "").split("\n\n")]
    if not paragraphs or not HEAD.match(paragraphs[0]):
        return
    made: list[Entry] = []
    for paragraph in paragraphs:
        head = HEAD.match(paragraph)
        if head is not None:
            name = str(path.relative_to(ROOT))
            made.append(Entry(head[1], int(head[2]), head[3], head[4], name, {}, []))
            continue
        label, _, text = paragraph.partition(": ")
        if label in ("What failed", "Defence", "Not covered"):
            made[-1].paragraphs[label] = text
        else:
            made[-1].also.append(paragraph)
    tests = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    for entry in made:
        mark = f"test_{entry.handle.lower()}_"
        entry.tests = [name for name in tests if len(made) == 1 or name.startswith(mark)]
        if not entry.tests or not {"What failed", "Defence"} <= entry.paragraphs.keys():
            raise ValueError(f"{entry.file}: {entry.handle} lacks a test, what failed, or the defence")
        yield entry


def dangling(found: list[Entry]) -> list[str]:
    """Places that a defence names and that do not exist."""
    missing = []
    for entry in found:
        for path, name in PLACE.findall(" ".join((*entry.paragraphs.values(), *entry.also))):
            file = ROOT / path if path.startswith("tests/") else ROOT / "src" / "salama" / path
            last = name.rpartition(".")[2]
            if not file.exists() or (last and not re.search(rf"\b{last}\b", file.read_text(encoding="utf-8"))):
                missing.append(f"{entry.handle}: {path}:{name}")
    return missing


def elsewhere() -> dict[str, set[str]]:
    """Files that name a handle as ``immunity X1``, by handle."""
    cited: dict[str, set[str]] = defaultdict(set)
    for folder in ("src", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.parent == TESTS:
                continue
            for match in CITATION.finditer(path.read_text(encoding="utf-8")):
                for handle in re.findall(r"[A-K][0-9]+", match[1]):
                    cited[handle].add(str(path.relative_to(ROOT)).removeprefix("src/salama/"))
    return cited


def _spoken(test: str, handle: str) -> str:
    return test.removeprefix("test_").removeprefix(f"{handle.lower()}_").replace("_", " ")


def page() -> str:
    """The page as text."""
    found, cited = entries(), elsewhere()
    lines = [
        "# Published vulnerabilities, and what keeps them away",
        "",
        "Made by `scripts/immunity_page.py` from the tests in `tests/immunity`; do not edit. Each handle names",
        "something that went wrong in some Lightning node and was published. Where a feature is not built, the test",
        "shows that it is refused. `make test` runs them with small numbers, `make soak` with the full ones, and",
        "`make sabotage` takes defences away to see that tests notice.",
        "",
        f"{len({e.handle for e in found})} handles, {sum(len(e.tests) for e in found)} tests.",
        "",
        "| handle | what | tests |",
        "|---|---|---|",
    ]
    lines += [f"| [{entry.handle}](#{_anchor(entry)}) | {entry.name} | {len(entry.tests)} |" for entry in found]
    lines.append("")
    for area in AREAS:
        group = [entry for entry in found if entry.area == area]
        if not group:
            continue
        lines += [f"## {AREAS[area]}", ""]
        for entry in group:
            lines += [
                f"### {entry.handle}: {entry.name}",
                "",
                f"*{entry.reference}.* {entry.paragraphs['What failed']}",
            ]
            lines += ["", f"**Defence.** {_code(entry.paragraphs['Defence'])}", ""]
            for paragraph in entry.also:
                lines += [_code(paragraph), ""]
            lines += [f"**Tests** in `{entry.file}`:", ""]
            lines += [f"- {_spoken(test, entry.handle)}" for test in entry.tests]
            lines.append("")
            if "Not covered" in entry.paragraphs:
                lines += [f"**Not covered.** {_code(entry.paragraphs['Not covered'])}", ""]
    handles = {entry.handle for entry in found}
    others = sorted((h for h in cited if h not in handles), key=lambda h: (h[0], int(h[1:])))
    if others:
        lines += [
            "## Defences named in the code whose tests are not in this room",
            "",
            "| handle | where |",
            "|---|---|",
        ]
        lines += [f"| {h} | {', '.join(f'`{name}`' for name in sorted(cited[h]))} |" for h in others]
        lines.append("")
    return "\n".join(lines)


def _anchor(entry: Entry) -> str:
    text = f"{entry.handle}: {entry.name}".lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def _code(text: str) -> str:
    """Places in the code as code."""
    return PLACE.sub(lambda match: f"`{match[0]}`", text)


def is_fresh() -> bool:
    """Whether the page says what the tests say."""
    return _is_same(read(PAGE), page())


def _is_same(current: str, wanted: str) -> bool:
    """But for the last table, which follows the whole code and may lag."""
    return current.partition(ELSEWHERE)[0] == wanted.partition(ELSEWHERE)[0]


if __name__ == "__main__":
    sys.exit(write_or_check(PAGE, page(), _is_same))
