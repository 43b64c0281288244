"""B8 messages out of order, lost, repeated, and restarts between (LDK 0.0.114 #2071, Electrum on reestablish)

What failed: a second channel_ready, or a reestablish in an unforeseen moment, changed points that were in use or ended
the channel.

Defence: channel/dispatch.py:TABLE lists where each message has a place, channel/reestablish.py:compare decides by
numbers alone, and channel/confirming.py:receive_ready lets only the first channel_ready count.

Also tests/channel/test_channel_random.py, where nobody lies, and make sim, where nodes lose power at any line.
"""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salama.bitcoin.tx import Tx
from salama.channel.state import Phase
from salama.channel.transactions import decode_commitment_number, obscuring_factor
from salama.codec.message import decode_message
from salama.testing.pair import End, Pair

STEPS = st.tuples(
    st.sampled_from(
        [
            "add",
            "add",
            "deliver",
            "deliver",
            "deliver",
            "deliver",
            "settle",
            "fail",
            "drop",
            "swap",
            "twice",
            "cut",
            "restart",
            "old",
        ]
    ),
    st.booleans(),
)


def published_number(end: End, tx: Tx) -> int | None:
    params = end.record.params
    factor = obscuring_factor(params.opener.basepoints.payment, params.accepter.basepoints.payment)
    return decode_commitment_number(tx, factor)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=5, max_size=50))
def test_either_both_agree_or_one_fails_safely(steps: list[tuple[str, bool]]) -> None:
    pair = Pair.opened()
    past: list[bytes] = []
    for what, is_alice in steps:
        end = pair.alice if is_alice else pair.bob
        if what == "add":
            end.adds(20_000_000)
        elif what == "deliver":
            past += list(end.outbox)[:1]
            pair.deliver(end)
        elif what == "settle":
            end.settles_all()
        elif what == "fail":
            end.fails_all()
        elif what == "drop" and end.outbox:
            end.outbox.popleft()
        elif what == "swap" and len(end.outbox) > 1:
            end.outbox.rotate(1)
        elif what == "twice" and end.outbox:
            end.outbox.appendleft(end.outbox[0])
        elif what == "old" and past and end.is_connected:
            end.hears(decode_message(past[len(past) // 2]))
        elif what in ("cut", "restart"):
            pair.cut()
            if what == "restart":
                pair.restarts(end)
            pair.connect()
        if not (pair.alice.is_connected and pair.bob.is_connected):
            pair.cut()
            pair.connect()
    pair.cut()
    pair.connect()
    pair.settle()
    for end in (pair.alice, pair.bob):
        for tx in end.broadcasts:
            number = published_number(end, tx)
            assert number is None or number == end.record.funding.local.number, "a revoked commitment was published"
    if pair.alice.record.phase is pair.bob.record.phase is Phase.NORMAL:
        pair.check()
    else:
        assert any(published_number(e, tx) is not None for e in (pair.alice, pair.bob) for tx in e.broadcasts)
