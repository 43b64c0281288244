"""Opening: the flow of both roles, every rule that refuses terms, and every way to give up (B2.02 to B2.06)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from salama.base.ids import BlockHash, ChannelId
from salama.base.machine import CommandRefused
from salama.base.units import FeeratePerKw, Msat, Sat
from salama.bitcoin.script import p2wpkh
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.channel.events import (
    BlockArrived,
    Broadcast,
    CloseChannel,
    CommandAnswered,
    Disconnected,
    ForceClose,
    ForgetChannel,
    FundingMade,
    FundingRefused,
    FundingUnconfirmed,
    ReleaseFunding,
    RequestFunding,
    Send,
    WatchFunding,
)
from salama.channel.opening_rules import (
    ANCHOR_ALIAS_TYPE,
    ANCHOR_TYPE,
    Offer,
    minimum_depth,
    objection_to_accept,
    objection_to_open,
    to_self_delay,
)
from salama.channel.policy import DEFAULT_POLICY
from salama.channel.state import Channel, Opening, OpeningStage, Phase
from salama.channel.step import accept_inbound, open_channel, step
from salama.testing.pair import CHAIN, FEATURES, End, Pair, default_env
from salama.wire.features import (
    OPTION_ANCHORS,
    OPTION_DUAL_FUND,
    OPTION_STATIC_REMOTEKEY,
    OPTION_SUPPORT_LARGE_CHANNEL,
    OPTION_UPFRONT_SHUTDOWN_SCRIPT,
    OPTION_ZEROCONF,
    Features,
)
from salama.wire.opening import AcceptChannel, ChannelReady, FundingCreated, FundingSigned, OpenChannel
from salama.wire.setup import Error


def offer_of(pair: Pair, capacity: int = 1_000_000, push: int = 0, *, announce: bool = False) -> OpenChannel:
    done = open_channel(pair.request(capacity, push, announce=announce), pair.alice.env)
    assert isinstance(done.state, Opening)
    return done.state.open


def errors(end: End) -> list[str]:
    return [
        effect.message.data.decode()
        for effect in end.effects
        if isinstance(effect, Send) and isinstance(effect.message, Error)
    ]


def test_both_roles_open() -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 400_000_000)
    pair.settle()
    for end in (pair.alice, pair.bob):
        assert end.record.phase is Phase.AWAITING_FUNDING
        assert [type(e) for e in end.effects].count(WatchFunding) == 1
    assert len(pair.alice.broadcasts) == 1 and not pair.bob.broadcasts
    assert pair.alice.record.channel_id == ChannelId.v1(pair.alice.record.funding.outpoint)
    assert pair.alice.record.channel_id == pair.bob.record.channel_id
    pair.check()
    pair.confirms()
    pair.settle()
    assert pair.alice.record.phase is pair.bob.record.phase is Phase.NORMAL
    assert pair.alice.record.their_alias == pair.bob.record.our_alias
    assert pair.alice.record.funding.short_channel_id == pair.bob.record.funding.short_channel_id


def test_nothing_is_published_before_the_peer_has_signed() -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 0)
    for end in (pair.alice, pair.bob, pair.alice):
        pair.deliver(end)
    assert [type(m) for m in pair.bob.sent()] == [FundingSigned]
    assert not pair.alice.broadcasts
    pair.deliver(pair.bob)
    assert [tx.txid for tx in pair.alice.broadcasts] == [pair.alice.record.funding.outpoint.txid]


def test_a_channel_is_not_used_before_it_is_deep() -> None:
    """Nor is what was pushed to the accepter (B2.06, B2.07)."""
    pair = Pair.of()
    pair.opens(1_000_000, 400_000_000)
    pair.settle()
    pair.confirms(1)
    pair.settle()
    assert pair.alice.record.phase is Phase.AWAITING_FUNDING, "one of three confirmations"
    pair.bob.adds(1_000_000)
    assert pair.bob.refused[0].code == "not_ready"
    pair.mines(2)
    pair.settle()
    assert pair.alice.record.phase is Phase.NORMAL


# --- terms of open_channel --------------------------------------------------------------------------------------------

LARGE = Features.of(optional=(OPTION_SUPPORT_LARGE_CHANNEL,)) | FEATURES
UPFRONT = Features.of(optional=(OPTION_UPFRONT_SHUTDOWN_SCRIPT,)) | FEATURES
DUAL = Features.of(optional=(OPTION_DUAL_FUND,)) | FEATURES
NO_ANCHORS = Features.of(mandatory=(OPTION_STATIC_REMOTEKEY,))
STATIC_TYPE = Features.of(mandatory=(OPTION_STATIC_REMOTEKEY,))
ZEROCONF_TYPE = Features.of(mandatory=(OPTION_STATIC_REMOTEKEY, OPTION_ANCHORS, OPTION_ZEROCONF))

BAD_OFFERS: list[tuple[str, dict[str, Any], Features]] = [
    ("unknown chain", {"chain_hash": BlockHash(bytes(32))}, FEATURES),
    ("open_channel2", {}, DUAL),
    ("channel_type is missing", {"channel_type": None}, FEATURES),
    ("does not suit", {"channel_type": STATIC_TYPE}, FEATURES),
    ("was not negotiated", {"channel_type": ZEROCONF_TYPE}, FEATURES),
    ("does not suit", {"channel_type": Features.of(optional=(OPTION_STATIC_REMOTEKEY, OPTION_ANCHORS))}, FEATURES),
    ("option_anchors was not negotiated", {"channel_type": ANCHOR_TYPE}, NO_ANCHORS),
    ("announced channel", {"channel_type": ANCHOR_ALIAS_TYPE, "channel_flags": 1}, FEATURES),
    ("push_msat exceeds", {"push_msat": Msat(1_000_000_001)}, FEATURES),
    ("2^24 sat", {"funding_satoshis": Sat(1 << 24)}, FEATURES),
    ("less than 20000 sat", {"funding_satoshis": Sat(19_999)}, FEATURES),
    ("more than 1000000000 sat", {"funding_satoshis": Sat(1_000_000_001)}, LARGE),
    ("feerate", {"feerate_per_kw": FeeratePerKw(252)}, FEATURES),
    ("feerate", {"feerate_per_kw": FeeratePerKw(10_001)}, FEATURES),
    ("cannot pay", {"push_msat": Msat(1_000_000_000)}, FEATURES),
    (
        "neither side",
        {"channel_reserve_satoshis": Sat(500_000), "push_msat": Msat(499_000_000)},
        FEATURES,
    ),
    ("more than 483", {"max_accepted_htlcs": 484}, FEATURES),
    ("max_accepted_htlcs is too small", {"max_accepted_htlcs": 4}, FEATURES),
    ("to_self_delay", {"to_self_delay": 2017}, FEATURES),
    ("less than 354", {"dust_limit_satoshis": Sat(353)}, FEATURES),
    ("dust_limit_satoshis is too large", {"dust_limit_satoshis": Sat(10_001)}, FEATURES),
    ("channel_reserve_satoshis is too large", {"channel_reserve_satoshis": Sat(50_001)}, FEATURES),
    ("htlc_minimum_msat", {"htlc_minimum_msat": Msat(100_001)}, FEATURES),
    ("in_flight_msat is too small", {"max_htlc_value_in_flight_msat": 49_999_999}, FEATURES),
    (
        "greater than channel_reserve",
        {"dust_limit_satoshis": Sat(10_000), "channel_reserve_satoshis": Sat(9_999)},
        FEATURES,
    ),
    ("upfront_shutdown_script is missing", {"upfront_shutdown_script": None}, UPFRONT),
    ("cannot be closed to", {"upfront_shutdown_script": b"\x51"}, FEATURES),
]


@pytest.mark.parametrize(("words", "changes", "features"), BAD_OFFERS)
def test_terms_that_are_refused(words: str, changes: dict[str, Any], features: Features) -> None:
    pair = Pair.of()
    message = replace(offer_of(pair), **changes)
    request = replace(pair.inbound(message), our_features=features, their_features=features)
    done = accept_inbound(request, pair.bob.env)
    assert isinstance(done.state, Opening) and done.state.stage is OpeningStage.ABANDONED
    assert words in done.state.reason
    (told,) = done.effects
    assert isinstance(told, Send) and isinstance(told.message, Error)
    assert told.message.channel_id == message.temporary_channel_id


@pytest.mark.parametrize(
    ("changes", "features"),
    [
        ({}, FEATURES),
        ({"funding_satoshis": Sat(1 << 24), "max_htlc_value_in_flight_msat": 1 << 60}, LARGE),
        ({"max_accepted_htlcs": 483}, FEATURES),
        ({"to_self_delay": 2016}, FEATURES),
        ({"dust_limit_satoshis": Sat(10_000)}, FEATURES),
        ({"channel_flags": 0xFE}, FEATURES),
        ({"channel_flags": 1, "channel_type": ANCHOR_TYPE}, FEATURES),
        ({"upfront_shutdown_script": p2wpkh(b"\x02" + bytes(32))}, UPFRONT),
        ({"feerate_per_kw": FeeratePerKw(253)}, FEATURES),
        ({"htlc_minimum_msat": Msat(100_000)}, FEATURES),
        ({"channel_reserve_satoshis": Sat(50_000)}, FEATURES),
        ({"max_htlc_value_in_flight_msat": 50_000_000}, FEATURES),
        ({"max_accepted_htlcs": 5}, FEATURES),
        ({"max_htlc_value_in_flight_msat": (1 << 64) - 1}, FEATURES),
    ],
)
def test_terms_at_the_edge_are_accepted(changes: dict[str, Any], features: Features) -> None:
    pair = Pair.of()
    message = replace(offer_of(pair), **changes)
    assert objection_to_open(Offer(message, CHAIN, features, features, 0, pair.bob.env)) == ""


@pytest.mark.parametrize(
    ("changes", "refuses_private"), [({"accept_private": False}, True), ({"accept_announced": False}, False)]
)
def test_a_node_may_want_only_one_kind(changes: dict[str, Any], refuses_private: bool) -> None:
    pair = Pair.of()
    env = replace(pair.bob.env, policy=replace(DEFAULT_POLICY, **changes))
    for announce in (False, True):
        message = offer_of(pair, announce=announce)
        objection = objection_to_open(Offer(message, CHAIN, FEATURES, FEATURES, 0, env))
        assert (objection != "") == (refuses_private != announce)


def test_one_side_must_have_more_than_the_reserve() -> None:
    pair = Pair.of()
    message = replace(offer_of(pair), channel_reserve_satoshis=Sat(25_000), funding_satoshis=Sat(26_000))
    loose = replace(pair.bob.env, policy=replace(DEFAULT_POLICY, max_their_reserve_divisor=1))
    for push, is_fine in ((25_000_000, False), (0, False)):
        offer = Offer(replace(message, push_msat=Msat(push)), CHAIN, FEATURES, FEATURES, 0, loose)
        assert (objection_to_open(offer) == "") == is_fine
    more = replace(message, funding_satoshis=Sat(27_000), push_msat=Msat(25_000_001))
    assert "neither" not in objection_to_open(Offer(more, CHAIN, FEATURES, FEATURES, 0, loose))


def test_delay_and_depth_grow_with_the_channel() -> None:
    sizes = [Sat(n) for n in (20_000, 4_999_999, 5_000_000, 10_000_000, 16_777_215, 1_000_000_000)]
    assert [minimum_depth(DEFAULT_POLICY, size, None) for size in sizes] == [3, 3, 4, 5, 6, 6]
    assert [to_self_delay(DEFAULT_POLICY, size) for size in sizes] == [146, 701, 701, 1259, 2015, 2016]


def test_one_peer_cannot_hold_many_openings() -> None:
    pair = Pair.of()
    message = offer_of(pair)
    most = DEFAULT_POLICY.max_pending_per_peer
    for pending, is_taken in ((most - 1, True), (most, False)):
        done = accept_inbound(replace(pair.inbound(message), pending=pending), pair.bob.env)
        assert isinstance(done.state, Opening)
        assert (done.state.stage is OpeningStage.SENT_ACCEPT) == is_taken


def test_our_own_terms_stand_the_rules_of_others() -> None:
    pair = Pair.of()
    for capacity in (20_000, 1_000_000, (1 << 24) - 1):
        for announce in (False, True):
            message = offer_of(pair, capacity, announce=announce)
            assert objection_to_open(Offer(message, CHAIN, FEATURES, FEATURES, 0, pair.bob.env)) == ""
            done = accept_inbound(pair.inbound(message), pair.bob.env)
            assert isinstance(done.state, Opening) and done.state.accept is not None
            assert objection_to_accept(done.state.accept, message, FEATURES, FEATURES, DEFAULT_POLICY) == ""


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"funding": Sat(1 << 24)}, "terms_impossible"),
        ({"funding": Sat(19_999)}, "terms_impossible"),
        ({"push": Msat(1_000_000_001)}, "terms_impossible"),
        ({"push": Msat(999_999_000)}, "terms_impossible"),
        ({"their_features": NO_ANCHORS}, "anchors_missing"),
    ],
)
def test_requests_that_are_refused(changes: dict[str, Any], code: str) -> None:
    pair = Pair.of()
    with pytest.raises(CommandRefused) as refusal:
        open_channel(replace(pair.request(1_000_000, 0), **changes), pair.alice.env)
    assert refusal.value.code == code


# --- accept_channel ---------------------------------------------------------------------------------------------------

BAD_ACCEPTS: list[tuple[str, dict[str, Any]]] = [
    ("channel_type is missing", {"channel_type": None}),
    ("another channel_type", {"channel_type": ANCHOR_TYPE}),
    ("minimum_depth", {"minimum_depth": 145}),
    ("below our dust limit", {"channel_reserve_satoshis": Sat(353)}),
    ("above our channel reserve", {"dust_limit_satoshis": Sat(10_001)}),
    ("more than 483", {"max_accepted_htlcs": 484}),
    ("to_self_delay", {"to_self_delay": 2017}),
    ("less than 354", {"dust_limit_satoshis": Sat(353)}),
    ("channel_reserve_satoshis is too large", {"channel_reserve_satoshis": Sat(50_001)}),
    ("htlc_minimum_msat", {"htlc_minimum_msat": Msat(100_001)}),
    ("in_flight_msat is too small", {"max_htlc_value_in_flight_msat": 1}),
    ("cannot be closed to", {"upfront_shutdown_script": b"\x6a"}),
]


@pytest.mark.parametrize(("words", "changes"), BAD_ACCEPTS)
def test_answers_that_end_an_opening(words: str, changes: dict[str, Any]) -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 0)
    pair.deliver(pair.alice)
    (accept,) = pair.bob.sent()
    assert isinstance(accept, AcceptChannel)
    pair.alice.hears(replace(accept, **changes))
    assert isinstance(pair.alice.state, Opening) and pair.alice.state.stage is OpeningStage.ABANDONED
    assert words in errors(pair.alice)[0]
    answered = [e for e in pair.alice.effects if isinstance(e, CommandAnswered)]
    assert [a.code for a in answered] == ["opening_failed"]
    assert not [e for e in pair.alice.effects if isinstance(e, RequestFunding | Broadcast)]


# --- funding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reserve", "words"), [(25_000, ""), (26_000, "neither side")])
def test_an_accepters_reserve_that_nobody_could_spend_above(reserve: int, words: str) -> None:
    """Both have about 25,000 sat; whoever has more than the reserve can pay the other."""
    pair = Pair.of()
    message = replace(offer_of(pair), funding_satoshis=Sat(1_000_000), push_msat=Msat(974_000_000))
    done = accept_inbound(pair.inbound(replace(message, push_msat=Msat(0))), pair.bob.env)
    assert isinstance(done.state, Opening) and done.state.accept is not None
    cost = 1784
    message = replace(message, funding_satoshis=Sat(25_001 + cost + 20_000), push_msat=Msat(20_000_000))
    answer = replace(done.state.accept, channel_reserve_satoshis=Sat(reserve))
    loose = replace(DEFAULT_POLICY, max_their_reserve_divisor=1)
    assert words in objection_to_accept(answer, message, FEATURES, FEATURES, loose)
    exact = replace(message, funding_satoshis=Sat(reserve + cost + 20_000))
    assert "neither side" in objection_to_accept(answer, exact, FEATURES, FEATURES, loose), "equal is not above"


def awaiting_wallet(pair: Pair) -> RequestFunding:
    pair.opens(1_000_000, 0)
    pair.deliver(pair.alice)
    (accept,) = pair.bob.sent()
    pair.bob.outbox.clear()
    pair.alice.hears(accept)
    (wanted,) = (e for e in pair.alice.effects if isinstance(e, RequestFunding))
    return wanted


@pytest.mark.parametrize("fault", ["amount", "script", "vout", "scriptsig"])
def test_a_wallet_that_funds_something_else(fault: str) -> None:
    pair = Pair.of()
    wanted = awaiting_wallet(pair)
    amount = Sat(int(wanted.amount) + 1) if fault == "amount" else wanted.amount
    script = wanted.script[:-1] + b"\x00" if fault == "script" else wanted.script
    spent = TxIn(pair_outpoint(), script_sig=b"\x51" if fault == "scriptsig" else b"")
    tx = Tx(2, (spent,), (TxOut(amount, script),), 0)
    pair.alice.does(FundingMade(tx, 1 if fault == "vout" else 0))
    assert isinstance(pair.alice.state, Opening) and pair.alice.state.stage is OpeningStage.ABANDONED
    assert [type(e) for e in pair.alice.effects].count(ReleaseFunding) == 1
    assert not any(isinstance(m, FundingCreated) for m in pair.alice.sent())


def pair_outpoint() -> Any:
    from salama.base.ids import OutPoint, Txid

    return OutPoint(Txid(bytes(32)), 0)


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (FundingRefused("insufficient_funds", "too little"), "insufficient_funds"),
        (Disconnected(), "disconnected"),
        (ForgetChannel("enough"), "forgotten"),
    ],
)
def test_an_opening_given_up_releases_the_wallet(event: Any, code: str) -> None:
    pair = Pair.of()
    wanted = awaiting_wallet(pair)
    pair.alice.does(event)
    assert isinstance(pair.alice.state, Opening) and pair.alice.state.stage is OpeningStage.ABANDONED
    assert [type(e) for e in pair.alice.effects].count(ReleaseFunding) == 1
    assert [e.code for e in pair.alice.effects if isinstance(e, CommandAnswered)] == [code]
    late = Tx(2, (TxIn(pair_outpoint()),), (TxOut(wanted.amount, wanted.script),), 0)
    assert [type(e) for e in pair.alice.does(FundingMade(late, 0))] == [ReleaseFunding]


def test_an_error_of_the_peer_ends_an_opening() -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 0)
    assert pair.alice.state is not None
    pair.alice.hears(Error(channel_id=pair.alice.state.channel_id, data=b"no \x1b[31mthanks"))
    assert isinstance(pair.alice.state, Opening) and pair.alice.state.stage is OpeningStage.ABANDONED
    assert "\x1b" not in pair.alice.state.reason
    assert not errors(pair.alice), "an error is not answered by one"


def test_a_wrong_first_signature_of_the_opener() -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 0)
    for end in (pair.alice, pair.bob):
        pair.deliver(end)
    (created,) = pair.alice.sent()
    assert isinstance(created, FundingCreated)
    pair.bob.hears(replace(created, funding_output_index=0))
    assert isinstance(pair.bob.state, Opening) and pair.bob.state.stage is OpeningStage.ABANDONED
    assert "signature" in errors(pair.bob)[0]


@pytest.mark.parametrize("fault", ["signature", "channel"])
def test_a_wrong_answer_of_the_accepter_publishes_nothing(fault: str) -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 0)
    for end in (pair.alice, pair.bob, pair.alice):
        pair.deliver(end)
    (signed,) = pair.bob.sent()
    assert isinstance(signed, FundingSigned)
    bad = (
        replace(signed, signature=signed.signature[:-1] + bytes((signed.signature[-1] ^ 1,)))
        if fault == "signature"
        else replace(signed, channel_id=ChannelId(bytes(32)))
    )
    pair.alice.hears(bad)
    assert isinstance(pair.alice.state, Opening) and pair.alice.state.stage is OpeningStage.ABANDONED
    assert not pair.alice.broadcasts
    assert ReleaseFunding() in pair.alice.effects


def test_an_opening_takes_no_other_commands() -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 0)
    from salama.channel.events import ForceClose

    assert pair.alice.state is not None
    with pytest.raises(CommandRefused, match="still being opened"):
        step(pair.alice.state, ForceClose("now"), pair.alice.env)


def test_a_message_out_of_turn_ends_an_opening() -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 0)
    assert pair.alice.state is not None
    pair.alice.hears(FundingSigned(channel_id=ChannelId(bytes(32)), signature=bytes(63) + b"\x01"))
    assert isinstance(pair.alice.state, Opening) and pair.alice.state.stage is OpeningStage.ABANDONED


# --- after the signatures ---------------------------------------------------------------------------------------------


def test_the_accepter_forgets_a_funding_that_never_confirms() -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 0)
    pair.settle()
    pair.mines(2016)
    assert pair.bob.record.phase is Phase.AWAITING_FUNDING
    pair.mines(1)
    assert pair.bob.record.phase is Phase.CLOSED
    assert not pair.bob.broadcasts, "nothing was lost, nothing is published"
    assert pair.alice.record.phase is Phase.AWAITING_FUNDING, "the opener has money in it"


@pytest.mark.parametrize("end", ["closed together", "failed"])
def test_the_accepter_forgets_a_channel_that_was_given_up_before_it_was_funded(end: str) -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 300_000_000)
    pair.settle()
    if end == "failed":
        pair.bob.does(ForceClose("for a test"))
        assert pair.bob.record.phase is Phase.ON_CHAIN
    else:
        pair.alice.does(CloseChannel(p2wpkh(b"\x02" * 33)))
        pair.settle()
        assert pair.bob.record.phase is Phase.NEGOTIATING
    pair.cut()
    pair.mines(2016)
    assert pair.bob.record.phase is not Phase.CLOSED
    pair.mines(1)
    assert pair.bob.record.phase is Phase.CLOSED


def test_a_reorganisation_gives_a_funding_its_time_again() -> None:
    pair = Pair.opened(1_000_000, 300_000_000)
    pair.cut()
    pair.mines(3000)
    pair.bob.does(FundingUnconfirmed())
    pair.mines(2016)
    assert pair.bob.record.phase is Phase.NORMAL, "there is our money in it"
    pair.mines(1)
    assert pair.bob.record.phase is Phase.CLOSED


def test_the_accepter_keeps_a_confirmed_channel_however_long_the_peer_is_away() -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 0)
    pair.settle()
    pair.cut()
    pair.confirms()
    pair.mines(3000)
    assert pair.bob.record.phase is Phase.AWAITING_FUNDING
    pair.connect()
    pair.settle()
    assert pair.bob.record.phase is pair.alice.record.phase is Phase.NORMAL


def test_channel_ready_is_repeated_only_before_the_first_update() -> None:
    pair = Pair.opened()
    pair.cut()
    pair.connect()
    for end in (pair.alice, pair.bob):
        pair.deliver(end)
    assert [type(m) for m in pair.alice.sent()] == [ChannelReady]
    pair.settle()
    assert pair.alice.record.phase is Phase.NORMAL
    pair.alice.adds(1_000_000)
    pair.settle()
    pair.cut()
    pair.connect()
    for end in (pair.alice, pair.bob):
        pair.deliver(end)
    assert pair.alice.sent() == []


def test_a_second_channel_ready_only_changes_the_alias() -> None:
    pair = Pair.opened()
    before = pair.alice.record
    from salama.base.ids import ShortChannelId

    again = ChannelReady(
        channel_id=before.channel_id,
        second_per_commitment_point=pair.bob.signer.channel_keys(9).first_point,
        short_channel_id=ShortChannelId(77),
    )
    pair.alice.hears(again)
    assert pair.alice.record == replace(before, their_alias=ShortChannelId(77))


def test_private_channels_use_the_alias_type() -> None:
    pair = Pair.of()
    assert offer_of(pair, announce=False).channel_type == ANCHOR_ALIAS_TYPE
    assert offer_of(pair, announce=True).channel_type == ANCHOR_TYPE


def test_a_reorganised_funding_waits_again() -> None:
    from salama.channel.events import FundingUnconfirmed

    pair = Pair.of()
    pair.opens(1_000_000, 0)
    pair.settle()
    pair.confirms(1)
    pair.bob.does(FundingUnconfirmed())
    pair.mines(10)
    assert pair.bob.record.funding.confirmation is None and not pair.bob.record.our_ready
    pair.bob.does(BlockArrived())
    assert not pair.bob.record.our_ready


def test_the_record_of_a_channel_is_not_an_opening() -> None:
    pair = Pair.of(default_env())
    pair.opens(1_000_000, 0)
    assert pair.alice.state is not None and pair.alice.state.record is None
    pair.settle()
    assert isinstance(pair.alice.state, Channel)


def test_an_abandoned_opening_hears_nothing_and_does_nothing() -> None:
    from salama.channel.events import CloseChannel

    pair = Pair.of()
    pair.opens(1_000_000, 0)
    pair.deliver(pair.alice)
    (accept,) = pair.bob.sent()
    pair.alice.does(ForgetChannel("enough"))
    assert pair.alice.state is not None
    assert pair.alice.hears(accept) == []
    with pytest.raises(CommandRefused, match="still being opened"):
        step(pair.alice.state, CloseChannel(b""), pair.alice.env)


def test_a_void_channel_that_was_failed_is_forgotten_by_the_accepter_alone() -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 0)
    pair.settle()
    for end in (pair.alice, pair.bob):
        end.hears(Error(channel_id=end.record.channel_id, data=b"no"))
        assert end.record.phase is Phase.ON_CHAIN
    pair.mines(2017)
    assert (pair.alice.record.phase, pair.bob.record.phase) == (Phase.ON_CHAIN, Phase.CLOSED)
    confirmed = Pair.of()
    confirmed.opens(1_000_000, 0)
    confirmed.settle()
    confirmed.confirms(1)
    confirmed.bob.hears(Error(channel_id=confirmed.bob.record.channel_id, data=b"no"))
    confirmed.mines(3000)
    assert confirmed.bob.record.phase is Phase.ON_CHAIN
