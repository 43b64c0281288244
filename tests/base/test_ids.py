"""Identifiers: exact sizes, the order in which people see them, and text that comes back (BOLT 1, BOLT 7 B7.01)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salama.base.ids import ChannelId, MalformedId, NodeId, OutPoint, Preimage, ShortChannelId, Txid


@given(st.binary(max_size=40))
def test_only_the_exact_length_is_taken(data: bytes) -> None:
    for kind in (NodeId, ChannelId, Txid):
        if len(data) == kind.SIZE:
            assert kind(data) == data
        else:
            with pytest.raises(MalformedId):
                kind(data)


@given(st.text(max_size=80))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for kind in (NodeId, ChannelId, Txid, OutPoint, ShortChannelId):
        try:
            value = kind.parse(text)
        except MalformedId:
            continue
        assert kind.parse(str(value)) == value


def test_a_txid_is_shown_reversed() -> None:
    txid = Txid(bytes(range(32)))
    assert str(txid).startswith("1f1e") and Txid.parse(str(txid)) == txid
    outpoint = OutPoint(txid, 7)
    assert OutPoint.parse(str(outpoint)) == outpoint


@given(st.integers(0, (1 << 24) - 1), st.integers(0, (1 << 24) - 1), st.integers(0, (1 << 16) - 1))
def test_short_channel_ids_come_apart_as_they_went_in(height: int, index: int, vout: int) -> None:
    scid = ShortChannelId.of(height, index, vout)
    assert (scid.height, scid.index, scid.vout) == (height, index, vout)
    assert ShortChannelId.parse(str(scid)) == scid


def test_a_channel_id_mixes_the_output_index_into_its_end() -> None:
    """B2.01, version 1."""
    funding = OutPoint(Txid(bytes(30) + b"\x12\x34"), 0x0102)
    assert ChannelId.v1(funding) == bytes(30) + b"\x13\x36"


def test_a_preimage_does_not_show_itself() -> None:
    assert "ab" not in repr(Preimage(b"\xab" * 32))
