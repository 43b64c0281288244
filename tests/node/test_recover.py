"""The disk is gone: words and backup bring the coins back, whatever was going on (immunity J1, J2, B5.12)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from recovery_world import (
    COIN,
    MARGIN,
    commitments_of,
    connect,
    copy_of,
    fund,
    lose_disk,
    make_world,
    mine,
    open_channel,
    owned,
    pay,
    recover,
    up,
    usable,
)

from salama.base.machine import CommandRefused
from salama.bitcoin.tx import Tx
from salama.sim.machine import MachineDown


def test_a_running_channel_comes_back(tmp_path: Path) -> None:
    world = make_world(tmp_path, 1)
    alice, bob = world.machines
    offered: list[tuple[str, Tx]] = []
    world.chain.on_offer = lambda who, tx: offered.append((who, tx))

    async def story() -> None:
        await up(world)
        await fund(world, alice)
        await open_channel(alice, bob)
        await usable(world, 2)
        await pay(alice, bob, 100_000)
        await lose_disk(bob)
        recover(bob, copy_of(bob).read_bytes())
        await up(world)
        await connect(alice, bob)
        await mine(world, 12)
        assert owned(bob) > 400_000 - MARGIN
        assert not commitments_of(bob, offered)

    world.run(story())
    assert not world.problems


def cut_at(tmp_path: Path, seed: int, line: int, victim: int) -> str:
    """Cut the power of one side before a line of its shell while a channel is opened, lose its disk, recover.

    Returns where it was cut, or "" if it outlived the opening.
    """
    world = make_world(tmp_path, seed)
    alice, bob = world.machines
    lost = world.machines[victim]
    where = ""
    world.stopped = lambda machine: None  # type: ignore[method-assign]
    offered: list[tuple[str, Tx]] = []
    world.chain.on_offer = lambda who, tx: offered.append((who, tx))

    async def story() -> None:
        nonlocal where
        await up(world)
        await fund(world, alice)
        await connect(alice, bob)
        lost.light_fuse(line)
        with suppress(MachineDown, CommandRefused, TimeoutError):
            async with asyncio.timeout(90):
                await open_channel(alice, bob)
                await mine(world, 6)  # the funding confirms, both become ready
        if not lost.is_dead:
            return
        where = next(iter(world.crash_points))
        backup = copy_of(lost).read_bytes() if copy_of(lost).exists() else None
        await lose_disk(lost)
        await asyncio.sleep(5)
        recover(lost, backup)
        await up(world)
        await mine(world, 3)
        await connect(alice, bob)
        await connect(bob, alice)
        await asyncio.sleep(5)
        await mine(world, 8)
        txs = [tx for block in world.chain.blocks.values() for tx in block.txs[1:]]
        is_funded = any(int(out.value) == 1_000_000 for tx in txs for out in tx.outputs)
        due = {"n0": COIN - 300_000 * is_funded, "n1": 300_000 * is_funded}[lost.name]
        assert owned(lost) > due - MARGIN, f"cut at {where}: {owned(lost)} of {due} sat came back"
        assert not commitments_of(lost, offered)

    world.run(story())
    assert not world.problems, world.problems
    return where


def cut_everywhere(tmp_path: Path, victim: int, stride: int) -> set[str]:
    reached = set()
    for line in range(stride // 2, 1_000_000, stride):
        where = cut_at(tmp_path / str(line), 2, line, victim)
        if not where:
            break
        reached.add(where)
    return reached


@pytest.mark.parametrize("victim", [0, 1], ids=["opener", "accepter"])
def test_after_a_cut_while_a_channel_is_opened(tmp_path: Path, victim: int) -> None:
    assert len(cut_everywhere(tmp_path, victim, 900)) > 6


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1], ids=["opener", "accepter"])
def test_after_a_cut_anywhere_while_a_channel_is_opened(tmp_path: Path, victim: int) -> None:
    assert len(cut_everywhere(tmp_path, victim, 23)) > 150
