"""The ledger for other programs: nothing is lost, nothing can break out of its field, and Beancount's sums are ours."""

from __future__ import annotations

import csv
import re
from typing import Any

from salama.cli.ledger_text import COLUMNS, account_name, beancount_lines, csv_lines

CHANNEL = "ab" * 32
# Beancount's own grammar of names (its lexer): a root, then parts that begin with a capital letter or a digit.
ACCOUNT = re.compile(r"(Assets|Liabilities|Equity|Income|Expenses)(:[A-Z0-9][A-Za-z0-9-]*)+")


def line(
    number: int, source: str, target: str, msat: int, cause: str = "payment", reference: str = ""
) -> dict[str, Any]:
    return {
        "id": number,
        "at": 1_700_000_000 + number * 40_000,
        "source": source,
        "target": target,
        "amount_msat": msat,
        "cause": cause,
        "reference": reference,
    }


LINES = [
    line(1, "equity:deposits", "assets:onchain", 5_000_000, "deposit", "tx:00:received"),
    line(2, "assets:onchain", f"assets:channels:{CHANNEL}", 4_000_001),
    line(3, f"assets:channels:{CHANNEL}", "transfers", 1_234_567, 'a "quoted", \\ cause\nof two lines', '"'),
    line(4, "transfers", "expenses:fees:onchain:close", 567),
]
SUMS = {
    "equity:deposits": -5_000_000,
    "assets:onchain": 999_999,
    f"assets:channels:{CHANNEL}": 2_765_434,
    "transfers": 1_234_000,
    "expenses:fees:onchain:close": 567,
}


def test_csv_can_be_read_again() -> None:
    rows = list(csv.DictReader("\n".join(csv_lines(LINES)).splitlines(keepends=True)))
    assert len(rows) == len(LINES) and tuple(rows[0]) == COLUMNS
    for row, one in zip(rows, LINES, strict=True):
        assert {name: row[name] for name in COLUMNS if name != "time"} == {
            name: str(one[name]) for name in COLUMNS if name != "time"
        }
    assert rows[0]["time"] == "2023-11-15T09:20:00Z"


def test_every_account_has_a_name_that_beancount_takes() -> None:
    for account in (*SUMS, f"assets:pending:{CHANNEL}", "income:routing", "equity:recovered", "expenses:uneconomic"):
        assert ACCOUNT.fullmatch(account_name(account)), account
    assert account_name("transfers") == "Assets:Transfers"


def postings(text: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in text:
        if posting := re.fullmatch(r"  ([A-Z]\S+)  (-?)(\d+)\.(\d{3}) SAT", one):
            account, sign, whole, rest = posting.groups()
            found[account] = found.get(account, 0) + (-1 if sign else 1) * (int(whole) * 1000 + int(rest))
    return found


def test_beancount_opens_accounts_first_and_asserts_their_sums() -> None:
    text = "\n".join(beancount_lines(LINES, "Salama 02ff", SUMS)).splitlines()
    assert postings(text) == {account_name(name): msat for name, msat in SUMS.items()}
    opened = [one.split()[2] for one in text if " open " in one]
    assert sorted(opened) == sorted(postings(text))
    for account in opened:
        uses = [number for number, one in enumerate(text) if account in one]
        assert " open " in text[uses[0]]
    # The day after the last line, when nothing was booked any more.
    assert "2023-11-17 balance Assets:Transfers  1234.000 SAT" in text
    assert sum(" balance " in one for one in text) == len(SUMS)


def test_no_text_breaks_out_of_its_line() -> None:
    text = "\n".join(beancount_lines(LINES, 'a " title\n2020-01-01 open Assets:Mine')).splitlines()
    assert all(one.count('"') in (0, 2, 4) for one in text)
    assert not any(one.startswith("2020") or one == "of two lines" for one in text)
    assert not any(" balance " in one for one in text), "what is a part of the ledger has no sums to assert"


def test_an_empty_ledger_is_a_file_too() -> None:
    assert list(csv_lines([])) == [",".join(COLUMNS)]
    assert all(one.startswith("option ") for one in beancount_lines([], "Salama", {}))
