"""A5 what abandoned openings leave behind (LDK 0.1.6 #4081)

What failed: the monitor of a channel that was never funded was never freed, so that opening and abandoning filled
memory and disk.

Defence: node/channels.py:Channels._retire forgets an opening at every end it may have;
channel/confirming.py:block_arrived and block_arrived_after_close close what was never funded after two weeks, also if
its peer failed it before; node/onchain.py:Onchain.channel_changed then lets go of what stands beside it.

Not covered: a channel that got as far as both signatures leaves one row on disk when it is forgotten.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from immunity_world import Registry, Stranger, outpoint

from salama.base.units import BlockHeight
from salama.channel.events import BlockArrived
from salama.node.onchain import Onchain
from salama.storage import queries
from salama.testing.graphs import unsigned_node_id
from salama.testing.pair import START
from salama.wire.opening import AcceptChannel, FundingCreated
from salama.wire.setup import Error


@pytest.mark.parametrize("end", ["leaves", "error", "bad signature", "offers again"])
def test_an_opening_without_signatures_leaves_nothing(tmp_path: Path, end: str) -> None:
    async def story(node: Registry) -> None:
        stranger = Stranger("one")
        peer = node.meets(stranger)
        offer = stranger.offers(node.channels.signer.node_id)
        for _ in range(20):
            await node.channels.open_received(stranger.node_id, offer)
            assert len(node.channels._openings) == 1
            answer = peer.last(AcceptChannel)
            if end == "error":
                await node.hears(stranger, Error(channel_id=offer.temporary_channel_id, data=b"no"))
            elif end == "bad signature":
                good = stranger.names_funding(answer, outpoint(1))
                bad = FundingCreated(
                    temporary_channel_id=good.temporary_channel_id,
                    funding_txid=good.funding_txid,
                    funding_output_index=good.funding_output_index ^ 1,
                    signature=good.signature,
                )
                await node.hears(stranger, bad)
            elif end == "leaves":
                node.leaves(stranger)
                await node.rests()
                peer = node.meets(stranger)
            if end != "offers again":
                assert not node.channels._openings and not node.channels.by_peer
        assert not node.channels.by_id and not node.channels.watch.outpoints
        assert not node.journal.read_now(queries.open_channels)
        assert len(node.channels._openings) <= 1 and not node.channels._claimed

    Registry.run(tmp_path, story)


async def three_are_failed_by_their_peers(node: Registry) -> None:
    """Channels with both signatures and no funding."""
    for n in range(3):
        stranger = Stranger(n)
        await node.opened(stranger, outpoint(n))
        (actor,) = [a for a in node.unfunded if a.peer == stranger.node_id]
        assert actor.record is not None
        await node.hears(stranger, Error(channel_id=actor.record.channel_id, data=b"never mind"))
        node.leaves(stranger)
    await node.rests()


def test_a_channel_that_its_peer_failed_before_it_was_funded_is_forgotten(tmp_path: Path) -> None:
    """It is failed, so its commitment waits to be published; there will never be anything to spend."""

    async def story(node: Registry) -> None:
        await three_are_failed_by_their_peers(node)
        assert len(node.unfunded) == 3
        node.channels.height = BlockHeight(int(START) + 2017)
        for actor in list(node.channels.by_id.values()):
            actor.tell(BlockArrived())
        await node.rests()
        assert not node.channels.by_id and not node.channels.watch.outpoints and not node.channels._claimed
        assert not node.journal.read_now(queries.open_channels)

    Registry.run(tmp_path, story)


def test_nothing_watches_a_channel_that_was_failed_and_never_funded(tmp_path: Path) -> None:
    """What stands beside a failed channel, to bring its money home, goes with it: there is none."""

    async def story(node: Registry) -> None:
        tasks: Any = SimpleNamespace(create_task=asyncio.create_task)
        channels, listener = node.channels, SimpleNamespace(handed_over=lambda _: None)
        onchain = Onchain(
            node.journal, channels.signer, lambda _: b"", node.wallet, channels, channels.broadcaster,
            channels.broadcaster._backend, listener, tasks,
        )  # fmt: skip
        node.around.channel_changed = lambda channel, _: onchain.channel_changed(channel)
        await three_are_failed_by_their_peers(node)
        await onchain.settled()
        assert len(onchain.by_id) == 3 and len(channels.broadcaster._waiting) == 3
        channels.height = BlockHeight(int(START) + 2017)
        for actor in list(channels.by_id.values()):
            actor.tell(BlockArrived())
        await node.rests()
        await onchain.settled()
        await asyncio.sleep(0)
        assert not onchain.by_id and not onchain._watched and not onchain._outpoints
        assert not channels.broadcaster._waiting, "nor is its commitment offered any more"
        assert not node.wallet.state.leases

    Registry.run(tmp_path, story)


async def comes_and_goes(node: Registry, count: int) -> None:
    """As many openings, each accepted and given up by another end."""
    stranger = Stranger("many")
    offer = stranger.offers(node.channels.signer.node_id)
    for n in range(count):
        stranger.signer.node_id = unsigned_node_id(n % 97)
        peer = node.meets(stranger)
        await node.channels.open_received(stranger.node_id, offer)
        assert peer.last(AcceptChannel) is not None
        if n % 2:
            await node.hears(stranger, Error(channel_id=offer.temporary_channel_id, data=b"no"))
        node.leaves(stranger)
        await node.rests()


def pages(node: Registry) -> int:
    counted: int = node.journal.read_now(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
    return counted


async def abandons(node: Registry, count: int) -> None:
    await comes_and_goes(node, count // 10)
    before, kept = pages(node), node.things()
    await comes_and_goes(node, count)
    assert pages(node) == before, "the disk has not grown"
    assert node.things() - kept < 500, "nor has the memory"
    assert not node.journal.read_now(queries.open_channels)


def test_memory_and_disk_are_what_they_were(tmp_path: Path) -> None:
    Registry.run(tmp_path, lambda node: abandons(node, 50))


@pytest.mark.slow
def test_memory_and_disk_are_what_they_were_after_ten_thousand(tmp_path: Path) -> None:
    Registry.run(tmp_path, lambda node: abandons(node, 10_000), seconds=1800)
