"""What the ledger's methods do. No decisions are made here."""

from __future__ import annotations

from datetime import UTC, datetime

from salama.api import ledger_schema as schema
from salama.api.area import Area
from salama.api.method import PageParams
from salama.base.machine import CommandRefused
from salama.storage import ledger_check as books
from salama.storage.ledger import ONCHAIN

LAST_MOMENT = 253_402_300_800
"""Unix seconds of the year 10000."""


class LedgerMethods(Area):
    """Where the money went."""

    async def ledger(self, params: schema.LedgerParams) -> schema.Ledger:
        since, until = moment(params.since, 0), moment(params.until, LAST_MOMENT)
        after = place(params.cursor)
        found, end = await self.node.journal.read(
            lambda db: books.lines(db, after, params.limit, since, until, oldest_first=params.oldest_first)
        )
        lines = [
            schema.LedgerLine(
                id=one.id,
                at=one.at,
                amount_msat=one.msat,
                source=one.source,
                target=one.target,
                cause=one.cause,
                reference=one.reference,
            )
            for one in found
        ]
        return schema.Ledger(lines=lines, next_cursor="" if end is None else f"{end[0]}:{end[1]}")

    async def ledgeraccounts(self, params: PageParams) -> schema.Accounts:
        held, last = await self.node.journal.read(lambda db: (books.balances(db), books.last_line(db)))
        names = sorted(name for name in held if name > params.cursor)
        page = names[: params.limit]

        def total(*roots: str) -> int:
            return sum(msat for name, msat in held.items() if name.partition(":")[0] in roots)

        return schema.Accounts(
            accounts=[schema.AccountLine(account=name, amount_msat=held[name]) for name in page],
            assets_msat=total("assets", "transfers"),
            income_msat=-total("income"),
            expenses_msat=total("expenses"),
            equity_msat=-total("equity"),
            last_line=last,
            next_cursor=page[-1] if len(names) > len(page) else "",
        )

    async def ledgercheck(self, params: schema.LedgerCheckParams) -> schema.LedgerCheck:
        found = await self.node.journal.read(lambda db: books.check(db, deep=params.full))
        onchain = sum(one.found for one in found.findings if one.account == ONCHAIN)
        return schema.LedgerCheck(
            balanced=not found.problems,
            accounts=len(found.findings),
            onchain_msat=onchain,
            channels_msat=sum(one.found for one in found.findings) - onchain,
            pending_msat=found.pending,
            transfers_msat=found.transfers,
            htlcs=found.under_way,
            problems=list(found.problems),
        )


def moment(text: str, otherwise: int) -> int:
    """Unix seconds of a day, a time or a number; ``otherwise`` for nothing. Raises CommandRefused."""
    if not text:
        return otherwise
    if text.isascii() and text.isdigit() and len(text) <= 12:
        return int(text)
    try:
        found = datetime.fromisoformat(text)
        return int((found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        raise CommandRefused(
            "bad_time", f"{text!r} is no time.", "Write 2026-01-31, 2026-01-31T12:00 or unix seconds."
        ) from None


def place(cursor: str) -> books.Place | None:
    """Where the last page ended. Raises CommandRefused."""
    if not cursor:
        return None
    at, colon, line = cursor.partition(":")
    if not colon or not all(part.isascii() and part.isdigit() and len(part) <= 18 for part in (at, line)):
        raise CommandRefused("bad_cursor", "This is no cursor of ours.", "Use next_cursor of the last page.")
    return int(at), int(line)
