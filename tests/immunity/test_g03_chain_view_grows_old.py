"""G3 blocks kept from a node (time-dilation attacks, Riard and Naumenko 2020; block stalling in Bitcoin Core, 2024)

What failed: whoever stands between a node and the network, or a back-end that stalls, delays blocks until deadlines
have passed unseen: an HTLC that was relayed is claimed by its downstream end and timed out by its upstream one.

Defence: node/chain.py:ChainFollower.trouble sets the age of the newest block, and of the last answer, against our
clock; while there is trouble payments/forwarding.py:relay takes nothing new and node/channels.py opens nothing. What
is under way goes on: preimages travel upstream, and claims wait in node/chain.py:Broadcaster until somebody takes them.

Not covered: a second source of blocks to compare with. A delay of less than three hours is not told from bad luck of
the miners; the margins of the deadlines must be wider than that.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "payments"))

from immunity_world import Registry, Stranger
from payment_world import DOWNSTREAM, PREIMAGE, World, code_of

from salama.base.ids import BlockHash, Txid
from salama.base.machine import CommandRefused
from salama.base.units import BlockHeight, Msat, Sat
from salama.bitcoin.networks import NETWORKS
from salama.bitcoin.tx import Tx
from salama.chain.backend import BackendUnavailable, BroadcastResult, ChainInfo, HeaderInfo
from salama.channel.events import HandoffKey, PreimageLearned
from salama.node.chain import STALE_SECONDS, Broadcaster, ChainFollower, Tip
from salama.wire.opening import AcceptChannel

TIP = BlockHash(b"\x07" * 32)
HOUR = 3600


class Backend:
    """A back-end that stands at one block, and can fall silent."""

    def __init__(self, tip_time: int) -> None:
        self.tip_time, self.synced, self.away = tip_time, True, False
        self.offered: list[Txid] = []

    def _ask(self) -> None:
        if self.away:
            raise BackendUnavailable("connection refused")

    async def info(self) -> ChainInfo:
        self._ask()
        return ChainInfo("signet", BlockHeight(100), TIP, BlockHash(bytes(32)), self.synced, self.tip_time)

    async def block_hash(self, height: int) -> BlockHash | None:
        self._ask()
        return TIP if height == 100 else None

    async def header(self, block_hash: BlockHash) -> HeaderInfo:
        self._ask()
        return HeaderInfo(TIP, BlockHash(b"\x06" * 32), BlockHeight(100), True)

    async def wait_for_block(self, tip: BlockHash, height: int, timeout: float) -> None:
        self._ask()
        await asyncio.sleep(0.002)

    async def feerate(self, target_blocks: int) -> None:
        self._ask()

    async def broadcast(self, tx: Tx) -> BroadcastResult:
        self._ask()
        self.offered.append(tx.txid)
        return BroadcastResult(True)


async def _nothing(_: Any) -> None:
    raise AssertionError("no block came")


def following(network: str, run: Callable[[Backend, ChainFollower, list[float]], Awaitable[None]]) -> None:
    async def main() -> None:
        now = [1_700_000_000.0]
        backend = Backend(int(now[0]) - 60)
        silence = NETWORKS[network].longest_silence
        chain = ChainFollower(
            backend,  # type: ignore[arg-type]
            Tip(BlockHeight(100), TIP),
            0.005,
            _nothing,
            _nothing,
            longest_silence=silence,
            clock=lambda: now[0],
        )
        task = asyncio.create_task(chain.run())
        try:
            await asyncio.wait_for(chain.caught_up.wait(), 5)
            await run(backend, chain, now)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("network", ["mainnet", "signet", "testnet4"])
def test_a_back_end_that_freezes_for_three_hours_is_not_believed(network: str) -> None:
    async def run(backend: Backend, chain: ChainFollower, now: list[float]) -> None:
        assert chain.trouble == ""
        now[0] += 2 * HOUR
        assert chain.trouble == ""
        now[0] += HOUR
        assert "3 hours old" in chain.trouble
        backend.tip_time = int(now[0])
        await until(lambda: not chain.trouble)

    following(network, run)


def test_blocks_made_on_demand_may_be_rare() -> None:
    async def run(backend: Backend, chain: ChainFollower, now: list[float]) -> None:
        now[0] += 1_000 * HOUR
        backend.synced = False
        await asyncio.sleep(0.02)
        assert chain.trouble == ""

    following("regtest", run)


@pytest.mark.parametrize("network", ["mainnet", "regtest"])
def test_a_back_end_out_of_reach_is_trouble_after_ten_minutes(network: str) -> None:
    async def run(backend: Backend, chain: ChainFollower, now: list[float]) -> None:
        backend.away = True
        await until(lambda: chain.stale)
        now[0] += STALE_SECONDS - 1
        assert chain.trouble == ""
        now[0] += 1
        assert "10 minutes" in chain.trouble
        assert "connection refused" in chain.trouble
        backend.away = False
        await until(lambda: not chain.trouble)

    following(network, run)


def test_a_back_end_that_still_synchronises_is_trouble() -> None:
    async def run(backend: Backend, chain: ChainFollower, now: list[float]) -> None:
        backend.synced = False
        await until(lambda: chain.trouble)
        assert "catching up" in chain.trouble

    following("signet", run)


def test_while_the_view_is_old_nothing_new_is_relayed() -> None:
    world = World(chain_is_stale=True)
    htlc = world.to_relay()
    world.does(htlc)
    assert world.adds == []
    assert code_of(world.fails[0], htlc) == 0x2002
    world.chain_is_stale = False
    world.does(world.to_relay())
    assert len(world.adds) == 1


def test_while_the_view_is_old_what_is_under_way_is_settled() -> None:
    world = World()
    htlc = world.to_relay()
    world.does(htlc)
    (add,) = world.adds
    world.chain_is_stale = True
    # told again after a restart: it is not failed, for it lives downstream
    world.restarts({add.origin: DOWNSTREAM})
    world.forgets()
    world.does(htlc)
    assert world.effects == []
    world.hands_over(PreimageLearned(HandoffKey(DOWNSTREAM, 5), add.origin, PREIMAGE))
    (settle,) = world.settles
    assert (settle.id, settle.preimage) == (htlc.ref.id, PREIMAGE)


def test_while_the_view_is_old_no_channel_is_opened(tmp_path: Path) -> None:
    async def story(node: Registry) -> None:
        stranger = Stranger(1)
        peer = node.meets(stranger)
        node.channels.chain_trouble = lambda: "its newest block is 3 hours old"
        await node.channels.open_received(stranger.node_id, stranger.offers(node.channels.signer.node_id))
        assert peer.last(AcceptChannel) is None
        assert "out of date" in peer.errors[0]
        with pytest.raises(CommandRefused) as refused:
            await node.channels.open(stranger.node_id, Sat(100_000), Msat(0), announce=False, feerate=None)
        assert refused.value.code == "chain_stale"
        node.channels.chain_trouble = lambda: ""
        await node.channels.open_received(stranger.node_id, stranger.offers(node.channels.signer.node_id, 1))
        assert peer.last(AcceptChannel) is not None

    Registry.run(tmp_path, story)


def test_claims_wait_until_somebody_takes_them() -> None:
    async def main() -> None:
        backend = Backend(0)
        backend.away = True
        broadcaster = Broadcaster(backend)  # type: ignore[arg-type]
        claims = [Tx(2, (), (), n) for n in range(20)]
        for tx in claims:
            broadcaster.publish(tx, "claim")
            await broadcaster.attempted(tx.txid)
        assert backend.offered == []
        backend.away = False
        broadcaster.again()
        for tx in claims:
            await broadcaster.attempted(tx.txid)
        assert sorted(backend.offered) == sorted(tx.txid for tx in claims)
        await broadcaster.stop()

    asyncio.run(main())
