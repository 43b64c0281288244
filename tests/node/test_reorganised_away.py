"""What a reorganisation leaves without a block is offered again, also to a back-end that has forgotten it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from salama.base.units import FeeratePerKw, Sat
from salama.bitcoin.script import p2wsh
from salama.bitcoin.tx import Tx, TxOut
from salama.sim.world import World

STRANGER = p2wsh(b"\x51")


@pytest.mark.parametrize("depth", [1, 3])
def test_a_payment_of_the_wallet_is_published_again(tmp_path: Path, depth: int) -> None:
    world = World(5, tmp_path)
    machine, chain = world.add_machine(), world.chain
    seen: list[bool] = []

    async def story() -> None:
        machine.boot()
        while not machine.is_up:
            await asyncio.sleep(0.1)
        script = await machine.ask(lambda node: node.wallet.new_script())
        chain.give([TxOut(Sat(3_000_000), script)])
        chain.mine()
        await asyncio.sleep(3)
        spent = await machine.ask(lambda node: node.spending.withdraw(STRANGER, Sat(100_000), FeeratePerKw(2000)))
        tx: Tx = spent.tx
        for _ in range(depth):
            chain.mine()
        await asyncio.sleep(3)
        assert tx.txid in chain.state.places
        chain.pool.put_back = lambda txs, newer_wins=False: None  # type: ignore[method-assign]
        chain.reorganise(depth)
        assert tx.txid not in chain.state.places and tx.txid not in chain.pool.entries
        await asyncio.sleep(3)
        seen.append(tx.txid in chain.pool.entries)

    world.run(story())
    assert world.problems == []
    assert seen == [True]
