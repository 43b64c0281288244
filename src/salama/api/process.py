"""A node as a process among others: how it says what it is doing, and how it ends when it is told to.

Ending at any instant is safe, because nothing is said before it is on disk. So whoever is in a hurry gets what he asks
for: a second signal ends the process at once, and so does a stop that takes too long.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Final

log = logging.getLogger("salama.daemon")

STOP_SECONDS: Final = 30.0
"""Peers are told goodbye and the log is folded into the database within a second; longer is a fault."""
HURRIED: Final = 3
"""Exit status of a process that did not wait for its own good order."""


def notify(state: str) -> None:
    """Tell a service manager (sd_notify): ``READY=1``, ``STATUS=...``, ``STOPPING=1``. Nothing where there is none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.connect("\0" + address[1:] if address.startswith("@") else address)
            manager.send(state.encode())
    except OSError as error:
        log.warning("the service manager cannot be told %s: %s", state, error)


def tell_step(step: str) -> None:
    """A step of the start, for the log, for a service manager and for whoever looks at the terminal."""
    log.info("starting: %s", step)
    notify(f"STATUS={step}")
    if sys.stderr.isatty():
        print(f"  {step}", file=sys.stderr, flush=True)


def stop_on_signals(stop: Callable[[], None]) -> None:
    """Call ``stop`` at the first SIGINT or SIGTERM; at the second, or if the end does not come, end at once."""
    loop = asyncio.get_running_loop()
    asked: list[signal.Signals] = []

    def heard(number: signal.Signals) -> None:
        asked.append(number)
        if len(asked) > 1:
            _end_at_once("told to stop twice")
        log.info("%s: stopping", number.name)
        notify("STOPPING=1")
        loop.call_later(STOP_SECONDS, _end_at_once, f"the stop took {STOP_SECONDS:.0f} seconds")
        stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, heard, number)


def _end_at_once(why: str) -> None:
    log.critical("ending at once: %s", why)
    logging.shutdown()
    os._exit(HURRIED)
