"""The double-entry ledger: where the money went, line by line and account by account, and whether it is all there."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from salama.api.method import Method, PageParams, Params, Result

Moment = Annotated[
    str, Meta(description="2026-01-31, 2026-01-31T12:00 (UTC) or unix seconds; empty for all", max_length=40)
]


class LedgerParams(PageParams, frozen=True, kw_only=True):
    since: Annotated[Moment, Meta(description="from this moment on: a day, a time (UTC) or unix seconds")] = ""
    until: Annotated[Moment, Meta(description="until before this moment: a day, a time (UTC) or unix seconds")] = ""
    oldest_first: Annotated[bool, Meta(description="in the order in which it happened")] = False


class LedgerLine(Result, frozen=True, kw_only=True):
    """``amount_msat`` went from ``source`` to ``target``; never zero or less."""

    id: int
    at: int
    """Unix seconds."""
    amount_msat: int
    source: str
    target: str
    cause: str
    reference: str
    """What was booked: ``part:PAYMENT_HASH:NUMBER``, ``invoice:PAYMENT_HASH``, ``tx:TXID:...``; may be empty."""


class Ledger(Result, frozen=True, kw_only=True):
    lines: list[LedgerLine]
    next_cursor: str


class AccountLine(Result, frozen=True, kw_only=True):
    """Incomes and equity are negative: it is from there that money came."""

    account: str
    amount_msat: int


class Accounts(Result, frozen=True, kw_only=True):
    accounts: list[AccountLine]
    """In the order of their names; none that is empty."""
    assets_msat: int
    """Of all accounts, not of this page only; so are the next three."""
    income_msat: int
    expenses_msat: int
    equity_msat: int
    last_line: int
    """Id of the last line that is counted here."""
    next_cursor: str


class LedgerCheckParams(Params, frozen=True, kw_only=True):
    full: Annotated[bool, Meta(description="add up every line again; takes long when there are many")] = False


class LedgerCheck(Result, frozen=True, kw_only=True):
    balanced: bool
    """The ledger holds what our coins and channels hold, to the millisatoshi."""
    accounts: int
    """Accounts that were held against what is there."""
    onchain_msat: int
    channels_msat: int
    pending_msat: int
    """On its way between the two: openings without a block yet (negative), and closes."""
    transfers_msat: int
    """Of HTLCs that are settled on one side only so far."""
    htlcs: int
    """Under way in channels."""
    problems: list[str]


METHODS: tuple[Method, ...] = (
    Method(
        "ledger",
        "Where the money went: double entry, newest first.",
        LedgerParams,
        Ledger,
        aliases=("bkpr-listaccountevents",),
    ),
    Method(
        "ledgeraccounts",
        "What stands in each account of the ledger.",
        PageParams,
        Accounts,
        aliases=("bkpr-listbalances",),
    ),
    Method(
        "ledgercheck",
        "Hold the ledger against the coins, channels and claims that are there.",
        LedgerCheckParams,
        LedgerCheck,
    ),
)
