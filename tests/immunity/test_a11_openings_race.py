"""A11 an opening that races with its own peer (Core Lightning 23.02 to 23.05, fixed in 23.05)

What failed: two flows, a peer that reconnected and a channel being opened with it, each started the part of the node
that serves the peer, and the second found the place taken.

Defence: one actor per channel, one inbox, one event at a time (node/actor.py:Actor); node/openings.py:Openings asks
again after everything that waits whether the peer is still the one that it began with, and gives a temporary id to one
opening at a time.
"""

from __future__ import annotations

import asyncio
import random
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from immunity_world import FakePeer, Registry, Stranger

from salama.base.ids import ChannelId
from salama.base.machine import CommandRefused
from salama.base.units import Msat, Sat
from salama.node.openings import MAX_OPENINGS_PER_PEER
from salama.wire.opening import AcceptChannel, OpenChannel


async def race(node: Registry, rounds: int, seed: int) -> tuple[int, int]:
    """Offers, repeats, departures, returns and openings of our own cross each other while the wallet takes its time."""
    dice = random.Random(seed)
    channels, us = node.channels, node.channels.signer.node_id
    quick = channels._closing_script

    async def slow() -> bytes:
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(0)
        return await quick()

    channels._closing_script = slow  # type: ignore[method-assign]
    accepted = refused = 0
    for n in range(rounds):
        stranger = Stranger(f"racer {n % 7}")
        peers: list[FakePeer] = [node.meets(stranger)]
        offered: dict[ChannelId, list[FakePeer]] = {}

        async def comes_and_goes(stranger: Stranger = stranger, peers: list[FakePeer] = peers) -> None:
            for _ in range(dice.randrange(6)):
                await asyncio.sleep(0)
            node.leaves(stranger)
            for _ in range(dice.randrange(3)):
                await asyncio.sleep(0)
            peers.append(node.meets(stranger))

        async def offers(offer: OpenChannel, stranger: Stranger = stranger, to: Any = offered) -> None:
            peer = node.peers.get(stranger.node_id)
            if peer is not None:
                to.setdefault(offer.temporary_channel_id, []).append(peer)
                await channels.open_received(stranger.node_id, offer)

        # some of them are repeated
        flows: list[Any] = [offers(stranger.offers(us, 2 * n + dice.randrange(2))) for _ in range(dice.randrange(1, 4))]
        flows.append(opens(node, stranger))
        if dice.random() < 0.7:
            flows.insert(dice.randrange(len(flows)), comes_and_goes())
        results = await asyncio.gather(*(asyncio.wait_for(f, 10) for f in flows))
        refused += results.count("refused")
        await node.rests()
        mine = [key for key in channels._openings if key[0] == stranger.node_id]
        assert len(mine) <= MAX_OPENINGS_PER_PEER
        everyone = {id(p): p for p in (*peers, *chain(*offered.values()), node.peers[stranger.node_id])}
        for peer in everyone.values():
            for answer in (m for m in peer.sent if isinstance(m, AcceptChannel)):
                # nobody is served what another connection asked for
                assert peer in offered[answer.temporary_channel_id]
                accepted += 1
        node.leaves(stranger)
        await node.rests()
        assert not any(key[0] == stranger.node_id for key in channels._openings)
        assert stranger.node_id not in channels.by_peer and not channels._judged
    channels._closing_script = quick  # type: ignore[method-assign]
    return accepted, refused


async def opens(node: Registry, stranger: Stranger) -> str:
    """Our own opening, which the stranger never answers: it ends when the stranger leaves."""
    task = asyncio.create_task(
        node.channels.open(stranger.node_id, Sat(200_000), Msat(0), announce=False, feerate=None)
    )
    for _ in range(12):
        await asyncio.sleep(0)
    peer = node.peers.get(stranger.node_id)
    if not task.done() and peer is not None and not isinstance(peer.last(OpenChannel), OpenChannel):
        await asyncio.sleep(0.001)
    if not task.done():
        node.leaves(stranger)
        node.meets(stranger)
    try:
        await task
    except CommandRefused:
        return "refused"
    return "opened"


def run(directory: Path, rounds: int, seed: int) -> None:
    async def story(node: Registry) -> None:
        accepted = 0
        for again in range(20):
            some, refused = await race(node, rounds, seed + 100 * again)
            assert refused == rounds
            accepted += some
            if accepted >= rounds // 10:
                return
            # A slow disk answers few before they leave.
        raise AssertionError("hardly anything was ever accepted: the race shows nothing")

    Registry.run(directory, story, seconds=600)


def test_openings_and_reconnections_cross(tmp_path: Path) -> None:
    run(tmp_path, 60, 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_openings_and_reconnections_cross_thousands_of_times(tmp_path: Path, seed: int) -> None:
    run(tmp_path, 2_000, seed)
