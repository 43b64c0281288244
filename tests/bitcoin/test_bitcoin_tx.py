"""Transactions: against embit, and against whatever bytes may come."""

import io
import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from bitcoin_strategies import txs
from embit.transaction import Transaction
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from salama.base.ids import OutPoint, Txid
from salama.base.units import MAX_SAT, Sat
from salama.bitcoin.tx import (
    COINBASE_OUTPOINT,
    MalformedTx,
    Tx,
    TxIn,
    TxOut,
    compact_size,
    encode_witness,
    read_compact_size,
    witness_size,
)

VECTORS = Path(__file__).parents[1] / "vectors"
SEGWIT = bytes.fromhex(
    "01000000000102fff7f7881a8099afa6940d42d1e7f6362bec38171ea3edf433541db4e4ad969f00000000494830450221008b9d1dc26ba6a9cb"
    "62127b02742fa9d754cd3bebf337f7a55d114c8e5cdd30be022040529b194ba3f9281a99f2b1c0a19c0489bc22ede944ccf4ecbab4cc618ef3ed"
    "01eeffffffef51e1b804cc89d182d279655c3aa89e815b1b309fe287d9b2b55d57b90ec68a0100000000ffffffff02202cb20600000000197"
    "6a9148280b37df378db99f66f85c95a783a76ac7a6d5988ac9093510d000000001976a9143bde42dbee7e4dbe6a21b2d50ce2f0167faa8159"
    "88ac000247304402203609e17b84f6a7d30c80bfa610b5b4542f32a8a0d5447a12fb1366d7f01cc44a0220573a954c4518331561406f90300e"
    "8f3358f51928d43c212a8caed02de67eebee0121025476c2e83188368da1ff3e292e7acafcdb3566bb0ad253f62fc70f07aeee635711000000"
)


def hex_strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from hex_strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from hex_strings(inner)


@given(txs)
def test_decode_gives_back_what_was_encoded(tx):
    raw = tx.encode()
    again = Tx.decode(raw)
    assert again == tx
    assert again.encode() == raw
    assert again.txid == tx.txid and again.wtxid == tx.wtxid


@given(txs)
@settings(max_examples=60)
def test_ids_and_sizes_agree_with_embit(tx):
    raw = tx.encode()
    theirs = Transaction.read_from(io.BytesIO(raw))
    assert theirs.serialize() == raw
    assert theirs.txid() == tx.txid[::-1]
    assert len(theirs.vin) == len(tx.inputs) and len(theirs.vout) == len(tx.outputs)
    assert [(i.txid[::-1], i.vout, i.sequence) for i in theirs.vin] == [(*i.outpoint, i.sequence) for i in tx.inputs]
    assert [(o.value, o.script_pubkey.data) for o in theirs.vout] == [(o.value, o.script) for o in tx.outputs]
    assert tx.weight == 3 * len(tx.encode_stripped()) + len(raw)
    assert tx.vsize == -(-tx.weight // 4)


@pytest.mark.parametrize("name", ["bolt03-funding", "bolt03-dual-funding", "bolt03-commitment-anchors"])
def test_every_transaction_of_the_bolt_vectors_survives(name):
    found = 0
    for text in hex_strings(json.loads((VECTORS / f"{name}.json").read_text())):
        if not text.startswith(("02000000", "01000000")) or len(text) > 5000:
            continue
        raw = bytes.fromhex(text)
        try:
            tx = Tx.decode(raw)
        except MalformedTx:
            assert len(raw) > 250 and raw[4:36] == bytes(32), "only a block may fail here"
            continue
        found += 1
        assert tx.encode() == raw
        assert Transaction.from_string(text).txid() == tx.txid[::-1]
    assert found >= 1


@given(st.binary(max_size=300))
@example(b"")
@example(bytes(10))
@example(b"\x02\x00\x00\x00\x00\x01\xff" + b"\xff" * 8)
def test_garbage_is_refused_with_a_typed_error(data):
    try:
        tx = Tx.decode(data)
    except MalformedTx:
        return
    assert tx.encode() == data


@given(txs, st.data())
def test_a_damaged_transaction_is_refused_or_another(tx, data):
    raw = bytearray(tx.encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        other = Tx.decode(bytes(raw))
    except MalformedTx:
        return
    assert other != tx
    assert other.encode() == bytes(raw)


@given(txs, st.data())
def test_every_cut_is_refused(tx, data):
    raw = tx.encode()
    with pytest.raises(MalformedTx):
        Tx.decode(raw[: data.draw(st.integers(0, len(raw) - 1))])
    with pytest.raises(MalformedTx):
        Tx.decode(raw + b"\x00")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0200000000000000000000", "no inputs, or an unknown serialisation flag"),
        ("02000000000200", "no inputs, or an unknown serialisation flag"),
        ("0200000001" + "00" * 36 + "fd0000" + "ffffffff" + "00" + "00000000", "a length is not minimally encoded"),
        ("02000000fdfc00" + "00" * 41 * 0xFC + "00" + "00000000", "a length is not minimally encoded"),
        ("0200000001" + "00" * 41 + "01" + "ff" * 8 + "00" + "00000000", "an output of more than 21 million bitcoin"),
        ("02000000000101" + "00" * 41 + "00" + "00" + "00000000", "the witness serialisation without any witness"),
        ("0200000001" + "00" * 41 + "ffffffffffffffffff" + "00000000", "truncated"),
    ],
)
def test_what_no_node_would_relay_is_refused(text, why):
    with pytest.raises(MalformedTx) as caught:
        Tx.decode(bytes.fromhex(text))
    assert caught.value.reason == why


def test_a_legal_witness_of_any_size_is_read():
    """A valid block with half a million witness items stopped other nodes (G1): no limit of ours may."""
    tx = Tx(2, (TxIn(COINBASE_OUTPOINT, witness=(b"",) * 500_001 + (bytes(3_000_000),)),), (), 0)
    again = Tx.decode(tx.encode())
    assert len(again.inputs[0].witness) == 500_002
    assert again.txid == tx.txid


def test_the_most_that_can_exist_is_a_legal_output():
    tx = Tx(2, (TxIn(COINBASE_OUTPOINT),), (TxOut(Sat(MAX_SAT), b""),), 0)
    assert Tx.decode(tx.encode()) == tx
    raw = tx.encode().replace(MAX_SAT.to_bytes(8, "little"), (MAX_SAT + 1).to_bytes(8, "little"))
    with pytest.raises(MalformedTx):
        Tx.decode(raw)


@given(txs, st.data())
def test_with_witness_changes_the_witness_only(tx, data):
    index = data.draw(st.integers(0, len(tx.inputs) - 1))
    witness = (b"signature", b"key")
    assume(tx.inputs[index].witness != witness)
    signed = tx.with_witness(index, list(witness))
    assert signed.txid == tx.txid == Txid(Tx.decode(signed.encode()).txid)
    assert signed.inputs[index].witness == witness
    assert signed.wtxid != tx.wtxid
    assert signed.encode_stripped() == tx.encode_stripped()


def test_a_transaction_cannot_be_changed():
    tx = Tx.decode(SEGWIT)
    with pytest.raises(FrozenInstanceError):
        tx.locktime = 0
    assert not tx.is_coinbase
    assert str(tx.txid) == "e8151a2af31c368a35053ddd4bdb285a8595c769a3ad83e0fa02314a602d4609"
    assert tx.outpoint(1) == OutPoint(tx.txid, 1)
    assert tx.inputs[1].sequence == 0xFFFFFFFF and tx.locktime == 17


@given(st.integers(0, 2**64 - 1) | st.sampled_from([0xFC, 0xFD, 0xFFFF, 0x10000, 0xFFFFFFFF, 0x100000000]))
def test_compact_size(number):
    encoded = compact_size(number)
    assert read_compact_size(b"x" + encoded, 1) == (number, 1 + len(encoded))


@given(st.lists(st.binary(max_size=300), max_size=5).map(tuple))
def test_witness_size_is_the_size_of_the_witness(witness):
    assert witness_size(witness) == len(encode_witness(witness))
