"""A budget for lines that strangers make us write: who can fill a log can fill a disk (immunity H3)."""

from __future__ import annotations

import logging
from collections.abc import Callable

LINES_PER_MINUTE = 60
"""Of all peers together: enough to see what is going on, and under 30 MB a day."""


class QuietLog:
    """Writes so many lines a minute and counts the rest."""

    def __init__(self, log: logging.Logger, now: Callable[[], float], lines: int = LINES_PER_MINUTE) -> None:
        """``now``: seconds on a clock that never goes back."""
        self._log, self._now, self._lines = log, now, lines
        self._since = now()
        self._written = self._left_out = 0

    def warning(self, message: str, *args: object) -> None:
        """A line, unless the minute has had its share; a new minute tells first how many were left out."""
        now = self._now()
        if now - self._since >= 60:
            self._since, self._written = now, 0
            if self._left_out:
                self._log.warning("%d lines about peers were left out", self._left_out)
                self._left_out = 0
        if self._written < self._lines:
            self._written += 1
            self._log.warning(message, *args)
        else:
            self._left_out += 1
