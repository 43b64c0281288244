"""Network addresses in ``node_announcement`` and ``init`` (BOLT 7 and BOLT 1, B7.04 and B1.05).

A descriptor is a type byte and a body. Descriptors of unknown type cannot be skipped, so reading stops there; Tor v2
and descriptors with port 0 are dropped, as the BOLT advises.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Iterable
from enum import IntEnum
from typing import Final, NamedTuple

from salama.codec.fields import Malformed, Unencodable


class AddressType(IntEnum):
    """The type byte of a descriptor."""

    IPV4 = 1
    IPV6 = 2
    TOR_V2 = 3
    TOR_V3 = 4
    DNS = 5


class NodeAddress(NamedTuple):
    """Where a node listens; ``host`` is text that is safe to show: an IP address, an onion name or a host name."""

    type: AddressType
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.type is AddressType.IPV6 else f"{self.host}:{self.port}"


_BODY: Final = {AddressType.IPV4: 4, AddressType.IPV6: 16, AddressType.TOR_V2: 10, AddressType.TOR_V3: 35}
_HOSTNAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,253}[A-Za-z0-9_.])?")


def decode_addresses(data: bytes) -> tuple[NodeAddress, ...]:
    """Every usable address, in order; raises Malformed if a descriptor of a known type is cut off."""
    found = []
    pos = 0
    while pos < len(data):
        kind = data[pos]
        pos += 1
        if kind == AddressType.DNS:
            if pos >= len(data):
                raise Malformed("address is cut off")
            size = data[pos]
            pos += 1
        elif kind in _BODY:
            size = _BODY[AddressType(kind)]
        else:
            break
        body, port = data[pos : pos + size], data[pos + size : pos + size + 2]
        if len(port) != 2:
            raise Malformed("address is cut off")
        pos += size + 2
        host = _host(AddressType(kind), body)
        if host is not None and port != b"\0\0":
            found.append(NodeAddress(AddressType(kind), host, port[0] << 8 | port[1]))
    return tuple(found)


def _host(kind: AddressType, body: bytes) -> str | None:
    if kind is AddressType.IPV4:
        return str(ipaddress.IPv4Address(body))
    if kind is AddressType.IPV6:
        return str(ipaddress.IPv6Address(body))
    if kind is AddressType.TOR_V3:
        return base64.b32encode(body).decode("ascii").lower() + ".onion"
    if kind is AddressType.DNS:
        # A name we could not resolve anyway is dropped, so that nothing odd reaches a log or a resolver.
        name = body.decode("ascii", "replace")
        return name if _HOSTNAME.fullmatch(name) else None
    return None


def encode_addresses(addresses: Iterable[NodeAddress]) -> bytes:
    """Descriptors in ascending order of their types; raises Unencodable."""
    parts = sorted(((address.type, encode_address(address)) for address in addresses), key=lambda part: part[0])
    if sum(kind is AddressType.DNS for kind, _ in parts) > 1:
        raise Unencodable("more than one host name")
    return b"".join(part for _, part in parts)


def encode_address(address: NodeAddress) -> bytes:
    """One descriptor, as in ``remote_addr`` of ``init``; raises Unencodable."""
    if not 0 < address.port <= 0xFFFF:
        raise Unencodable("a port is 1 to 65535")
    try:
        body = _body(address)
    except ValueError as error:
        raise Unencodable(str(error)) from None
    return bytes([address.type]) + body + address.port.to_bytes(2, "big")


def _body(address: NodeAddress) -> bytes:
    if address.type is AddressType.IPV4:
        return ipaddress.IPv4Address(address.host).packed
    if address.type is AddressType.IPV6:
        return ipaddress.IPv6Address(address.host).packed
    if address.type is AddressType.TOR_V3:
        body = base64.b32decode(address.host.removesuffix(".onion").upper())
        if len(body) != _BODY[AddressType.TOR_V3]:
            raise Unencodable("not a Tor v3 name")
        return body
    if address.type is AddressType.DNS and _HOSTNAME.fullmatch(address.host):
        return bytes([len(address.host)]) + address.host.encode("ascii")
    raise Unencodable("not an address that can be announced")


def count_hostnames(data: bytes) -> int:
    """How many host names ``data`` announces, usable or not; an announcement with more than one is not forwarded."""
    count = pos = 0
    while pos + 1 < len(data) and (kind := data[pos]) <= AddressType.DNS and kind:
        if kind == AddressType.DNS:
            count += 1
            pos += 4 + data[pos + 1]
        else:
            pos += 3 + _BODY[AddressType(kind)]
    return count
