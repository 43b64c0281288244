"""Whatever is declared survives encoding, and no bytes of any kind raise anything but Malformed."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.codec.fields import TAIL
from salama.codec.message import MESSAGES, Declared, decode_message
from salama.testing.messages import STREAMS, failures, instances, messages, streams
from salama.wire import FAILURES, Malformed, Message, decode_addresses, decode_failure
from salama.wire.addresses import count_hostnames, encode_addresses

EVERY: list[Any] = [*MESSAGES.values(), *FAILURES.values(), *STREAMS]


@pytest.mark.parametrize("cls", EVERY, ids=lambda cls: cls.__name__)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_round_trip(cls: Any, data: st.DataObject) -> None:
    value = data.draw(instances(cls))
    encoded = value.encode()
    decoded = cls.decode(encoded)
    assert decoded == value
    assert hash(decoded) == hash(value)
    assert decoded.encode() == encoded
    assert dataclasses.replace(decoded) == value
    assert repr(decoded).startswith(cls.__name__)
    for f in dataclasses.fields(decoded):
        assert type(getattr(decoded, f.name)) is type(getattr(value, f.name))


def only_malformed(decode: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return decode(data)
    except Malformed as error:
        assert error.reason
        assert len(error.reason) < 200
        return None


def canonical(decode: Callable[[bytes], Any], data: bytes) -> None:
    """What was accepted is written back to bytes that mean the same."""
    value = only_malformed(decode, data)
    if value is not None:
        assert decode(value.encode()) == value


@st.composite
def mangled(draw: st.DrawFn, values: st.SearchStrategy[Declared]) -> bytes:
    encoded = bytearray(draw(values).encode())  # type: ignore[attr-defined]
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(encoded)))
        match draw(st.integers(0, 3)):
            case 0:
                encoded[at:] = b""
            case 1:
                encoded[at:at] = draw(st.binary(max_size=12))
            case 2:
                del encoded[at : at + draw(st.integers(1, 5))]
            case _:
                encoded[at : at + 1] = draw(st.sampled_from([b"\0", b"\xff", b"\xfd", b"\xfe", b"\1", b"\x80"]))
    return bytes(encoded)


@settings(max_examples=600, deadline=None)
@given(mangled(messages()))
def test_mangled_messages(data: bytes) -> None:
    canonical(decode_message, data)


@settings(max_examples=300, deadline=None)
@given(mangled(failures()))
def test_mangled_failures(data: bytes) -> None:
    canonical(decode_failure, data)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(STREAMS), mangled(streams()))
def test_mangled_streams(cls: Any, data: bytes) -> None:
    canonical(cls.decode, data)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(sorted(MESSAGES)) | st.integers(0, 0xFFFF), st.binary(max_size=700))
def test_garbage_behind_a_type(number: int, payload: bytes) -> None:
    canonical(decode_message, number.to_bytes(2, "big") + payload)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120))
def test_garbage(data: bytes) -> None:
    for decode in (decode_message, decode_failure, *(cls.decode for cls in STREAMS)):
        canonical(decode, data)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([b"\1", b"\2", b"\3", b"\4", b"\5"]) | st.binary(max_size=20), max_size=6).map(b"".join)
)
def test_garbage_addresses(data: bytes) -> None:
    count_hostnames(data)
    found = only_malformed(decode_addresses, data)
    for address in found or ():
        assert address.port
        assert address.host.isascii()
        assert address.host.isprintable()
        assert decode_addresses(encode_addresses([address])) == (address,)


@settings(max_examples=100, deadline=None)
@given(messages(), st.data())
def test_a_message_without_its_end_is_refused(value: Message, data: st.DataObject) -> None:
    absent = {f.name: None for f in value.fields() if f.tlv is not None}
    tails = {f.name: b"" for f in value.fields() if f.type is TAIL}
    encoded = dataclasses.replace(value, extension=(), **absent, **tails).encode()
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(Malformed):
        decode_message(encoded[:cut])
