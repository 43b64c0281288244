"""The graph: what goes in comes out byte for byte, newer wins, and the arrays agree with the messages.

B7.04 to B7.06, checksums of B7.08, B7.12.
"""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.base.ids import NodeId, OutPoint, ShortChannelId, Txid
from salama.base.units import Msat, Sat
from salama.bitcoin.networks import REGTEST
from salama.crypto.hashes import sha256
from salama.gossip.checksum import crc32c, crc32c_rows
from salama.gossip.graph import Graph, requires_unknown, update_checksum
from salama.gossip.views import UpdateResult
from salama.testing.gossip import START, Author, signed_channel
from salama.testing.graphs import random_graph, unsigned_channel, unsigned_node_id, unsigned_update
from salama.wire.features import Features
from salama.wire.gossip import ChannelAnnouncement, ChannelUpdate, NodeAnnouncement

A, B, C = (unsigned_node_id(n) for n in range(3))
SCID = ShortChannelId.of(500, 1, 0)


def graph_with(*scids: ShortChannelId) -> Graph:
    graph = Graph(REGTEST.chain_hash)
    for scid in scids:
        graph.add_channel(unsigned_channel(scid, A, B), Sat(1_000_000), Txid(bytes([scid & 0xFF]) * 32))
    return graph


def update(scid: ShortChannelId = SCID, direction: int = 0, **changes: int) -> ChannelUpdate:
    return unsigned_update(scid, direction, **{"htlc_maximum_msat": 900_000_000, **changes})


def test_messages_come_out_as_they_went_in() -> None:
    channel = signed_channel(Author.of("a"), Author.of("b"), SCID)
    graph = Graph(REGTEST.chain_hash)
    assert graph.add_channel(channel.announcement, channel.capacity, channel.txid)
    assert not graph.add_channel(channel.announcement, channel.capacity)
    for direction in (0, 1):
        assert graph.channel_update(SCID, direction) is None
        assert graph.apply_update(channel.update(direction)) is UpdateResult.APPLIED
        assert graph.channel_update(SCID, direction) == channel.update(direction).encode()
    node = channel.ends[0].node(alias="münchen")
    assert graph.apply_node(node)
    assert graph.channel_announcement(SCID) == channel.announcement.encode()
    assert graph.node_announcement(channel.ends[0].node_id) == node.encode()
    assert graph.node_announcement(channel.ends[1].node_id) is None


@settings(max_examples=60, deadline=None)
@given(
    features=st.binary(max_size=40),
    tail=st.binary(max_size=40),
    update_tail=st.binary(max_size=20),
    flags=st.tuples(st.integers(0, 255), st.integers(0, 255)),
    amounts=st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
    fees=st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
)
def test_odd_forms_survive(
    features: bytes,
    tail: bytes,
    update_tail: bytes,
    flags: tuple[int, int],
    amounts: tuple[int, int],
    fees: tuple[int, int],
) -> None:
    graph = Graph(REGTEST.chain_hash)
    announcement = replace(unsigned_channel(SCID, A, B, features), tail=tail)
    graph.add_channel(announcement, Sat(1000))
    said = replace(
        update(),
        message_flags=flags[0],
        channel_flags=flags[1],
        htlc_minimum_msat=amounts[0],
        htlc_maximum_msat=amounts[1],
        fee_base_msat=fees[0],
        fee_proportional_millionths=fees[1],
        tail=update_tail,
    )
    graph.snapshot()
    assert graph.apply_update(said) is UpdateResult.APPLIED
    assert graph.channel_announcement(SCID) == announcement.encode()
    assert graph.channel_update(SCID, flags[1] & 1) == said.encode()
    assert graph.checksums([SCID])[0][flags[1] & 1] == update_checksum(said.encode()) == crc32c(said.checksum_part)
    policy = graph.policy(SCID, flags[1] & 1)
    assert policy is not None and policy.fee_base_msat == fees[0]
    patched = [column.copy() for column in columns(graph)]
    graph._snapshot = None
    assert all((one == other).all() for one, other in zip(patched, columns(graph), strict=True))


def columns(graph: Graph) -> list[np.ndarray]:  # type: ignore[type-arg]
    snapshot = graph.snapshot()
    return [getattr(snapshot, name) for name in type(snapshot).__slots__]


def test_only_a_newer_update_counts() -> None:
    graph = graph_with(SCID)
    assert graph.apply_update(update(timestamp=10)) is UpdateResult.APPLIED
    assert graph.apply_update(update(timestamp=9)) is UpdateResult.STALE
    assert graph.apply_update(update(timestamp=10)) is UpdateResult.STALE
    assert graph.apply_update(update(timestamp=10, fee_base_msat=7)) is UpdateResult.CONFLICT
    assert graph.apply_update(update(timestamp=0, direction=1)) is UpdateResult.INVALID
    assert graph.apply_update(update(ShortChannelId(1))) is UpdateResult.UNKNOWN_CHANNEL
    assert graph.apply_update(update(direction=1, timestamp=1)) is UpdateResult.APPLIED
    assert graph.timestamps(SCID) == (10, 1)


def test_the_same_update_with_a_bent_signature_is_no_conflict() -> None:
    graph = graph_with(SCID)
    graph.apply_update(update(timestamp=10))
    assert graph.apply_update(replace(update(timestamp=10), signature=b"\1" * 64)) is UpdateResult.STALE


@pytest.mark.parametrize(
    ("changes", "usable"),
    [
        ({}, True),
        ({"disabled": True}, False),
        ({"htlc_minimum_msat": 900_000_001}, False),
        ({"htlc_maximum_msat": 1_000_000_000}, True),
        ({"htlc_maximum_msat": 1_000_000_001}, False),
        ({"htlc_maximum_msat": 2**64 - 1}, False),
    ],
)
def test_what_makes_a_direction_usable(changes: dict[str, int], usable: bool) -> None:
    for patch in (True, False):
        graph = graph_with(SCID)
        if patch:
            graph.snapshot()
        graph.apply_update(update(**changes))
        snapshot = graph.snapshot()
        edge = graph.edge_of(SCID, 0)
        assert edge is not None
        row = snapshot.row_of[edge]
        assert bool(snapshot.usable[row]) is usable
        assert not snapshot.usable[snapshot.row_of[edge + 1]]
        assert graph.node_id(int(snapshot.source[row])) == min(A, B)
        assert graph.node_id(int(snapshot.target[row])) == max(A, B)


def test_a_channel_or_node_that_requires_the_unknown_is_not_routed_through() -> None:
    graph = Graph(REGTEST.chain_hash)
    graph.add_channel(unsigned_channel(SCID, A, B, features=b"\x01" + bytes(12)), Sat(10**6))
    graph.apply_update(update())
    assert not graph.snapshot().usable.any()
    author = Author.of("strange")
    graph.add_channel(unsigned_channel(ShortChannelId(5), author.node_id, B), Sat(10**6))
    index = graph.node_index(author.node_id)
    graph.snapshot()
    for timestamp, features, barred in ((5, Features(1 << 100), True), (6, Features(1 << 101), False)):
        assert graph.apply_node(author.node(timestamp, features=features))
        assert bool(graph.snapshot().barred[index]) is barred
        graph._snapshot = None
        assert bool(graph.snapshot().barred[index]) is barred


def test_requires_unknown_looks_at_even_bits_only() -> None:
    assert not requires_unknown(b"")
    assert not requires_unknown((1 << 101 | 1 << 14).to_bytes(20, "big"))
    assert requires_unknown((1 << 100).to_bytes(20, "big"))
    assert requires_unknown(b"\xff" * 8000)


def test_nodes_come_and_go_with_their_channels() -> None:
    graph = graph_with(SCID)
    author = Author.of("n")
    other = ShortChannelId.of(501, 0, 0)
    assert not graph.apply_node(author.node())
    graph.add_channel(unsigned_channel(other, author.node_id, A), Sat(5000))
    assert graph.apply_node(author.node(START))
    assert not graph.apply_node(author.node(START))
    assert graph.apply_node(author.node(START + 1))
    assert graph.node_count() == 3
    assert graph.channels_of(A) == [SCID, other]
    assert graph.remove_channel(other)
    assert not graph.remove_channel(other)
    assert not graph.has_node(author.node_id)
    assert graph.node_announcement(author.node_id) is None
    assert graph.channels_of(A) == [SCID]
    assert graph.channels_of(author.node_id) == []
    # The freed places are used again and hold nothing of what was there.
    graph.add_channel(unsigned_channel(other, B, C), Sat(5000))
    assert graph.node_announcement(C) is None
    assert graph.channel(other).policies == (None, None)  # type: ignore[union-attr]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("auuurn"), st.integers(0, 8), st.integers(0, 1), st.integers(0, 5)), max_size=80)
)
def test_the_graph_agrees_with_a_plain_dictionary(steps: list[tuple[str, int, int, int]]) -> None:
    graph = Graph(REGTEST.chain_hash)
    channels: dict[ShortChannelId, ChannelAnnouncement] = {}
    updates: dict[tuple[ShortChannelId, int], ChannelUpdate] = {}
    nodes: dict[NodeId, NodeAnnouncement] = {}
    authors = [Author.of(n) for n in range(4)]
    for action, number, direction, timestamp in steps:
        scid = ShortChannelId.of(100 + number, 0, 0)
        if action == "a":
            announcement = unsigned_channel(scid, authors[number % 4].node_id, authors[(number * 3 + 1) % 4].node_id)
            if announcement.node_id_1 == announcement.node_id_2:
                continue
            assert graph.add_channel(announcement, Sat(1000)) is (scid not in channels)
            channels.setdefault(scid, announcement)
        elif action == "u":
            said = update(scid, direction, timestamp=timestamp, fee_base_msat=timestamp)
            known = updates.get((scid, direction))
            good = scid in channels and timestamp > (known.timestamp if known else 0)
            assert (graph.apply_update(said) is UpdateResult.APPLIED) is good
            if good:
                updates[scid, direction] = said
        elif action == "r":
            assert graph.remove_channel(scid) is (channels.pop(scid, None) is not None)
            updates.pop((scid, 0), None)
            updates.pop((scid, 1), None)
            alive = {end for a in channels.values() for end in (a.node_id_1, a.node_id_2)}
            nodes = {node_id: message for node_id, message in nodes.items() if node_id in alive}
        else:
            message = authors[number % 4].node(timestamp)
            alive = {end for a in channels.values() for end in (a.node_id_1, a.node_id_2)}
            known_node = nodes.get(message.node_id)
            good = message.node_id in alive and (known_node is None or timestamp > known_node.timestamp)
            assert graph.apply_node(message) is good
            if good:
                nodes[message.node_id] = message
        if number == 0:
            graph.snapshot()
    assert graph.scids() == sorted(channels)
    assert {s: graph.channel_announcement(s) for s in channels} == {s: a.encode() for s, a in channels.items()}
    assert {key: graph.channel_update(*key) for key in updates} == {key: u.encode() for key, u in updates.items()}
    assert {n: graph.node_announcement(n) for n in nodes} == {n: m.encode() for n, m in nodes.items()}
    assert set(graph.nodes()) == {end for a in channels.values() for end in (a.node_id_1, a.node_id_2)}
    snapshot = graph.snapshot()
    assert len(snapshot.edge) == 2 * len(channels)
    rows = {
        (graph.edge_scid(int(e)), int(e) & 1): int(snapshot.fee_base[r])
        for r, e in enumerate(snapshot.edge)
        if snapshot.usable[r]
    }
    assert rows.keys() <= updates.keys()
    assert all(fee == updates[key].fee_base_msat for key, fee in rows.items())
    for node in range(snapshot.nodes):
        assert (snapshot.target[snapshot.start[node] : snapshot.start[node + 1]] == node).all()


def test_spent_channels_are_found_by_their_outpoints_and_forgotten_later() -> None:
    other = ShortChannelId.of(501, 0, 3)
    graph = graph_with(SCID, other)
    txid = Txid(sha256(b"funding"))
    graph.remove_channel(other)
    graph.add_channel(unsigned_channel(other, A, B), Sat(1_000_000), txid)
    assert graph.channel(other).txid == txid  # type: ignore[union-attr]
    assert graph.spent_by([OutPoint(txid, 2), OutPoint(Txid(bytes(32)), 3)]) == []
    assert graph.spent_by([OutPoint(txid, 3)]) == [other]
    assert graph.channel_spent(other, 600)
    assert not graph.channel_spent(ShortChannelId(9), 600)
    assert graph.apply_update(update(other)) is UpdateResult.SPENT
    assert graph.apply_update(update(other, disabled=True)) is UpdateResult.APPLIED
    assert graph.forgettable(671, 72) == []
    assert graph.forgettable(672, 72) == [other]
    assert graph.spent_since(600) == [other] and graph.spent_since(601) == []
    assert graph.channel_unspent(other)
    assert not graph.channel_unspent(other)
    assert graph.forgettable(10_000, 72) == []
    assert graph.apply_update(update(other, timestamp=2)) is UpdateResult.APPLIED
    assert graph.mined_since(501) == [other]


def test_pruning_goes_by_the_older_direction() -> None:
    both, one, none, fresh = (ShortChannelId.of(500 + n, 0, 0) for n in range(4))
    graph = graph_with(both, one, none, fresh)
    graph.apply_update(update(both, 0, timestamp=100))
    graph.apply_update(update(both, 1, timestamp=5000))
    graph.apply_update(update(one, 1, timestamp=3000))
    graph.apply_update(update(fresh, 0, timestamp=4000))
    graph.apply_update(update(fresh, 1, timestamp=5000))
    assert graph.prune(5000, 1500, keep=[A]) == []
    assert sorted(graph.prune(5000, 1500)) == [both, one]
    assert graph.prune(5000, 1500, silent_below=502) == []
    assert graph.prune(5000, 1500, silent_below=503) == [none]
    assert graph.scids() == [fresh]
    assert graph.latest_timestamp() == 5000


def test_ranges_and_windows() -> None:
    early, late = ShortChannelId.of(500, 0, 0), ShortChannelId.of(502, 0, 0)
    graph = graph_with(early, late, ShortChannelId.of(501, 0, 0))
    graph.apply_update(update(late, 0, timestamp=50))
    graph.apply_update(update(early, 1, timestamp=70))
    assert graph.with_updates(0, 2**32) == [early, late]
    assert graph.with_updates(501, 502) == []
    assert graph.heard_between(50, 70)[0] == [late]
    assert graph.heard_between(0, 2**33)[0] == [early, late]
    graph.channel_spent(late, 600)
    assert graph.with_updates(0, 2**32) == [early]
    assert graph.heard_between(0, 2**33)[0] == [early]


def test_crc32c_is_the_castagnoli_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    dice = random.Random(4)
    rows = np.frombuffer(dice.randbytes(50 * 33), np.uint8).reshape(50, 33)
    assert crc32c_rows(b"head", rows).tolist() == [crc32c(b"head" + row.tobytes()) for row in rows]


def test_checksums_of_many_channels() -> None:
    graph = random_graph(seed=3, nodes=40, channels=100)
    scids = graph.scids()
    expected = []
    for scid in scids:
        raws = [graph.channel_update(scid, direction) for direction in (0, 1)]
        expected.append(tuple(0 if raw is None else crc32c(ChannelUpdate.decode(raw).checksum_part) for raw in raws))
    assert graph.checksums(scids) == expected
    assert graph.checksums([ShortChannelId(1)]) == [(0, 0)]
    assert graph.checksums([]) == []


def test_policies_are_clipped_to_what_an_amount_can_be() -> None:
    graph = graph_with(SCID)
    graph.apply_update(update(htlc_maximum_msat=2**64 - 1, htlc_minimum_msat=2**64 - 1))
    policy = graph.policy(SCID, 0)
    assert policy is not None and policy.htlc_maximum_msat == Msat.MAX
    assert graph.policy(SCID, 1) is None
    assert graph.policy(ShortChannelId(1), 0) is None


def test_memory_per_channel_stays_small() -> None:
    graph = random_graph(seed=1, nodes=500, channels=2000)
    tables = graph._channels.records.nbytes + graph._updates.records.nbytes
    snapshot = sum(column.nbytes for column in columns(graph))
    assert tables / 2000 < 800
    assert snapshot / 2000 < 200
