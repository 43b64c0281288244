"""An old copy of a whole data directory is put back under running channels: the chain never sees a commitment of it,
and the coins come home (immunity J1, B9, B2.65).
"""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from recovery_world import (
    MARGIN,
    commitments_of,
    connect,
    lose_disk,
    make_world,
    mine,
    owned,
    pay,
    share_channel,
    up,
    watch_offers,
)

from salama.sim.machine import Machine, MachineDown
from salama.sim.world import World

CAPACITY, PUSHED = 1_000_000, 300_000


async def wild_payments(world: World, alice: Machine, bob: Machine, count: int) -> None:
    """Several at a time, both ways; some of them fail, and the moment of the snapshot falls anywhere among them."""
    dice = world.dice("payments")

    async def one() -> None:
        await asyncio.sleep(dice.random() * 3)
        ends = (alice, bob) if dice.random() < 0.6 else (bob, alice)
        with suppress(MachineDown, AssertionError):
            await pay(*ends, dice.randint(1_000, 60_000))

    await asyncio.gather(*(one() for _ in range(count)))


def put_back(tmp_path: Path, seed: int, *, long_ago: bool = False) -> bool:
    """Whether the channel had moved on since the snapshot."""
    world = make_world(tmp_path, seed)
    alice, bob = world.machines
    dice = world.dice("snapshot")
    old = tmp_path / "old"
    offered = watch_offers(world)
    moved = False

    async def take_snapshot() -> None:
        await asyncio.sleep(dice.random() * 3.5)
        shutil.copytree(bob.directory, old)

    async def story() -> None:
        nonlocal moved
        await share_channel(world, alice, bob, CAPACITY, PUSHED)
        await asyncio.gather(take_snapshot(), wild_payments(world, alice, bob, 12))
        await asyncio.sleep(10)
        assert bob.node is not None
        (actor,) = bob.node.channels.by_id.values()
        assert actor.record is not None
        last = int(actor.record.funding.local.spec.to_local) // 1000
        await lose_disk(bob)
        shutil.rmtree(bob.directory)
        shutil.copytree(old, bob.directory)
        if long_ago:  # every HTLC of the snapshot is long overdue when it comes back
            await mine(world, 150)
        bob.boot()
        await up(world)
        await connect(alice, bob)
        await asyncio.sleep(60)
        assert bob.node is not None
        (actor,) = bob.node.channels.by_id.values()
        moved = actor.record is not None and actor.record.stale
        if moved:
            await mine(world, 12)
            assert owned(bob) > last - MARGIN, f"{owned(bob)} of {last} sat came back"
        assert not commitments_of(bob, offered), "an old commitment was given to the chain"

    world.run(story())
    assert not world.problems, world.problems
    return moved


@pytest.mark.parametrize("seed", range(2))
def test_an_old_directory_publishes_nothing(tmp_path: Path, seed: int) -> None:
    assert put_back(tmp_path, seed)


def test_an_old_directory_publishes_nothing_also_when_all_is_overdue(tmp_path: Path) -> None:
    assert put_back(tmp_path, 3, long_ago=True)


@pytest.mark.slow
def test_two_hundred_old_directories_publish_nothing(tmp_path: Path) -> None:
    moved = 0
    for seed in range(100, 300):
        moved += put_back(tmp_path / str(seed), seed, long_ago=seed % 4 == 0)
        shutil.rmtree(tmp_path / str(seed), ignore_errors=True)
    assert moved > 150
