"""Where a node keeps its things: a directory for each network, and in it the socket that answers."""

from __future__ import annotations

import os
from pathlib import Path

SOCKET_NAME = "salama.sock"


def data_directory(directory: str | None, network: str) -> Path:
    """As given, else ``~/.salama/NETWORK``."""
    return Path(directory) if directory else Path.home() / ".salama" / network


def default_network() -> str:
    """Which node a command talks to when nobody says; a node itself is never started by default."""
    return os.environ.get("SALAMA_NETWORK", "regtest")
