"""Machines that lose their disks: a simulated world of real nodes, one chain, and a safe place for copies."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from salama.api.channels_schema import OpenParams
from salama.api.methods import Methods
from salama.api.payments_schema import InvoiceParams, PayParams
from salama.api.peers_schema import ConnectParams
from salama.api.wallet_schema import NewAddrParams
from salama.base.units import Sat
from salama.bitcoin.address import parse as parse_address
from salama.bitcoin.networks import REGTEST
from salama.bitcoin.tx import Tx, TxOut
from salama.channel.transactions import decode_commitment_number, obscuring_factor
from salama.sim.machine import EPOCH, Machine
from salama.sim.world import World
from salama.storage import ledger_check

COIN = 3_000_000
MARGIN = 60_000
"""Satoshis that fees may cost: a funding, a commitment with its anchors, a sweep."""


def make_world(tmp_path: Path, seed: int, machines: int = 2, tell: Callable[[str], None] | None = None) -> World:
    world = World(seed, tmp_path / "world", tell=tell)
    for _ in range(machines):
        machine = world.add_machine()
        safe = tmp_path / f"safe-{machine.name}"
        machine.config = replace(machine.config, backup_copies=(safe / "channels.backup",), reconnect_seconds=1.0)
        machine.directory.mkdir(parents=True, exist_ok=True)
        machine.boot()
    return world


def copy_of(machine: Machine) -> Path:
    return machine.config.backup_copies[0]


async def up(world: World) -> None:
    async with asyncio.timeout(600):
        while not all(machine.is_up for machine in world.machines):
            await asyncio.sleep(0.2)


async def mine(world: World, blocks: int = 1) -> None:
    """Mine, and return once everybody who is up has seen it all."""
    for _ in range(blocks):
        world.chain.mine()
        for _ in range(200):
            await asyncio.sleep(0.3)
            if all(m.node is None or not m.is_up or m.node.chain.height >= world.chain.height for m in world.machines):
                break


async def fund(world: World, *machines: Machine) -> None:
    outputs = []
    for machine in machines:
        made = await machine.ask(lambda node: Methods(node).newaddr(NewAddrParams()))
        outputs.append(TxOut(Sat(COIN), parse_address(made.address, REGTEST)))
    world.chain.give(outputs)
    await mine(world, 1)
    await asyncio.sleep(2)


async def connect(one: Machine, other: Machine) -> None:
    params = ConnectParams(peer=f"{other.node_id}@{other.name}:9735")
    await one.ask(lambda node: Methods(node).connect(params))


async def open_channel(one: Machine, other: Machine, amount: int = 1_000_000, push: int = 300_000) -> None:
    await connect(one, other)
    params = OpenParams(peer=f"{other.node_id}@{other.name}:9735", amount=f"{amount}sat", push=f"{push}sat")
    await one.ask(lambda node: Methods(node).open(params))


async def pay(payer: Machine, payee: Machine, amount: int) -> None:
    made = await payee.ask(lambda node: Methods(node).invoice(InvoiceParams(amount=f"{amount}sat", description="sim")))
    params = PayParams(request=made.invoice, timeout=30)
    paid = await payer.ask(lambda node: Methods(node).pay(params))
    assert paid.status == "succeeded", paid


async def usable(world: World, channels: int) -> None:
    """Until so many ends of channels can be used."""
    for _ in range(60):
        ready = sum(v.ready for m in world.machines if m.node and m.is_up for v in m.node.channels.views().values())
        if ready >= channels:
            return
        await mine(world, 1)
    raise AssertionError(f"only {ready} ends of channels are usable")


async def share_channel(
    world: World, one: Machine, other: Machine, amount: int = 1_000_000, push: int = 300_000
) -> None:
    """From the first start to a channel that both can use."""
    await up(world)
    await fund(world, one)
    await open_channel(one, other, amount, push)
    await usable(world, 2)


def watch_offers(world: World) -> list[tuple[str, Tx]]:
    """Fills with whatever anybody gives to the chain from now on, and who it was."""
    offered: list[tuple[str, Tx]] = []
    world.chain.on_offer = lambda who, tx: offered.append((who, tx))
    return offered


async def lose_disk(machine: Machine) -> None:
    """The power goes and the disk with it. What was copied elsewhere is left."""

    def now() -> None:
        machine.power_cut("the disk is lost")
        machine.clean_up()

    # By the world itself, between two steps.
    machine.world.later(machine.world.time, now)
    await asyncio.sleep(0.01)
    shutil.rmtree(machine.directory)
    machine.directory.mkdir(parents=True)


def recover(machine: Machine, backup: bytes | None) -> None:
    """Boot on an empty disk with the words, and the backup if there is one."""
    machine.boot()
    assert machine.node is not None
    machine.outside.rescan_from = lambda config: EPOCH  # type: ignore[method-assign]
    machine.node.recovers, machine.node.restore = True, backup


def owned(machine: Machine) -> int:
    """Satoshis in the wallet; the ledger holds what is there, also what came back without its past."""
    assert machine.node is not None and machine.journal is not None
    assert machine.journal.read_now(lambda db: ledger_check.check(db, deep=True)).problems == ()
    return int(machine.node.wallet.balance().total)


def commitments_of(machine: Machine, offered: list[tuple[str, Tx]]) -> list[Tx]:
    """Commitment transactions of the machine's channels among what it gave to the chain."""
    assert machine.node is not None
    found = []
    for actor in machine.node.channels.by_id.values():
        record = actor.record
        assert record is not None
        params = record.params
        factor = obscuring_factor(params.opener.basepoints.payment, params.accepter.basepoints.payment)
        for who, tx in offered:
            if who == machine.name and tx.inputs[0].outpoint == record.funding.outpoint:
                if decode_commitment_number(tx, factor) is not None:
                    found.append(tx)
    return found
