"""The closing table: each node's way from its first coins to its last, and the verdict."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.table import Table

from salama.demo.books.accounts import Audit
from salama.demo.books.figures import MSAT, render_msat

WIDTH: Final = 96
FULL_TABLE: Final = 92
"""Columns from which on there is room for the sums of each row."""
MAX_PROBLEMS: Final = 20
"""Discrepancies shown; the rest is counted."""

_ROWS: Final[tuple[tuple[str, str, int], ...]] = (
    ("on chain before", "mined", 1),
    ("payments received", "received", 1),
    ("payments sent", "sent", -1),
    ("routing fees earned", "routing_earned", 1),
    ("routing fees paid", "routing_paid", -1),
    ("miner, for opening", "funding_fees", -1),
    ("miner, for closing", "closing_fees", -1),
    ("miner, for claiming", "claim_fees", -1),
    ("miner, by rounding", "rounded", -1),
    ("penalties", "penalty", 1),
    ("anchors left behind", "left", -1),
)
"""Label, field of an account, and whether it adds or takes away. Rows of nothing but zeros are left out."""


def make_console() -> Console:
    """Plain when piped, and then as wide as the whole table."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    return console


def show(found: Audit, console: Console) -> None:
    """Print the table, the sums that concern everybody, and the verdict."""
    console.print()
    console.print(_table(found, with_sums=console.width >= FULL_TABLE))
    console.print()
    fees = sum(a.miner for a in found.accounts.values()) // MSAT
    nodes = sum(a.final for a in found.accounts.values()) // MSAT
    failed = f" ({found.failed_payments} more failed and cost nothing)" if found.failed_payments else ""
    holders, held = "Nodes and miner", nodes + found.miner_sat
    if found.left_sat:
        holders, held = "Nodes, miner and leftovers", held + found.left_sat
    for line in (
        f"The miner received {fees:,} sat in fees.",
        f"{holders} hold {held:,} sat, the UTXO set {found.supply_sat:,} sat.",
        "",
        f"{found.payments:,} payment{'s' * (found.payments != 1)}{failed}, {found.chain_txs} chain transactions.",
    ):
        console.print(f"   {line}" if line else "")
    if not found.problems:
        console.print("   [bold green]The books balance to the last satoshi.[/]")
        return
    for problem in found.problems[:MAX_PROBLEMS]:
        console.print(f"   - {problem}", markup=False)
    if len(found.problems) > MAX_PROBLEMS:
        console.print(f"   - and {len(found.problems) - MAX_PROBLEMS} more")
    console.print("   [bold red]The books do not balance.[/]")


def _table(found: Audit, *, with_sums: bool) -> Table:
    names = list(found.accounts)
    accounts = list(found.accounts.values())
    table = Table(box=None, padding=(0, 0, 0, 1), pad_edge=False, header_style="bold underline")
    table.add_column("   satoshis", no_wrap=True)
    for name in (*names, "together") if with_sums else names:
        table.add_column(name, justify="right", no_wrap=True)

    def add(label: str, values: list[int], *, signed: bool = False, style: str = "") -> None:
        shown = [*values, sum(values)] if with_sums else values
        table.add_row(f"   {label}", *(render_msat(value, signed=signed) for value in shown), style=style)

    for number, (label, name, sign) in enumerate(_ROWS):
        values = [sign * getattr(account, name) for account in accounts]
        if number == 0 or any(values):
            add(label, values, signed=number > 0)
    add("so it should be", [account.expected for account in accounts], style="bold")
    add("on chain after", [account.final for account in accounts], style="bold")
    off = [account.final - account.expected for account in accounts]
    add("difference", off, style="bold red" if any(off) else "green")
    return table
