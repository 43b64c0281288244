"""Addresses of peers as people write them."""

from __future__ import annotations

from salama.base.ids import MalformedId, NodeId
from salama.base.machine import CommandRefused
from salama.net.tcp import PeerAddress

DEFAULT_PORT = 9735


def parse_host_port(text: str) -> PeerAddress:
    """``host:port``, ``[v6]:port`` or a bare host with the default port. Raises CommandRefused."""
    host, colon, port = text.rpartition(":")
    if not colon or (host.count(":") and not host.startswith("[")):
        host, port = text, str(DEFAULT_PORT)
    if not host or not port.isdigit() or not 0 < int(port) < 65536 or len(host) > 255:
        raise CommandRefused("bad_address", f"{text[:80]!r} is no address.", "Write host:port.")
    return PeerAddress(host.strip("[]"), int(port))


def parse_peer(text: str) -> tuple[NodeId, PeerAddress | None]:
    """``NODE_ID`` or ``NODE_ID@host:port``. Raises CommandRefused."""
    node_id, at, address = text.strip().partition("@")
    try:
        who = NodeId.parse(node_id)
    except MalformedId:
        raise CommandRefused(
            "bad_node_id", f"{node_id[:80]!r} is no node id.", "A node id has 66 hexadecimal digits."
        ) from None
    return who, parse_host_port(address) if at else None
