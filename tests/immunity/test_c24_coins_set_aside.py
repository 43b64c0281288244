"""C24 coins spent twice, or set aside for nothing (Core Lightning 26.04, lnd)

What failed: coins leased for something that never came about stayed away from their owner, or were used a second time.

Defence: onchain/machine.py:_carry_out gives back at once what a plan did not use, node/onchain.py:Onchain.load after a
crash between a lease and what it is for, node/node.py:Node._release_forgotten_openings what an opening left; every
lease is on disk before a coin is spent, and wallet/step.py refuses a coin to a second purpose; node/onchain.py lets one
channel choose at a time (Onchain._lease).

In tests/onchain every turn of every test demands that coins are set aside for claims under way and for nothing else;
tests/node/test_funding_crashes.py cuts the power at lines all over openings, batches, PSBTs and withdrawals.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "onchain"))

from onchain_world import ACCOUNTS, Chain, World, open_chain

from salama.base.ids import OutPoint, Txid
from salama.base.machine import CommandRefused
from salama.base.units import BlockHeight, FeeratePerKw, Sat
from salama.bitcoin.tx import TxOut
from salama.node.onchain import Onchain
from salama.onchain.events import CoinsLeased, LeaseCoins, ReleaseCoins
from salama.onchain.machine import turn
from salama.wallet.coins import Coin
from salama.wallet.keys import KeyPath


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with open_chain() as one:
        yield one


def give(world: World, value: int) -> Coin:
    key = KeyPath("wpkh", 0, 900)
    tx = world.chain.spend([TxOut(Sat(value), ACCOUNTS.script(key))])
    world.chain.mine()
    coin = Coin(tx.outpoint(0), Sat(value), tx.outputs[0].script, key, BlockHeight(world.chain.height))
    world.alice.coins.append(coin)
    return coin


def test_a_coin_that_is_too_small_for_the_claim_is_given_back(chain: Chain) -> None:
    world = World.open(chain, coins=0)
    alice = world.alice
    give(world, 300)
    world.follow()
    alice.end.adds(50_000_000, 40_000_000, expiry=chain.height + 6)
    world.pair.settle()
    world.pair.cut()
    world.bob.is_offline = True
    world.force_close(alice)
    world.mine(8)
    assert alice.state is not None and not any(sweep.coins for sweep in alice.state.record.sweeps)
    assert not alice.leases
    give(world, 50_000)
    world.follow()
    world.mine(8)
    assert alice.failed() == {0, 1}


def test_every_lease_ends_with_its_claim(chain: Chain) -> None:
    """The peer claims with the preimage what we have prepared a timeout for."""
    world = World.open(chain)
    alice = world.alice
    alice.end.adds(50_000_000, expiry=chain.height + 6)
    world.pair.settle()
    world.pair.cut()
    world.bob.is_offline = True
    world.force_close(alice)
    for _ in range(12):
        world.mine()
        alice.restarts()
    assert alice.failed() == {0}
    world.run_until_over(alice)
    assert not alice.leases and alice.state is not None and alice.state.is_over
    late = turn(alice.state, (CoinsLeased("claim too late", tuple(alice.coins[:1])),), alice.env())
    assert late.effects == (ReleaseCoins("claim too late"),) and not late.state.offered


def test_a_lease_whose_claim_a_crash_has_lost_is_given_back_at_the_start() -> None:
    released: list[str] = []
    leases = {b"1": "claim abc 1:0", b"2": "claim def 2:0", b"3": "open xyz"}
    sweep = SimpleNamespace(purpose="claim def 2:0")
    record = SimpleNamespace(sweeps=(sweep,))
    made: Any = SimpleNamespace(
        by_id={1: SimpleNamespace(state=SimpleNamespace(record=record))},
        _wallet=SimpleNamespace(state=SimpleNamespace(leases=leases), release=released.append),
    )
    Onchain.load(made, [])
    assert released == ["claim abc 1:0"]


def test_channels_that_ask_at_the_same_moment_get_a_coin_each() -> None:
    """Who chose the same coin as another went without until the next block: with 300 channels, for 300 blocks."""
    coins = {
        (at := OutPoint(Txid(bytes(31) + bytes([n])), 0)): Coin(
            at, Sat(50_000), ACCOUNTS.script(key), key, BlockHeight(1)
        )
        for n in range(20)
        for key in (KeyPath("wpkh", 0, n),)
    }
    leases: dict[OutPoint, str] = {}

    async def lease(outpoints: tuple[OutPoint, ...], purpose: str) -> None:
        await asyncio.sleep(0)
        if any(one in leases for one in outpoints):
            raise CommandRefused("coin_leased", "somebody was faster", "")
        leases.update(dict.fromkeys(outpoints, purpose))

    def spendable(height: BlockHeight) -> list[Coin]:
        return [coin for at, coin in coins.items() if at not in leases]

    state = SimpleNamespace(spendable=spendable, leased_to=lambda purpose: (), coins=coins, spenders={}, recent={})
    told: list[object] = []

    async def story() -> None:
        wallet, channels = SimpleNamespace(state=state, lease=lease), SimpleNamespace(height=BlockHeight(100))
        nothing: Any = None
        around: Any = wallet, channels
        onchain = Onchain(nothing, nothing, nothing, *around, nothing, nothing, nothing, nothing)
        actors: list[Any] = [SimpleNamespace(name=f"{n}", asking=set(), tell=told.append) for n in range(15)]
        wanted = [LeaseCoins(f"claim {n}", Sat(1_000), FeeratePerKw(1_000)) for n in range(15)]
        await asyncio.gather(*(onchain._lease(a, w) for a, w in zip(actors, wanted, strict=True)))

    asyncio.run(story())
    assert [type(event) for event in told] == [CoinsLeased] * 15
    assert len(set(leases.values())) == 15 == len(leases)
