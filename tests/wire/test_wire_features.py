"""Feature bits against BOLT 9's table, and what vectors can tell (B9.01)."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salama.wire import FEATURES, Context, Features, negotiated
from salama.wire import features as f

CASES = json.loads((Path(__file__).parents[1] / "vectors" / "bolt09-features.json").read_text())["cases"]
ANCHORS = Features.of(mandatory=[f.OPTION_STATIC_REMOTEKEY, f.OPTION_ANCHORS])


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_table(case: Any) -> None:
    feature, expect = f.BY_NAME[case["name"]], case["expect"]
    assert [feature.bit, feature.odd] == case["given"]["bits"]
    assert feature.assumed == expect["assumed"]
    assert list(feature.needs) == expect["needs"]
    if expect["contexts"]:
        assert feature.contexts == expect["contexts"]
    else:
        # Blank in the table: assumed features and gossip_queries keep the contexts of older revisions.
        assert feature.assumed or feature is f.GOSSIP_QUERIES


def test_table_has_nothing_else() -> None:
    assert {feature.name for feature in FEATURES} == {case["name"] for case in CASES}
    assert [feature.bit for feature in FEATURES] == sorted({feature.bit for feature in FEATURES})


@given(st.binary(max_size=20))
def test_vectors_encode_minimally(data: bytes) -> None:
    vector = Features.decode(data)
    assert vector.encode() == data.lstrip(b"\0")
    assert Features.of_bits(vector.bits()) == vector
    for bit in range(len(data) * 8):
        assert (bit in set(vector.bits())) == bool(data[len(data) - 1 - bit // 8] >> bit % 8 & 1)


def test_either_bit_offers_and_both_require() -> None:
    optional = Features.of(optional=[f.OPTION_SPLICE])
    mandatory = Features.of(mandatory=[f.OPTION_SPLICE])
    assert list((optional | mandatory).bits()) == [62, 63]
    for vector, required in ((optional, False), (mandatory, True), (optional | mandatory, True)):
        assert vector.has(f.OPTION_SPLICE)
        assert vector.requires(f.OPTION_SPLICE) is required
    assert not Features().has(f.OPTION_SPLICE)
    assert Features.of(optional=[f.OPTION_SPLICE], mandatory=[f.OPTION_SPLICE]) == mandatory


def test_channel_types_are_compared_exactly() -> None:
    assert ANCHORS.encode().hex() == "401000"
    assert Features.decode(bytes.fromhex("0000401000")) == ANCHORS
    assert Features.decode(bytes.fromhex("401001")) != ANCHORS
    assert {ANCHORS: 1}[Features.of_bits([12, 22])] == 1


def test_unknown_even_bits() -> None:
    assert Features.of_bits([0, 2, 3, 30, 31, 54, 100, 101, 2022]).unknown_even() == (2, 30, 54, 100, 2022)
    assert Features.of_bits([bit for feature in FEATURES for bit in (feature.bit, feature.odd)]).unknown_even() == ()


def test_the_longest_vector_is_no_burden() -> None:
    longest = Features.decode(b"\xff" * 65533)
    assert len(longest.unknown_even()) == 65533 * 4 - len(FEATURES)
    assert longest.missing_dependencies() == ()
    for bit in (-1, f.MAX_BIT + 1, 1 << 40):
        with pytest.raises(ValueError, match="feature bit"):
            Features.of_bits([bit])


def test_missing_dependencies() -> None:
    alone = Features.of(optional=[f.OPTION_ZEROCONF, f.OPTION_SIMPLE_CLOSE, f.BASIC_MPP])
    assert alone.missing_dependencies() == (
        (f.OPTION_ZEROCONF, f.OPTION_SCID_ALIAS),
        (f.OPTION_SIMPLE_CLOSE, f.OPTION_SHUTDOWN_ANYSEGWIT),
    )
    needed = Features.of(optional=[f.OPTION_SCID_ALIAS], mandatory=[f.OPTION_SHUTDOWN_ANYSEGWIT])
    assert (alone | needed).missing_dependencies() == ()


def test_negotiated() -> None:
    feature = f.OPTION_QUIESCE
    none, optional, mandatory = Features(), Features.of(optional=[feature]), Features.of(mandatory=[feature])
    assert negotiated(optional, optional, feature)
    assert negotiated(optional, mandatory, feature)
    assert negotiated(mandatory, none, feature)
    assert not negotiated(optional, none, feature)
    assert not negotiated(none, mandatory, feature)
    assert negotiated(none, none, f.OPTION_CHANNEL_TYPE)


def test_contexts() -> None:
    every = Features.of(optional=FEATURES)
    assert every.only(Context.INVOICE).has(f.OPTION_PAYMENT_METADATA)
    assert not every.only(Context.INIT).has(f.OPTION_PAYMENT_METADATA)
    assert every.only(Context.BLINDED_PATH) == Features()
    assert every.only(Context.CHANNEL_TYPE) == Features.of(
        optional=[f.OPTION_STATIC_REMOTEKEY, f.OPTION_ANCHORS, f.OPTION_SCID_ALIAS, f.OPTION_ZEROCONF]
    )
    assert Features.of_bits([201]).only(Context.INIT) == Features()


def test_repr_is_readable_and_bounded() -> None:
    assert repr(ANCHORS) == "Features(option_static_remotekey/12, option_anchors/22)"
    assert len(repr(Features.decode(b"\xff" * 8000))) < 3000
