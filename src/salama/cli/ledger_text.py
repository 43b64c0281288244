"""The ledger as other programs read it: CSV, and Beancount's plain text.

Beancount's accounts have one of five roots and each part begins with a capital letter or a digit; amounts are satoshis
with three decimals. Balance assertions at the end let `bean-check` prove the node's own sums.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

COLUMNS: Final = ("id", "time", "source", "target", "amount_msat", "cause", "reference")
UNIT: Final = "SAT"


def time_of(at: int) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def csv_lines(lines: Iterable[dict[str, Any]]) -> Iterator[str]:
    """A header, then one line for each of the ledger's; times in UTC."""
    yield _csv(COLUMNS)
    for one in lines:
        time = time_of(one["at"]).strftime("%Y-%m-%dT%H:%M:%SZ")
        yield _csv((one["id"], time, *(one[name] for name in COLUMNS[2:])))


def _csv(fields: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(fields)
    return text.getvalue()


def beancount_lines(lines: Iterable[dict[str, Any]], title: str, sums: dict[str, int] | None = None) -> Iterator[str]:
    """``lines`` oldest first; ``sums`` (msat of each account) only if they are all lines that there are."""
    yield f'option "title" "{_quoted(title)}"'
    yield f'option "operating_currency" "{UNIT}"'
    opened: set[str] = set()
    last = 0
    for one in lines:
        day = time_of(one["at"]).date().isoformat()
        last = max(last, one["at"])
        yield ""
        for account in (one["source"], one["target"]):
            if account not in opened:
                opened.add(account)
                yield f"{day} open {account_name(account)} {UNIT}"
        yield f'{day} * "{_quoted(one["cause"])}"'
        yield f'  time: "{time_of(one["at"]).strftime("%H:%M:%S")}"'
        if one["reference"]:
            yield f'  reference: "{_quoted(one["reference"])}"'
        yield f"  {account_name(one['target'])}  {_sat(one['amount_msat'])} {UNIT}"
        yield f"  {account_name(one['source'])}  {_sat(-one['amount_msat'])} {UNIT}"
    if sums is not None and opened:
        day = (time_of(last).date() + timedelta(days=1)).isoformat()
        yield ""
        for account in sorted(opened):
            yield f"{day} balance {account_name(account)}  {_sat(sums.get(account, 0))} {UNIT}"


def account_name(account: str) -> str:
    """Beancount's name of one of the ledger's accounts."""
    parts = ("assets:" + account if ":" not in account else account).split(":")
    return ":".join("C" + part if len(part) == 64 else part.capitalize() for part in parts)


def _sat(msat: int) -> str:
    whole, rest = divmod(abs(msat), 1000)
    return f"{'-' if msat < 0 else ''}{whole}.{rest:03}"


def _quoted(text: str) -> str:
    return (
        "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
        .replace("\\", "/")
        .replace('"', "'")
    )
