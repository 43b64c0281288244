"""Addresses for processes that are ended and started again."""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Final

LOOPBACK: Final = "127.0.0.1"
USUAL_FIRST_PORT: Final = 32_768
"""Where the ports begin that a system gives away by itself, if it does not tell."""
PORTS: Final = 12_000
ATTEMPTS: Final = 100


def first_given_port(told: Path = Path("/proc/sys/net/ipv4/ip_local_port_range")) -> int:
    """The lowest port that the system gives to whoever asks for any, and to every outgoing connection."""
    try:
        return int(told.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return USUAL_FIRST_PORT


def address_to_keep() -> str:
    """A free address of this machine that is still free when the process that has it comes back.

    The port 0 gives one that an outgoing connection may be given, too, while its owner is down.
    """
    end = first_given_port()
    for _ in range(ATTEMPTS):
        port = random.randrange(max(1024, end - PORTS), max(1025, end))
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((LOOPBACK, port))
            except OSError:
                continue
            return f"{LOOPBACK}:{port}"
    return f"{LOOPBACK}:0"
