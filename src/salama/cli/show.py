"""Results as a person reads them: lists as tables, the rest as name and value; amounts in satoshis."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from salama.api.method import Method
from salama.base.amounts import render_amount


def _text(name: str, value: Any) -> str:
    if value is None:
        return "any"
    if name.endswith("_msat") and isinstance(value, int):
        return render_amount(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return escape(", ".join(map(str, value)))
    # Aliases and descriptions come from strangers: no control characters reach the terminal.
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value)))


def _short(name: str, value: Any) -> str:
    text = _text(name, value)
    return text[:10] + "…" if len(text) >= 64 and " " not in text else text


def _label(name: str) -> str:
    return name.removesuffix("_msat").replace("_", " ")


def show(method: Method, result: dict[str, Any]) -> None:
    """Print ``result`` of ``method``."""
    console = Console()
    rest = {name: value for name, value in result.items() if not _is_rows(value)}
    for name, rows in result.items():
        if not _is_rows(rows):
            continue
        table = Table(title=f"{len(rows)} {_label(name)}", title_justify="left", header_style="bold")
        columns = [c for c in rows[0] if any(row[c] not in ("", 0, False, None, []) for row in rows)]
        for column in columns:
            right = column.endswith("_msat") or isinstance(rows[0][column], int)
            table.add_column(_label(column), justify="right" if right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(_short(c, row[c]) for c in columns))
        console.print(table)
    table = Table.grid(padding=(0, 2))
    for name, value in rest.items():
        if value not in ("", []):
            table.add_row(f"[bold]{_label(name)}[/]", _text(name, value))
    console.print(table)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)
