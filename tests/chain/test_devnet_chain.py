"""The devnet's chain: mining, reorgs, restarts; and its state always the one that its blocks imply."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from devnet_bench import TR, WPKH, Piece, fan_out, in_process, pay, pieces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salama.base.ids import BlockHash, OutPoint
from salama.bitcoin.block import Block
from salama.chain.devnet import blocklog, miner
from salama.chain.devnet.blocklog import DamagedLog, Kind
from salama.chain.devnet.chainstate import is_spendable
from salama.chain.devnet.policy import Rejected
from salama.chain.devnet.regtest import BlockRefused, DirectoryInUse, Regtest, UnknownBlock


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Regtest]:
    net = in_process(tmp_path / "devnet")
    yield net
    net.close()


def check_state(net: Regtest) -> None:
    """Recomputes the state from the blocks of the best chain and compares."""
    coins: dict[OutPoint, tuple[int, bool]] = {}
    spenders, places, total = {}, {}, 0
    for height, block_hash in enumerate(net.chain.active):
        block = Block.decode(net.raw_block(net.chain.blocks[block_hash]))
        assert block.hash == block_hash
        if height == 0:
            continue
        assert block.header.previous == net.chain.active[height - 1]
        for index, tx in enumerate(block.txs):
            places[tx.txid] = (block_hash, index)
            if index:
                for one in tx.inputs:
                    del coins[one.outpoint]
                    spenders[one.outpoint] = tx.txid
            for vout, out in enumerate(tx.outputs):
                if is_spendable(out):
                    coins[OutPoint(tx.txid, vout)] = (height, index == 0)
    total = sum(net.chain.coins[outpoint].out.value for outpoint in coins)
    assert {outpoint: (c.height, c.coinbase) for outpoint, c in net.chain.coins.items()} == coins
    assert (net.chain.spenders, net.chain.places, net.chain.total) == (spenders, places, total)
    # Everything in the pool can be spent in the next block, and the kernel agrees when it is.
    spent = [one.outpoint for entry in net.pool.entries.values() for one in entry.tx.inputs]
    assert len(set(spent)) == len(spent) == len(net.pool.spends)


def test_subsidy_and_total(tmp_path: Path) -> None:
    net = Regtest(tmp_path / "devnet")
    for _ in range(305):
        net.generate(TR)
    assert [miner.subsidy(h) for h in (1, 149, 150, 300, 150 * 64)] == [
        50 * 10**8,
        50 * 10**8,
        25 * 10**8,
        1_250_000_000,
        0,
    ]
    assert net.chain.total == 149 * 50 * 10**8 + 150 * 25 * 10**8 + 6 * 1_250_000_000
    check_state(net)
    net.close()


def test_fees_go_to_the_miner(net: Regtest) -> None:
    before = net.chain.total
    fan_out(net, 3)
    assert net.chain.total == before + miner.subsidy(net.chain.height)
    check_state(net)


def test_a_reorg_puts_transactions_back(net: Regtest) -> None:
    a, b = fan_out(net, 2)
    net.submit_tx(pay(a, 300))
    first = net.generate(WPKH)
    # Paying more than the other one, so that the block has it first whatever the ids are.
    child = pay(pieces(pay(a, 300))[0], 300)
    net.submit_tx(child)
    net.submit_tx(pay(b, 200))
    net.generate(WPKH)
    assert not net.pool.entries
    net.invalidate(first)
    assert list(net.pool.entries) == [pay(a, 300).txid, child.txid, pay(b, 200).txid]
    check_state(net)
    # The other branch confirms a conflict of one of them.
    conflict = pay(a, 5_000, TR)
    net.generate_with(WPKH, [conflict], 5_000)
    assert list(net.pool.entries) == [pay(b, 200).txid]
    check_state(net)
    # Two blocks against one: reconsidered, the first branch wins, and the conflict is out.
    net.reconsider(first)
    assert net.chain.active[-2] == first
    assert not net.pool.entries
    assert conflict.txid not in net.chain.places
    check_state(net)


def test_a_reorg_drops_spends_of_coinbases_that_grew_young(net: Regtest) -> None:
    (coin,) = (
        (outpoint, c) for outpoint, c in net.chain.coins.items() if c.coinbase and c.height == net.chain.height - 99
    )
    net.submit_tx(pay(Piece(coin[0], coin[1].out), 300))
    net.invalidate(net.chain.active[-1])
    assert not net.pool.entries


def test_blocks_made_elsewhere(net: Regtest, tmp_path: Path) -> None:
    other = Regtest(tmp_path / "other")
    for block_hash in net.chain.active[1:]:
        other.submit_block(net.raw_block(net.stored(block_hash)))
    assert other.chain.active == net.chain.active
    longer = [other.generate(TR) for _ in range(3)]
    shorter = [net.generate(WPKH) for _ in range(2)]
    for block_hash in longer[:2]:
        net.submit_block(other.raw_block(other.stored(block_hash)))
        # Equal work: who came first stays.
        assert net.chain.active[-1] == shorter[-1]
    net.submit_block(other.raw_block(other.stored(longer[2])))
    assert net.chain.active[-3:] == longer
    check_state(net)
    for raw, word in [
        (other.raw_block(other.stored(longer[2])), "duplicate"),
        (b"", "block-decode-failed"),
        (other.raw_block(other.stored(longer[2]))[:-1], "block-decode-failed"),
    ]:
        with pytest.raises(BlockRefused, match=word):
            net.submit_block(raw)
    orphan = miner.mine(BlockHash(b"\x01" * 32), 5, int(time.time()), WPKH, [], 0)
    with pytest.raises(BlockRefused, match="prev-blk-not-found"):
        net.submit_block(orphan.encode())
    greedy = miner.mine(net.chain.tip.hash, net.chain.height + 1, int(time.time()) + 1, WPKH, [], 1)
    with pytest.raises(BlockRefused):
        net.submit_block(greedy.encode())
    assert greedy.hash not in net.chain.blocks
    other.close()


def test_invalidate_refuses_nonsense(net: Regtest) -> None:
    with pytest.raises(UnknownBlock):
        net.invalidate(BlockHash(b"\x01" * 32))
    with pytest.raises(BlockRefused):
        net.invalidate(net.chain.active[0])
    tip = net.chain.active[-1]
    net.invalidate(tip)
    net.invalidate(tip)
    with pytest.raises(BlockRefused, match="duplicate-invalid"):
        net.submit_block(net.raw_block(net.stored(tip)))
    assert {t.hash: net.is_invalid(t) for t in net.branch_tips()} == {tip: True, net.chain.active[-1]: False}
    net.reconsider(net.chain.active[3])
    assert net.chain.active[-1] == tip


def test_a_restart_finds_everything(tmp_path: Path) -> None:
    net = in_process(tmp_path / "devnet")
    a, b, c = fan_out(net, 3)
    net.submit_tx(pay(a, 300))
    net.submit_tx(pay(a, 1_000))
    net.submit_tx(pay(b, 300))
    free = pay(c, 0, version=3)
    net.submit_package([free, pay(pieces(free)[0], 500, version=3)])
    stale = net.generate_with(WPKH, [pay(b, 300)], 300).hash
    net.invalidate(stale)
    net.generate_with(TR, [], 0)
    pool, active = set(net.pool.entries), list(net.chain.active)
    assert {pay(a, 1_000).txid, pay(b, 300).txid, free.txid} < pool
    net.close()
    again = Regtest(tmp_path / "devnet")
    assert again.chain.active == active
    # The replaced transaction does not come back in place of what replaced it.
    assert set(again.pool.entries) == pool
    assert again.is_invalid(again.stored(stale))
    check_state(again)
    again.reconsider(stale)
    check_state(again)
    again.close()


def test_a_torn_log_loses_only_its_last_block(tmp_path: Path) -> None:
    net = in_process(tmp_path / "devnet")
    active = list(net.chain.active)
    net.close()
    log = tmp_path / "devnet" / "chain.log"
    log.write_bytes(log.read_bytes()[:-7])
    again = Regtest(tmp_path / "devnet")
    assert again.chain.active == active[:-1]
    again.generate(WPKH)
    check_state(again)
    again.close()


def test_a_log_of_nonsense_is_refused_and_the_lock_given_back(tmp_path: Path) -> None:
    directory = tmp_path / "devnet"
    net = in_process(directory)
    net.close()
    log = blocklog.BlockLog(directory / "chain.log")
    end = sum(1 for _ in log.replay())
    assert end == 110
    log.append(Kind.INVALIDATED, b"\x09" * 32)
    log.close()
    for _ in range(2):
        with pytest.raises(DamagedLog, match="nonsense"):
            Regtest(directory)


def test_a_full_disk_refuses_the_block_and_forgets_it(net: Regtest, monkeypatch: pytest.MonkeyPatch) -> None:
    tip = net.chain.tip

    def full(*_: object) -> int:
        raise OSError(28, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(net._log, "append", full)
        with pytest.raises(OSError, match="no space"):
            net.generate(WPKH)
    assert net.chain.tip == tip
    net.generate(WPKH)
    assert net.chain.height == tip.height + 1
    check_state(net)


def test_one_process_at_a_time(net: Regtest, tmp_path: Path) -> None:
    with pytest.raises(DirectoryInUse):
        Regtest(tmp_path / "devnet")


def test_block_times_follow_the_clock_and_the_median(tmp_path: Path) -> None:
    now = [time.time()]
    net = Regtest(tmp_path / "devnet", clock=lambda: now[0])
    for _ in range(30):
        net.generate(WPKH)
    # A clock that stands still, or goes back, still gives valid blocks.
    now[0] -= 3600
    net.generate(WPKH)
    assert net.chain.height == 31
    net.close()


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_history_leaves_the_state_its_blocks_imply(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("history") / "devnet"
    net = in_process(directory)
    coins = fan_out(net, 6)
    steps = st.sampled_from(["pay", "child", "mine", "mine", "invalidate", "reconsider", "restart"])
    for step in data.draw(st.lists(steps, min_size=3, max_size=14)):
        try:
            if step == "pay":
                net.submit_tx(pay(data.draw(st.sampled_from(coins)), data.draw(st.integers(110, 5_000))))
            elif step == "child" and net.pool.entries:
                parent = data.draw(st.sampled_from(list(net.pool.entries)))
                net.submit_tx(pay(pieces(net.pool.entries[parent].tx)[0], 500))
            elif step == "mine":
                net.generate(WPKH)
            elif step == "invalidate":
                net.invalidate(net.chain.active[data.draw(st.integers(net.chain.height - 2, net.chain.height))])
            elif step == "reconsider":
                net.reconsider(data.draw(st.sampled_from(list(net.chain.blocks))))
            elif step == "restart":
                pool, active = set(net.pool.entries), list(net.chain.active)
                net.close()
                net = Regtest(directory)
                assert net.chain.active == active
                assert pool <= set(net.pool.entries) | set(net.chain.places)
        except Rejected:
            pass
        check_state(net)
    net.generate(WPKH)
    assert not net.pool.entries
    net.close()
