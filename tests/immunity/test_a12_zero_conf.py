"""A12 use before confirmation (several projects; LDK panicked in 0.0.111 and 0.0.116)

What failed: whoever lets a channel be used before its funding is in a block can be paid with money that is then spent
elsewhere.

Defence: it is off: channel/policy.py:Policy.zero_conf_peers is empty, then node/features.py:features_of does not
offer it and channel/opening_rules.py:trust refuses its type. For the peers that are named there,
channel/limits.py:beyond_trust fails every HTLC that would leave us with more than Policy.zero_conf_cap, what we have
offered and may get back included, in a channel that is not deep enough yet; node/openings.py:Openings takes no second
channel of such a peer meanwhile. The same rule with a cap of zero holds in every channel whose funding a
reorganisation took back. channel/opening.py:first_record waits for at least one confirmation in every other channel,
and channel/confirming.py:receive_announcement keeps announcements that come before their time aside.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from immunity_world import Registry, Stranger, outpoint

from salama.base.ids import ChannelId, ShortChannelId
from salama.base.units import Sat
from salama.bitcoin.script import p2wpkh
from salama.channel.events import CloseChannel, FailHtlc, FundingUnconfirmed, HtlcFailed, Send, SettleHtlc
from salama.channel.limits import room_of_trust
from salama.channel.opening import accept_inbound, open_channel
from salama.channel.opening_rules import ANCHOR_ALIAS_ZERO_TYPE
from salama.channel.policy import DEFAULT_POLICY
from salama.channel.state import Channel, Opening, OpeningStage, Phase
from salama.node.features import features_of
from salama.testing.pair import End, Pair, hash_of, preimage_of
from salama.wire.features import (
    OPTION_ANCHORS,
    OPTION_SCID_ALIAS,
    OPTION_SHUTDOWN_ANYSEGWIT,
    OPTION_STATIC_REMOTEKEY,
    OPTION_ZEROCONF,
    Features,
)
from salama.wire.gossip import AnnouncementSignatures
from salama.wire.opening import AcceptChannel, ChannelReady, OpenChannel
from salama.wire.updates import UpdateAddHtlc

ALIASED = Features.of(
    mandatory=(OPTION_STATIC_REMOTEKEY,),
    optional=(OPTION_ANCHORS, OPTION_SCID_ALIAS, OPTION_SHUTDOWN_ANYSEGWIT, OPTION_ZEROCONF),
)
CAP = 100_000_000
"""In millisatoshis."""


def trusting(*, push: int = 0, trusts: bool = True) -> Pair:
    """Alice opens a channel to be used at once with Bob, who trusts her or not."""
    pair = Pair.of(features=ALIASED)
    if trusts:
        named = frozenset((str(pair.alice.signer.node_id),))
        policy = replace(pair.bob.env.policy, zero_conf_peers=named, zero_conf_cap=Sat(CAP // 1000))
        pair.bob.env = replace(pair.bob.env, policy=policy)
    done = open_channel(replace(pair.request(1_000_000, push), zero_conf=True), pair.alice.env)
    pair.alice.state = done.state
    pair.alice.performs(done.effects)
    pair.settle()
    return pair


def decides(end: End, number: int, *, pays: bool) -> None:
    htlc = end.pending.pop(number)
    if pays:
        preimage = next(preimage_of(n) for n in range(100) if hash_of(n) == htlc.payment_hash)
        end.does(SettleHtlc(number, preimage))
    else:
        end.does(FailHtlc(number, b"no"))


def test_it_is_off() -> None:
    assert not features_of(DEFAULT_POLICY).has(OPTION_ZEROCONF) and not DEFAULT_POLICY.zero_conf_peers
    some = replace(DEFAULT_POLICY, zero_conf_peers=frozenset(("02" * 33,)))
    assert features_of(some).has(OPTION_ZEROCONF) and not features_of(some).requires(OPTION_ZEROCONF)


def test_its_channel_type_is_refused() -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 0)
    (offer,) = pair.alice.sent()
    assert isinstance(offer, OpenChannel)
    for features in (
        (OPTION_STATIC_REMOTEKEY, OPTION_ANCHORS, OPTION_ZEROCONF),
        (OPTION_STATIC_REMOTEKEY, OPTION_ANCHORS, OPTION_SCID_ALIAS, OPTION_ZEROCONF),
    ):
        wanted = replace(offer, channel_type=Features.of(mandatory=features))
        done = accept_inbound(pair.inbound(wanted), pair.bob.env)
        assert isinstance(done.state, Opening) and done.state.stage is OpeningStage.ABANDONED


def test_a_stranger_is_not_trusted_although_we_speak_it() -> None:
    pair = trusting(trusts=False)
    assert isinstance(pair.bob.state, Opening) and "before it confirms" in pair.bob.state.reason
    assert isinstance(pair.alice.state, Opening), "and no coin was spent"


def test_more_than_the_cap_is_not_taken_as_a_gift() -> None:
    pair = trusting(push=CAP + 1)
    assert isinstance(pair.bob.state, Opening) and "trust" in pair.bob.state.reason
    assert isinstance(trusting(push=CAP).bob.state, Channel)


def test_one_channel_at_a_time_is_trusted() -> None:
    pair = trusting()
    offer = next(m for m in pair.alice.sent() if isinstance(m, OpenChannel)) if pair.alice.sent() else None
    done = open_channel(replace(pair.request(1_000_000, 0), zero_conf=True), pair.alice.env)
    (sent,) = [e.message for e in done.effects if isinstance(e, Send)]
    assert offer is None and isinstance(sent, OpenChannel)
    again = accept_inbound(replace(pair.inbound(sent), pending=1), pair.bob.env)
    assert isinstance(again.state, Opening) and "waits for its funding" in again.state.reason


def test_a_channel_in_use_still_waits_for_its_funding(tmp_path: Path) -> None:
    """Else each further one would be trusted with the whole cap again."""

    async def story(node: Registry) -> None:
        peer = node.meets(stranger)
        named = frozenset((str(stranger.node_id),))
        node.channels.policy = replace(node.channels.policy, zero_conf_peers=named)
        node.channels.our_features = peer.features = ALIASED
        for number in range(2):
            offer = replace(stranger.offers(node.channels.signer.node_id, number), channel_type=ANCHOR_ALIAS_ZERO_TYPE)
            stranger.state = replace(stranger.state, open=offer)  # type: ignore[type-var]
            await node.channels.open_received(stranger.node_id, offer)
            if number == 0:
                await node.hears(stranger, stranger.names_funding(peer.last(AcceptChannel), outpoint(1)))
                await node.hears(stranger, ready)
        (actor,) = node.channels.by_id.values()
        assert actor.record is not None and actor.record.phase is Phase.NORMAL
        assert ["waits for its funding" in one for one in peer.errors] == [True]

    stranger = Stranger("trusted")
    ready = ChannelReady(
        channel_id=ChannelId.v1(outpoint(1)),
        second_per_commitment_point=stranger.signer.channel_keys(0).second_point,
        short_channel_id=ShortChannelId(7),
    )
    Registry.run(tmp_path, story)


def test_a_channel_of_a_trusted_peer_works_at_once_up_to_the_cap() -> None:
    pair = trusting(push=20_000_000)
    alice, bob = pair.alice, pair.bob
    assert alice.record.phase is bob.record.phase is Phase.NORMAL and bob.record.funding.confirmation is None
    assert alice.record.their_alias == bob.record.our_alias, "it has no other name"
    for amount in (50_000_000, 30_000_000, 1, 10_000_000):
        alice.adds(amount)
        pair.settle()
    assert [bob.pending[n].must_fail for n in range(4)] == [False, False, True, True]
    pair.restarts(bob)
    assert [bob.pending[n].must_fail for n in range(4)] == [False, False, True, True], "a restart trusts no more"
    pair.connect()
    pair.settle()
    decides(bob, 0, pays=True)
    pair.settle()
    decides(bob, 1, pays=False)
    pair.settle()
    # 20 + 50 are ours, and 3 and 4 count until they are gone.
    alice.adds(30_000_000)
    pair.settle()
    assert bob.pending[4].must_fail
    bob.fails_all()
    pair.settle()
    alice.adds(30_000_000)
    pair.settle()
    assert not bob.pending[5].must_fail
    bob.adds(60_000_000)
    pair.settle()
    assert not alice.pending[0].must_fail, "the opener trusts itself"


def test_what_is_on_its_way_out_may_come_back_and_counts() -> None:
    """Else the peer refuses what we offered it once we have taken as much again."""
    pair = trusting()
    alice, bob = pair.alice, pair.bob
    alice.adds(CAP)
    pair.settle()
    decides(bob, 0, pays=True)
    pair.settle()
    bob.adds(60_000_000)
    pair.settle()
    alice.adds(60_000_000)
    pair.settle()
    assert room_of_trust(bob.record, bob.env) == 0 and bob.pending[1].must_fail
    bob.fails_all()
    alice.settles_all()
    pair.settle()
    alice.adds(60_000_000, 1)
    pair.settle()
    assert [bob.pending[n].must_fail for n in (2, 3)] == [False, True], "what was paid out is no risk any more"


def test_a_reorganisation_that_takes_the_funding_away_takes_the_trust_away() -> None:
    """Until it is as deep again as it had to be at first: whoever can do that can also spend it elsewhere."""
    pair = Pair.opened()
    alice, bob = pair.alice, pair.bob
    alice.adds(1_000_000)
    pair.settle()
    for end in (alice, bob):
        end.does(FundingUnconfirmed())
    alice.adds(2_000_000)
    bob.adds(3_000_000)
    pair.settle()
    assert bob.pending[1].must_fail and not bob.pending[0].must_fail
    assert not alice.pending[0].must_fail, "the opener can take nothing from itself"
    assert room_of_trust(bob.record, bob.env) == 0 and room_of_trust(alice.record, alice.env) is None
    depth = bob.record.params.minimum_depth
    pair.confirms(depth - 1)
    alice.adds(4_000_000)
    pair.settle()
    assert bob.pending[2].must_fail
    pair.mines(1)
    alice.adds(5_000_000)
    pair.settle()
    assert not bob.pending[3].must_fail and room_of_trust(bob.record, bob.env) is None


def test_confirmations_end_the_cap() -> None:
    pair = trusting(push=20_000_000)
    for blocks, is_capped in ((1, True), (1, True), (1, False)):
        if pair.bob.record.funding.confirmation is None:
            pair.confirms(blocks)
        else:
            pair.mines(blocks)
        pair.settle()
        limited = room_of_trust(pair.bob.record, pair.bob.env)
        assert (limited is not None) == is_capped, pair.bob.env.height
    pair.alice.adds(700_000_000)
    pair.settle()
    assert not pair.bob.pending[0].must_fail


def test_a_double_spend_takes_no_more_than_the_cap_and_upstream_is_failed() -> None:
    pair = trusting()
    bob = pair.bob
    for amount in (60_000_000, 60_000_000, 30_000_000, 10_000_000):
        pair.alice.adds(amount)
        pair.settle()
        for number in list(bob.pending):
            decides(bob, number, pays=not bob.pending[number].must_fail)
        pair.settle()
    bob.adds(5_000_000)
    pair.settle()
    lost = int(bob.record.funding.local.spec.our_balance) + 5_000_000
    assert lost == CAP
    pair.cut()
    bob.env = replace(bob.env, minds_deadlines=False)
    pair.mines(2017)
    assert bob.record.phase is Phase.CLOSED
    (failed,) = [row for row in bob.rows if isinstance(row, HtlcFailed)]
    assert failed.origin, "nobody will ever claim it"


def test_without_a_name_it_cannot_be_used() -> None:
    pair = trusting()
    fresh = replace(pair.bob.record, their_alias=None)
    pair.bob.state = replace(pair.bob.channel, record=fresh)
    point = pair.alice.record.our_points.at(1)
    assert point is not None
    pair.bob.hears(ChannelReady(channel_id=fresh.channel_id, second_per_commitment_point=point, short_channel_id=None))
    assert not pair.bob.is_connected


def test_a_minimum_depth_of_zero_does_not_make_us_trust() -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 400_000_000)
    pair.deliver(pair.alice)
    (answer,) = pair.bob.sent()
    assert isinstance(answer, AcceptChannel)
    pair.bob.outbox[0] = replace(answer, minimum_depth=0).encode()
    pair.settle()
    assert pair.alice.record.phase is Phase.AWAITING_FUNDING
    assert not any(isinstance(m, ChannelReady) for m in pair.alice.sent()) and not pair.alice.record.our_ready


def test_nothing_is_forwarded_before_both_have_seen_the_funding() -> None:
    """The peer says that it is ready, and acts as if we were."""
    pair = Pair.of()
    pair.opens(1_000_000, 400_000_000)
    pair.settle()
    alice, bob = pair.alice, pair.bob
    point = alice.record.our_points.at(1)
    assert point is not None
    ready = ChannelReady(
        channel_id=bob.record.channel_id, second_per_commitment_point=point, short_channel_id=ShortChannelId(1)
    )
    bob.hears(ready)
    assert bob.record.their_ready and bob.record.phase is Phase.AWAITING_FUNDING
    add = alice.add_event(0, 1_000_000)
    bob.hears(
        UpdateAddHtlc(
            channel_id=bob.record.channel_id,
            id=0,
            amount_msat=add.amount,
            payment_hash=hash_of(0),
            cltv_expiry=int(add.cltv_expiry),
            onion_routing_packet=add.onion,
        )
    )
    assert not bob.pending and not bob.record.htlcs
    bob.adds(1_000_000)
    assert bob.refused and not bob.record.htlcs


def test_premature_announcement_signatures_announce_nothing() -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 0, announce=True)
    pair.settle()
    bob = pair.bob
    early = AnnouncementSignatures(
        channel_id=bob.record.channel_id,
        short_channel_id=ShortChannelId(1),
        node_signature=bytes(64),
        bitcoin_signature=bytes(64),
    )
    bob.hears(early)
    assert bob.record.their_announcement is None and bob.record.phase is Phase.AWAITING_FUNDING
    assert bob.is_connected


def test_a_closing_that_began_too_early_is_no_way_round() -> None:
    """We close before the funding confirms; the peer says that it is ready and pays us all the same."""
    pair = Pair.of()
    pair.opens(1_000_000, 400_000_000)
    pair.settle()
    alice, bob = pair.alice, pair.bob
    bob.does(CloseChannel(p2wpkh(b"\x02" + bytes(32))))
    point = alice.record.our_points.at(1)
    assert point is not None
    channel_id = bob.record.channel_id
    add = alice.add_event(0, 1_000_000)
    bob.hears(ChannelReady(channel_id=channel_id, second_per_commitment_point=point, short_channel_id=None))
    assert bob.record.phase is Phase.SHUTTING_DOWN and bob.record.their_ready
    bob.hears(
        UpdateAddHtlc(
            channel_id=channel_id,
            id=0,
            amount_msat=add.amount,
            payment_hash=hash_of(0),
            cltv_expiry=int(add.cltv_expiry),
            onion_routing_packet=add.onion,
        )
    )
    assert not bob.is_connected and not bob.pending and bob.channel.link is None
