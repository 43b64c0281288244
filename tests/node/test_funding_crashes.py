"""A power cut at any line of what spends coins: none is lost, none stays set aside for nothing (immunity C24).

Real nodes in the simulator's bottle. After each cut the machine boots again and its user gives up every channel whose
funding is said to be held back; then blocks come, and every satoshi must be in the wallet, in a channel or in a fee.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from salama.api import funding_schema as funding
from salama.api.channels_schema import OpenParams
from salama.api.methods import Methods
from salama.api.peers_schema import ConnectParams
from salama.api.wallet_schema import BumpFeeParams, NewAddrParams, WithdrawParams
from salama.base.ids import ChannelId
from salama.base.machine import CommandRefused
from salama.base.units import Sat
from salama.bitcoin.address import parse as parse_address
from salama.bitcoin.networks import REGTEST
from salama.bitcoin.script import is_p2wsh
from salama.bitcoin.tx import TxOut
from salama.channel.held import is_held
from salama.channel.state import Phase
from salama.node.node import Node
from salama.sim.machine import MachineDown
from salama.sim.world import World
from salama.storage.errors import StorageFault
from salama.wire import Error

COINS, EACH = 4, 3_000_000
MOST_FEES = 30_000
FOREVER = 10**9

Work = Callable[[Node, list[str]], Awaitable[object]]


async def open_one(node: Node, peers: list[str]) -> None:
    await Methods(node).open(OpenParams(peer=peers[0], amount="1000000sat"))


async def open_batch(node: Node, peers: list[str]) -> None:
    channels = ",".join(
        f"{peer}={amount}sat" for peer, amount in zip(peers * 2, (500_000, 600_000, 700_000), strict=False)
    )
    await Methods(node).openbatch(funding.OpenBatchParams(channels=channels))


async def open_by_psbt(node: Node, peers: list[str]) -> None:
    """The node's own wallet stands for the other one."""
    methods = Methods(node)
    begun = await methods.openpsbt(funding.OpenPsbtParams(peer=peers[0], amount="1000000sat"))
    made = await methods.psbtfund(funding.PsbtFundParams(address=begun.address, amount="1000000sat", blocks=3))
    verified = await methods.openverify(funding.OpenVerifyParams(opening=begun.opening, psbt=made.psbt))
    signed = await methods.psbtsign(funding.PsbtSignParams(psbt=made.psbt, blocks=3))
    await methods.openfinish(funding.OpenFinishParams(channel=verified.channel_id, psbt=signed.psbt))


async def withdraw_and_bump(node: Node, peers: list[str]) -> None:
    """To itself: what leaves the wallet is fees."""
    methods = Methods(node)
    target = await methods.newaddr(NewAddrParams())
    sent = await methods.withdraw(WithdrawParams(address=target.address, amount="4000000sat"))
    await methods.bumpfee(BumpFeeParams(txid=sent.txid, feerate=3000))


class Bottle:
    """Alice with coins, and two peers."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.world = World(seed, directory)
        self.alice, *self.others = (self.world.add_machine() for _ in range(3))
        # Each writer on its own, so that a crash falls between any two of them.
        self.alice.writes_together = lambda count: 1  # type: ignore[method-assign]
        self.lines = 0
        """Lines of the shell that the work took, until the power failed."""
        self.opened = 0
        """Channels in the end."""

    def play(self, work: Work, lines: int = FOREVER) -> None:
        """With a power cut after so many lines of the shell."""
        self.world.run(self._story(work, lines))
        assert self.world.problems == []

    async def _story(self, work: Work, lines: int) -> None:
        world, alice = self.world, self.alice
        for machine in world.machines:
            machine.boot()
        await self._up()
        outputs = []
        for machine in world.machines:
            for _ in range(COINS):
                made = await machine.ask(lambda node: Methods(node).newaddr(NewAddrParams()))
                outputs.append(TxOut(Sat(EACH), parse_address(made.address, REGTEST)))
        world.chain.give(outputs)
        world.chain.mine()
        await asyncio.sleep(3)
        peers = [f"{other.node_id}@{other.name}:9735" for other in self.others]
        await self._connect(peers)

        alice.light_fuse(lines)
        fuse = alice.fuse

        async def working(node: Node) -> object:
            return await work(node, peers)

        try:
            async with asyncio.timeout(60):
                await alice.ask(working)
        except (MachineDown, CommandRefused, TimeoutError, StorageFault) as ended:
            world.note(f"ended by {ended!r}")
        assert fuse is not None
        self.lines, alice.fuse = lines - fuse.lines, None
        await self._up()
        await self._give_up_what_is_held()
        for _ in range(10):
            await self._connect(peers)
            world.chain.mine()
            await asyncio.sleep(3)
        await self._give_up_what_is_held()
        await asyncio.sleep(3)
        self._count()

    async def _up(self) -> None:
        while not all(machine.is_up for machine in self.world.machines):
            await asyncio.sleep(0.2)

    async def _connect(self, peers: list[str]) -> None:
        async def connecting(node: Node) -> None:
            for peer in peers:
                await Methods(node).connect(ConnectParams(peer=peer))

        await self.alice.ask(connecting)

    async def _give_up_what_is_held(self) -> None:
        async def giving_up(node: Node) -> None:
            for channel_id, actor in list(node.channels.by_id.items()):
                if actor.record is not None and is_held(actor.record):
                    assert any(str(channel_id) in warning for warning in node.warnings())
                    try:
                        await Methods(node).openabort(funding.OpenAbortParams(opening=str(channel_id)))
                    except CommandRefused as refused:
                        self.world.note(f"{channel_id} is not given up: {refused.code}")

        await self.alice.ask(giving_up)

    def _count(self) -> None:
        node = self.alice.node
        assert node is not None
        state, chain = node.wallet.state, self.world.chain
        channels = {
            actor.record.funding.outpoint: actor.record
            for actor in node.channels.by_id.values()
            if actor.record is not None
        }
        for outpoint, coin in chain.state.coins.items():
            if is_p2wsh(coin.out.script) and not coin.coinbase and int(coin.out.value) < 1_000_000_000:
                assert outpoint in channels, "a channel's money is on the chain and nobody knows of it"
        for outpoint in state.leases:
            assert outpoint in state.spenders, f"{outpoint} is set aside for nothing: {state.leases[outpoint]}"
        self.opened = len(channels)
        assert {record.phase for record in channels.values()} <= {Phase.NORMAL}
        assert all(record.funding.tx is not None for record in channels.values()), "its cost cannot be told"
        in_channels = sum(int(record.funding.capacity) for record in channels.values())
        in_wallet = int(state.balance(node.chain.height).total)
        assert COINS * EACH - MOST_FEES <= in_channels + in_wallet <= COINS * EACH


ACCEPT = (33).to_bytes(2, "big")
WORKS = [open_one, open_batch, open_by_psbt, withdraw_and_bump]


def sweep(directory: Path, work: Work, first: float, step: int) -> int:
    """Cuts from this part of the work on, so many lines apart; how many there were."""
    whole = Bottle(directory / "whole", 1)
    whole.play(work)
    points = range(int(first * whole.lines) + 1, whole.lines, step)
    for lines in points:
        Bottle(directory / str(lines), 1).play(work, lines)
    return len(points)


@pytest.mark.parametrize(("work", "step"), [(open_one, 500), (open_by_psbt, 500), (withdraw_and_bump, 400)])
def test_nothing_is_lost_when_the_power_fails(tmp_path: Path, work: Work, step: int) -> None:
    assert sweep(tmp_path, work, 0.1, step) >= 3


def test_no_channel_of_a_batch_is_lost_once_one_of_them_has_the_transaction(tmp_path: Path) -> None:
    """While it is being written into them, and published, the power fails: their user must not give up the others."""
    assert sweep(tmp_path, open_batch, 0.8, 150) >= 6


@pytest.mark.slow
@pytest.mark.parametrize("work", WORKS)
def test_nothing_is_lost_wherever_the_power_fails(tmp_path: Path, work: Work) -> None:
    assert sweep(tmp_path, work, 0.0, 7) >= 150


def test_a_peer_that_accepts_and_ends_an_opening_in_one_breath_holds_no_coins(tmp_path: Path) -> None:
    """The wallet is asked for the coins after the opening is over."""
    bottle = Bottle(tmp_path, 2)
    error = Error(channel_id=ChannelId(bytes(32)), data=b"changed our mind").encode()

    def two_minds(_: object, message: bytes) -> list[bytes]:
        return [message, error] if message[:2] == ACCEPT else [message]

    for other in bottle.others:
        other.on_say = two_minds
    bottle.play(open_one)
    assert bottle.world.chain.state.coins and not bottle.opened


def test_a_funding_is_never_replaced_however_long_it_waits(tmp_path: Path) -> None:
    """The coins of its PSBT are set aside for a block; two go by, and its owner wants it sooner."""
    bottle = Bottle(tmp_path, 3)

    async def late(node: Node, peers: list[str]) -> None:
        await open_by_psbt(node, peers)
        (channel,) = (actor.record for actor in node.channels.by_id.values() if actor.record is not None)
        for _ in range(4):
            bottle.world.chain.mine([])
            await asyncio.sleep(2)
        assert not node.wallet.state.leases
        txid = channel.funding.outpoint.txid
        with pytest.raises(CommandRefused, match="channel"):
            await Methods(node).bumpfee(BumpFeeParams(txid=str(txid), feerate=5000, how="rbf"))
        bumped = await Methods(node).bumpfee(BumpFeeParams(txid=str(txid), feerate=5000))
        assert bumped.how == "cpfp"

    bottle.play(late)
    assert bottle.opened == 1
