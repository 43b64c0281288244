"""C19 balances below the reserve or below zero (LDK 0.1.4 #3796, 0.1.5, 0.2.3 #4580)

What failed: an HTLC or a fee rate was taken although the commitment that it led to could not be paid for, or left a
side without its reserve.

Defence: channel/limits.py looks at each commitment as it will be before anything is sent or accepted (check_send_add,
check_receive_add, check_receive_fee), with the HTLCs on their way counted.

Not covered: splicing, which is not built.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salama.base.units import FeeratePerKw
from salama.channel.commitments import local_commitment_tx, remote_commitment_tx
from salama.channel.env import Feerates
from salama.channel.events import FeeratesChanged
from salama.channel.state import Phase
from salama.testing.pair import End, Pair

AMOUNTS = st.sampled_from([1, 353_999, 354_000, 355_000, 1_000_000, 2_000_000, 5_000_000, 12_345_678, 50_000_000])
STEPS = st.tuples(
    st.sampled_from(["add", "add", "deliver", "settle", "fail", "fee", "fee", "cut"]), st.booleans(), AMOUNTS
)


def check(end: End) -> None:
    """Both next commitments can be built, and whoever pays the fee can pay it."""
    record, funding = end.record, end.record.funding
    opener_is_us = record.params.is_opener
    for spec, tx in (
        (funding.local.spec, local_commitment_tx(record, funding, funding.local)),
        (funding.remote.spec, remote_commitment_tx(record, funding, funding.remote)),
        (funding.latest_remote.spec, remote_commitment_tx(record, funding, funding.latest_remote)),
    ):
        paid = sum(int(output.value) for output in tx.tx.outputs)
        assert paid <= int(funding.capacity)
        opener = int(spec.our_balance if opener_is_us else spec.their_balance)
        fee = int(spec.feerate) * (1124 + 172 * len(tx.htlc_outputs)) // 1000 + 660
        assert opener >= 1000 * fee, "the opener cannot pay for this commitment"


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([20_000, 25_000, 60_000, 2_000_000]),
    st.sampled_from([0, 300_000, 1_000_000, 9_000_000, 15_000_000]),
    st.lists(STEPS, min_size=5, max_size=40),
)
def test_no_honest_pair_ever_comes_to_a_commitment_that_cannot_be(
    capacity: int, push: int, steps: list[tuple[str, bool, int]]
) -> None:
    pair = Pair.opened(capacity, push)
    reserved = {end: 1000 * int(end.record.params.theirs.channel_reserve) for end in (pair.alice, pair.bob)}
    for what, is_alice, amount in steps:
        end = pair.alice if is_alice else pair.bob
        if what == "add":
            before, balance = len(end.refused), end.record.funding.latest_remote.spec.our_balance
            end.adds(amount)
            if len(end.refused) == before and end.link.queued_adds == ():
                now = int(end.record.funding.latest_remote.spec.our_balance)
                assert now >= reserved[end] or now == int(balance)
        elif what == "deliver":
            pair.deliver(end, 3)
        elif what == "settle":
            end.settles_all()
        elif what == "fail":
            end.fails_all()
        elif what == "fee":
            rate = FeeratePerKw(253 + amount % 120_000)
            for one in (pair.alice, pair.bob):
                one.env = replace(one.env, feerates=Feerates(rate, rate))
                one.does(FeeratesChanged())
        else:
            pair.cut()
            pair.connect()
        for one in (pair.alice, pair.bob):
            check(one)
            assert one.is_connected and one.record.phase is Phase.NORMAL, "one side found the other at fault"
    pair.settle()
    pair.check()
