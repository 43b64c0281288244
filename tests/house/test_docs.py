"""The documents stay true to the tree: every file, function and link they name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("README.md"))
    if "node_modules" not in page.parts
)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
NAMED = re.compile(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|json|md|sh|patch|lock|toml))(?::+ ?(\w+))?`")
MADE_LATER = {"benchmarks.md"}
"""Pages that a command writes, and that a fresh tree may lack."""
PLACES = (ROOT, ROOT / "src" / "salama", ROOT / "docs", ROOT / "tests")
WORKPLACE = re.compile(r"/work/|/tmp/j\b|\b(?:pull request|issue) #?[0-9]+", re.IGNORECASE)


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text("utf-8")):
        assert (page.parent / target).exists() or Path(target).name in MADE_LATER, target


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_files_and_functions_are_there(page: Path) -> None:
    for name, inside in NAMED.findall(page.read_text("utf-8")):
        found = [place / name for place in PLACES if (place / name).exists()]
        assert found, name
        assert not inside or any(inside in path.read_text("utf-8") for path in found), f"{name}: {inside}"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_nothing_of_a_workplace_is_named(page: Path) -> None:
    assert not WORKPLACE.search(page.read_text("utf-8"))


def test_every_room_stands_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rooms = sorted(path.parent.name for path in (ROOT / "src" / "salama").glob("*/__init__.py"))
    assert len(rooms) > 15
    assert [room for room in rooms if f"| `{room}` |" not in text] == []


def test_every_module_that_the_architecture_names_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE))
    for room, words in rows.items():
        folder = ROOT / "src" / "salama" / room
        if folder.is_dir():
            named = re.findall(r"`([a-z_0-9]+)`", words)
            assert [name for name in named if not list(folder.glob(f"{name}*"))] == [], room


def test_every_decision_stands_in_its_list() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = (folder / "README.md").read_text("utf-8")
    records = sorted(path.name for path in folder.glob("[0-9]*.md"))
    assert records
    assert [name for name in records if f"]({name})" not in listed] == []
