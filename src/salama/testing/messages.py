"""Hypothesis strategies for everything that is declared: messages, failure messages, TLV streams.

They are built from the declarations, so a new message is tested the day it is declared.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from hypothesis import strategies as st

from salama.base.ids import NodeId, ShortChannelId
from salama.base.units import Unit
from salama.codec import fields
from salama.codec.fields import Array, FieldType, Fixed, Mapped, ScidDir, Subtype, Truncated
from salama.codec.message import MESSAGES, Declared, Message, TlvStream
from salama.crypto.secp256k1 import public_key
from salama.wire import gossip
from salama.wire.failures import FAILURES, FailureMessage
from salama.wire.onion import EncryptedData, OnionMessagePayload, PaymentPayload

D = TypeVar("D", bound=Declared)
STREAMS: tuple[type[TlvStream], ...] = (PaymentPayload, EncryptedData, OnionMessagePayload)
"""Every TLV stream that is not part of a message."""


@cache
def points() -> st.SearchStrategy[bytes]:
    """Some points of the curve."""
    return st.sampled_from([public_key(secret.to_bytes(32, "big")) for secret in range(1, 30)])


def values(type_: FieldType[Any]) -> st.SearchStrategy[Any]:
    """Values that a field of ``type_`` may hold."""
    if type_ in (fields.POINT, fields.NODE_POINT):
        return points() if type_ is fields.POINT else points().map(NodeId)
    if type_ is fields.PRESENCE:
        return st.just(True)
    if type_ is fields.SCIDDIR_OR_PUBKEY:
        ends = st.builds(ScidDir, st.integers(0, 1), values(fields.SHORT_CHANNEL_ID))
        return st.one_of(values(fields.NODE_POINT), ends)
    if isinstance(type_, Fixed):
        return _fixed(type_)
    if isinstance(type_, Truncated):
        return _wrapped_numbers(0, (1 << 8 * type_.size) - 1, type_.wrap)
    if isinstance(type_, fields.BigSize):
        return st.integers(0, 252) | st.integers(0, (1 << 64) - 1)
    if isinstance(type_, Array):
        return st.lists(values(type_.item), min_size=type_.least, max_size=4).map(tuple)
    if isinstance(type_, Subtype):
        return st.tuples(*(values(part) for _, part in type_.fields)).map(lambda parts: type_.make(*parts))
    if isinstance(type_, Mapped):
        return _mapped(type_)
    return st.binary(max_size=40)


def _fixed(type_: Fixed[Any]) -> st.SearchStrategy[Any]:
    if type_.is_bytes:
        plain = st.binary(min_size=type_.size, max_size=type_.size)
        return plain if type_.wrap is None else plain.map(type_.wrap)
    bits = 8 * type_.size
    if type_.code.islower():
        return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1)
    return _wrapped_numbers(0, (1 << bits) - 1, type_.wrap or int)


def _wrapped_numbers(least: int, most: int, wrap: Any) -> st.SearchStrategy[Any]:
    if isinstance(wrap, type) and issubclass(wrap, Unit):
        most = min(most, wrap.MAX)
    return st.integers(least, most).map(wrap)


def _mapped(type_: Mapped[Any]) -> st.SearchStrategy[Any]:
    numbers = st.integers(0, 0xFFFFFFFF)
    if type_ is gossip.ENCODED_SHORT_IDS:
        return st.lists(values(fields.SHORT_CHANNEL_ID), max_size=5).map(
            lambda scids: tuple(map(ShortChannelId, scids))
        )
    if type_ is gossip.QUERY_FLAGS:
        return st.lists(values(fields.BIGSIZE), max_size=5).map(tuple)
    if type_ is gossip.TIMESTAMPS:
        return st.lists(st.builds(gossip.ChannelUpdateTimestamps, numbers, numbers), max_size=5).map(tuple)
    return values(type_.inner).map(type_.decode)


def extensions(cls: type[Declared]) -> st.SearchStrategy[tuple[tuple[int, bytes], ...]]:
    """Unknown odd records in order, for ``cls``; none if it has a tail."""
    declared = cls.fields()
    if any(f.type is fields.TAIL for f in declared):
        return st.just(())
    known = {f.tlv for f in declared}
    odd = st.integers(0, (1 << 63) - 1).map(lambda n: 2 * n + 1) | st.integers(0, 20).map(lambda n: 2 * n + 1)
    records = st.dictionaries(odd.filter(lambda n: n not in known), st.binary(max_size=20), max_size=3)
    return records.map(lambda found: tuple(sorted(found.items())))


def instances(cls: type[D]) -> st.SearchStrategy[D]:
    """Any instance of a declared class."""
    arguments: dict[str, st.SearchStrategy[Any]] = {}
    for f in cls.fields():
        if f.type is fields.PRESENCE:
            arguments[f.name] = st.booleans()
        elif f.tlv is None:
            arguments[f.name] = values(f.type)
        else:
            arguments[f.name] = st.none() | values(f.type)
    return st.builds(cls, extension=extensions(cls), **arguments)


def messages() -> st.SearchStrategy[Message]:
    """Any declared message."""
    return st.one_of([instances(cls) for cls in MESSAGES.values()])


def failures() -> st.SearchStrategy[FailureMessage]:
    """Any declared failure message."""
    return st.one_of([instances(cls) for cls in FAILURES.values()])


def streams() -> st.SearchStrategy[TlvStream]:
    """Any of the streams that are not part of a message."""
    return st.one_of([instances(cls) for cls in STREAMS])
