"""Blocks: those of the BOLT vectors, the kernel's merkle roots, and garbage."""

import json
from pathlib import Path

import pbk
import pytest
from bitcoin_strategies import txs
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.base.ids import BlockHash, Txid
from salama.bitcoin.block import Block, BlockHeader, MalformedBlock, block_hash, merkle_root
from salama.bitcoin.networks import REGTEST
from salama.bitcoin.tx import Tx

CASE = json.loads((Path(__file__).parents[1] / "vectors" / "bolt03-funding.json").read_text())["cases"][0]["given"]
GENESIS = bytes.fromhex(CASE["genesis_block"])
BLOCK_1 = bytes.fromhex(CASE["block_1"])
EASY = BlockHeader(1, BlockHash(bytes(32)), bytes(32), 0, 0x207FFFFF, 0)


def test_the_regtest_blocks_of_bolt_3():
    genesis, first = Block.decode(GENESIS), Block.decode(BLOCK_1)
    assert genesis.hash == REGTEST.chain_hash == first.header.previous == block_hash(GENESIS)
    for raw, block in ((GENESIS, genesis), (BLOCK_1, first)):
        assert block.encode() == raw
        assert block.has_right_merkle_root()
        assert block.txs[0].is_coinbase
        assert bytes(pbk.Block(raw).block_hash) == block.hash
        assert [bytes(tx.txid) for tx in pbk.Block(raw).transactions] == [tx.txid for tx in block.txs]
        assert int.from_bytes(block.hash, "little") <= block.header.target


@given(st.lists(txs, min_size=1, max_size=6).map(tuple))
@settings(max_examples=40)
def test_blocks_round_trip(transactions):
    root = merkle_root([tx.txid for tx in transactions])
    block = Block(BlockHeader(2, BlockHash(bytes(32)), root, 5, 0x207FFFFF, 7), transactions)
    again = Block.decode(block.encode())
    assert again == block and again.hash == block.hash == block_hash(block.encode()[:80])
    assert again.has_right_merkle_root() is (len({tx.txid for tx in transactions}) == len(transactions))
    assert BlockHeader.decode(again.header.encode()) == block.header


@given(st.binary(max_size=300))
def test_garbage_is_refused_with_a_typed_error(data):
    for raw in (data, EASY.encode() + data):
        try:
            block = Block.decode(raw)
        except MalformedBlock:
            continue
        assert block.encode() == raw


@given(st.integers(0, len(BLOCK_1) - 1))
def test_every_cut_is_refused(end):
    with pytest.raises(MalformedBlock):
        Block.decode(BLOCK_1[:end])
    with pytest.raises(MalformedBlock):
        Block.decode(BLOCK_1 + BLOCK_1[: end + 1])


def test_a_count_beyond_the_data_costs_nothing():
    with pytest.raises(MalformedBlock, match="truncated"):
        Block.decode(EASY.encode() + b"\xfe\xff\xff\xff\xff" + bytes(100))
    with pytest.raises(MalformedBlock, match="79 bytes"):
        block_hash(bytes(79))


def test_doubled_transactions_do_not_pass_for_the_block_they_imitate():
    """A tree of three and one of four with the last doubled share their root (CVE-2012-2459)."""
    ids = [Txid(bytes((n,)) * 32) for n in range(3)]
    assert merkle_root(ids) == merkle_root([*ids, ids[2]])
    assert merkle_root(ids) != merkle_root(ids[:2])
    assert merkle_root(ids[:1]) == ids[0]
    assert merkle_root([]) == bytes(32)
    base = Block.decode(BLOCK_1).txs[0]
    three = tuple(Tx(base.version, base.inputs, base.outputs, n) for n in range(3))
    header = BlockHeader(1, BlockHash(bytes(32)), merkle_root([tx.txid for tx in three]), 0, 0x207FFFFF, 0)
    assert Block(header, three).has_right_merkle_root()
    assert not Block(header, (*three, three[2])).has_right_merkle_root()
    assert not Block(header, three[:2]).has_right_merkle_root()


@pytest.mark.parametrize(
    ("bits", "target"),
    [
        (0x1D00FFFF, 0xFFFF << 208),
        (0x207FFFFF, 0x7FFFFF << 232),
        (0x03123456, 0x123456),
        (0x01120000, 0x12),
        (0x04923456, 0),
        (0xFF123456, 0),
    ],
)
def test_targets(bits, target):
    assert BlockHeader(1, BlockHash(bytes(32)), bytes(32), 0, bits, 0).target == target
