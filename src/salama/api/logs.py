"""The log: rotated files, one line an event, with what the line is about, and nothing that a stranger could forge.

A line of a stranger's making may hold anything: what is not printable is escaped, and the lines of a traceback are
indented, so that none of them can look like a line of the log's own.
"""

from __future__ import annotations

import asyncio
import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

LOG_NAME = "salama.log"
LOG_BYTES = 10 << 20
LOG_FILES = 5
MAX_LINE = 4000
"""Characters of a message."""


class LineFormatter(logging.Formatter):
    """``TIME LEVEL LOGGER [WHO]: MESSAGE``; who is the task, named after its channel, peer or command."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03d %(levelname)s %(name)s%(about)s: %(escaped)s", "%Y-%m-%dT%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        worker = escaped(_worker())
        record.about = f" [{worker}]" if worker else ""
        message = record.getMessage()
        record.escaped = escaped(message[:MAX_LINE]) + ("..." if len(message) > MAX_LINE else "")
        record.exc_text = None
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        return self._style.format(record)

    def formatException(self, ei: object) -> str:
        return "\n".join("    " + escaped(line) for line in super().formatException(ei).splitlines())  # type: ignore[arg-type]


def _worker() -> str:
    """The name of the task that writes; empty outside of one, and for one without a name of ours."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return ""
    name = task.get_name() if task is not None else ""
    return "" if name.startswith("Task-") else name


def escaped(text: str) -> str:
    """``text`` on one line, everything that is not printable as Python writes it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def log_to(directory: Path, level: str) -> None:
    """Write the log of this process into ``directory``, from ``level`` on."""
    handler = RotatingFileHandler(directory / LOG_NAME, maxBytes=LOG_BYTES, backupCount=LOG_FILES)
    handler.setFormatter(LineFormatter())
    root = logging.getLogger("salama")
    root.addHandler(handler)
    root.setLevel(level.upper())
    root.propagate = False
