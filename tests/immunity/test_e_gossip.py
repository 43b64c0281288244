"""E1 the whole graph for everybody who asks (lnd 0.18.2 and before)

What failed: each timestamp filter made the node load all its gossip for one peer, also when the peer did not read.

Defence: gossip/serving.py:backlog is read as it is sent, _may_stream lets a few peers at a time, and serve stops at a
peer's allowance and while its socket is full.

E3 replies and queries that explode (lnd 0.20.3)

What failed: compressed lists of channels grew to many megabytes, and lists had no greatest length.

Defence: wire/gossip.py reads no compressed lists, which BOLT 7 has given up; gossip/limits.py:Limits bounds what is
noted from replies, and gossip/asking.py ignores replies that nobody asked for.

E4 values at the edge of a field (lnd before 0.20.1, Core Lightning 26.04.1)

What failed: a timestamp of zero, or node ids in the wrong order, ended the process.

Defence: gossip/intake.py checks each field before use; what a peer did wrong is a warning.

E5 memory for things that nobody knows (Core Lightning, July 2026)

What failed: updates for unknown channels, and the channels themselves, were remembered without bound.

Defence: gossip/limits.py:Limits.orphan_updates, orphan_nodes, wanted and rejected; the least recent goes.

E6 an author who drowns the others (lnd, published January 2024)

What failed: a flood of updates of one channel kept a node from hearing those of others.

Defence: gossip/intake.py spends an allowance for each direction of each channel, and only for what is rightly signed.

E7 announcements of channels that do not exist (known to everybody; BOLT 7)

What failed: graphs were filled with channels that had no output on the chain, or look-ups of such stopped the back-end.

Defence: gossip/intake.py verifies signatures, then asks the chain, at most Limits.lookups at a time, before anything is
stored or relayed.

E8 honest peers banned, dead channels raised (lnd #10033 and #8889)

What failed: peers were banned for relaying old gossip, and an update stamped far in the future kept a dead channel.

Defence: gossip/intake.py ignores what is old or from the future without blame.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from salama.base.ids import ShortChannelId
from salama.bitcoin.networks import REGTEST
from salama.codec.fields import Malformed
from salama.codec.message import Message, decode_message
from salama.crypto import secp256k1
from salama.gossip import announce
from salama.gossip.events import LookUpUtxo, MessageReceived, PeerGone, PeerReady
from salama.gossip.limits import DAY, Limits
from salama.testing.gossip import EXTENDED, START, Author, GossipNet, GossipNode, SignedChannel, signed_channel
from salama.testing.graphs import unsigned_node_id
from salama.wire.features import Features
from salama.wire.gossip import ChannelUpdate, GossipTimestampFilter, QueryShortChannelIds, ReplyChannelRange

PEER = Author.of("peer")
AUTHORS = [Author.of(n) for n in range(6)]
CHANNELS = [signed_channel(AUTHORS[n % 6], AUTHORS[(n + 1) % 6], ShortChannelId.of(500 + n, 0, 0)) for n in range(12)]


def met(limits: Limits | None = None, known: int = 0) -> tuple[GossipNet, GossipNode]:
    """A node that knows some channels, and a peer."""
    net = GossipNet()
    node = net.add("node", limits=limits)
    net.mine(CHANNELS)
    teacher = Author.of("teacher")
    net.give(node, PeerReady(teacher.node_id, Features()))
    for channel in CHANNELS[:known]:
        net.hear(node, teacher.node_id, *channel.everything())
    net.give(node, PeerGone(teacher.node_id))
    net.give(node, PeerReady(PEER.node_id, EXTENDED))
    node.sent.clear()
    node.effects.clear()
    return net, node


def signed_by(author: Author, message: Message) -> Message:
    return announce.signed(message, secp256k1.sign(author.secret, announce.digest(message)))  # type: ignore[type-var]


def test_e1_many_ask_for_everything_and_few_are_served_at_a_time() -> None:
    net, node = met(Limits(streams=2, send_rate=100, send_burst=500), known=12)
    wanted = GossipTimestampFilter(chain_hash=REGTEST.chain_hash, first_timestamp=0, timestamp_range=0xFFFFFFFF)
    readers = [unsigned_node_id(n) for n in range(100)]
    for reader in readers:
        net.give(node, PeerReady(reader, Features()))
        for _ in range(5):
            net.hear(node, reader, wanted)
    served = {peer for peer, message in node.sent if not isinstance(message, GossipTimestampFilter)}
    assert len(served & set(readers)) == 2
    sent = sum(len(message.encode()) for peer, message in node.sent if peer in served)
    assert sent < 2 * 2000


def test_e3_compressed_lists_are_malformed() -> None:
    import zlib

    for kind in (QueryShortChannelIds, ReplyChannelRange):
        bomb = b"\x01" + zlib.compress(bytes(20_000_000), 9)
        head = REGTEST.chain_hash + (bytes(9) if kind is ReplyChannelRange else b"")
        data = kind.TYPE.to_bytes(2, "big") + head + len(bomb).to_bytes(2, "big") + bomb
        with pytest.raises(Malformed):
            decode_message(data)
        plain = kind.TYPE.to_bytes(2, "big") + head + b"\x00\x09\x00" + bytes(8)
        assert len(decode_message(plain).encoded_short_ids) == 1, "but for the compression it is well-formed"


def test_e3_replies_without_end_are_cut_off() -> None:
    net, node = met(Limits(wanted=500, range_replies=5))
    for n in range(50):
        ids = tuple(ShortChannelId.of(n, i, 0) for i in range(100))
        reply = ReplyChannelRange(
            chain_hash=REGTEST.chain_hash,
            first_blocknum=n,
            number_of_blocks=1,
            sync_complete=0,
            encoded_short_ids=ids,
        )
        net.hear(node, PEER.node_id, reply)
        assert len(node.state.peers[PEER.node_id].wanted) <= 500
    assert node.state.syncing is None and len(node.warnings) >= 1


EDGES = [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF]


@pytest.mark.parametrize("value", EDGES)
def test_e4_every_timestamp_and_every_field_at_its_edge(value: int) -> None:
    net, node = met(known=2)
    channel, author = CHANNELS[0], CHANNELS[0].ends[0]
    direction = 0
    changes = [
        {"timestamp": value},
        {"fee_base_msat": value},
        {"fee_proportional_millionths": value},
        {"cltv_expiry_delta": value & 0xFFFF},
        {"htlc_minimum_msat": value << 32 | value},
        {"htlc_maximum_msat": value << 32 | value},
        {"message_flags": value & 0xFF},
        {"channel_flags": value & 0xFE},
    ]
    for n, change in enumerate(changes):
        made = replace(channel.update(direction, START + n + 1), **change)  # type: ignore[arg-type]
        net.hear(node, PEER.node_id, signed_by(author, made))
    net.hear(node, PEER.node_id, signed_by(author, replace(author.node(START), timestamp=value)))
    query = GossipTimestampFilter(chain_hash=REGTEST.chain_hash, first_timestamp=value, timestamp_range=value)
    net.hear(node, PEER.node_id, query)
    assert not any(warning.disconnect for warning in node.warnings)
    net.hear(node, PEER.node_id, CHANNELS[1].update(0, START + 5))
    assert node.state.graph.timestamps(CHANNELS[1].scid)[0] == START + 5


def test_e4_nodes_out_of_order() -> None:
    net, node = met()
    a = CHANNELS[0].announcement
    swapped = replace(
        a,
        node_id_1=a.node_id_2,
        node_id_2=a.node_id_1,
        bitcoin_key_1=a.bitcoin_key_2,
        bitcoin_key_2=a.bitcoin_key_1,
        node_signature_1=a.node_signature_2,
        node_signature_2=a.node_signature_1,
        bitcoin_signature_1=a.bitcoin_signature_2,
        bitcoin_signature_2=a.bitcoin_signature_1,
    )
    same = replace(a, node_id_2=a.node_id_1)
    net.hear(node, PEER.node_id, swapped, same)
    assert len(node.state.graph) == 0 and not node.disk


def unknown(number: int) -> ChannelUpdate:
    return replace(CHANNELS[0].update(0), short_channel_id=ShortChannelId(number << 16))


def invent(count: int) -> None:
    net, node = met(Limits(orphan_updates=50, wanted=100, orphan_nodes=20))
    for start in range(0, count, 500):
        net.give(node, *(MessageReceived(PEER.node_id, unknown(n)) for n in range(start, start + 500)))
    state = node.state
    assert len(state.orphan_updates) <= 50 and len(state.peers[PEER.node_id].wanted) <= 100
    assert len(state.rejected) <= node.limits.rejected and len(state.authors) <= node.limits.update_authors
    assert not state.lookups and not node.disk


def test_e5_invented_channels_cost_nothing() -> None:
    invent(3000)


@pytest.mark.slow
def test_e5_ten_million_invented_channels_cost_nothing() -> None:
    invent(10_000_000)


def test_e6_a_flood_of_one_channels_updates_silences_nobody_else() -> None:
    net, node = met(Limits(update_burst=3, update_interval=600), known=12)
    for n in range(200):
        net.hear(node, PEER.node_id, CHANNELS[0].update(0, START + n + 1))
    for channel in CHANNELS[1:]:
        net.hear(node, PEER.node_id, channel.update(0, START + 7))
        assert node.state.graph.timestamps(channel.scid)[0] == START + 7
    assert node.state.graph.timestamps(CHANNELS[0].scid)[0] < START + 10


def forged(n: int) -> SignedChannel:
    channel = CHANNELS[n % 12]
    bad = replace(channel.announcement, node_signature_1=bytes(63) + bytes([n % 256]))
    return replace(channel, announcement=bad)


def test_e7_forged_announcements_ask_the_chain_nothing() -> None:
    net, node = met()
    for n in range(60):
        net.hear(node, PEER.node_id, forged(n).announcement)
    assert not [e for e in node.effects if isinstance(e, LookUpUtxo)] and len(node.state.graph) == 0


def test_e7_signed_ones_without_an_output_are_looked_up_once_and_within_bounds() -> None:
    net, node = met(Limits(lookups=4, lookups_per_peer=3))
    net.chain.clear()
    for _ in range(3):
        net.hear(node, PEER.node_id, *(channel.announcement for channel in CHANNELS[:3]))
    asked = [e.short_channel_id for e in node.effects if isinstance(e, LookUpUtxo)]
    assert len(asked) == len(set(asked)) == 3 and len(node.state.graph) == 0 and not node.disk
    net.slow_chain = True
    net.hear(node, PEER.node_id, *(channel.announcement for channel in CHANNELS[3:]))
    assert len(node.state.lookups) <= 3


@pytest.mark.parametrize("ahead", [DAY + 60, 365 * DAY])
def test_e8_the_future_is_ignored_without_blame(ahead: int) -> None:
    net, node = met(known=1)
    channel = CHANNELS[0]
    net.hear(node, PEER.node_id, channel.update(0, START + ahead), channel.ends[0].node(START + ahead))
    assert node.state.graph.timestamps(channel.scid)[0] == START
    assert not node.warnings


def test_e8_old_gossip_is_no_offence() -> None:
    net, node = met(known=1)
    for age in (1, 100, 10_000, 20 * DAY):
        net.hear(node, PEER.node_id, CHANNELS[0].update(0, START - age))
    assert not node.warnings and node.state.graph.timestamps(CHANNELS[0].scid)[0] == START
