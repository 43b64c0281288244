"""Results as a person reads them: lists as tables, the rest as name and value; amounts in satoshis, times by the clock.

A table shows the columns that fit into the terminal, those that matter most first, and names those that it left out;
``--json`` has everything.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from salama.api.method import Method
from salama.base.amounts import render_amount

TIMES: Final = frozenset({"at", "created", "expires_at", "made_at"})
"""Results in unix seconds."""
LONGEST_TEXT: Final = 40
"""Sentences beyond this are folded; a word never is."""


def show(method: Method, result: dict[str, Any], console: Console | None = None) -> None:
    """Print ``result`` of ``method``."""
    console = console or Console()
    for name, rows in result.items():
        if _is_rows(rows):
            table, left_out = _table(method, name, rows, console.width)
            console.print(table)
            if left_out:
                console.print(f"not shown: {', '.join(map(_label, left_out))} (--json)", style="dim")
    grid = Table.grid(padding=(0, 2))
    for name, value in result.items():
        if not _is_rows(value) and value not in ("", []):
            grid.add_row(f"[bold]{_label(name)}[/]", escape(_text(name, value)))
    if grid.row_count:
        console.print(grid)
    elif empty := [name for name, value in result.items() if value == []]:
        if len(empty) == sum(value != "" for value in result.values()):
            console.print(f"No {_label(empty[0])}.")


def _table(method: Method, name: str, rows: list[dict[str, Any]], width: int) -> tuple[Table, list[str]]:
    """The rows of ``name`` in ``width`` cells, and the columns for which there was no room."""
    told = [c for c in rows[0] if c in method.columns or any(row[c] not in ("", 0, False, None, []) for row in rows)]
    columns = [c for c in method.columns if c in told] + [c for c in told if c not in method.columns]
    for in_short in (False, True):
        cells = {c: [_text(c, row[c], in_short=in_short) for row in rows] for c in columns}
        kept = _that_fit(
            {c: max(*map(cell_len, _label(c).split()), *(_width(c, cell) for cell in cells[c])) for c in columns}, width
        )
        if len(kept) == len(columns):
            break
    table = Table(title=_counted(len(rows), name), title_justify="left", header_style="bold")
    for column in kept:
        is_number = type(rows[0][column]) is int and column not in TIMES
        whole = _is_whole(column)
        table.add_column(_label(column), justify="right" if is_number else "left", overflow="fold", no_wrap=whole)
    for place in range(len(rows)):
        table.add_row(*(escape(cells[c][place]) for c in kept))
    return table, columns[len(kept) :]


def _that_fit(widths: dict[str, int], width: int) -> list[str]:
    """The first columns of ``widths``, at least one, that fit into ``width`` cells beside each other."""
    room, kept = width - 1, list[str]()
    for column, needed in widths.items():
        room -= 3 + needed
        if kept and room < 0:
            break
        kept.append(column)
    return kept


def _width(name: str, text: str) -> int:
    """Cells that ``text`` needs at least: sentences may be folded, with a hash in them too; names and amounts not."""
    longest = max(map(cell_len, text.splitlines()), default=0)
    return longest if _is_whole(name) or " " not in text else min(LONGEST_TEXT, longest)


def _is_whole(name: str) -> bool:
    return name.endswith("_msat") or name in TIMES


def _text(name: str, value: Any, *, in_short: bool = False) -> str:
    if value is None:
        return "any"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return _joined([_text("", one, in_short=in_short) for one in value])
    if isinstance(value, dict):
        return "\n".join(f"{_label(key)}  {_text(key, one, in_short=in_short)}" for key, one in value.items())
    if isinstance(value, int) and name.endswith("_msat"):
        return render_amount(value)
    if isinstance(value, int) and name in TIMES:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value)) if value else "-"
    # Aliases and descriptions come from strangers: no control characters reach the terminal.
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    return shortened(name, text) if in_short else text


def _joined(parts: Sequence[str]) -> str:
    """Sentences stand below each other, names in a row."""
    return ("\n" if any(" " in part for part in parts) else ", ").join(parts)


def shortened(name: str, text: str) -> str:
    """Hashes and keys by their first digits, also those in the name of an outpoint or an account."""
    if len(text) < 64 or " " in text:
        return text
    if name == "channel_id":
        return f"{text[:8]}…{text[-4:]}"  # channels of one transaction differ only at the end
    parts = [f"{part[:10]}…" if len(part) >= 64 else part for part in text.split(":")]
    return ":".join(parts) if any(part.endswith("…") for part in parts) else f"{text[:10]}…"


def _label(name: str) -> str:
    return name.removesuffix("_msat").replace("_", " ")


def _counted(count: int, name: str) -> str:
    label = _label(name)
    return f"{count} {label.removesuffix('s') if count == 1 else label}"


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)
