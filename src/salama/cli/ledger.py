"""`salama ledger`: where the money went, for people and other programs; its accounts; and whether it is all there."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import click

from salama.api.method import Method
from salama.api.schema import METHODS
from salama.cli.methods import method_command
from salama.cli.options import answer_of, json_option, place_options, wants_json

PAGE = 1000
"""Lines that are asked for at once when all of them are wanted."""
TRIES = 10
"""How often accounts that fill several pages are read again until nothing was booked meanwhile."""


@click.group(invoke_without_command=True)
@click.option("--since", default="", help="From this moment on: 2026-01-31, 2026-01-31T12:00 (UTC) or unix seconds.")
@click.option("--until", default="", help="Until before this moment.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(("table", "csv", "beancount")),
    default="table",
    show_default=True,
    help="A table shows one page, newest first; the others show everything, oldest first.",
)
@click.option("--limit", type=click.IntRange(1, PAGE), default=100, show_default=True, help="Lines of a page.")
@click.option("--cursor", default="", help="Where the last page ended (its next cursor).")
@place_options
@json_option
@click.pass_context
def ledger(
    context: click.Context,
    since: str,
    until: str,
    format_: str,
    limit: int,
    cursor: str,
    directory: str | None,
    network: str,
    json_: bool,
) -> None:
    """Where the money went: each amount from one account to another.

    \b
    salama ledger --since 2026-01-01 --until 2027-01-01
    salama ledger --format csv > ledger.csv
    salama ledger --format beancount > ledger.beancount
    salama ledger accounts
    salama ledger check
    """
    if context.invoked_subcommand is not None:
        return
    asked = _Asked(directory, network, json_ or (format_ == "table" and wants_json(json_)))
    period = {"since": since, "until": until}
    if format_ == "table":
        page = asked.call("ledger", **period, limit=limit, cursor=cursor)
        if asked.as_json:
            click.echo(json.dumps(page, indent=2))
        else:
            _show(page)
        return
    from salama.cli.ledger_text import beancount_lines, csv_lines

    if format_ == "csv":
        text = csv_lines(asked.lines(period))
    else:
        last, sums = asked.sums()
        # What was booked since the sums were read is left for the next time.
        lines = (line for line in asked.lines(period) if line["id"] <= last)
        title = f"Salama {asked.call('getinfo')['node_id']}"
        text = beancount_lines(lines, title, None if since or until else sums)
    for line in text:
        click.echo(line)


class _Asked:
    """The node that is asked."""

    def __init__(self, directory: str | None, network: str, as_json: bool) -> None:
        self._directory, self._network, self.as_json = directory, network, as_json

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        answer: dict[str, Any] = answer_of(self._directory, self._network, self.as_json, method, params)
        return answer

    def lines(self, period: dict[str, str]) -> Iterator[dict[str, Any]]:
        cursor = ""
        while True:
            page = self.call("ledger", **period, oldest_first=True, limit=PAGE, cursor=cursor)
            yield from page["lines"]
            if not (cursor := page["next_cursor"]):
                return

    def sums(self) -> tuple[int, dict[str, int] | None]:
        """The last line that is counted, and the accounts; None for them if they do not hold still."""
        last = -1
        for _ in range(TRIES):
            cursor, seen, found = "", set[int](), dict[str, int]()
            while True:
                page = self.call("ledgeraccounts", limit=PAGE, cursor=cursor)
                seen.add(page["last_line"])
                found |= {one["account"]: one["amount_msat"] for one in page["accounts"]}
                if not (cursor := page["next_cursor"]):
                    break
            last = max(seen)
            if len(seen) == 1:
                return last, found
        return last, None


def _show(page: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from salama.base.amounts import render_amount
    from salama.cli.ledger_text import time_of
    from salama.cli.show import shortened

    console = Console()
    if not page["lines"]:
        console.print("No lines.")
        return
    table = Table(header_style="bold", box=None, pad_edge=False)
    for column in ("time (UTC)", "amount", "from → to", "for"):
        table.add_column(
            column, justify="right" if column == "amount" else "left", no_wrap=column != "for", overflow="fold"
        )
    for one in page["lines"]:
        time = time_of(one["at"]).strftime("%Y-%m-%d %H:%M:%S")
        way = f"{shortened('account', one['source'])}\n→ {shortened('account', one['target'])}"
        table.add_row(time, render_amount(one["amount_msat"]), way, one["cause"])
    console.print(table)
    if page["next_cursor"]:
        console.print(f"more: --cursor {page['next_cursor']}")


def _named(name: str, method: Method) -> click.Command:
    command = method_command(method)
    command.name = name
    return command


ledger.add_command(_named("accounts", METHODS["ledgeraccounts"]))


@ledger.command()
@click.option("--full", is_flag=True, help="Add up every line again; takes long when there are many.")
@place_options
@json_option
def check(full: bool, directory: str | None, network: str, json_: bool) -> None:
    """Hold the ledger against the coins, channels and claims that are there, to the millisatoshi.

    The exit status is 1 if anything differs.
    """
    from salama.cli.show import show

    asked = _Asked(directory, network, wants_json(json_))
    found = asked.call("ledgercheck", full=full)
    if asked.as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        show(METHODS["ledgercheck"], found)
    sys.exit(int(not found["balanced"]))


COMMANDS = (ledger,)
