"""The demo's second act on real processes: closes by one side alone, each transaction in words, books that balance."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest
from test_demo import none_left, rest_of, short_path, start_demo

from salama.demo import SCRIPTS
from salama.demo.books.__main__ import _served
from salama.demo.books.check import check
from salama.demo.main import STORIES

__all__ = ["short_path"]

TRANSACTION = re.compile(r"^   (\S.*)  [0-9a-f]{16}…\n((?:     .*\n)+)", re.MULTILINE)
MONEY = re.compile(r"^     (spends|pays|fee) +([\d,]+)", re.MULTILINE)


def play(directory: Path, script: str) -> dict[str, str]:
    """Play it; the transactions by title, each with its lines, after checking that every one adds up."""
    demo = start_demo(directory, "--script", script)
    told = rest_of(demo)
    assert demo.returncode == 0, told
    assert "The books balance to the last satoshi." in told
    assert "So say the nodes' own ledgers" in told
    assert max(len(line) for line in told.splitlines() if "salama.demo.books" not in line) <= 96
    assert none_left(str(directory))
    found = {}
    for title, lines in TRANSACTION.findall(told):
        sums = dict.fromkeys(("spends", "pays", "fee"), 0)
        for what, amount in MONEY.findall(lines):
            sums[what] += int(amount.replace(",", ""))
        assert sums["fee"] > 0 and sums["spends"] == sums["pays"] + sums["fee"], (title, lines)
        assert "deadline" in lines
        found[title] = lines
    return found


def test_scripts_that_are_offered_are_there() -> None:
    assert list(SCRIPTS) == list(STORIES)


def test_a_payment_to_somebody_who_disappears_comes_back(short_path: Path) -> None:
    found = play(short_path / "kept", "offline")
    commitment = next(lines for title, lines in found.items() if title.startswith("Bob's commitment"))
    assert "the HTLC: carol's with the preimage, bob's after block" in commitment
    timeout = found["Bob's HTLC-timeout transaction"]
    assert re.search(r"deadline +block \d+ \(\d+ from now\)", timeout)
    assert {"Carol's own money comes home", "The close that both agreed to"} <= found.keys()


@pytest.mark.slow
def test_a_close_without_the_other_side(short_path: Path) -> None:
    found = play(short_path / "kept", "force-close")
    child = found["A child that pays for its parent, by Alice"]
    assert "alice's anchor" in child and "20.0 for both together" in child
    assert {"Bob's own money comes home", "Alice's own money comes home"} <= found.keys()


@pytest.mark.slow
def test_a_cheat_loses_everything_and_the_books_say_so(short_path: Path) -> None:
    kept = short_path / "kept"
    found = play(kept, "cheat")
    assert any(title.endswith(", revoked") for title in found)
    assert "400,000" in found["The penalty: Alice takes everything"]
    with _served(kept / "chain") as rpc:
        audit = check(kept, rpc)
        assert audit.problems == []
        assert (audit.accounts["alice"].penalty, audit.accounts["bob"].penalty) == (100_000_000, -100_000_000)
        # Without Alice's word that the state was revoked, nothing explains where Bob's money went.
        with sqlite3.connect(kept / "alice" / "salama.sqlite3") as database:
            database.execute(
                "UPDATE events SET fields = replace(fields, 'a revoked', 'a') WHERE name = 'onchain.closed'"
            )
        database.close()
        assert any("owes bob" in problem for problem in check(kept, rpc).problems)
