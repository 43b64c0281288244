"""`salama run`: a node and its server as a process, with logs, signals and one ready line."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from salama.api.logs import LOG_NAME, log_to
from salama.api.methods import Methods
from salama.api.places import SOCKET_NAME, data_directory
from salama.api.process import notify, stop_on_signals, tell_step
from salama.api.server import RpcServer
from salama.base.machine import CommandRefused
from salama.chain.backend import BackendError, BackendUnavailable
from salama.node.config import Config, load_config
from salama.node.mainnet import caution
from salama.node.node import Node
from salama.node.outside import Outside
from salama.node.seed import ask_passphrase
from salama.storage.backup import read_sealed
from salama.storage.errors import StorageFault

log = logging.getLogger("salama.daemon")

COLLECT_AFTER = 20_000
"""New containers, less those that are gone, between two looks of the garbage collector at the young ones."""
SOCKET_PATH_BYTES = 107
"""What the kernel takes as the name of a Unix socket."""


FLAGS = ("alias", "listen", "bitcoind", "cookie", "mainnet_cap")
"""Settings that have a flag of their own; all others go by ``--set``."""


def config_of(options: Mapping[str, Any]) -> Config:
    """What the node of these options (those of ``run_node``) is told from everywhere. Raises CommandRefused."""
    return load_config(
        options["network"],
        data_directory(options.get("directory"), options["network"]),
        file=Path(options["file"]) if options.get("file") else None,
        environment=os.environ,
        flags={name: str(options[name]) for name in FLAGS if options.get(name) is not None}
        | settings_given(options.get("settings", ())),
    )


def run_node(options: Mapping[str, Any]) -> int:
    """Run until stopped; the exit status. Expected failures are one sentence on standard error.

    ``options``: network, directory (None: the usual one), file (None: the directory's own), flags by name (None or
    absent: not given), settings (``NAME=VALUE``), recovers (begin in an empty directory), backup (a file to recover
    from; None: what is at our own places, and what peers bring), peers (``NODE_ID@host:port`` that may bring it).
    """
    directory = data_directory(options.get("directory"), options["network"])
    bitcoind = ""
    try:
        config = config_of(options)
        bitcoind = config.bitcoind
        if words := caution(config):
            print(f"salama: {words}", file=sys.stderr, flush=True)
        _check_socket(directory / SOCKET_NAME)
        os.umask(0o077)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        log_to(config.directory, config.log_level)
        restore = read_sealed(Path(options["backup"])) if options.get("backup") else None
        outside = Outside.unlocking(ask_passphrase(directory))
        recovers = bool(options.get("recovers"))
        former = tuple(options.get("peers", ()))
        while asyncio.run(_serve(config, outside, recovers, restore, former)):
            recovers = False
    except CommandRefused as refused:
        return _complain(refused.reason, refused.remedy)
    except BackendUnavailable as error:
        return _complain(
            f"{str(error)[0].upper()}{str(error)[1:]}.",
            f"Is there a bitcoind or `salama devnet` at {bitcoind}?",
        )
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}.", "")
    except (StorageFault, BackendError) as error:
        return _complain(f"{str(error)[0].upper()}{str(error)[1:]}.", "")
    except Exception as error:
        log.critical("the node failed", exc_info=error)
        return _complain(f"The node failed: {type(error).__name__}: {error}.", f"Look into {directory / LOG_NAME}.")
    log.info("stopped")
    return 0


def _check_socket(path: Path) -> None:
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise CommandRefused(
            "bad_directory", f"{path} is too long a name for a socket.", "Choose a shorter data directory."
        )


def _complain(reason: str, remedy: str) -> int:
    print(f"salama: {reason}" + (f" {remedy}" if remedy else ""), file=sys.stderr)
    return 1


def settings_given(settings: Iterable[str]) -> dict[str, str]:
    """``NAME=VALUE`` as the command line has them, by name. Raises CommandRefused."""
    given = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise CommandRefused("bad_setting", f"{setting[:40]!r} sets nothing.", "Write --set NAME=VALUE.")
        given[name] = value
    return given


def _log_tasks() -> None:
    """What everything in the event loop is waiting for: the first question when a node seems to hang."""
    for task in asyncio.all_tasks():
        where = [f"{Path(f.f_code.co_filename).name}:{f.f_lineno}" for f in task.get_stack()]
        log.warning("task %s: %s", task.get_name(), " < ".join(reversed(where)))


def _rest_the_collector() -> None:
    """What a start has built stays: the garbage collector need not look through it again and again.

    Frozen values make no cycles, so that looking for them after every 700 new objects finds nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


async def _serve(
    config: Config, outside: Outside, recovers: bool, restore: bytes | None, former: tuple[str, ...]
) -> bool:
    """Run one node to its end; whether it wants to start again."""
    node = Node(config, outside)
    node.recovers, node.restore, node.former_peers = recovers, restore, former
    loop = asyncio.get_running_loop()
    stop_on_signals(node.stop)
    node.on_step = tell_step
    loop.add_signal_handler(signal.SIGUSR1, _log_tasks)
    ready: asyncio.Future[None] = loop.create_future()
    running = asyncio.create_task(node.run(ready))
    await asyncio.wait((running, ready), return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        await running
        return node.starts_again
    socket = config.directory / SOCKET_NAME
    server = RpcServer(socket, Methods(node).handlers())
    await server.start()
    try:
        line = {
            "ready": True,
            "node_id": str(node.signer.node_id),
            "listen": node.listening,
            "socket": str(socket),
            "network": config.network.name,
        }
        _rest_the_collector()
        print(json.dumps(line), flush=True)
        notify("READY=1\nSTATUS=ready")
        await running
        return node.starts_again
    finally:
        await server.stop()
