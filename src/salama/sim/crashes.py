"""A power cut before any line of the shell: no hooks in the node's code, the interpreter itself counts down.

While a fuse burns, ``sys.settrace`` looks at every line of the watched files that the machine runs, and raises
``PowerCut`` before the last one. It is no ``Exception``, so that nothing in the node can catch it and go on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import salama

_ROOT = Path(salama.__file__).parent
WATCHED = (
    "node",
    "storage/journal.py",
    "signer/local.py",
    "chain/watcher.py",
    "api/wallet_methods.py",
    "api/channels_methods.py",
    "api/payments_methods.py",
)
"""The shell: what a machine was doing in the pure floors when the power went makes no difference to anyone."""


class PowerCut(BaseException):
    """The machine is gone."""


class Fuse:
    """Burns by one for each line of the shell; at zero the machine dies there."""

    def __init__(self, lines: int, on_cut: Callable[[str], None]) -> None:
        self.lines, self._on_cut = lines, on_cut

    def run(self, step: Callable[[], None]) -> None:
        """Run one callback of the machine while the fuse burns."""
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            step()
        finally:
            sys.settrace(before)

    def _called(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self._line if _is_watched(frame.f_code.co_filename) else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line" and self.lines > 0:
            self.lines -= 1
            if self.lines == 0:
                code = frame.f_code
                module = Path(code.co_filename).relative_to(_ROOT).with_suffix("").as_posix()
                self._on_cut(f"{module}:{code.co_qualname}+{frame.f_lineno - code.co_firstlineno}")
                raise PowerCut
        return self._line


_known: dict[str, bool] = {}


def _is_watched(filename: str) -> bool:
    known = _known.get(filename)
    if known is None:
        root = _ROOT.as_posix() + "/"
        path = Path(filename).as_posix()
        known = _known[filename] = path.startswith(root) and path.removeprefix(root).startswith(WATCHED)
    return known
