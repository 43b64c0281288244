"""How a demo looks: numbered acts, calm sentences, plain text when nobody watches on a terminal."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from salama.demo.books.statement import WIDTH, make_console
from salama.demo.traces import Spoken
from salama.demo.transactions import Told

_INDENT: Final = "   "
_COLOURS: Final = {"alice": "magenta", "bob": "cyan", "carol": "yellow", "dave": "blue"}


class Stage:
    """Prints the story and keeps its clock."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or make_console()
        self.console.width = min(self.console.width, WIDTH)
        self._began = time.monotonic()
        self._act = 0

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def title(self, text: str) -> None:
        self.console.print(f"[bold]{escape(text)}[/]")

    def act(self, title: str) -> None:
        """Begin the next act."""
        self._act += 1
        self.console.print()
        self.console.print(f"[bold]{self._act}. {escape(title)}[/]  [dim]{self.seconds:.1f} s[/]")

    def say(self, text: str) -> None:
        """A paragraph, wrapped and indented; ``text`` may hold markup."""
        for line in Text.from_markup(text).wrap(self.console, self.console.width - len(_INDENT)):
            line.rstrip()
            self.console.print(Text(_INDENT) + line)

    def facts(self, rows: Iterable[tuple[str, ...]]) -> None:
        """Lines in columns."""
        grid = Table.grid(padding=(0, 2, 0, 0))
        for row in rows:
            grid.add_row("   ", *(self.name(cell) if cell in _COLOURS else cell for cell in row))
        self.console.print(grid)

    def spoken(self, breaths: list[Spoken]) -> None:
        """A conversation, with the time since its first message."""
        if breaths:
            start = breaths[0].at
            self.facts(
                (
                    f"[dim]{(one.at - start) * 1000:4.0f} ms[/]",
                    f"{self.name(one.sender)} → {self.name(one.receiver)}",
                    ", ".join(one.messages),
                )
                for one in breaths
            )

    def transaction(self, told: Told) -> None:
        """One transaction: what it is, what it spends and pays, its fee, its deadline."""
        self.console.print(f"{_INDENT}[bold]{escape(told.title)}[/]  [dim]{told.txid[:16]}…[/]")
        grid = Table.grid(padding=(0, 2, 0, 0))
        for style, justify in (("", "left"), ("dim", "left"), ("", "right"), ("", "left")):
            grid.add_column(style=style, justify=justify)  # type: ignore[arg-type]
        for line in told.lines:
            grid.add_row("   ", line.label, f"{line.sat:,}", self._coloured(line.text))
        grid.add_row("   ", "fee", f"{told.fee:,}", told.rate)
        if told.deadline:
            grid.add_row("   ", "deadline", "", self._coloured(told.deadline))
        self.console.print(grid)

    def command(self, command: str) -> None:
        """What somebody would type."""
        self.console.print(f"{_INDENT}  [dim]$[/] {escape(command)}", soft_wrap=True)

    def quote(self, lines: Iterable[str]) -> None:
        """What a node says, line by line."""
        grid = Table.grid(padding=(0, 1, 0, 0))
        for line in lines:
            grid.add_row("    ", "[dim]·[/]", escape(line))
        self.console.print(grid)

    def _coloured(self, text: str) -> str:
        for name in _COLOURS:
            text = re.sub(rf"\b{name}\b", self.name(name), text)
        return text

    @staticmethod
    def name(name: str) -> str:
        """A node's name in its colour."""
        colour = _COLOURS.get(name)
        return f"[{colour}]{name}[/]" if colour else escape(name)
