"""Records of any declared shape: round trips, growth, and bytes that are wrong in every way."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, NamedTuple, NewType

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storage_samples import INVOICE, PAYMENT, full_record, sample_tx

from salama.base.ids import ChannelId, OutPoint, Preimage, ShortChannelId, Txid
from salama.base.units import Msat
from salama.bitcoin.tx import Tx
from salama.codec.message import Message
from salama.crypto.secrets import SecretKey
from salama.storage.errors import CorruptRecord
from salama.storage.layouts import Codec, Layouts, NoLayout
from salama.storage.records import decode_params, encode_params
from salama.storage.writes import INVOICE as INVOICES
from salama.storage.writes import PAYMENT as PAYMENTS
from salama.wire.features import Features
from salama.wire.setup import Ping, Pong

Label = NewType("Label", bytes)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Place(NamedTuple):
    colour: Colour
    point: OutPoint


@dataclass(frozen=True, slots=True)
class Circle:
    radius: Msat


@dataclass(frozen=True, slots=True)
class Square:
    side: int
    label: Label | None = None


@dataclass(frozen=True, slots=True)
class Everything:
    number: int
    text: str
    raw: bytes
    yes: bool
    amount: Msat
    scid: ShortChannelId
    channel: ChannelId
    colour: Colour
    place: Place
    kind: Literal["wpkh", "tr"]
    shape: Circle | Square
    maybe_shape: Circle | Square | None
    shapes: tuple[Circle | Square, ...]
    pair: tuple[int, Msat] | None
    by_place: Mapping[OutPoint, Square]
    by_pair: dict[tuple[str, int], int]
    tx: Tx
    features: Features
    message: Message
    ping: Ping | None
    preimage: Preimage | None = None
    more: tuple[bytes, ...] = ()


CODEC = Codec(Everything, "thing")
OUTPOINTS = st.builds(OutPoint, st.binary(min_size=32, max_size=32).map(Txid), st.integers(0, 2**32 - 1))
MSATS = st.integers(0, Msat.MAX).map(Msat)
SHAPES = st.builds(Circle, MSATS) | st.builds(
    Square, st.integers(-(2**63), 2**64 - 1), st.none() | st.binary(max_size=8)
)
THINGS = st.builds(
    Everything,
    number=st.integers(-(2**63), 2**64 - 1),
    text=st.text(max_size=8),
    raw=st.binary(max_size=8),
    yes=st.booleans(),
    amount=MSATS,
    scid=st.integers(0, 2**64 - 1).map(ShortChannelId),
    channel=st.binary(min_size=32, max_size=32).map(ChannelId),
    colour=st.sampled_from(Colour),
    place=st.builds(Place, st.sampled_from(Colour), OUTPOINTS),
    kind=st.sampled_from(("wpkh", "tr")),
    shape=SHAPES,
    maybe_shape=st.none() | SHAPES,
    shapes=st.lists(SHAPES, max_size=3).map(tuple),
    pair=st.none() | st.tuples(st.integers(0, 5), MSATS),
    by_place=st.dictionaries(OUTPOINTS, st.builds(Square, st.integers(0, 9)), max_size=3),
    by_pair=st.dictionaries(st.tuples(st.text(max_size=3), st.integers(0, 3)), st.integers(0, 9), max_size=3),
    tx=st.just(sample_tx()),
    features=st.integers(0, 2**70).map(Features),
    message=st.just(Pong(ignored=b"abc")),
    ping=st.none() | st.just(Ping(num_pong_bytes=1, ignored=b"")),
    preimage=st.none() | st.binary(min_size=32, max_size=32).map(Preimage),
    more=st.lists(st.binary(max_size=4), max_size=3).map(tuple),
)


@given(THINGS)
@settings(max_examples=100, deadline=None)
def test_every_kind_of_field_comes_back_equal_and_of_its_own_type(thing: Everything) -> None:
    found = CODEC.decode(CODEC.encode(thing))
    assert found == thing
    for one in dataclasses.fields(thing):
        assert type(getattr(found, one.name)) is type(getattr(thing, one.name))
    assert list(found.by_place) == list(thing.by_place)


def test_a_record_without_required_fields_is_not_invented() -> None:
    data = CODEC.encode(dataclasses.replace(_thing(), text="x"))
    raw = msgspec.msgpack.decode(data[1:-4])
    for name in list(raw):
        without = {key: value for key, value in raw.items() if key != name}
        if name in ("preimage", "more"):
            assert CODEC.decode(sealed(without)) == dataclasses.replace(_thing(), text="x")
        else:
            with pytest.raises(CorruptRecord, match="lacks fields"):
                CODEC.decode(sealed(without))


def sealed(body: Any, version: int = 1) -> bytes:
    """What a correct checksum stands behind."""
    data = bytes((version,)) + msgspec.msgpack.encode(body)
    return data + zlib.crc32(data).to_bytes(4, "big")


def _thing() -> Everything:
    outpoint = OutPoint(Txid(b"\x01" * 32), 2)
    return Everything(
        1,
        "x",
        b"x",
        True,
        Msat(1),
        ShortChannelId(1),
        ChannelId(b"\x02" * 32),
        Colour.RED,
        Place(Colour.BLUE, outpoint),
        "tr",
        Circle(Msat(1)),
        None,
        (Circle(Msat(1)),),
        (1, Msat(2)),
        {outpoint: Square(1)},
        {("a", 1): 2},
        sample_tx(),
        Features(5),
        Pong(ignored=b""),
        Ping(num_pong_bytes=1, ignored=b""),
    )


WRONG: tuple[Any, ...] = (
    None,
    1,
    -1,
    2**64 - 1,
    "red",
    "no such",
    b"",
    b"\x00" * 32,
    True,
    1.5,
    [],
    {},
    [1],
    [None],
    [[1, 2]],
    ["Circle", {}],
    ["Circle", {"radius": -1}],
    ["Circle"],
    ["Nothing", {"side": 1}],
    {"radius": 1},
    {"side": 1},
    {1: 2},
    [b"\x02" * 32, 1],
    [[[b"\x01" * 32, 2], {"side": 1}]] * 2,
)


def test_no_field_accepts_a_value_of_another_kind() -> None:
    raw = msgspec.msgpack.decode(CODEC.encode(_thing())[1:-4])
    refused = 0
    for name in raw:
        for wrong in WRONG:
            try:
                found = CODEC.decode(sealed({**raw, name: wrong}))
            except CorruptRecord:
                refused += 1
            else:
                # It may happen to be a legal value of that field: then it means just that (features forget zeros).
                again = msgspec.msgpack.decode(CODEC.encode(found)[1:-4])
                assert name == "features" or (again[name] == wrong and type(again[name]) is type(wrong)), name
    assert refused > len(raw) * len(WRONG) * 0.8


@pytest.mark.parametrize("body", [None, 1, [], {}, "text", {"number": 1}, {1: 1}, {"unknown": 1}])
def test_what_is_no_map_of_its_fields_is_refused(body: Any) -> None:
    with pytest.raises(CorruptRecord):
        CODEC.decode(sealed(body))
    raw = msgspec.msgpack.decode(CODEC.encode(_thing())[1:-4])
    with pytest.raises(CorruptRecord):
        CODEC.decode(sealed({**raw, "from the future": 1}))


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_random_bytes_are_a_corrupt_record(data: bytes) -> None:
    with pytest.raises(CorruptRecord):
        CODEC.decode(data)


@given(st.binary(max_size=60) | st.integers(0, 20_000).map(lambda depth: b"\x91" * depth))
@settings(max_examples=200)
def test_random_bytes_with_a_right_checksum_are_a_corrupt_record(body: bytes) -> None:
    data = b"\x01" + body
    with pytest.raises(CorruptRecord):
        CODEC.decode(data + zlib.crc32(data).to_bytes(4, "big"))


def test_every_flipped_bit_and_every_cut_is_noticed() -> None:
    data = encode_params(full_record().params)
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptRecord):
            decode_params(bytes(flipped))
    for cut in range(len(data)):
        with pytest.raises(CorruptRecord):
            decode_params(data[:cut])


def test_another_layout_version_is_named() -> None:
    with pytest.raises(CorruptRecord, match="layout 2 is not known"):
        CODEC.decode(sealed({}, version=2))


def test_payments_and_invoices_come_back() -> None:
    assert INVOICES.decode(INVOICES.encode(INVOICE)) == INVOICE
    assert PAYMENTS.decode(PAYMENTS.encode(PAYMENT)) == PAYMENT


def test_fields_may_be_added_and_moved() -> None:
    @dataclass(frozen=True)
    class Before:
        a: int
        b: str

    @dataclass(frozen=True)
    class After:
        b: str
        c: tuple[int, ...] = (1, 2)
        a: int = 0

    assert Codec(After, "thing").decode(Codec(Before, "thing").encode(Before(7, "x"))) == After("x", (1, 2), 7)


@dataclass(frozen=True)
class Inner:
    kept: int
    derived: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Outer:
    inner: Inner
    elsewhere: object


def test_given_and_omitted_fields_are_not_written() -> None:
    codec = Codec(Outer, "thing", given=("elsewhere",), layouts=Layouts({Inner: ("derived",)}))
    data = codec.encode(Outer(Inner(3, {1: 1}), object()))
    assert codec.decode(data, elsewhere="given") == Outer(Inner(3, {}), "given")
    with pytest.raises(CorruptRecord):
        codec.decode(data)


@dataclass(frozen=True)
class Holder:
    secret: SecretKey


@pytest.mark.parametrize("hint", [SecretKey, float, object, int | str, list[int], set[int], type])
def test_types_without_a_layout_are_found_when_the_plan_is_made(hint: Any) -> None:
    with pytest.raises(NoLayout):
        Layouts().plan(hint)


def test_a_secret_is_never_written() -> None:
    @dataclass(frozen=True)
    class Careless:
        data: bytes

    with pytest.raises(NoLayout):
        Codec(Holder, "holder")
    with pytest.raises(NoLayout, match="secret"):
        Codec(Careless, "careless").encode(Careless(SecretKey(b"\x01" * 32)))
