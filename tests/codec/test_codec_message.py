"""What a declaration gives: a frozen value, an encoder, a strict decoder (B1.02)."""

import dataclasses

import pytest

from salama.codec.fields import POINT, REST, U16, VARBYTES, Malformed, Unencodable, raw
from salama.codec.message import (
    MAX_MESSAGE,
    MESSAGES,
    Message,
    MessageTooLong,
    TlvStream,
    UnknownMessage,
    bolt_name,
    decode_message,
    field,
    flag,
    message,
    tail,
    tlv,
    tlv_stream,
)


@message(60001)
class SampleMessage2(Message):
    """For this test only."""

    number: int = field(U16)
    text: bytes = field(VARBYTES)
    secret: bytes = field(raw(2), secret=True)
    seven: int | None = tlv(7, U16)
    nine: bool = flag(9)


@message(60003)
class SampleSigned(Message):
    """For this test only."""

    number: int = field(U16)
    tail: bytes = tail()


@tlv_stream
class SampleStream(TlvStream):
    """For this test only."""

    two: bytes | None = tlv(2, REST)


# Other tests go through all declared messages: these are none of the BOLTs'.
SAMPLES = {number: MESSAGES.pop(number) for number in (60001, 60003)}


@pytest.fixture(autouse=True)
def _samples_are_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, cls in SAMPLES.items():
        monkeypatch.setitem(MESSAGES, number, cls)


SAMPLE = SampleMessage2(number=5, text=b"ab", secret=b"\x99\x88")


def test_bytes_are_as_declared() -> None:
    assert SAMPLE.encode().hex() == "ea610005000261629988"
    full = dataclasses.replace(SAMPLE, seven=1, nine=True, extension=((1, b"x"), (8 + 3, b"")))
    assert full.encode() == SAMPLE.encode() + bytes.fromhex("0101780702000109000b00")
    assert decode_message(full.encode()) == full
    assert SampleMessage2.decode(SAMPLE.encode()) == SAMPLE


def test_values_are_frozen_hashable_and_slotted() -> None:
    assert hash(SAMPLE) == hash(dataclasses.replace(SAMPLE))
    assert dataclasses.replace(SAMPLE, number=6) != SAMPLE
    with pytest.raises(dataclasses.FrozenInstanceError):
        SAMPLE.number = 6  # type: ignore[misc]
    assert not hasattr(SAMPLE, "__dict__")
    with pytest.raises(TypeError):
        SampleMessage2(number=5, text=b"")  # type: ignore[call-arg]


def test_names_follow_from_the_class() -> None:
    assert (SampleMessage2.TYPE, SampleMessage2.NAME) == (60001, "sample_message2")
    assert bolt_name("UpdateAddHtlc") == "update_add_htlc"
    assert [f.name for f in SampleMessage2.fields()] == ["number", "text", "secret", "seven", "nine"]


def test_repr_hides_secrets_and_absent_records_and_cuts() -> None:
    assert repr(SAMPLE) == "SampleMessage2(number=5, text=<6162>, secret=...)"
    assert len(repr(dataclasses.replace(SAMPLE, text=bytes(60000)))) < 200


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "ea",
        "ea61",
        "ea610005000261629",
        "ea6100050003616299",
        "ea61000500026162998807",
        "ea610005000261629988070100",
        "ea61000500026162998807030001ff",
        "ea610005000261629988090101",
        "ea6100050002616299880200",
        "ea61000500026162998809000702000a",
        "ea610005000261629988010001",
    ],
)
def test_wrong_bytes_are_refused(wrong: str) -> None:
    with pytest.raises(Malformed):
        decode_message(bytes.fromhex(wrong[: len(wrong) // 2 * 2]))


def test_another_message_is_not_decoded_as_this_one() -> None:
    with pytest.raises(Malformed):
        SampleMessage2.decode(b"\0\1" + SAMPLE.encode()[2:])


def test_messages_have_a_greatest_length() -> None:
    room = MAX_MESSAGE - len(SAMPLE.encode()) + 2
    largest = dataclasses.replace(SAMPLE, text=bytes(room))
    assert decode_message(largest.encode()) == largest
    with pytest.raises(MessageTooLong):
        dataclasses.replace(SAMPLE, text=bytes(room + 1)).encode()
    with pytest.raises(Malformed):
        decode_message(bytes(MAX_MESSAGE + 1))
    with pytest.raises(Malformed):
        SampleMessage2.decode(SAMPLE.encode() + bytes(MAX_MESSAGE))


@pytest.mark.parametrize(
    "change",
    [
        {"number": 65536},
        {"secret": b"123"},
        {"seven": -1},
        {"extension": ((3, b""), (1, b""))},
        {"extension": ((1, b""), (1, b""))},
        {"extension": ((7, b""),)},
    ],
)
def test_wrong_values_are_not_encoded(change: dict[str, object]) -> None:
    with pytest.raises(Unencodable):
        dataclasses.replace(SAMPLE, **change).encode()  # type: ignore[arg-type]


def test_unknown_types_are_kept_for_the_caller() -> None:
    for number, odd in ((60007, True), (60008, False)):
        found = decode_message(number.to_bytes(2, "big") + b"rest")
        assert found == UnknownMessage(number, b"rest")
        assert isinstance(found, UnknownMessage)
        assert found.is_odd is odd
        assert found.encode() == number.to_bytes(2, "big") + b"rest"
    with pytest.raises(MessageTooLong):
        UnknownMessage(60007, bytes(MAX_MESSAGE)).encode()


def test_a_tail_takes_what_follows_as_it_is() -> None:
    signed = decode_message(bytes.fromhex("ea6300010200ff"))
    assert signed == SampleSigned(number=1, tail=bytes.fromhex("0200ff"))
    assert signed.encode() == bytes.fromhex("ea6300010200ff")
    with pytest.raises(Unencodable):
        SampleSigned(number=1, extension=((1, b""),)).encode()


def test_streams_keep_unknown_odd_records_and_may_send_even_ones() -> None:
    stream = SampleStream.decode(bytes.fromhex("01000201aa0300"))
    assert stream == SampleStream(two=b"\xaa", extension=((1, b""), (3, b"")))
    assert stream.encode() == bytes.fromhex("01000201aa0300")
    with pytest.raises(Malformed) as caught:
        SampleStream.decode(bytes.fromhex("0201aa0400"))
    assert (caught.value.tlv_type, caught.value.offset) == (4, 3)
    assert SampleStream(extension=((4, b""),)).encode() == bytes.fromhex("0400")


def test_a_declaration_must_make_sense() -> None:
    with pytest.raises(TypeError):

        @tlv_stream
        class Unordered(TlvStream):
            two: int | None = tlv(2, U16)
            one: int | None = tlv(1, U16)

    with pytest.raises(TypeError):

        @message(60001)
        class Repeated(Message):
            point: bytes = field(POINT)
