"""Networks from a seed: shaped like the real one for searching, or small and properly signed for gossip."""

from __future__ import annotations

import csv
import gzip
import random
from pathlib import Path

from salama.base.ids import NodeId, ShortChannelId, Txid
from salama.base.units import Sat
from salama.bitcoin.networks import REGTEST
from salama.crypto.hashes import sha256
from salama.gossip.graph import Graph
from salama.wire.gossip import ChannelAnnouncement, ChannelUpdate

NO_SIGNATURE = bytes(64)


def unsigned_node_id(number: int) -> NodeId:
    """An id that looks like one; nobody has its key."""
    return NodeId(b"\x02" + sha256(number.to_bytes(8, "big")))


def unsigned_channel(scid: ShortChannelId, one: NodeId, other: NodeId, features: bytes = b"") -> ChannelAnnouncement:
    """An announcement without signatures, its nodes put in order."""
    node_1, node_2 = sorted((one, other))
    return ChannelAnnouncement(
        node_signature_1=NO_SIGNATURE,
        node_signature_2=NO_SIGNATURE,
        bitcoin_signature_1=NO_SIGNATURE,
        bitcoin_signature_2=NO_SIGNATURE,
        features=features,
        chain_hash=REGTEST.chain_hash,
        short_channel_id=scid,
        node_id_1=node_1,
        node_id_2=node_2,
        bitcoin_key_1=node_1,
        bitcoin_key_2=node_2,
    )


def unsigned_update(
    scid: ShortChannelId,
    direction: int,
    *,
    timestamp: int = 1,
    disabled: bool = False,
    cltv_expiry_delta: int = 40,
    htlc_minimum_msat: int = 1,
    htlc_maximum_msat: int,
    fee_base_msat: int = 1000,
    fee_proportional_millionths: int = 100,
    message_flags: int = 1,
) -> ChannelUpdate:
    return ChannelUpdate(
        signature=NO_SIGNATURE,
        chain_hash=REGTEST.chain_hash,
        short_channel_id=scid,
        timestamp=timestamp,
        message_flags=message_flags,
        channel_flags=direction | disabled << 1,
        cltv_expiry_delta=cltv_expiry_delta,
        htlc_minimum_msat=htlc_minimum_msat,
        fee_base_msat=fee_base_msat,
        fee_proportional_millionths=fee_proportional_millionths,
        htlc_maximum_msat=htlc_maximum_msat,
    )


def random_graph(seed: int, nodes: int, channels: int, timestamp: int = 1_700_000_000) -> Graph:
    """Few big hubs, many small nodes, capacities and fees over several orders of magnitude; no signatures."""
    dice = random.Random(seed)
    graph = Graph(REGTEST.chain_hash)
    ids = [unsigned_node_id(seed << 32 | number) for number in range(nodes)]
    # A node is drawn again as often as it already has channels: the rich get richer.
    urn = list(range(min(nodes, 5)))
    for number in range(channels):
        newcomer = number if number < nodes else dice.choice(urn)
        other = dice.choice(urn)
        while other == newcomer:
            other = dice.choice(urn) if dice.random() < 0.9 else dice.randrange(nodes)
        urn += (newcomer, other)
        scid = ShortChannelId.of(100 + number // 20, 1 + number % 20, dice.randrange(2))
        capacity = Sat(min(10**9, max(20_000, int(dice.lognormvariate(14.8, 1.4)))))
        graph.add_channel(
            unsigned_channel(scid, ids[newcomer], ids[other]), capacity, Txid(sha256(bytes(scid.to_bytes(8))))
        )
        for direction in (0, 1):
            if dice.random() < 0.05:
                continue
            graph.apply_update(
                unsigned_update(
                    scid,
                    direction,
                    timestamp=timestamp + dice.randrange(1_000_000),
                    disabled=dice.random() < 0.15,
                    cltv_expiry_delta=dice.choice((18, 34, 40, 80, 144)),
                    htlc_minimum_msat=dice.choice((0, 1, 1000, 1000)),
                    htlc_maximum_msat=int(int(capacity.msat) * dice.choice((0.45, 0.9, 0.99))),
                    fee_base_msat=dice.choice((0, 0, 1, 1000, 1000)),
                    fee_proportional_millionths=int(min(20_000, dice.lognormvariate(4.5, 2.0))),
                )
            )
    return graph


def read_graph(path: Path, timestamp: int = 1_700_000_000) -> Graph:
    """A graph from rows of a gzipped CSV: channel, source, target, capacity_sat, enabled and the policy's fields."""
    graph = Graph(REGTEST.chain_hash)
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file):
            number, source, target = int(row["channel"]), int(row["source"]), int(row["target"])
            scid = ShortChannelId.of(100 + number // 100, number % 100, 0)
            one, other = unsigned_node_id(source), unsigned_node_id(target)
            if scid not in graph:
                graph.add_channel(unsigned_channel(scid, one, other), Sat(int(row["capacity_sat"])))
            if row["enabled"] == "1":
                graph.apply_update(
                    unsigned_update(
                        scid,
                        int(one > other),
                        timestamp=timestamp,
                        cltv_expiry_delta=int(row["cltv_expiry_delta"]),
                        htlc_minimum_msat=int(row["htlc_minimum_msat"]),
                        htlc_maximum_msat=int(row["htlc_maximum_msat"]),
                        fee_base_msat=int(row["fee_base_msat"]),
                        fee_proportional_millionths=int(row["fee_proportional_millionths"]),
                    )
                )
    return graph
