"""Values of the house as JSON knows them: bytes as hex, units as numbers, short channel ids as ``HxTxV``.

Bytes stay in the order of the wire, also transaction ids and chain hashes inside messages: what is shown can be looked
up in a packet dump. Where people expect the reversed order (a transaction's own ids), the caller says so.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from salama.base.ids import ShortChannelId
from salama.codec.message import Declared, Extension
from salama.wire.features import BY_BIT, Features

MAX_FEATURE_BITS = 1000
"""Feature bits listed one by one; a vector may hold half a million."""


def plain(value: Any) -> Any:
    """``value`` in terms of JSON. Knows everything that a declared field can hold."""
    if value is None or value.__class__ in (bool, int, str, float):
        return value
    if isinstance(value, ShortChannelId):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Features):
        return value.encode().hex()
    if isinstance(value, tuple):
        named = getattr(value, "_fields", None)
        if named is not None:
            return {name: plain(part) for name, part in zip(named, value, strict=True)}
        return [plain(part) for part in value]
    if isinstance(value, ipaddress.IPv4Address | ipaddress.IPv6Address):
        return str(value)
    raise TypeError(f"no plain form of {value.__class__.__name__}")


def plain_fields(declared: Declared) -> dict[str, Any]:
    """The fields that are there, by their BOLT names; records beside the others, absent ones left out."""
    shown = {}
    for field in declared.fields():
        value = getattr(declared, field.name)
        if field.tlv is not None and (value is None or value is False):
            continue
        shown[field.name] = plain(value)
    return shown


def plain_extension(extension: Extension | Iterable[tuple[int, bytes]]) -> dict[str, str]:
    """Unknown records: type as text, as JSON wants it of keys, to hex."""
    return {str(kind): value.hex() for kind, value in extension}


def plain_features(features: Features) -> dict[str, Any]:
    """What a feature vector requires and offers by name, and the bits that nobody named."""
    required: list[str] = []
    offered: list[str] = []
    unknown: list[int] = []
    bits: list[int] = []
    omitted = 0
    for bit in features.bits():
        if len(bits) == MAX_FEATURE_BITS:
            omitted += 1
            continue
        bits.append(bit)
        known = BY_BIT.get(bit & ~1)
        if known is None:
            unknown.append(bit)
        else:
            (offered if bit & 1 else required).append(known.name)
    shown: dict[str, Any] = {"bits": bits, "required": required, "offered": offered, "unknown": unknown}
    if omitted:
        shown["bits_omitted"] = omitted
    return shown
