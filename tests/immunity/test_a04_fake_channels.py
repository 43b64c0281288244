"""A4 fake channels (all implementations, published August 2023; LDK 0.2.5 #4851: the limit was not enforced)

What failed: a channel that is offered but never funded costs its opener nothing, and nodes kept each of them for two
weeks, with a task, a record and a check at every block, until they stalled.

Defence: node/openings.py:Openings.open_received counts openings before it does anything that waits, and judges the
offer before keys or addresses are spent on it; MAX_OPENINGS, MAX_OPENINGS_PER_PEER and MAX_UNFUNDED bound what peers
without a funded channel may hold; channel/policy.py:Policy.max_pending_per_peer bounds each; a script that an
abandoned opening leaves over goes to the next one; node/switchboard.py:Switchboard.has_channel lets only funded
channels make a connection privileged.

Not covered: whoever holds all MAX_UNFUNDED places keeps other unknown peers from opening for up to 2016 blocks.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from immunity_world import Registry, Stranger, outpoint

from salama.base.units import BlockHeight
from salama.bitcoin.chain_events import BlockConnected
from salama.channel.events import BlockArrived
from salama.channel.state import Channel, Confirmation
from salama.node import openings as node_openings
from salama.node.openings import MAX_OPENINGS_PER_PEER
from salama.node.switchboard import Switchboard
from salama.storage import queries
from salama.testing.graphs import unsigned_node_id
from salama.testing.pair import START
from salama.wire.opening import AcceptChannel


def addresses(node: Registry) -> int:
    """How many addresses the wallet has given out."""
    return sum(branch.next_index for branch in node.wallet.state.branches.values())


def test_the_limit_of_one_peer_holds_however_fast_it_asks(tmp_path: Path) -> None:
    """Hundreds of offers of one read are under way at the same time: all must be counted from the start."""

    async def story(node: Registry) -> None:
        stranger = Stranger("fast")
        node.meets(stranger)
        offers = [stranger.offers(node.channels.signer.node_id, n) for n in range(100)]
        await asyncio.gather(*(node.channels.open_received(stranger.node_id, offer) for offer in offers))
        await node.rests()
        assert 1 <= len(node.channels._openings) <= MAX_OPENINGS_PER_PEER
        assert addresses(node) <= MAX_OPENINGS_PER_PEER

    Registry.run(tmp_path, story)


def test_the_limit_of_all_peers_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_openings, "MAX_OPENINGS", 10)

    async def story(node: Registry) -> None:
        strangers = [Stranger(n) for n in range(30)]
        for stranger in strangers:
            node.meets(stranger)
        us = node.channels.signer.node_id
        await asyncio.gather(*(node.channels.open_received(s.node_id, s.offers(us)) for s in strangers))
        await node.rests()
        assert len(node.channels._openings) == 10

    Registry.run(tmp_path, story)


def test_unfunded_channels_of_strangers_are_bounded_and_a_known_peer_is_still_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each comes with a new node id, so that a limit for each peer alone would mean nothing."""
    monkeypatch.setattr(node_openings, "MAX_UNFUNDED", 6)

    async def story(node: Registry) -> None:
        friend = Stranger("friend")
        await node.opened(friend, outpoint(0))
        (actor,) = node.channels.by_id.values()
        await funded(node, actor)
        for n in range(1, 20):
            stranger = Stranger(n)
            peer = await node.opened(stranger, outpoint(n))
            assert bool(peer.errors) == (n > 6), n
            node.leaves(stranger)
        assert len(node.unfunded) == 6
        peer = await node.opened(friend, outpoint(100), 1)
        assert not peer.errors
        assert len(node.unfunded) == 7

    Registry.run(tmp_path, story)


async def funded(node: Registry, actor: Any) -> None:
    """As if its funding were in a block."""
    record = actor.record
    confirmed = replace(record.funding, confirmation=Confirmation(START, 3))
    actor.state = Channel(replace(record, active=(confirmed,)), actor.state.link)


def test_only_a_funded_channel_makes_a_stranger_a_friend(tmp_path: Path) -> None:
    """Strangers who may be connected are bounded; an offer must not be the way round that."""

    async def story(node: Registry) -> None:
        stranger = Stranger("one")
        await node.opened(stranger, outpoint(1))
        seen = SimpleNamespace(_channels=node.channels)
        assert not Switchboard.has_channel(seen, stranger.node_id)  # type: ignore[arg-type]
        (actor,) = node.channels.by_id.values()
        await funded(node, actor)
        assert Switchboard.has_channel(seen, stranger.node_id)  # type: ignore[arg-type]

    Registry.run(tmp_path, story)


def test_an_offer_that_is_refused_spends_neither_keys_nor_addresses(tmp_path: Path) -> None:
    async def story(node: Registry) -> None:
        stranger = Stranger("poor")
        peer = node.meets(stranger)
        for n in range(50):
            offer = stranger.offers(node.channels.signer.node_id, n, capacity=20_000)
            bad = replace(offer, to_self_delay=60_000)
            await node.channels.open_received(stranger.node_id, bad)
        assert len(peer.errors) == 50 and peer.last(AcceptChannel) is None
        assert addresses(node) == 0
        assert node.channels._next_key_index == 0
        assert not node.channels._openings and not node.channels.by_peer

    Registry.run(tmp_path, story)


def test_abandoned_openings_reuse_their_addresses(tmp_path: Path) -> None:
    async def story(node: Registry) -> None:
        await offers_and_leaves(node, 60)
        assert addresses(node) <= 2

    Registry.run(tmp_path, story)


async def offers_and_leaves(node: Registry, count: int, first: int = 0) -> None:
    """Somebody new connects, offers a channel, has it accepted and is gone."""
    stranger = Stranger("many")
    us = node.channels.signer.node_id
    offer = stranger.offers(us)
    for n in range(first, first + count):
        stranger.signer.node_id = unsigned_node_id(n)
        peer = node.meets(stranger)
        await node.channels.open_received(stranger.node_id, offer)
        assert isinstance(peer.last(AcceptChannel), AcceptChannel)
        node.leaves(stranger)
        await node.rests()


async def storm(node: Registry, count: int) -> None:
    await offers_and_leaves(node, count // 10)
    before = node.things()
    await offers_and_leaves(node, count, count // 10)
    assert node.things() - before < 500, f"{node.things() - before} things are left of {count} strangers"
    assert not node.channels._openings and not node.channels.by_peer and not node.channels._claimed
    began = time.monotonic()
    for actor in node.channels.block_connected(
        BlockConnected(BlockHeight(int(START) + 1), b"\x01" * 32, SimpleNamespace(txs=()))  # type: ignore[arg-type]
    ):
        await actor.settled()
    assert time.monotonic() - began < 1


def test_a_storm_of_fake_offers_leaves_nothing(tmp_path: Path) -> None:
    Registry.run(tmp_path, lambda node: storm(node, 200))


@pytest.mark.slow
def test_two_hundred_thousand_fake_offers_leave_nothing(tmp_path: Path) -> None:
    Registry.run(tmp_path, lambda node: storm(node, 200_000), seconds=3600)


def test_unfunded_channels_are_forgotten_after_two_weeks(tmp_path: Path) -> None:
    """Then their places are free again."""

    async def story(node: Registry) -> None:
        for n in range(5):
            stranger = Stranger(n)
            await node.opened(stranger, outpoint(n))
            node.leaves(stranger)
        assert len(node.unfunded) == 5
        node.channels.height = BlockHeight(int(START) + 2017)
        for actor in list(node.channels.by_id.values()):
            actor.tell(BlockArrived())
        await node.rests()
        assert not node.channels.by_id and not node.channels.by_peer and not node.channels.watch.outpoints
        assert not node.journal.read_now(queries.open_channels)

    Registry.run(tmp_path, story)


def test_an_opening_does_not_outlive_a_peer_that_left_while_it_was_judged(tmp_path: Path) -> None:
    """It would keep its place for ever, and enough of them would keep everybody from opening."""

    async def story(node: Registry) -> None:
        for n in range(20):
            stranger = Stranger(n)
            node.meets(stranger)
            offer = stranger.offers(node.channels.signer.node_id)
            under_way = asyncio.create_task(node.channels.open_received(stranger.node_id, offer))
            await asyncio.sleep(0)
            node.leaves(stranger)
            await under_way
            await node.rests()
        assert not node.channels._openings and not node.channels.by_peer
        assert addresses(node) <= 1

    Registry.run(tmp_path, story)
