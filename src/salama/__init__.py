"""Salama: a complete Lightning Network node in Python.

``Client`` talks to a node that runs, ``Node`` is one inside this program; both have the methods of the terminal.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from salama.api.client import Client as Client
    from salama.api.embedded import Node as Node
    from salama.base.machine import CommandRefused as CommandRefused

__version__ = "0.1.0"

_PLACES = {"Client": "salama.api.client", "Node": "salama.api.embedded", "CommandRefused": "salama.base.machine"}


def __getattr__(name: str) -> object:
    # A node is large: whoever wants the version alone shall not wait for it.
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
