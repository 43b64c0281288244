"""What a close would cost is what it then costs (C20): the rehearsal against the performance."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from onchain_world import DELAY, Chain, World, open_chain

from salama.api.onchain_methods import _answer, _shown
from salama.base.units import FeeratePerKw
from salama.channel.events import PublicEvent, SettleHtlc
from salama.onchain.claims import Way
from salama.onchain.stress import Line, rehearse
from salama.onchain.telling import sentence
from salama.testing.pair import preimage_of


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with open_chain() as one:
        yield one


def by_way(lines: tuple[Line, ...]) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line.what, []).append(line)
    return found


def with_htlcs(chain: Chain, coins: int = 12) -> World:
    world = World.open(chain, coins=coins)
    world.alice.end.adds(60_000_000, 900_000, 300_000, expiry=chain.height + 20)
    world.pair.settle()
    world.bob.end.adds(70_000_000, expiry=chain.height + 60)
    world.pair.settle()
    world.pair.cut()
    world.alice.does(SettleHtlc(0, preimage_of(0)))
    return world


def test_every_transaction_of_a_close_is_named_with_its_fee(chain: Chain) -> None:
    world = with_htlcs(chain)
    lines = by_way(rehearse(world.alice.end.record, FeeratePerKw(5_000)))
    (commitment,) = lines["our commitment"]
    assert commitment.from_wallet and commitment.is_economic and int(commitment.fee) > 5_000
    assert sorted(int(one.amount) for one in lines[Way.DELAYED.value])[:2] == [60_000, 70_000], "second stages"
    assert len(lines[Way.DELAYED.value]) == 3
    assert all(one.is_economic and not one.from_wallet for one in lines[Way.DELAYED.value])
    small, large = sorted(lines[Way.TIMEOUT_TX.value], key=lambda one: int(one.amount))
    assert (int(large.amount), large.is_economic, large.from_wallet) == (60_000, True, True)
    assert (int(small.amount), small.is_economic) == (900, False)
    (success,) = lines[Way.SUCCESS_TX.value]
    assert success.is_economic and int(success.amount) == 70_000
    assert sum(len(found) for found in lines.values()) == 7, "dust has no output"


def test_at_a_very_dear_rate_some_of_it_is_not_worth_it(chain: Chain) -> None:
    world = with_htlcs(chain)
    lines = rehearse(world.alice.end.record, FeeratePerKw(50_000))
    assert lines[0].is_economic
    assert {line.what for line in lines if not line.is_economic} == {Way.TIMEOUT_TX.value, Way.SUCCESS_TX.value}
    assert not rehearse(world.alice.end.record, FeeratePerKw(500_000))[0].is_economic


def test_what_is_rehearsed_is_what_is_paid(chain: Chain) -> None:
    rate = 6_000
    world = with_htlcs(chain)
    alice = world.alice
    lines = rehearse(alice.end.record, FeeratePerKw(rate))
    alice.feerate = rate
    world.bob.is_offline = True
    world.force_close(alice)
    assert alice.state is not None
    (child,) = alice.state.record.sweeps
    assert 0 <= int(lines[0].fee) - int(child.fee) <= rate * 110 // 1000, "one coin of either kind"
    world.mine(20)
    # No deadline is near yet.
    assert alice.state is not None and not alice.is_over, "what is dear today waits a while"
    _, fees = world.gained(alice)
    assert sum(int(line.fee) for line in lines) >= fees > int(lines[0].fee)


def test_the_answer_is_for_a_person() -> None:
    assert _answer(9, 0, 0, 0, 0) == "There is no open channel."
    assert _answer(9, 1, 0, 0, 0) == "At 9 sat/vbyte the only channel could be closed by force at once."
    assert _answer(9, 3, 0, 0, 0) == "At 9 sat/vbyte all 3 channels could be closed by force at once."
    missing = _answer(9, 3, 4_000, 0, 0)
    assert "not all of 3 channels could" in missing and "lacks 4,000 sat" in missing
    assert "Its commitment would offer half" in _answer(9, 1, 0, 1, 0)


def test_a_commitment_that_waits_is_not_left_behind(chain: Chain) -> None:
    world = with_htlcs(chain)
    record = world.alice.end.record
    shown = _shown(record, rehearse(record, FeeratePerKw(500_000)))
    assert not shown.commitment_is_economic
    assert "would offer" in shown.lines[0] and "wait" in shown.lines[0]
    assert shown.uneconomic_msat <= 1000 * int(rehearse(record, FeeratePerKw(500_000))[0].amount)


def test_what_is_ours_later_is_told_with_its_height(chain: Chain) -> None:
    world = World.open(chain)
    alice = world.alice
    world.pair.cut()
    world.force_close(alice)
    world.mine(3)
    alice.restarts()
    world.mine(1)
    (told,) = [row for row in alice.rows if isinstance(row, PublicEvent) and row.name == "onchain.locked"]
    fields = dict(told.fields)
    ready_at = chain.height - 3 + DELAY
    assert fields["ready_at"] == ready_at and "after its delay" in sentence(told.name, fields)
    world.mine(ready_at - chain.height)
    amount = int(str(fields["amount_sat"]))
    assert sum(world.gained(alice)) in (amount, amount + 330), "in that very block"
