"""C17 a revoked commitment that pays nearly all of the channel to miners (Harding, December 2024)

What failed: an opener may raise the fee of commitments until an old state of his pays most of the channel to whoever
mines it; the penalty takes what is left.

Defence: channel/limits.py:highest_feerate bounds the fee rate by a share of the capacity with every HTLC slot used, and
by an absolute ceiling; it binds the peer (check_receive_fee), what we ask ourselves (channel/normal.py:adjust_feerate)
and the HTLCs that we add (check_send_add). It depends on nothing that changes, so that what was signed once is never
refused when it is sent again.

Not covered: commitments without fees, which would end it, are not built.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salama.base.units import FeeratePerKw
from salama.channel.commitments import local_commitment_tx, remote_commitment_tx
from salama.channel.env import Feerates
from salama.channel.events import FeeratesChanged
from salama.channel.limits import highest_feerate
from salama.channel.policy import DEFAULT_POLICY
from salama.channel.state import Phase
from salama.testing.pair import End, Pair
from salama.wire.updates import UpdateFee


def estimates(end: End, feerate: int) -> None:
    rate = FeeratePerKw(feerate)
    end.env = replace(end.env, feerates=Feerates(rate, rate))
    end.does(FeeratesChanged())


@pytest.mark.parametrize("restart", [False, True])
def test_a_market_that_falls_while_an_update_is_under_way(restart: bool) -> None:
    pair = Pair.opened(10_000_000, 1_000_000_000)
    estimates(pair.alice, 40_000)
    assert int(pair.alice.record.funding.latest_remote.spec.feerate) == 40_000, "signed"
    pair.cut()
    if restart:
        pair.restarts(pair.bob)
    estimates(pair.alice, 300)
    estimates(pair.bob, 300)
    for _ in range(2):
        pair.connect()
        pair.settle()
        assert pair.alice.is_connected and pair.bob.is_connected
    assert int(pair.bob.record.funding.local.spec.feerate) == 300, "and down again"


@pytest.mark.parametrize("capacity", [20_000, 100_000, 1_000_000, 5_000_000])
def test_extreme_rates_are_refused(capacity: int) -> None:
    pair = Pair.opened(capacity, capacity * 100)
    most = highest_feerate(pair.bob.record, DEFAULT_POLICY)
    assert most <= 50_000
    for feerate in (most + 1, 1 << 31):
        pair = Pair.opened(capacity, capacity * 100)
        # Whatever we believe ourselves of the market.
        estimates(pair.bob, 50_000)
        pair.bob.hears(UpdateFee(channel_id=pair.bob.record.channel_id, feerate_per_kw=FeeratePerKw(feerate)))
        assert not pair.bob.is_connected and pair.bob.record.phase is Phase.NORMAL, "a warning, and no close"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["fee", "add", "add", "settle", "fail", "cut"]),
        st.booleans(),
        st.sampled_from([354_000, 400_000, 1_000_000]),
    ),
    min_size=10,
    max_size=60,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([20_000, 60_000, 300_000]), st.sampled_from([0, 30, 90]), STEPS)
def test_no_state_that_may_become_an_old_one_costs_more_than_its_share(
    capacity: int, pushed: int, steps: list[tuple[str, bool, int]]
) -> None:
    pair = Pair.opened(capacity, capacity * 10 * pushed)
    share = max(capacity * DEFAULT_POLICY.max_fee_share_percent // 100, 2530 * (1124 + 172 * 60) // 1000)
    rates = iter((50_000, 300, 9_000, 2_000, 20_000) * 20)
    for what, is_alice, amount in steps:
        end = pair.alice if is_alice else pair.bob
        if what == "fee":
            estimates(pair.alice, next(rates))
        elif what == "add":
            for _ in range(10):
                end.adds(amount)
        elif what == "settle":
            end.settles_all()
        elif what == "fail":
            end.fails_all()
        else:
            pair.cut()
            pair.connect()
        pair.settle()
        for one in (pair.alice, pair.bob):
            record, funding = one.record, one.record.funding
            for tx in (
                local_commitment_tx(record, funding, funding.local).tx,
                remote_commitment_tx(record, funding, funding.latest_remote).tx,
            ):
                dust = sum(int(h.amount) for h in record.htlcs.values() if int(h.amount) < 354_000) // 1000
                assert capacity - sum(int(output.value) for output in tx.outputs) <= share + dust + 1000
