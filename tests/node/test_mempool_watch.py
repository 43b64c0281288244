"""A preimage is seen in the mempool, by a node that asks it (immunity C14; B5.06)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from hashlib import sha256
from random import Random

import pytest

from salama.base.ids import OutPoint, Txid
from salama.base.units import Sat
from salama.bitcoin.script import p2wsh
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.chain.backend import BackendUnavailable
from salama.node.mempool import MAX_ASKED, MAX_FETCHED, MempoolWatch
from salama.sim.chain import Bitcoin

ANYONE = b"\x51"


class Pool:
    """The part of a back-end that is asked, on the simulation's mempool."""

    def __init__(self) -> None:
        self.chain = Bitcoin(Random(1), lambda: 1_700_000_000.0)
        self.questions: list[int] = []
        self.is_away = False

    def coins(self, count: int) -> list[OutPoint]:
        block = self.chain.give([TxOut(Sat(10_000), p2wsh(ANYONE)) for _ in range(count)])
        return [block.txs[1].outpoint(n) for n in range(count)]

    def spend(self, outpoint: OutPoint, fee: int = 1_000) -> Tx:
        script = p2wsh(b"\x75\x51")
        tx = Tx(2, (TxIn(outpoint, 0, witness=(ANYONE,)),), (TxOut(Sat(10_000 - fee), script),), 0)
        self.chain.pool.accept(tx)
        return tx

    async def mempool_spenders(self, outpoints: Sequence[OutPoint]) -> frozenset[Txid]:
        if self.is_away:
            raise BackendUnavailable("gone")
        self.questions.append(len(outpoints))
        spends = self.chain.pool.spends
        return frozenset(spends[one] for one in outpoints if one in spends)

    async def transaction(self, txid: Txid) -> Tx | None:
        entry = self.chain.pool.entries.get(txid)
        return entry.tx if entry is not None else None


def watching(pool: Pool, awaited: list[OutPoint]) -> tuple[MempoolWatch, list[Tx]]:
    told: list[Tx] = []
    return MempoolWatch(pool, lambda: awaited, told.append, 0.01), told  # type: ignore[arg-type]


def test_a_spend_is_told_once_and_again_after_a_block() -> None:
    pool = Pool()
    coin, other = pool.coins(2)
    watch, told = watching(pool, [coin])

    async def run() -> None:
        await watch.look()
        tx = pool.spend(coin)
        pool.spend(other)
        await watch.look()
        await watch.look()
        assert told == [tx]
        watch.block_seen()
        await watch.look()
        assert told == [tx, tx]
        better = pool.spend(coin, 5_000)
        await watch.look()
        assert told == [tx, tx, better], "what replaces it is another one"

    asyncio.run(run())


def test_nothing_is_asked_while_nobody_waits() -> None:
    pool = Pool()
    watch, _ = watching(pool, [])
    asyncio.run(watch.look())
    assert pool.questions == []


def test_questions_and_answers_are_bounded() -> None:
    pool = Pool()
    coins = pool.coins(MAX_FETCHED + 20)
    far = [OutPoint(Txid(sha256(b"%d" % n).digest()), 0) for n in range(2 * MAX_ASKED)]
    watch, told = watching(pool, [*far, *coins])
    for coin in coins:
        pool.spend(coin)

    async def run() -> None:
        await watch.look()
        assert max(pool.questions) == MAX_ASKED and sum(pool.questions) == len(far) + len(coins)
        assert len(told) == MAX_FETCHED
        await watch.look()
        assert len(told) == len(coins)

    asyncio.run(run())


def test_an_outage_is_waited_out() -> None:
    pool = Pool()
    (coin,) = pool.coins(1)
    watch, told = watching(pool, [coin])
    pool.spend(coin)
    pool.is_away = True

    async def run() -> None:
        task = asyncio.create_task(watch.run())
        await asyncio.sleep(0.05)
        assert not told and not task.done()
        pool.is_away = False
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(told) == 1

    asyncio.run(run())
