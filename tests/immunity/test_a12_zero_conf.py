"""A12 use before confirmation (several projects; LDK panicked in 0.0.111 and 0.0.116)

What failed: whoever lets a channel be used before its funding is in a block can be paid with money that is then spent
elsewhere.

Defence: zero-conf is not built: node/node.py:FEATURES does not offer it, channel/opening_rules.py refuses its channel
type, channel/opening.py:first_record never waits for less than one confirmation, and
channel/confirming.py:receive_announcement keeps announcements that come before their time aside.
"""

from __future__ import annotations

from dataclasses import replace

from salama.base.ids import ShortChannelId
from salama.channel.opening import accept_inbound
from salama.channel.state import Opening, OpeningStage, Phase
from salama.node.node import FEATURES as OFFERED
from salama.testing.pair import Pair, hash_of
from salama.wire.features import OPTION_ANCHORS, OPTION_SCID_ALIAS, OPTION_STATIC_REMOTEKEY, OPTION_ZEROCONF, Features
from salama.wire.gossip import AnnouncementSignatures
from salama.wire.opening import AcceptChannel, ChannelReady, OpenChannel
from salama.wire.updates import UpdateAddHtlc


def test_it_is_not_offered() -> None:
    assert not OFFERED.has(OPTION_ZEROCONF)


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
