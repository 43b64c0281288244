"""Where a bitcoind publishes blocks and transactions, as it says itself; ``zmq_feed`` listens there."""

from __future__ import annotations

import logging
from typing import Final
from urllib.parse import urlsplit

from salama.chain.backend import BackendError
from salama.chain.bitcoind import Bitcoind

log = logging.getLogger("salama.chain")

TOPICS: Final = ("hashblock", "rawtx")
_METHOD_NOT_FOUND: Final = -32601


async def find_publishers(backend: Bitcoind) -> dict[str, str]:
    """Where ``backend`` publishes each of our topics, as it says itself; empty if it does not.

    An address of all interfaces is taken to be on the host that answers JSON-RPC. Raises BackendUnavailable.
    """
    try:
        answer = await backend.rpc("getzmqnotifications")
    except BackendError as error:
        if error.code != _METHOD_NOT_FOUND:
            log.warning("bitcoind does not say where it publishes: %s", error)
        return {}
    found: dict[str, str] = {}
    for one in answer if isinstance(answer, list) else ():
        kind, address = (one.get("type"), one.get("address")) if isinstance(one, dict) else (None, None)
        if isinstance(kind, str) and isinstance(address, str) and kind.removeprefix("pub") in TOPICS:
            endpoint = _reachable(address[:200], backend.host)
            if endpoint is not None:
                found.setdefault(kind.removeprefix("pub"), endpoint)
    return found


def _reachable(address: str, host: str) -> str | None:
    """The address as we may call it; None for what is no TCP or IPC address."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme == "ipc":
        return address
    if parts.scheme != "tcp" or not port or not parts.hostname:
        return None
    name = host if parts.hostname in ("0.0.0.0", "*", "::") else parts.hostname
    return f"tcp://[{name}]:{port}" if ":" in name else f"tcp://{name}:{port}"
