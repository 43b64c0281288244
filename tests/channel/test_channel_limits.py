"""What may be spent is exactly what is accepted, and what the sender allows the receiver takes (B2.45, B2.46)."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salama.base.ids import HtlcRef, Side
from salama.base.units import FeeratePerKw, Msat, Sat
from salama.base.values import replace as fast_replace
from salama.channel.env import ChannelEnv, Feerates
from salama.channel.events import Disconnect
from salama.channel.limits import count_exposures, exposures
from salama.channel.state import Phase
from salama.channel.views import (
    WITHIN_A_TURN,
    HtlcState,
    balances,
    htlc_state,
    outcome,
    receivable,
    spendable,
)
from salama.testing.pair import End, Pair, default_env


def env_of(feerate: int, dust: int) -> ChannelEnv:
    env = default_env()
    policy = replace(env.policy, max_dust_exposure=Msat(dust), max_accepted_htlcs=6)
    return replace(env, feerates=Feerates(FeeratePerKw(feerate), FeeratePerKw(feerate)), policy=policy)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    capacity=st.integers(20_000, 2_000_000),
    share=st.floats(0, 1),
    feerate=st.integers(253, 2000),
    dust=st.sampled_from([0, 100_000, 1_000_000, 50_000_000]),
    before=st.lists(st.tuples(st.booleans(), st.floats(0.001, 1)), max_size=8),
)
def test_spendable_is_the_most_that_is_accepted(
    capacity: int, share: float, feerate: int, dust: int, before: list[tuple[bool, float]]
) -> None:
    push = int((capacity - 4000) * 1000 * share * 0.9)
    pair = Pair.opened(capacity, push, env=env_of(feerate, dust))
    assert pair.alice.record.phase is Phase.NORMAL
    for is_alice, part in before:
        end = pair.alice if is_alice else pair.bob
        amount = int(int(spendable(end.channel, end.env)) * part)
        if amount:
            end.adds(amount)
            pair.settle()
            assert not any(isinstance(e, Disconnect) for e in (*pair.alice.effects, *pair.bob.effects))
    for end, other in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        most = int(spendable(end.channel, end.env))
        from salama.channel.step import turn

        def is_refused(amount: int, of: End = end) -> bool:
            done = turn(of.channel, [of.add_event(999, amount)], of.env)
            return any(type(effect).__name__ == "AddRefused" for effect in done.effects)

        if most:
            assert not is_refused(most)
            assert most <= int(receivable(other.channel)), "whatever we dare, the peer takes"
        assert is_refused(most + 1)


def test_nothing_can_be_spent_without_a_connection() -> None:
    pair = Pair.opened()
    assert int(spendable(pair.alice.channel, pair.alice.env)) > 500_000_000
    pair.cut()
    assert spendable(pair.alice.channel, pair.alice.env) == receivable(pair.alice.channel) == Msat(0)


def test_balances_for_people() -> None:
    pair = Pair.opened()
    pair.alice.adds(5_000_000)
    pair.settle()
    assert outcome(pair.alice.record.htlcs[0]) == "pending"
    told = balances(pair.alice.record)
    assert (told.ours, told.outgoing, told.incoming) == (Msat(595_000_000), Msat(5_000_000), Msat(0))


def test_every_state_of_an_htlc_has_its_name() -> None:
    """The second of two HTLCs, whose every step waits for the other side."""
    pair = Pair.opened()
    ours = HtlcRef(pair.alice.record.channel_id, Side.OUTGOING, 1)
    theirs = HtlcRef(pair.alice.record.channel_id, Side.INCOMING, 1)
    ends = ((pair.alice, ours), (pair.bob, theirs))
    seen: dict[str, list[HtlcState]] = {"alice": [], "bob": []}

    def look() -> None:
        for end, ref in ends:
            state = htlc_state(end.channel, ref)
            if seen[end.name][-1:] != [state]:
                seen[end.name].append(state)

    def settle() -> None:
        while not pair.is_quiet():
            for end in (pair.alice, pair.bob):
                pair.deliver(end)
                look()

    look()
    pair.alice.adds(5_000_000)
    pair.alice.adds(6_000_000)
    look()
    settle()
    pair.bob.adds(1_000_000)  # its signature keeps the settlement waiting
    pair.bob.settles_all()
    look()
    settle()
    assert [state.value for state in seen["alice"]] == [
        "rcvd_remove_ack_revocation",
        "sent_add_htlc",
        "sent_add_commit",
        "rcvd_add_revocation",
        "sent_add_ack_revocation",
        "rcvd_remove_htlc",
        "sent_remove_revocation",
        "sent_remove_ack_commit",
        "rcvd_remove_ack_revocation",
    ]
    assert [state.value for state in seen["bob"]] == [
        "sent_remove_ack_revocation",
        "rcvd_add_htlc",
        "sent_add_revocation",
        "sent_add_ack_commit",
        "rcvd_add_ack_revocation",
        "sent_remove_htlc",
        "sent_remove_commit",
        "rcvd_remove_revocation",
        "sent_remove_ack_revocation",
    ]


def test_states_while_our_own_signature_is_unacknowledged() -> None:
    """What the peer signed then waits for our next signature: the two names that the plain exchange skips."""
    pair = Pair.opened()
    pair.alice.adds(5_000_000)
    pair.settle()
    ref = HtlcRef(pair.alice.record.channel_id, Side.OUTGOING, 0)
    pair.alice.adds(1_000_000)
    pair.alice.outbox.clear()
    incoming = HtlcRef(pair.alice.record.channel_id, Side.INCOMING, 0)
    pair.bob.adds(2_000_000)
    pair.bob.settles_all()
    seen = []
    while pair.deliver(pair.bob):
        seen.append((htlc_state(pair.alice.channel, ref), htlc_state(pair.alice.channel, incoming)))
    assert seen[-1][1] is HtlcState.SENT_ADD_REVOCATION
    pair.alice.adds(3_000_000)
    assert len(HtlcState) == 20 and len(WITHIN_A_TURN) == 4
    pair.cut()
    pair.connect()
    named = set()
    pair.bob.settles_all()
    while not pair.is_quiet():
        for end in (pair.alice, pair.bob):
            pair.deliver(end)
            for one in (pair.alice, pair.bob):
                for side in Side:
                    for number in range(3):
                        named.add(htlc_state(one.channel, HtlcRef(one.record.channel_id, side, number)))
    assert not named & WITHIN_A_TURN
    assert HtlcState.SENT_REMOVE_REVOCATION in named | {state for state, _ in seen}


def test_the_totals_are_kept_and_not_counted_again() -> None:
    pair = Pair.opened()
    pair.alice.adds(1_000_000)
    pair.alice.outbox.clear()
    pair.alice.adds(1_000_000)
    link = pair.alice.link
    assert link.exposures is not None and exposures(pair.alice.record, link) is link.exposures


def test_the_fast_replace_is_replace() -> None:
    pair = Pair.opened()
    pair.alice.adds(1_000_000)
    record, link = pair.alice.record, pair.alice.link
    for value, changes in (
        (record, {"next_outgoing_id": 9}),
        (link, {"queued_removals": (1,)}),
        (record.funding, {"next_remote": None}),
        (record.htlcs[0], {"last_remote": 4}),
        (pair.alice.channel, {"link": None}),
    ):
        changed: Any = fast_replace(cast(Any, value), **changes)
        assert changed == dataclasses.replace(cast(Any, value), **changes) != value
        assert type(changed) is type(value)
    with pytest.raises(KeyError):
        fast_replace(record, nonsense=1)  # type: ignore[call-arg]


def test_the_totals_follow_every_single_message() -> None:
    """With different dust limits on both sides, and HTLCs between them."""
    pair = Pair.of()
    pair.bob.env = replace(pair.bob.env, policy=replace(pair.bob.env.policy, dust_limit=Sat(900)))
    pair.opens(1_000_000, 400_000_000)
    pair.settle()
    pair.confirms()
    pair.settle()

    def deliver_all() -> None:
        while not pair.is_quiet():
            for end in (pair.alice, pair.bob):
                pair.deliver(end)
                for each in (pair.alice, pair.bob):
                    if each.link.exposures is not None:
                        assert each.link.exposures == count_exposures(each.record, each.link)

    amounts = (100_000, 354_000, 600_000, 899_999, 900_000, 5_000_000)
    pair.alice.adds(*amounts)
    pair.bob.adds(*amounts)
    deliver_all()
    pair.alice.fails_all()
    pair.bob.settles_all()
    deliver_all()
    assert pair.alice.record.htlcs == {}


def test_value_in_flight_up_to_the_peers_limit() -> None:
    env = default_env()
    pair = Pair.opened(env=replace(env, policy=replace(env.policy, max_in_flight_divisor=5)))
    pair.alice.adds(150_000_000, 50_000_001, 50_000_000, 1)
    assert [refusal.code for refusal in pair.alice.refused] == ["too_much_in_flight"] * 2
    pair.settle()
    assert [int(htlc.amount) for htlc in pair.bob.pending.values()] == [150_000_000, 50_000_000]
