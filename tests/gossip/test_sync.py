"""Gossip between machines: who learns what, in which order, from whom, and what a stranger cannot make us do.

B7.03 to B7.10.
"""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from salama.base.ids import NodeId, ShortChannelId
from salama.base.units import Sat
from salama.bitcoin.networks import MAINNET, REGTEST
from salama.codec.message import Message, decode_message
from salama.crypto import secp256k1
from salama.gossip import announce, sync
from salama.gossip.events import (
    BlockRemoved,
    GraphSynced,
    LookUpUtxo,
    MessageReceived,
    OwnChannelGone,
    OwnChannelKnown,
    OwnMessage,
    PeerGone,
    PeerPolicyLearned,
    PeerReady,
    Ticked,
    UtxoAnswered,
)
from salama.gossip.limits import Limits
from salama.gossip.state import GossipEnv
from salama.gossip.verify import SignatureCheck, verify_in_turn
from salama.testing.gossip import (
    EXTENDED,
    PLAIN,
    START,
    Author,
    GossipNet,
    GossipNode,
    SignedChannel,
    signed_channel,
)
from salama.testing.graphs import unsigned_node_id
from salama.wire.features import Features
from salama.wire.gossip import (
    DONT_FORWARD,
    ChannelAnnouncement,
    ChannelUpdate,
    GossipTimestampFilter,
    NodeAnnouncement,
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyChannelRange,
    ReplyShortChannelIdsEnd,
)

PEER = Author.of("peer")
AUTHORS = [Author.of(n) for n in range(6)]


def channels(count: int, start: int = 500, spread: int = 1) -> list[SignedChannel]:
    return [
        signed_channel(
            AUTHORS[n % 6], AUTHORS[(n + 1 + n // 6 % 5) % 6], ShortChannelId.of(start + n // spread, n % spread, 0)
        )
        for n in range(count)
    ]


CHANNELS = channels(8)
OLD = START - 100_000
"""Older than what a fresh peer's filter asks for, so that only a range check brings it."""


def meet(net: GossipNet, node: GossipNode, author: Author = PEER, features: Features = EXTENDED) -> None:
    """A peer that is no machine connects."""
    net.give(node, PeerReady(author.node_id, features))


def wants_everything(first: int = 0) -> GossipTimestampFilter:
    return GossipTimestampFilter(chain_hash=REGTEST.chain_hash, first_timestamp=first, timestamp_range=0xFFFFFFFF)


def fill(net: GossipNet, node: GossipNode, some: list[SignedChannel], timestamp: int = START) -> None:
    """Let ``node`` learn these channels from a peer that leaves again."""
    author = Author.of("teacher")
    net.mine(some)
    net.give(node, PeerReady(author.node_id, Features()))
    for channel in some:
        net.hear(node, author.node_id, *channel.everything(timestamp))
    net.give(node, PeerGone(author.node_id))
    node.sent.clear()
    node.effects.clear()


def gossip_in(messages: list[Message]) -> list[Message]:
    return [m for m in messages if isinstance(m, ChannelAnnouncement | ChannelUpdate | NodeAnnouncement)]


def ids_in(messages: list[Message]) -> list[ShortChannelId]:
    return [m.short_channel_id for m in messages if isinstance(m, ChannelAnnouncement)]


@pytest.fixture
def net() -> GossipNet:
    return GossipNet()


# --- taking in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [True, False])
def test_a_channel_is_believed_once_signed_and_seen_on_the_chain(net: GossipNet, batch: bool) -> None:
    node, channel = net.add("node"), CHANNELS[0]
    net.mine([channel])
    meet(net, node)
    messages = [*channel.everything(), channel.ends[0].node()]
    if batch:
        net.hear(node, PEER.node_id, *messages)
    else:
        for message in messages:
            net.hear(node, PEER.node_id, message)
    info = node.state.graph.channel(channel.scid)
    assert info is not None and info.capacity == channel.capacity and info.txid == channel.txid
    assert all(info.policies)
    assert node.state.graph.node_announcement(channel.ends[0].node_id) == channel.ends[0].node().encode()
    assert sorted(row.raw for row in node.disk.values()) == sorted(m.encode() for m in messages)
    assert not node.warnings and not node.state.lookups


def test_updates_wait_for_the_chain_together_with_their_channel(net: GossipNet) -> None:
    node, channel = net.add("node"), CHANNELS[0]
    net.mine([channel])
    net.slow_chain = True
    meet(net, node)
    net.hear(node, PEER.node_id, *channel.everything(), channel.update(0, START + 5), channel.ends[1].node())
    assert len(node.state.graph) == 0 and not node.disk
    assert [e for e in node.effects if isinstance(e, LookUpUtxo)]
    net.give(node, net.answer(channel.scid))
    assert node.state.graph.timestamps(channel.scid) == (START + 5, START)
    assert node.state.graph.node_announcement(channel.ends[1].node_id) is not None


def test_whatever_order_the_messages_come_in(net: GossipNet) -> None:
    channel = CHANNELS[0]
    net.mine([channel])
    messages = [*channel.everything(), channel.ends[0].node(), channel.ends[1].node()]
    for seed in range(6):
        node = net.add(f"node {seed}")
        meet(net, node)
        shuffled = random.Random(seed).sample(messages, len(messages))
        for message in shuffled:
            net.hear(node, PEER.node_id, message)
        assert sorted(row.raw for row in node.disk.values()) == sorted(m.encode() for m in messages), seed


@pytest.mark.parametrize("what", ["nothing", "other script"])
def test_a_channel_that_the_chain_does_not_know_is_remembered_as_such(net: GossipNet, what: str) -> None:
    node, channel = net.add("node"), CHANNELS[0]
    if what == "other script":
        other = CHANNELS[1]
        net.chain[channel.scid] = replace(other, txid=channel.txid)
    meet(net, node)
    net.hear(node, PEER.node_id, *channel.everything())
    assert len(node.state.graph) == 0 and not node.disk and not node.state.lookups
    net.mine([channel])
    before = len(node.effects)
    net.hear(node, PEER.node_id, *channel.everything())
    assert len(node.effects) == before
    assert not node.warnings
    # A reorganisation makes everything possible again.
    net.give(node, BlockRemoved(net.height))
    net.hear(node, PEER.node_id, *channel.everything())
    assert channel.scid in node.state.graph


def spoiled(message: Message) -> Message:
    if isinstance(message, ChannelAnnouncement):
        return replace(message, bitcoin_signature_2=message.bitcoin_signature_1)
    assert isinstance(message, ChannelUpdate | NodeAnnouncement)
    return replace(message, signature=bytes(63) + b"\1")


@pytest.mark.parametrize("which", [0, 1, 3])
def test_a_bad_signature_is_the_peers_fault(net: GossipNet, which: int) -> None:
    node, channel = net.add("node"), CHANNELS[0]
    net.mine([channel])
    meet(net, node)
    messages = [*channel.everything(), channel.ends[0].node()]
    net.hear(node, PEER.node_id, *messages[:which])
    net.hear(node, PEER.node_id, spoiled(messages[which]))
    assert [warning.disconnect for warning in node.warnings] == [True]
    assert messages[which].encode() not in [row.raw for row in node.disk.values()]


def test_an_announcement_with_nodes_out_of_order_is_refused(net: GossipNet) -> None:
    node = net.add("node")
    meet(net, node)
    a = CHANNELS[0].announcement
    net.hear(node, PEER.node_id, replace(a, node_id_1=a.node_id_2, node_id_2=a.node_id_1))
    assert len(node.warnings) == 1 and not node.state.lookups


def resigned(channel: SignedChannel, direction: int, update: ChannelUpdate) -> ChannelUpdate:
    return announce.signed(update, secp256k1.sign(channel.ends[direction].secret, announce.digest(update)))


@pytest.mark.parametrize(
    "changes",
    [
        {"chain_hash": MAINNET.chain_hash},
        {"timestamp": 0},
        {"timestamp": START + 2 * 86_400},
        {"message_flags": 1 | DONT_FORWARD},
        {"tail": bytes(9000)},
    ],
    ids=["chain", "zero", "future", "private", "long"],
)
def test_updates_that_are_ignored_without_blame(net: GossipNet, changes: dict[str, object]) -> None:
    node, channel = net.add("node"), CHANNELS[0]
    fill(net, node, [channel], START - 100)
    meet(net, node)
    update = resigned(channel, 0, replace(channel.update(0), **changes))  # type: ignore[arg-type]
    net.hear(node, PEER.node_id, update)
    assert node.state.graph.timestamps(channel.scid) == (START - 100, START - 100)
    assert not node.warnings


def test_announcements_of_another_chain_or_too_shallow_are_ignored(net: GossipNet) -> None:
    node = net.add("node")
    meet(net, node)
    deep = signed_channel(AUTHORS[0], AUTHORS[1], ShortChannelId.of(net.height + 20, 0, 0))
    net.mine([deep])
    net.hear(node, PEER.node_id, replace(CHANNELS[0].announcement, chain_hash=MAINNET.chain_hash), deep.announcement)
    assert not node.state.lookups and not node.warnings


def test_a_channel_ahead_of_our_chain_waits_until_it_is_deep_enough(net: GossipNet) -> None:
    node = net.add("node")
    fresh = signed_channel(AUTHORS[0], AUTHORS[1], ShortChannelId.of(net.height - 2, 0, 0))
    net.mine([fresh])
    meet(net, node)
    net.hear(node, PEER.node_id, *fresh.everything())
    for _ in range(2):
        net.mine_block()
        assert not [e for e in node.effects if isinstance(e, LookUpUtxo)]
    net.mine_block()
    assert fresh.scid in node.state.graph
    assert node.state.graph.timestamps(fresh.scid) == (START, START)
    assert not node.state.early


def test_a_batch_is_verified_in_one_call(net: GossipNet) -> None:
    node = net.add("node")
    net.mine(CHANNELS)
    calls: list[int] = []

    def verify(checks: list[SignatureCheck]) -> list[bool]:
        calls.append(len(checks))
        return verify_in_turn(checks)

    env = replace(net.env(node), verify=verify)  # type: ignore[arg-type]
    sync.turn(node.state, [PeerReady(PEER.node_id, EXTENDED)], env)
    batch = [MessageReceived(PEER.node_id, m) for channel in CHANNELS for m in channel.everything()]
    transition = sync.turn(node.state, batch, env)
    assert calls == [6 * len(CHANNELS)]
    lookups = [e.short_channel_id for e in transition.effects if isinstance(e, LookUpUtxo)]
    sync.turn(node.state, [net.answer(scid) for scid in lookups], env)
    assert len(node.state.graph) == len(CHANNELS)
    assert calls == [6 * len(CHANNELS)]


# --- relaying -------------------------------------------------------------------------------------------------------


def test_gossip_travels_down_a_line_within_a_few_flushes(net: GossipNet) -> None:
    net.flush_interval = 1.0
    line = [net.add(f"line {n}") for n in range(5)]
    for one, other in pairwise(line):
        net.connect(one, other)
    channel = signed_channel(line[0].author, line[1].author, ShortChannelId.of(600, 0, 0))
    net.mine([channel])
    first = channel.ends.index(line[0].author)
    net.give(
        line[0],
        OwnMessage(channel.announcement, channel.capacity, channel.txid),
        OwnMessage(channel.update(first)),
        OwnMessage(line[0].author.node()),
    )
    net.give(
        line[1], OwnMessage(channel.announcement, channel.capacity, channel.txid), OwnMessage(channel.update(1 - first))
    )
    net.pass_time(6)
    for node in line:
        info = node.state.graph.channel(channel.scid)
        assert info is not None and all(info.policies), node.author
        assert node.state.graph.node_announcement(line[0].node_id) is not None
        assert not node.warnings
    # A later change of terms follows the same way.
    changed = channel.update(first, START + 15, fee_base_msat=7)
    net.give(line[0], OwnMessage(changed))
    net.pass_time(6)
    assert {node.state.graph.channel_update(channel.scid, first) for node in line} == {changed.encode()}


def test_nothing_of_others_is_relayed_before_the_filter_and_everything_of_ours_is(net: GossipNet) -> None:
    node = net.add("node")
    ours = signed_channel(node.author, AUTHORS[0], ShortChannelId.of(650, 0, 0))
    fill(net, node, CHANNELS[:2])
    meet(net, node)
    direction = ours.ends.index(node.author)
    net.give(node, OwnMessage(ours.announcement, ours.capacity, ours.txid), OwnMessage(ours.update(direction)))
    net.pass_time(130)
    assert gossip_in(node.sent_to(PEER.node_id)) == [ours.announcement, ours.update(direction)]
    net.hear(node, PEER.node_id, wants_everything())
    # The backlog, which holds our own once more.
    assert set(ids_in(node.sent_to(PEER.node_id))) == {ours.scid, *(c.scid for c in CHANNELS[:2])}


def test_a_new_peer_is_told_about_us_at_once(net: GossipNet) -> None:
    node = net.add("node")
    ours = signed_channel(node.author, AUTHORS[0], ShortChannelId.of(650, 0, 0))
    direction = ours.ends.index(node.author)
    net.give(
        node,
        OwnMessage(node.author.node()),
        OwnMessage(ours.update(direction)),
        OwnMessage(ours.announcement, ours.capacity, ours.txid),
    )
    meet(net, node, features=Features())
    told = gossip_in(node.sent_to(PEER.node_id))
    assert told == [ours.announcement, ours.update(direction), node.author.node()]
    other = Author.of("elsewhere")
    net.give(node, PeerReady(other.node_id, EXTENDED, same_chain=False))
    net.give(node, OwnMessage(ours.update(direction, START + 1)))
    assert node.sent_to(other.node_id) == []


def test_a_flush_is_staggered_newest_only_in_order_and_not_sent_back(net: GossipNet) -> None:
    node, channel, listener = net.add("node"), CHANNELS[0], Author.of("listener")
    net.mine([channel])
    meet(net, node)
    meet(net, node, listener)
    for author in (PEER, listener):
        net.hear(node, author.node_id, wants_everything(START - 10))
    net.pass_time(61)
    node.sent.clear()
    net.hear(node, PEER.node_id, channel.ends[0].node(), *channel.everything())
    net.hear(node, PEER.node_id, channel.update(0, START + 20), channel.ends[0].node(START + 1))
    net.pass_time(5)
    assert gossip_in(node.sent_to(listener.node_id)) == []
    net.pass_time(60)
    assert gossip_in(node.sent_to(listener.node_id)) == [
        channel.announcement,
        channel.update(1),
        channel.update(0, START + 20),
        channel.ends[0].node(START + 1),
    ]
    assert gossip_in(node.sent_to(PEER.node_id)) == []
    net.pass_time(200)
    assert len(gossip_in(node.sent_to(listener.node_id))) == 4


def test_a_channel_without_update_is_not_sent_and_precedes_its_first_update(net: GossipNet) -> None:
    node, channel, listener = net.add("node"), CHANNELS[0], Author.of("listener")
    net.mine([channel])
    meet(net, node)
    meet(net, node, listener)
    net.hear(node, listener.node_id, wants_everything(START - 10))
    net.hear(node, PEER.node_id, channel.announcement)
    net.pass_time(70)
    assert gossip_in(node.sent_to(listener.node_id)) == []
    net.hear(node, PEER.node_id, channel.update(1))
    net.pass_time(70)
    assert gossip_in(node.sent_to(listener.node_id)) == [channel.announcement, channel.update(1)]


@pytest.mark.parametrize(
    ("first", "length", "expected"),
    [(0, 0xFFFFFFFF, [0, 1, 2]), (START + 1, 1, [1]), (START + 1, 2, [1, 2]), (START + 3, 10**9, []), (0, START, [])],
)
def test_the_backlog_obeys_the_window(net: GossipNet, first: int, length: int, expected: list[int]) -> None:
    node = net.add("node")
    for n in range(3):
        fill(net, node, [CHANNELS[n]], START + n)
    meet(net, node)
    net.hear(
        node,
        PEER.node_id,
        GossipTimestampFilter(chain_hash=REGTEST.chain_hash, first_timestamp=first, timestamp_range=length),
    )
    assert ids_in(node.sent_to(PEER.node_id)) == [CHANNELS[n].scid for n in expected]
    updates = [m for m in node.sent_to(PEER.node_id) if isinstance(m, ChannelUpdate)]
    assert len(updates) == 2 * len(expected)


def test_the_same_filter_again_does_not_bring_the_backlog_again(net: GossipNet) -> None:
    node = net.add("node")
    fill(net, node, CHANNELS[:3])
    meet(net, node)
    for _ in range(5):
        net.hear(node, PEER.node_id, wants_everything())
    assert len(ids_in(node.sent_to(PEER.node_id))) == 3


def test_a_spent_channel_is_not_announced_any_more(net: GossipNet) -> None:
    node = net.add("node")
    fill(net, node, CHANNELS[:2])
    net.mine_block(spending=[CHANNELS[0]])
    meet(net, node)
    net.hear(node, PEER.node_id, wants_everything())
    assert ids_in(node.sent_to(PEER.node_id)) == [CHANNELS[1].scid]
    net.height += 71
    net.mine_block()
    assert CHANNELS[0].scid not in node.state.graph
    assert {row.key[:1] for row in node.disk.values()} == {b"c", b"u"}
    assert len(node.disk) == 3


def test_a_reorganisation_brings_a_channel_back_or_takes_it_away(net: GossipNet) -> None:
    node = net.add("node")
    young = signed_channel(AUTHORS[0], AUTHORS[1], ShortChannelId.of(net.height - 6, 0, 0))
    fill(net, node, [CHANNELS[0], young])
    net.mine_block(spending=[CHANNELS[0]])
    assert node.state.graph.is_spent(CHANNELS[0].scid)
    lost = net.height
    net.height -= 1
    net.give(node, BlockRemoved(lost))
    assert not node.state.graph.is_spent(CHANNELS[0].scid)
    net.give(node, BlockRemoved(young.scid.height))
    assert young.scid not in node.state.graph and CHANNELS[0].scid in node.state.graph


def test_a_restart_finds_everything_again(net: GossipNet) -> None:
    node = net.add("node")
    fill(net, node, CHANNELS)
    net.mine_block(spending=[CHANNELS[3]])
    teacher = Author.of("teacher")
    net.give(node, PeerReady(teacher.node_id, Features()))
    net.hear(node, teacher.node_id, CHANNELS[0].ends[0].node(alias="kept"))
    before = node.state.graph
    net.restart(node)
    after = node.state.graph
    assert after is not before and after.scids() == before.scids()
    for scid in before.scids():
        assert after.channel(scid) == before.channel(scid)
        assert after.channel_announcement(scid) == before.channel_announcement(scid)
    assert after.node_announcement(CHANNELS[0].ends[0].node_id) is not None
    assert after.spent_by([]) == []


def test_what_nobody_repeats_for_two_weeks_is_forgotten(net: GossipNet) -> None:
    node = net.add("node")
    ours = signed_channel(node.author, AUTHORS[0], ShortChannelId.of(650, 0, 0))
    fill(net, node, [CHANNELS[0], CHANNELS[1], ours])
    teacher = Author.of("teacher")
    net.now += 14 * 86_400 - 700
    net.give(node, PeerReady(teacher.node_id, Features()))
    net.hear(node, teacher.node_id, CHANNELS[1].update(0, int(net.now)), CHANNELS[1].update(1, int(net.now)))
    net.pass_time(1400, step=100)
    assert node.state.graph.scids() == sorted([CHANNELS[1].scid, ours.scid])
    assert not any(CHANNELS[0].scid.to_bytes(8, "big") in key for key in node.disk)


# --- our own channels -----------------------------------------------------------------------------------------------


def test_the_peers_terms_for_an_unannounced_channel_are_kept_and_go_no_further(net: GossipNet) -> None:
    node = net.add("node")
    alias = ShortChannelId(77)
    private = signed_channel(node.author, PEER, alias)
    theirs = private.ends.index(PEER)
    net.give(node, OwnChannelKnown(PEER.node_id, (alias,)))
    listener = Author.of("listener")
    meet(net, node)
    meet(net, node, listener)
    net.hear(node, listener.node_id, wants_everything())
    update = resigned(private, theirs, replace(private.update(theirs), message_flags=3))
    net.hear(node, listener.node_id, update)
    assert node.state.peer_policy(alias) is None
    net.hear(node, PEER.node_id, update)
    assert node.state.peer_policy(alias) == update
    assert PeerPolicyLearned(PEER.node_id, update) in node.effects
    net.hear(node, PEER.node_id, resigned(private, theirs, replace(update, timestamp=START - 1)))
    assert node.state.peer_policy(alias) == update
    net.restart(node)
    assert node.state.peer_policy(alias) == update
    net.pass_time(130)
    assert gossip_in(node.sent_to(listener.node_id)) == []
    net.give(node, OwnChannelGone((alias,)))
    assert node.state.peer_policy(alias) is None and not node.disk
    assert not node.warnings


def test_a_forged_update_for_our_own_channel_is_refused(net: GossipNet) -> None:
    node = net.add("node")
    alias = ShortChannelId(77)
    private = signed_channel(node.author, PEER, alias)
    theirs = private.ends.index(PEER)
    net.give(node, OwnChannelKnown(PEER.node_id, (alias,)))
    meet(net, node)
    net.hear(node, PEER.node_id, replace(private.update(theirs), signature=bytes(64)))
    # In our own direction nobody but us has a say.
    net.hear(node, PEER.node_id, private.update(1 - theirs))
    assert node.state.peer_policy(alias) is None
    assert len(node.warnings) == 1


def test_a_private_update_of_ours_goes_to_its_peer_alone(net: GossipNet) -> None:
    node, other = net.add("node"), Author.of("other")
    meet(net, node)
    meet(net, node, other)
    private = signed_channel(node.author, PEER, ShortChannelId(5))
    update = private.update(private.ends.index(node.author))
    net.give(node, OwnMessage(update, only_to=PEER.node_id))
    assert gossip_in(node.sent_to(PEER.node_id)) == [update]
    assert gossip_in(node.sent_to(other.node_id)) == []
    assert not node.disk


def test_what_we_said_early_is_published_when_the_network_brings_our_channel(net: GossipNet) -> None:
    node = net.add("node")
    ours = signed_channel(node.author, AUTHORS[0], ShortChannelId.of(650, 0, 0))
    direction = ours.ends.index(node.author)
    net.mine([ours])
    meet(net, node)
    net.give(node, OwnMessage(ours.update(direction)), OwnMessage(node.author.node()))
    assert gossip_in(node.sent_to(PEER.node_id)) == []
    net.hear(node, PEER.node_id, ours.announcement)
    assert gossip_in(node.sent_to(PEER.node_id)) == [ours.announcement, ours.update(direction), node.author.node()]


def test_our_side_of_a_channel_is_not_learned_from_others(net: GossipNet) -> None:
    node = net.add("node")
    ours = signed_channel(node.author, AUTHORS[0], ShortChannelId.of(650, 0, 0))
    direction = ours.ends.index(node.author)
    net.mine([ours])
    meet(net, node)
    net.hear(node, PEER.node_id, *ours.everything(), node.author.node())
    assert node.state.graph.policy(ours.scid, direction) is None
    assert node.state.graph.policy(ours.scid, 1 - direction) is not None
    assert node.state.graph.node_announcement(node.node_id) is None
    # The peer was faster with the announcement; our own side still gets its say when we are ready.
    net.give(node, OwnMessage(ours.update(direction)), OwnMessage(ours.announcement, ours.capacity, ours.txid))
    assert node.state.graph.policy(ours.scid, direction) is not None
    assert gossip_in(node.sent_to(PEER.node_id)) == [ours.announcement, ours.update(direction)]


# --- asking and answering -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [EXTENDED, PLAIN])
def test_a_fresh_node_learns_the_whole_graph_from_one_peer(net: GossipNet, features: Features) -> None:
    many = channels(60, spread=7)
    limits = Limits(reply_ids=30, ask_ids=13)
    full, fresh = net.add("full", features=features, limits=limits), net.add("fresh", features=features, limits=limits)
    fill(net, full, many, OLD)
    net.connect(full, fresh)
    net.pass_time(30)
    assert fresh.state.graph.scids() == full.state.graph.scids()
    assert all(fresh.state.graph.timestamps(scid) == (OLD, OLD) for scid in fresh.state.graph.scids())
    assert GraphSynced(full.node_id) in fresh.effects
    assert not fresh.warnings and not full.warnings
    queries = [m for m in fresh.sent_to(full.node_id) if isinstance(m, QueryShortChannelIds)]
    assert len(queries) == 5
    assert all(list(q.encoded_short_ids) == sorted(q.encoded_short_ids) for q in queries)


def test_a_second_check_asks_only_for_what_differs(net: GossipNet) -> None:
    full, other = net.add("full"), net.add("other")
    fill(net, full, CHANNELS[:5], OLD)
    fill(net, other, CHANNELS[:4], OLD)
    author = Author.of("teacher")
    net.give(full, PeerReady(author.node_id, Features()))
    newer = CHANNELS[1].update(1, OLD + 5, fee_base_msat=3)
    same = CHANNELS[2].update(0, OLD + 5)
    net.hear(full, author.node_id, newer, same)
    net.connect(full, other)
    asked = [m for m in other.sent_to(full.node_id) if isinstance(m, QueryShortChannelIds)]
    assert len(asked) == 1
    assert asked[0].encoded_short_ids == (CHANNELS[1].scid, CHANNELS[4].scid)
    assert asked[0].query_flags == (4, 31)
    assert other.state.graph.channel_update(CHANNELS[1].scid, 1) == newer.encode()
    assert CHANNELS[4].scid in other.state.graph


def replies_to(net: GossipNet, node: GossipNode, query: QueryChannelRange) -> list[ReplyChannelRange]:
    node.sent.clear()
    net.hear(node, PEER.node_id, query)
    return [m for m in node.sent_to(PEER.node_id) if isinstance(m, ReplyChannelRange)]


def range_query(first: int, number: int, option: int | None = None) -> QueryChannelRange:
    return QueryChannelRange(
        chain_hash=REGTEST.chain_hash, first_blocknum=first, number_of_blocks=number, query_option=option
    )


@pytest.mark.parametrize("most", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("option", [None, 0, 1, 2, 3])
def test_range_replies_cover_the_range_in_order(net: GossipNet, most: int, option: int | None) -> None:
    node = net.add("node", limits=Limits(reply_ids=most))
    many = channels(20, start=100, spread=3)
    fill(net, node, many)
    meet(net, node, features=Features())
    for first, number in [(0, 0xFFFFFFFF), (100, 1), (101, 3), (99, 1), (200, 50), (0xFFFFFFFF, 0xFFFFFFFF), (101, 0)]:
        net.now += 10
        replies = replies_to(net, node, range_query(first, number, option))
        end = min(first + max(1, number), 0xFFFFFFFF)
        expected = sorted(c.scid for c in many if first <= c.scid.height < end)
        assert [scid for r in replies for scid in r.encoded_short_ids] == expected
        assert [r.sync_complete for r in replies] == [0] * (len(replies) - 1) + [1]
        assert replies[0].first_blocknum == first
        assert replies[-1].first_blocknum + replies[-1].number_of_blocks >= end
        for one, following in pairwise(replies):
            last = one.first_blocknum + one.number_of_blocks - 1
            assert following.first_blocknum in (last, last + 1)
        for reply in replies:
            assert len(reply.encode()) <= 65_535
            assert (reply.timestamps_tlv is not None) == bool((option or 0) & 1)
            assert (reply.checksums_tlv is not None) == bool((option or 0) & 2)
            graph = node.state.graph
            if reply.timestamps_tlv is not None:
                assert list(reply.timestamps_tlv) == [graph.timestamps(scid) for scid in reply.encoded_short_ids]
            if reply.checksums_tlv is not None:
                assert list(reply.checksums_tlv) == graph.checksums(list(reply.encoded_short_ids))


def test_full_replies_fit_a_message() -> None:
    limits = Limits()
    for option in (None, 1, 3):
        columns = bool((option or 0) & 1) + bool((option or 0) & 2)
        count = limits.reply_ids // (1 + columns)
        reply = ReplyChannelRange(
            chain_hash=REGTEST.chain_hash,
            first_blocknum=0,
            number_of_blocks=1,
            sync_complete=1,
            encoded_short_ids=tuple(ShortChannelId(n) for n in range(count)),
            timestamps_tlv=((1, 2),) * count if columns else None,  # type: ignore[arg-type]
            checksums_tlv=((1, 2),) * count if columns == 2 else None,  # type: ignore[arg-type]
        )
        assert 60_000 < len(reply.encode()) <= 65_535


def test_queries_about_another_chain_get_an_empty_answer(net: GossipNet) -> None:
    node = net.add("node")
    fill(net, node, CHANNELS[:1])
    meet(net, node, features=Features())
    query = replace(range_query(0, 0xFFFFFFFF, 3), chain_hash=MAINNET.chain_hash)
    assert [(r.chain_hash, r.encoded_short_ids) for r in replies_to(net, node, query)] == [(MAINNET.chain_hash, ())]
    net.hear(
        node, PEER.node_id, QueryShortChannelIds(chain_hash=MAINNET.chain_hash, encoded_short_ids=(CHANNELS[0].scid,))
    )
    assert node.sent_to(PEER.node_id)[-1:] == [
        ReplyShortChannelIdsEnd(chain_hash=MAINNET.chain_hash, full_information=0)
    ]


@pytest.mark.parametrize("flags", [None, 0, 1, 2, 4, 8, 16, 31])
def test_each_flag_brings_its_message(net: GossipNet, flags: int | None) -> None:
    node, channel = net.add("node"), CHANNELS[0]
    fill(net, node, [channel])
    meet(net, node, features=Features())
    announcements = [end.node() for end in channel.ends]
    net.hear(node, PEER.node_id, *announcements)
    node.sent.clear()
    query = QueryShortChannelIds(
        chain_hash=REGTEST.chain_hash,
        encoded_short_ids=(channel.scid, ShortChannelId(1)),
        query_flags=None if flags is None else (flags, 31),
    )
    net.hear(node, PEER.node_id, query)
    everything = [*channel.everything(), *announcements]
    wanted = [m for bit, m in enumerate(everything) if (31 if flags is None else flags) >> bit & 1]
    assert node.sent_to(PEER.node_id) == [
        *wanted,
        ReplyShortChannelIdsEnd(chain_hash=REGTEST.chain_hash, full_information=1),
    ]


def test_flags_must_match_the_ids(net: GossipNet) -> None:
    node = net.add("node")
    meet(net, node)
    net.hear(
        node,
        PEER.node_id,
        QueryShortChannelIds(chain_hash=REGTEST.chain_hash, encoded_short_ids=(ShortChannelId(1),), query_flags=(1, 2)),
    )
    assert len(node.warnings) == 1


def test_queries_beyond_the_rate_wait_but_are_answered(net: GossipNet) -> None:
    node = net.add("node", limits=Limits(query_burst=2, query_interval=10.0))
    fill(net, node, CHANNELS[:1])
    meet(net, node, features=Features())
    counts = [len(replies_to(net, node, range_query(0, 10_000))) for _ in range(4)]
    assert counts == [1, 1, 0, 0]
    assert len(node.warnings) == 1  # the fourth came before the third was answered
    net.pass_time(11)
    assert len([m for m in node.sent_to(PEER.node_id) if isinstance(m, ReplyChannelRange)]) == 1


def test_a_big_answer_is_served_within_the_allowance(net: GossipNet) -> None:
    node = net.add("node", limits=Limits(send_rate=1000, send_burst=3000))
    many = channels(40)
    fill(net, node, many)
    meet(net, node, features=Features())
    net.hear(
        node,
        PEER.node_id,
        QueryShortChannelIds(chain_hash=REGTEST.chain_hash, encoded_short_ids=tuple(c.scid for c in many)),
    )
    served = sum(len(m.encode()) for _, m in node.sent)
    assert 3000 <= served < 4000
    # Whoever does not read gets no more.
    for _ in range(10):
        net.now += 1
        net.give(node, Ticked(frozenset([PEER.node_id])))
    assert sum(len(m.encode()) for _, m in node.sent) == served
    net.pass_time(40)
    assert len(ids_in(node.sent_to(PEER.node_id))) == 40
    assert isinstance(node.sent[-1][1], ReplyShortChannelIdsEnd)


def test_few_peers_relay_to_us_and_another_steps_in(net: GossipNet) -> None:
    node = net.add("node", limits=Limits(sync_peers=2))
    peers = [Author.of(f"p{n}") for n in range(4)]
    for peer in peers:
        meet(net, node, peer)

    def listening() -> list[bool]:
        last = {}
        for to, message in node.sent:
            if isinstance(message, GossipTimestampFilter):
                last[to] = message.timestamp_range > 0
        return [last[peer.node_id] for peer in peers]

    assert listening() == [True, True, False, False]
    net.give(node, PeerGone(peers[0].node_id))
    assert listening() == [True, True, True, False]
    poor = Author.of("poor")
    meet(net, node, poor, Features())
    told = [m for m in node.sent_to(poor.node_id) if isinstance(m, GossipTimestampFilter)]
    assert [(m.first_timestamp, m.timestamp_range) for m in told] == [(0xFFFFFFFF, 0)]


def test_a_silent_peer_is_given_up_and_the_next_one_asked(net: GossipNet) -> None:
    node = net.add("node")
    peers = [Author.of(f"p{n}") for n in range(2)]
    for peer in peers:
        meet(net, node, peer)

    def asked() -> list[int]:
        return [sum(isinstance(m, QueryChannelRange) for m in node.sent_to(peer.node_id)) for peer in peers]

    assert asked() == [1, 0]
    net.pass_time(130, step=10)
    assert asked() == [1, 1]
    net.give(node, PeerGone(peers[1].node_id))
    assert node.state.syncing is None
    net.pass_time(4000, step=50)
    assert asked() == [2, 1]


# --- what a stranger cannot do --------------------------------------------------------------------------------------


def test_ten_thousand_invented_channels_cost_next_to_nothing(net: GossipNet) -> None:
    node = net.add("node", limits=Limits(orphan_updates=50, wanted=100, orphan_nodes=20))
    meet(net, node)
    template = CHANNELS[0].update(0)
    for start in range(0, 3000, 500):
        batch = [
            MessageReceived(PEER.node_id, replace(template, short_channel_id=ShortChannelId.of(100, n, 0)))
            for n in range(start, start + 500)
        ]
        net.give(node, *batch)
    net.give(
        node,
        *(MessageReceived(PEER.node_id, replace(PEER.node(), node_id=unsigned_node_id(n))) for n in range(500)),
    )
    assert len(node.state.orphan_updates) == 50
    assert len(node.state.orphan_nodes) == 20
    assert len(node.state.peers[PEER.node_id].wanted) <= 100
    assert len(node.state.graph) == 0 and not node.disk


def test_invented_ranges_are_bounded(net: GossipNet) -> None:
    node = net.add("node", limits=Limits(wanted=1000, range_replies=5))
    meet(net, node)
    for n in range(7):
        reply = ReplyChannelRange(
            chain_hash=REGTEST.chain_hash,
            first_blocknum=n,
            number_of_blocks=1,
            sync_complete=0,
            encoded_short_ids=tuple(ShortChannelId.of(n, i, 0) for i in range(600)),
        )
        net.hear(node, PEER.node_id, reply)
    assert len(node.state.peers[PEER.node_id].wanted) == 0
    assert node.state.syncing is None
    assert len(node.warnings) == 1


@pytest.mark.parametrize("fault", ["backwards", "columns"])
def test_crooked_range_replies_end_the_check(net: GossipNet, fault: str) -> None:
    node = net.add("node")
    meet(net, node)
    reply = ReplyChannelRange(
        chain_hash=REGTEST.chain_hash,
        first_blocknum=10,
        number_of_blocks=1,
        sync_complete=0,
        encoded_short_ids=(ShortChannelId.of(10, 0, 0),),
        timestamps_tlv=() if fault == "columns" else None,
    )
    net.hear(node, PEER.node_id, reply)
    net.hear(node, PEER.node_id, replace(reply, first_blocknum=9))
    assert len(node.warnings) == 1
    assert node.state.peers[PEER.node_id].range_query is None


def test_replies_that_nobody_asked_for_do_nothing(net: GossipNet) -> None:
    node = net.add("node")
    meet(net, node, features=Features())
    reply = ReplyChannelRange(
        chain_hash=REGTEST.chain_hash,
        first_blocknum=0,
        number_of_blocks=1,
        sync_complete=1,
        encoded_short_ids=(CHANNELS[0].scid,),
    )
    end = ReplyShortChannelIdsEnd(chain_hash=REGTEST.chain_hash, full_information=1)
    net.hear(node, PEER.node_id, reply, end)
    net.hear(node, Author.of("stranger").node_id, reply, end, wants_everything(), range_query(0, 5))
    net.give(node, UtxoAnswered(CHANNELS[0].scid, None))
    assert not node.warnings and not node.state.lookups
    assert not [m for _, m in node.sent if isinstance(m, QueryShortChannelIds | ReplyChannelRange)]


def test_lookups_are_bounded_per_peer_and_overall(net: GossipNet) -> None:
    net.slow_chain = True
    node = net.add("node", limits=Limits(lookups_per_peer=2, lookups=3))
    net.mine(CHANNELS)
    other = Author.of("other")
    meet(net, node)
    meet(net, node, other)
    net.hear(node, PEER.node_id, *(c.announcement for c in CHANNELS[:4]))
    assert list(node.state.lookups) == [c.scid for c in CHANNELS[:2]]
    net.hear(node, other.node_id, *(c.announcement for c in CHANNELS[4:8]))
    assert len(node.state.lookups) == 3
    net.give(node, *(net.answer(scid) for scid in list(node.state.lookups)))
    assert len(node.state.graph) == 3
    assert all(peer.lookups == 0 for peer in node.state.peers.values())


def test_an_author_who_talks_too_much_is_heard_less_and_the_others_as_before(net: GossipNet) -> None:
    node, channel = net.add("node", limits=Limits(update_burst=3, update_interval=100)), CHANNELS[0]
    fill(net, node, CHANNELS[:2], START - 500)
    meet(net, node)
    for n in range(20):
        net.hear(node, PEER.node_id, channel.update(0, START - 400 + n))
    assert node.state.graph.timestamps(channel.scid)[0] == START - 400 + 1  # one token went to the first update
    net.hear(node, PEER.node_id, CHANNELS[1].update(0), channel.update(1))
    assert node.state.graph.timestamps(CHANNELS[1].scid)[0] == START
    assert node.state.graph.timestamps(channel.scid)[1] == START
    net.now += 100
    net.hear(node, PEER.node_id, channel.update(0))
    assert node.state.graph.timestamps(channel.scid)[0] == START


def test_forged_updates_do_not_use_up_an_authors_allowance(net: GossipNet) -> None:
    node, channel = net.add("node", limits=Limits(update_burst=2)), CHANNELS[0]
    fill(net, node, [channel], START - 500)
    meet(net, node)
    for n in range(10):
        net.hear(node, PEER.node_id, replace(channel.update(0, START + n), signature=bytes(64)))
    net.hear(node, PEER.node_id, channel.update(0))
    assert node.state.graph.timestamps(channel.scid)[0] == START


def test_another_announcement_of_the_same_output_changes_nothing(net: GossipNet) -> None:
    node, channel = net.add("node"), CHANNELS[0]
    fill(net, node, [channel])
    meet(net, node)
    rival = signed_channel(AUTHORS[4], AUTHORS[5], channel.scid)
    net.hear(node, PEER.node_id, rival.announcement, rival.update(0))
    assert node.state.graph.channel_announcement(channel.scid) == channel.announcement.encode()


def test_two_host_names_are_kept_but_not_forwarded(net: GossipNet) -> None:
    node, author, listener = net.add("node"), CHANNELS[0].ends[0], Author.of("listener")
    fill(net, node, [CHANNELS[0]])
    meet(net, node)
    meet(net, node, listener)
    net.hear(node, listener.node_id, wants_everything(START + 1))
    name = b"\x05\x03abc\x00\x01"
    made = replace(author.node(START + 5), addresses=name + name)
    net.hear(node, PEER.node_id, announce.signed(made, secp256k1.sign(author.secret, announce.digest(made))))
    assert node.state.graph.node_timestamp(author.node_id) == START + 5
    net.pass_time(130)
    assert gossip_in(node.sent_to(listener.node_id)) == []


def test_cut_off_addresses_are_reported(net: GossipNet) -> None:
    node, author = net.add("node"), CHANNELS[0].ends[0]
    fill(net, node, [CHANNELS[0]])
    meet(net, node)
    made = replace(author.node(START + 5), addresses=b"\x01\x7f")
    net.hear(node, PEER.node_id, announce.signed(made, secp256k1.sign(author.secret, announce.digest(made))))
    assert node.state.graph.node_timestamp(author.node_id) == 0
    assert [warning.disconnect for warning in node.warnings] == [False]


def test_many_backlogs_are_read_a_few_at_a_time(net: GossipNet) -> None:
    node = net.add("node", limits=Limits(streams=2, send_rate=100, send_burst=500))
    fill(net, node, channels(20))
    for n in range(6):
        author = Author.of(f"reader {n}")
        meet(net, node, author, Features())
        net.hear(node, author.node_id, wants_everything())
    begun = [n for n in range(6) if ids_in(node.sent_to(Author.of(f"reader {n}").node_id))]
    assert begun == [0, 1]


def test_wake_at_is_never_in_the_past_and_soon_while_there_is_work(net: GossipNet) -> None:
    node = net.add("node")
    fill(net, node, CHANNELS)
    net.pass_time(1)
    env = net.env(node)
    assert env.now < sync.wake_at(node.state, env) <= env.now + 600
    meet(net, node)
    assert sync.wake_at(node.state, env) <= env.now + 1


def test_garbage_in_every_message_only_ever_warns(net: GossipNet) -> None:
    """Valid messages with bytes changed, some of them still decodable: the machine never raises."""
    dice = random.Random(8)
    node = net.add("node", limits=Limits(orphan_updates=20, orphan_nodes=20, wanted=50))
    fill(net, node, CHANNELS[:3])
    meet(net, node)
    base = [
        *CHANNELS[4].everything(),
        CHANNELS[0].update(1, START + 9),
        CHANNELS[0].ends[0].node(START + 9),
        wants_everything(),
        range_query(0, 1000, 3),
        QueryShortChannelIds(chain_hash=REGTEST.chain_hash, encoded_short_ids=(CHANNELS[0].scid,), query_flags=(31,)),
        ReplyShortChannelIdsEnd(chain_hash=REGTEST.chain_hash, full_information=1),
        ReplyChannelRange(
            chain_hash=REGTEST.chain_hash,
            first_blocknum=0,
            number_of_blocks=5,
            sync_complete=0,
            encoded_short_ids=(CHANNELS[5].scid,),
        ),
    ]
    heard = 0
    for _ in range(600):
        raw = bytearray(dice.choice(base).encode())
        for _ in range(dice.randrange(4)):
            raw[dice.randrange(2, len(raw))] = dice.randrange(256)
        if dice.random() < 0.2:
            raw += dice.randbytes(dice.randrange(30))
        try:
            message = decode_message(bytes(raw))
        except ValueError:
            continue
        heard += 1
        net.hear(node, PEER.node_id, message)
        net.now += 1
    assert heard > 200
    assert set(node.state.graph.scids()) <= {c.scid for c in CHANNELS}


def test_env_and_capacity_types() -> None:
    env = GossipEnv(now=1.0, height=2, chain_hash=REGTEST.chain_hash, our_node_id=NodeId(PEER.node_id))
    assert env.flush_interval == 60.0 and env.limits.forget_blocks == 72
    assert CHANNELS[0].output.value == Sat(1_000_000)
