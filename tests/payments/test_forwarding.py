"""Relaying: what is checked before, what goes back, and that nothing is offered twice (B4.04, B2.47, B2.48)."""

from dataclasses import replace
from typing import Any

import pytest
from payment_world import (
    DOWN_SCID,
    DOWNSTREAM,
    HASH,
    HEIGHT,
    POLICY,
    PREIMAGE,
    SIBLING,
    UPSTREAM,
    World,
    code_of,
    data_of,
)

from salama.base.ids import HtlcRef, ShortChannelId, Side
from salama.base.units import BlockHeight, CltvExpiry, Msat
from salama.channel.deadlines import EARLY_FAIL_BACK
from salama.channel.events import (
    AddHtlc,
    Consumed,
    FailHtlc,
    HandoffKey,
    HtlcFailed,
    LatePreimage,
    Origin,
    PreimageLearned,
    SettleHtlc,
)
from salama.onion.failures import make_failure, read_failure
from salama.payments.events import ChannelGone, HandoffArrived, HtlcArrived, OfferRefused, Ticked, ToChannel
from salama.payments.origin import ForwardOrigin
from salama.payments.records import ForwardStatus, PutForward
from salama.wire.onion import PaymentPayload

KEY = HandoffKey(DOWNSTREAM, 5)


def relayed(amount: int = 100_000) -> tuple[World, HtlcArrived, AddHtlc]:
    world = World()
    htlc = world.to_relay(amount)
    world.does(htlc)
    (add,) = world.adds
    return world, htlc, add


def test_an_htlc_is_passed_on_as_its_onion_says() -> None:
    world, htlc, add = relayed()
    (effect,) = world.effects
    assert isinstance(effect, ToChannel)
    assert effect.channel_id == DOWNSTREAM
    assert (add.amount, add.payment_hash, add.cltv_expiry) == (100_000, HASH, int(HEIGHT) + 200)
    assert add.origin == ForwardOrigin(htlc.ref).encode()
    assert add.onion != htlc.onion
    assert len(add.onion) == len(htlc.onion)
    assert world.rows == []


@pytest.mark.parametrize(
    ("changes", "code", "data"),
    [
        ({"fee": POLICY.fee(Msat(100_000)) - 1}, 0x100C, (101_009).to_bytes(8, "big") + b"\0\0"),
        ({"delta": 79}, 0x100D, (int(HEIGHT) + 279).to_bytes(4, "big") + b"\0\0"),
        ({"amount": 999}, 0x100B, (999).to_bytes(8, "big") + b"\0\0"),
        ({"amount": 400_000_001}, 0x1007, b"\0\0"),
        ({"amount": 300_000_001}, 0x1007, b"\0\0"),
    ],
)
def test_what_breaks_our_policy_is_failed_with_the_right_code(changes: dict[str, Any], code: int, data: bytes) -> None:
    world = World()
    htlc = world.to_relay(**changes)
    world.does(htlc)
    assert world.adds == []
    (fail,) = world.fails
    assert (code_of(fail, htlc), data_of(fail, htlc)) == (code, data)


def test_exactly_what_the_policy_asks_is_enough() -> None:
    world = World()
    world.does(world.to_relay(100_000, fee=1010, delta=80))
    assert len(world.adds) == 1


def test_deadlines_too_near_and_too_far() -> None:
    world = World(height=HEIGHT)
    htlc = world.to_relay()
    world.height = type(HEIGHT)(int(HEIGHT) + 180)
    world.does(htlc)
    assert code_of(world.fails[0], htlc) == 0x100E
    world = World()
    world.height = type(HEIGHT)(int(HEIGHT) - 2016)
    htlc = world.to_relay()
    world.does(htlc)
    assert code_of(world.fails[0], htlc) == 21
    assert world.adds == []


def test_an_unknown_channel() -> None:
    world = World()
    relay = PaymentPayload(
        amt_to_forward=Msat(1000), outgoing_cltv_value=int(HEIGHT) + 200, short_channel_id=ShortChannelId(1)
    )
    htlc = world.arrived(world.onion(relay, relay), 5000, int(HEIGHT) + 400)
    world.does(htlc)
    assert code_of(world.fails[0], htlc) == 0x400A


def test_another_channel_to_the_same_peer_will_do() -> None:
    world = World(spendable=1000)
    world.does(world.to_relay(100_000))
    (effect,) = world.effects
    assert isinstance(effect, ToChannel)
    assert effect.channel_id == SIBLING


def test_one_turn_does_not_spend_a_balance_twice() -> None:
    world = World(spendable=150_000)
    world.does(*(world.to_relay(100_000) for _ in range(3)))
    assert len(world.adds) == 3
    used = [e.channel_id for e in world.effects if isinstance(e, ToChannel) and isinstance(e.event, AddHtlc)]
    assert used == [DOWNSTREAM, SIBLING, SIBLING]


def test_an_htlc_reported_again_is_not_offered_again() -> None:
    world, htlc, _ = relayed()
    world.does(htlc)
    assert len(world.adds) == 1


def test_after_a_restart_an_origin_that_a_channel_knows_is_never_offered_again() -> None:
    world, htlc, add = relayed()
    world.restarts({add.origin: DOWNSTREAM})
    world.forgets()
    world.does(htlc)
    assert world.effects == []
    # but its outcome finds the way back
    world.hands_over(PreimageLearned(KEY, add.origin, PREIMAGE))
    (settle,) = world.settles
    assert (settle.id, settle.preimage, settle.consumes) == (htlc.ref.id, PREIMAGE, KEY)


def test_after_a_restart_an_origin_that_no_channel_knows_is_offered_once_more() -> None:
    world, htlc, add = relayed()
    world.restarts()
    world.forgets()
    world.does(htlc)
    assert [one.origin for one in world.adds] == [add.origin]


def test_a_preimage_goes_upstream_and_its_handoff_goes_with_the_decision() -> None:
    world, htlc, add = relayed()
    world.forgets()
    world.hands_over(PreimageLearned(KEY, add.origin, PREIMAGE))
    (effect,) = world.effects
    assert isinstance(effect, ToChannel)
    assert effect.channel_id == UPSTREAM
    (settle,) = world.settles
    assert (settle.id, settle.preimage) == (htlc.ref.id, PREIMAGE)
    # The upstream channel deletes the handoff with its own decision. Doing it here would lose the preimage if the
    # machine died in between.
    assert settle.consumes == KEY
    assert not [row for row in world.rows if isinstance(row, Consumed)]
    (forward,) = [row for row in world.rows if isinstance(row, PutForward)]
    assert (forward.status, forward.amount_in, forward.amount_out) == (ForwardStatus.SETTLED, 101_010, 100_000)


def test_a_preimage_is_passed_on_even_if_nobody_remembers_the_htlc() -> None:
    world = World()
    origin = ForwardOrigin(HtlcRef(UPSTREAM, Side.INCOMING, 9)).encode()
    world.hands_over(PreimageLearned(KEY, origin, PREIMAGE))
    assert [(s.id, s.consumes) for s in world.settles] == [(9, KEY)]


def test_a_failure_is_wrapped_once_more_and_goes_upstream() -> None:
    world, htlc, add = relayed()
    world.forgets()
    downstream_secret = b"\x55" * 32
    world.hands_over(HtlcFailed(KEY, add.origin, make_failure(downstream_secret, b"\x20\x02")))
    (fail,) = world.fails
    assert fail.consumes == KEY
    assert htlc.shared_secret is not None
    read = read_failure([htlc.shared_secret, downstream_secret], fail.reason)
    assert read is not None
    assert (read.hop, read.message) == (1, b"\x20\x02")
    assert not [row for row in world.rows if isinstance(row, Consumed)]


def test_a_malformed_report_becomes_a_failure_of_ours() -> None:
    world, htlc, add = relayed()
    world.forgets()
    world.hands_over(HtlcFailed(KEY, add.origin, malformed_code=0xC005, sha256_of_onion=b"\x77" * 32))
    (fail,) = world.fails
    assert (code_of(fail, htlc), data_of(fail, htlc)) == (0xC005, b"\x77" * 32)


def test_an_offer_that_our_channel_refuses_is_failed_upstream_at_once() -> None:
    world, htlc, add = relayed()
    world.forgets()
    world.does(OfferRefused(add.origin, "insufficient_balance", "too small"))
    assert code_of(world.fails[0], htlc) == 0x1007
    # and from now on the origin is free
    assert world.state.origins == {}


def test_outcomes_may_be_handed_over_twice() -> None:
    world, _, add = relayed()
    for _ in range(2):
        world.hands_over(PreimageLearned(KEY, add.origin, PREIMAGE))
    assert [s.consumes for s in world.settles] == [KEY, KEY]
    assert len([row for row in world.rows if isinstance(row, PutForward)]) == 1


def test_a_replayed_onion_is_failed() -> None:
    world = World()
    htlc = world.to_relay(replay_of=HtlcRef(UPSTREAM, Side.INCOMING, 999))
    world.does(htlc)
    assert world.adds == []
    assert code_of(world.fails[0], htlc) == 0x400F


def test_an_htlc_that_its_channel_wants_failed_is_not_passed_on() -> None:
    world = World()
    htlc = world.to_relay(must_fail=True)
    world.does(htlc)
    assert world.adds == []
    assert code_of(world.fails[0], htlc) == 0x1007


def test_onions_that_cannot_be_read() -> None:
    world = World()
    good = world.to_relay()
    for changes, code in (
        ({"onion": good.onion[:-1] + bytes([good.onion[-1] ^ 1])}, 0xC005),
        ({"shared_secret": None}, 0xC006),
        ({"path_key": b"\x02" * 33}, 0xC018),
    ):
        world.forgets()
        htlc = HtlcArrived(
            **{name: getattr(good, name) for name in HtlcArrived.__dataclass_fields__} | changes  # type: ignore[arg-type]
        )
        world.does(htlc)
        assert [m.failure_code for m in world.malformed] == [code]
    world.forgets()
    bad = world.arrived(world.onion(PaymentPayload(amt_to_forward=Msat(1))), 1, int(HEIGHT) + 40)
    world.does(bad)
    assert code_of(world.fails[0], bad) == 0x4016


def test_the_downstream_expiry_is_a_block_height() -> None:
    world = World()
    relay = PaymentPayload(amt_to_forward=Msat(1000), outgoing_cltv_value=500_000_000, short_channel_id=DOWN_SCID)
    htlc = world.arrived(world.onion(relay, relay), 5000, int(CltvExpiry.MAX))
    world.does(htlc)
    assert code_of(world.fails[0], htlc) == 21


def test_origins_are_told_apart() -> None:
    world = World()
    one, another = world.to_relay(), world.to_relay()
    world.does(one, another)
    origins: set[Origin] = {add.origin for add in world.adds}
    assert len(origins) == 2
    assert set(world.state.origins) == origins


def test_an_htlc_that_is_under_way_is_not_failed_for_its_channels_dust() -> None:
    """After a restart the channel counts its dust anew: what was offered on may no longer be failed upstream."""
    world, htlc, add = relayed()
    world.restarts({add.origin: DOWNSTREAM})
    world.forgets()
    world.does(replace(htlc, must_fail=True))
    assert world.effects == []
    world.hands_over(PreimageLearned(KEY, add.origin, PREIMAGE))
    assert [s.id for s in world.settles] == [htlc.ref.id]


def test_a_policy_that_was_announced_a_moment_ago_is_still_honoured() -> None:
    dearer = replace(POLICY, fee_base_msat=5000, cltv_expiry_delta=100)
    world = World(policies=(dearer, POLICY))
    world.does(world.to_relay(100_000, fee=1010, delta=80))
    assert len(world.adds) == 1
    # The old fee with the new time lock is no policy of ours, but what both ask for together is.
    htlc = world.to_relay(100_000, fee=1009, delta=100)
    world.forgets()
    world.does(htlc)
    assert (code_of(world.fails[0], htlc), data_of(world.fails[0], htlc)) == (
        0x100C,
        (101_009).to_bytes(8, "big") + b"\0\0",
    )


def test_a_channel_that_is_not_ready_is_not_offered_to() -> None:
    world = World(ready=False)
    htlc = world.to_relay(100_000_000)
    world.does(htlc)
    assert (code_of(world.fails[0], htlc), data_of(world.fails[0], htlc)) == (0x1007, b"\0\0")
    # a smaller one goes by the sibling
    world.does(world.to_relay(100_000))
    assert len(world.adds) == 1


def test_nothing_is_kept_of_what_is_over() -> None:
    world, _, add = relayed()
    world.hands_over(PreimageLearned(KEY, add.origin, PREIMAGE))
    other = world.to_relay()
    world.does(other)
    world.hands_over(HtlcFailed(HandoffKey(DOWNSTREAM, 6), world.adds[-1].origin, make_failure(b"\x55" * 32, b"\0\0")))
    world.does(world.to_relay())
    world.does(OfferRefused(world.adds[-1].origin, "queue_full", ""))
    assert (world.state.relays, world.state.origins, world.state.payments, world.state.sets) == ({}, {}, {}, {})


def test_what_is_undecided_downstream_is_failed_before_its_upstream_deadline() -> None:
    """B2.49: whether it is dust that no chain decides, or a claim that is stuck: upstream is not closed for it."""
    world, htlc, add = relayed()
    world.restarts({add.origin: DOWNSTREAM})
    world.does(htlc)
    world.height = BlockHeight(int(htlc.cltv_expiry) - EARLY_FAIL_BACK - 1)
    world.does(Ticked())
    assert not world.fails
    world.height = BlockHeight(int(htlc.cltv_expiry) - EARLY_FAIL_BACK)
    world.does(Ticked())
    (failure,) = world.fails
    assert failure.id == htlc.ref.id and failure.consumes is None and code_of(failure, htlc) == 0x4008
    world.does(Ticked(), htlc)
    assert len(world.fails) == 1 and len(world.adds) == 1, "nor is it offered again"
    # Upstream may not have taken the failure yet: its channel decides whether the preimage comes in time.
    world.hands_over(PreimageLearned(KEY, add.origin, PREIMAGE))
    assert [(s.preimage, s.consumes) for s in world.settles] == [(PREIMAGE, KEY)]


def test_a_failure_that_comes_after_the_early_one_changes_nothing() -> None:
    world, htlc, add = relayed()
    world.height = BlockHeight(int(htlc.cltv_expiry))
    world.does(Ticked())
    world.hands_over(HtlcFailed(KEY, add.origin, b"late"))
    first, second = world.fails
    assert first.reason and second.reason == b"" and second.consumes == KEY, "the first decision stands"


def test_a_late_preimage_is_told_again_until_its_handoff_is_consumed() -> None:
    """While upstream has not taken the failure, its channel may still go to the chain, where the preimage counts."""
    world, htlc, add = relayed()
    world.height = BlockHeight(int(htlc.cltv_expiry))
    world.does(Ticked())
    world.forgets()
    world.does(HandoffArrived(PreimageLearned(KEY, add.origin, PREIMAGE)), Ticked())
    world.handoffs.add(KEY)
    for _ in range(2):
        world.does(Ticked())
    expected = ToChannel(UPSTREAM, SettleHtlc(htlc.ref.id, PREIMAGE, KEY))
    assert world.effects == [expected] * 3 and world.rows == [], "what becomes of it, only the channel knows"
    world.handoffs.clear()
    assert not world.does(Ticked(), Ticked()) and not world.state.late


def test_an_outcome_for_a_channel_that_is_over_is_consumed_and_a_preimage_counts_as_lost() -> None:
    """Nobody else would: the handoff would wait for ever, and the books with it."""
    world, htlc, _ = relayed()
    world.does(ChannelGone(htlc.ref, SettleHtlc(htlc.ref.id, PREIMAGE, KEY)))
    assert world.rows == [Consumed(KEY), LatePreimage(htlc.ref, KEY, is_used=False)]
    world.forgets()
    world.does(
        ChannelGone(htlc.ref, FailHtlc(htlc.ref.id, b"", KEY)), ChannelGone(htlc.ref, FailHtlc(htlc.ref.id, b""))
    )
    assert world.rows == [Consumed(KEY)] and not world.effects
