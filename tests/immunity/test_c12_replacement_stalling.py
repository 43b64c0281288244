"""C12 a sweeper whose fee begins anew with every conflict (lnd 0.18.5, replacement stalling)

What failed: some 40 HTLCs were claimed together; the peer double-spent one at a time, each time the rest began again at
a low fee, and after the deadline the rest was lost, too. The attack cost less than 200,000 satoshis.

Defence: onchain/bump.py:plan gives what is left a transaction in the same block, at a rate that floors_after keeps from
falling; the rate is a function of deadline, budget and height, and urgent claims travel alone (_split).

The planner's own tests are in tests/onchain/test_onchain_plan.py: rates over random markets and losses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest
from adversaries import Thief, account, mine_only, offer_htlcs
from onchain_relay import Chain, Side, World, open_chain

from salama.base.ids import OutPoint
from salama.bitcoin.script import p2wpkh
from salama.channel.events import SettleHtlc
from salama.onchain.bump import BUDGET_PERCENT
from salama.testing.pair import preimage_of

DELTA = 80
"""Blocks between the deadline downstream and the one upstream."""


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with open_chain() as one:
        yield one


def rates_of(side: Side, outpoints: Iterable[OutPoint]) -> dict[OutPoint, int]:
    """Sat per 1000 weight units that each of ``outpoints`` is claimed at."""
    assert side.state is not None
    flying = {one: int(sweep.feerate) for sweep in side.state.record.sweeps for one in sweep.claims}
    return {one: flying[one] for one in outpoints}


def test_forty_htlcs_double_spent_one_at_a_time(chain: Chain) -> None:
    """One input after another of what we claim together is taken away; the others are offered on."""
    world = World.open(chain, capacity=3_000_000, push=0, coins=22, slots=60)
    amounts = {n: 20_000 + n for n in range(40)}
    offer_htlcs(world, amounts, chain.height + 15, DELTA)
    alice, pool = world.alice, chain.core.pool
    thief = Thief(world, amounts)
    world.force_close(alice)
    world.mine(15)
    best: dict[OutPoint, int] = {}
    for stolen in range(30):
        left = {one.outpoint for one in thief.claims[stolen:]}
        assert len(left) == 40 - stolen
        assert left <= pool.spends.keys(), "what is still there is claimed in every block"
        rates = rates_of(alice, left)
        assert all(rate >= best.get(one, 0) for one, rate in rates.items()), "and never for less than before"
        best = rates
        mine_only(chain, thief.claim(thief.claims[stolen], 1000))
        world.follow()
    world.run_until_over(alice)
    outcome = account(world, alice, amounts)
    outcome.told("40 HTLCs, double-spent one at a time", f"{len(alice.learned())} taken with their preimage")
    assert len(alice.learned()) == 30
    assert outcome.is_within(lost=0, fee_percent=BUDGET_PERCENT), outcome


def test_fees_of_what_is_in_flight_never_fall(chain: Chain) -> None:
    """As the deadline nears the rate rises, whatever the market does."""
    world = World.open(chain)
    alice, bob = world.alice, world.bob
    bob.end.adds(100_000_000, expiry=chain.height + 26)
    world.pair.settle()
    world.pair.cut()
    alice.does(SettleHtlc(0, preimage_of(0)))
    world.force_close(bob)
    world.mine(1)
    bob.is_offline = True
    rates: list[int] = []
    core = chain.core
    for n in range(22):
        alice.feerate = 3000 if n < 5 else 300
        # A miner who never takes it.
        block = core.generate_with(p2wpkh(b"\x02" + bytes(31) + b"\x63"), [], 0)
        assert block
        alice.follows()
        assert alice.state is not None
        flying = [s for s in alice.state.record.sweeps if s.tx.inputs[0].outpoint not in _spent(alice)]
        rates.append(max((int(s.feerate) for s in flying if s.deadline is not None), default=0))
    assert rates == sorted(rates) and rates[-1] > 10 * 3000
    assert sum(1 for a, b in pairwise(rates) if b > a) >= 3
    world.run_until_over(alice)


def _spent(side: Side) -> set[object]:
    assert side.state is not None
    return {one.outpoint for done in side.state.record.confirmed for one in done.tx.inputs}


def test_what_is_urgent_travels_alone_though_coins_come_one_by_one(chain: Chain) -> None:
    """Timeouts of our commitment, which the wallet pays for: together while there is time, then each on its own."""
    world = World.open(chain)
    amounts = {n: 50_000 + n for n in range(4)}
    expiry = chain.height + 4
    offer_htlcs(world, amounts, expiry, DELTA)
    alice = world.alice
    world.bob.is_offline = True
    commitment = world.force_close(alice)
    mine_only(chain, commitment)
    sizes: list[list[int]] = []
    for _ in range(40):
        mine_only(chain)
        world.follow()
        assert alice.state is not None
        sizes.append(sorted(len(s.claims) for s in alice.state.record.sweeps if s.deadline is not None))
    assert [4] in sizes and sizes[-1] == [1] * 4
    world.run_until_over(alice)
    assert alice.failed() == set(amounts)
