"""docs/immunity.md says what the tests of this room say, and names only what exists."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("immunity_page", ROOT / "scripts" / "immunity_page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["immunity_page"] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(script: ModuleType) -> None:
    assert script.is_fresh(), "run scripts/immunity_page.py"


def test_every_defence_that_is_named_exists(script: ModuleType) -> None:
    assert script.dangling(script.entries()) == []


def test_every_file_of_the_room_has_its_handle(script: ModuleType) -> None:
    named = {entry.file for entry in script.entries()}
    assert {str(p.relative_to(ROOT)) for p in script.TESTS.glob("test_*.py")} - named == {"tests/immunity/test_page.py"}
