"""The disk is gone: words and backup bring the coins back, whatever was going on (immunity J1, J2, B5.12)."""

from __future__ import annotations

import asyncio
import shutil
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
    share_channel,
    up,
    usable,
    watch_offers,
)

from salama.base.machine import CommandRefused
from salama.bitcoin.tx import Tx
from salama.node.openings import NEXT_KEY_INDEX
from salama.node.recover import FIRST_NEW_KEY
from salama.sim.machine import EPOCH, MachineDown
from salama.storage import queries
from salama.storage.backup import BackupKey, read_backup


def test_a_running_channel_comes_back(tmp_path: Path) -> None:
    world = make_world(tmp_path, 1)
    alice, bob = world.machines
    offered = watch_offers(world)

    async def story() -> None:
        await share_channel(world, alice, bob)
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


def test_the_backup_names_a_channel_before_its_funding_is_published(tmp_path: Path) -> None:
    world = make_world(tmp_path, 4)
    alice, bob = world.machines
    named: dict[str, list[bytes]] = {}

    def offered(who: str, tx: Tx) -> None:
        if any(int(out.value) == 1_000_000 for out in tx.outputs):
            for machine in (alice, bob):
                found = read_backup(copy_of(machine), BackupKey.of_seed(machine.seed))
                named[machine.name] = [bytes(one.outpoint.txid) for one in found.channels]
            assert named == {alice.name: [bytes(tx.txid)], bob.name: [bytes(tx.txid)]}

    world.chain.on_offer = offered

    async def story() -> None:
        await up(world)
        await fund(world, alice)
        await open_channel(alice, bob)
        await asyncio.sleep(2)

    world.run(story())
    assert not world.problems and len(named) == 2


def test_a_database_older_than_its_backup_is_not_run(tmp_path: Path) -> None:
    said: list[str] = []
    world = make_world(tmp_path, 5, tell=said.append)
    alice, bob = world.machines
    old = tmp_path / "old"

    async def story() -> None:
        await up(world)
        await fund(world, alice)
        shutil.copytree(bob.directory, old)
        await open_channel(alice, bob)
        await usable(world, 2)
        await lose_disk(bob)
        shutil.rmtree(bob.directory)
        shutil.copytree(old, bob.directory)
        bob.boot()
        await asyncio.sleep(5)
        assert not bob.is_up

    world.run(story())
    assert any("n1: stopped by DatabaseBehind" in line for line in said)


def test_old_words_in_a_new_directory_use_no_key_again(tmp_path: Path) -> None:
    world = make_world(tmp_path, 6, machines=1)
    (alice,) = world.machines
    alice.outside.rescan_from = lambda config: EPOCH  # type: ignore[method-assign]

    async def story() -> None:
        await up(world)
        assert alice.node is not None
        first = alice.node.journal.read_now(lambda db: queries.key_value(db, NEXT_KEY_INDEX))
        assert int.from_bytes(first or b"", "big") >= FIRST_NEW_KEY
        assert alice.node.is_recovering()

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
    offered = watch_offers(world)

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
