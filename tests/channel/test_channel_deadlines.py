"""Never to the chain for less than it costs, and always for more (B2.49)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from salama.base.units import FeeratePerKw
from salama.channel.deadlines import closing_cost
from salama.channel.env import Feerates
from salama.channel.events import SettleHtlc
from salama.channel.state import Phase
from salama.testing.pair import START, End, Pair, preimage_of


def at_expiry(pair: Pair, end: End, blocks: int) -> Phase:
    """``end`` sees the chain that many blocks behind the expiry of what was added; its peer says nothing."""
    expiry = int(START) + 50
    pair.mines(expiry + blocks - int(end.env.height))
    return end.record.phase


def market(end: End, feerate: int) -> None:
    rate = FeeratePerKw(feerate)
    end.env = replace(end.env, feerates=Feerates(rate, rate))


def offered(*amounts: int) -> Pair:
    pair = Pair.opened()
    pair.alice.adds(*amounts, expiry=int(START) + 50)
    pair.settle()
    pair.cut()
    return pair


@pytest.mark.parametrize("amounts", [(300_000,), (353_999,) * 4, (375_000,), (3_000_000,)])
def test_what_costs_more_than_it_brings_stays_where_it_is(amounts: tuple[int, ...]) -> None:
    pair = offered(*amounts)
    assert at_expiry(pair, pair.alice, 300) is Phase.NORMAL


@pytest.mark.parametrize("amounts", [(50_000_000,), (5_000_000,) * 4, (300_000, 50_000_000)])
def test_what_is_worth_it_goes_in_time(amounts: tuple[int, ...]) -> None:
    pair = offered(*amounts)
    assert at_expiry(pair, pair.alice, 1) is Phase.NORMAL
    assert at_expiry(pair, pair.alice, 2) is Phase.ON_CHAIN
    assert f"HTLC {len(amounts) - 1 if len(set(amounts)) > 1 else 0} is past" in pair.alice.record.error


def test_the_market_is_asked_again_at_every_block() -> None:
    pair = offered(20_000_000)
    alice = pair.alice
    market(alice, 20_000)
    assert closing_cost(alice.record, alice.env) > 20_000
    assert at_expiry(pair, alice, 30) is Phase.NORMAL
    market(alice, 1000)
    assert at_expiry(pair, alice, 31) is Phase.ON_CHAIN


@pytest.mark.parametrize(("amount", "closes"), [(300_000, False), (2_000_000, False), (50_000_000, True)])
def test_a_paid_htlc_is_enforced_only_if_it_brings_more_than_the_close_costs(amount: int, closes: bool) -> None:
    pair = offered(amount)
    bob = pair.bob
    bob.does(SettleHtlc(0, preimage_of(0)))
    assert at_expiry(pair, bob, -19) is Phase.NORMAL
    assert (at_expiry(pair, bob, -18) is Phase.ON_CHAIN) == closes
