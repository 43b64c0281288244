"""Reading the ledger, and holding it against what is really there: coins, channels, claims (``storage.ledger``).

``check`` reads one snapshot: sums of accounts, open channels and the wallet. What is being settled at that moment shows
as ``transfers`` and as pending amounts; nothing else may differ by a millisatoshi.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Final

from salama.storage import queries
from salama.storage.ledger import (
    CHANNELS,
    ONCHAIN,
    PENDING,
    TRANSFERS,
    channel_account,
    confirmed_coins,
    pending_account,
    worth,
)

_LINES: Final = "SELECT id, at, source, target, msat, cause, coalesce(key, '') FROM ledger WHERE"
# By time, because a clock that was set back makes the order of the ids another one.
NEWEST_FIRST: Final = f"{_LINES} at >= ? AND at < ? AND (at, id) < (?, ?) ORDER BY at DESC, id DESC LIMIT ?"
OLDEST_FIRST: Final = f"{_LINES} at >= ? AND at < ? AND (at, id) > (?, ?) ORDER BY at, id LIMIT ?"
LAST_LINE: Final = "SELECT max(id) FROM ledger"
BALANCES: Final = "SELECT account, msat FROM ledger_balances WHERE msat <> 0 ORDER BY account LIMIT ?"
ONE_BALANCE: Final = "SELECT msat FROM ledger_balances WHERE account = ?"
SUMS: Final = (
    "SELECT account, sum(msat) FROM (SELECT target AS account, msat FROM ledger"
    " UNION ALL SELECT source, -msat FROM ledger) GROUP BY account"
)
MAX_ACCOUNTS: Final = 100_000
_NEWEST: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Line:
    """``msat`` went from ``source`` to ``target``; ``at`` in unix seconds."""

    id: int
    at: int
    source: str
    target: str
    msat: int
    cause: str
    reference: str
    """What was booked, such as the payment's hash or the transaction; empty for most HTLCs, and for what was undone."""


Place = tuple[int, int]
"""Time and id of a line: where a page ended."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One account and what it ought to hold, both in msat."""

    account: str
    ledger: int
    found: int

    @property
    def is_sound(self) -> bool:
        return self.ledger == self.found


@dataclass(frozen=True, slots=True)
class Report:
    """The ledger balances if ``problems`` is empty."""

    findings: tuple[Finding, ...]
    pending: int
    """Msat between coins and channels: fundings under way (negative) and closes."""
    transfers: int
    """Msat of HTLCs that are settled on one side only."""
    under_way: int
    """HTLCs that live in channels."""
    problems: tuple[str, ...]


def lines(
    connection: sqlite3.Connection,
    after: Place | None = None,
    limit: int = 100,
    since: int = 0,
    until: int = _NEWEST,
    *,
    oldest_first: bool = False,
) -> tuple[list[Line], Place | None]:
    """A page of the lines from ``since`` until before ``until`` (unix seconds), newest first unless told otherwise;
    and what to pass as ``after`` for the next page, None at the end.
    """
    limit = max(1, min(limit, queries.MAX_PAGE))
    end = (-1, -1) if oldest_first else (_NEWEST, _NEWEST)
    bounds = (since, until, *(end if after is None else after), limit)
    found = [Line(*row) for row in connection.execute(OLDEST_FIRST if oldest_first else NEWEST_FIRST, bounds)]
    return found, (found[-1].at, found[-1].id) if len(found) == limit else None


def last_line(connection: sqlite3.Connection) -> int:
    """Id of the line that was booked last, 0 if there is none."""
    return int(connection.execute(LAST_LINE).fetchone()[0] or 0)


def balances(connection: sqlite3.Connection) -> dict[str, int]:
    """Msat of every account that is not empty."""
    return dict(connection.execute(BALANCES, (MAX_ACCOUNTS,)).fetchall())


def balance(connection: sqlite3.Connection, account: str) -> int:
    row = connection.execute(ONE_BALANCE, (account,)).fetchone()
    return 0 if row is None else int(row[0])


def check(connection: sqlite3.Connection, *, deep: bool = False) -> Report:
    """Hold the ledger against the database's own channels and coins. ``deep`` also adds up every line again."""
    held = balances(connection)
    wallet = queries.wallet(connection)
    findings = [Finding(ONCHAIN, held.get(ONCHAIN, 0), 0 if wallet is None else int(confirmed_coins(wallet).msat))]
    under_way, live = 0, set()
    for record in queries.open_channels(connection):
        live |= {channel_account(record.channel_id), pending_account(record.channel_id)}
        under_way += len(record.htlcs)
        account = channel_account(record.channel_id)
        expected = 0 if record.restored or record.spend is not None else worth(record.funding.local.spec)
        findings.append(Finding(account, held.get(account, 0), expected))
    problems = [
        f"{one.account} holds {one.ledger:,} msat, there are {one.found:,}" for one in findings if not one.is_sound
    ]
    for account, msat in held.items():
        if account.startswith((CHANNELS, PENDING)) and account not in live:
            problems.append(f"{account} holds {msat:,} msat of a channel that is over")
    if total := sum(held.values()):
        problems.append(f"all accounts together hold {total:,} msat instead of none")
    transfers = held.get(TRANSFERS, 0)
    # What a peer has told us and nobody has taken up is under way too.
    is_quiet = not under_way and not queries.handoffs(connection)
    if transfers and is_quiet and not queries.unfinished_payments(connection):
        problems.append(f"{TRANSFERS} holds {transfers:,} msat while nothing is under way")
    if deep and held != {account: msat for account, msat in connection.execute(SUMS) if msat}:
        problems.append("the sums of accounts are not those of their lines")
    pending = sum(msat for account, msat in held.items() if account.startswith(PENDING))
    return Report(tuple(findings), pending, transfers, under_way, tuple(problems))
