"""docs/immunity.md says what the tests of this room say, and names only what exists."""

from __future__ import annotations

from pathlib import Path

import immunity_page

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_up_to_date() -> None:
    assert immunity_page.is_fresh(), "run scripts/immunity_page.py"


def test_every_defence_that_is_named_exists() -> None:
    assert immunity_page.dangling(immunity_page.entries()) == []


def test_every_file_of_the_room_has_its_handle() -> None:
    named = {entry.file for entry in immunity_page.entries()}
    assert {str(p.relative_to(ROOT)) for p in immunity_page.TESTS.glob("test_*.py")} - named == {
        "tests/immunity/test_page.py"
    }
