"""The demo on a real bitcoind: its stories, and one more in which the chain is the trouble (immunity G1, G3, G4).

Every node is a process, every transaction of theirs is put to ``testmempoolaccept`` first, and at the end the books
account for each satoshi, from bitcoind's UTXO set and the nodes' databases.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from demo_on_bitcoind import OnBitcoind
from interop_bench import missing_bitcoind, need

from salama.demo.acts import Story
from salama.demo.books.accounts import Audit
from salama.demo.books.check import check
from salama.demo.main import STORIES
from salama.demo.processes import Processes
from salama.demo.stage import Stage
from salama.demo.tour import Tour

pytestmark = pytest.mark.interop

CAPACITY = 1_000_000
MICRO = 21_000
AT_ONCE = 6
TOUR_PAYMENTS = 100


@pytest.fixture
def directory() -> Iterator[Path]:
    """A path short enough for sockets."""
    need("bitcoind", missing_bitcoind())
    with tempfile.TemporaryDirectory(prefix="salama-", dir="/tmp") as made:
        yield Path(made)


async def performed(kind: type[Story], directory: Path) -> tuple[Audit, list[str]]:
    """Play it, stop the nodes in good order; the books, and what bitcoind had against their transactions."""
    processes = Processes(directory)
    network = OnBitcoind(directory, processes, kind.NAMES)
    try:
        await kind(network, Stage(), TOUR_PAYMENTS).play()
        await network.stop()
        rpc = network.books()
        try:
            return await asyncio.to_thread(check, directory, rpc), network.bitcoind.complaints
        finally:
            rpc.close()
    finally:
        await processes.stop_all()
        await network.close()


@dataclass(slots=True)
class Storm(Tour):
    """Three nodes. Payments go on whatever the chain does; then the channels are closed in bad weather."""

    NAMES: ClassVar = ("alice", "bob", "carol")
    TITLE: ClassVar = "a chain that is killed and reorganised"

    @property
    def world(self) -> OnBitcoind:
        assert isinstance(self.network, OnBitcoind)
        return self.network

    async def play(self) -> None:
        await self.start()
        await self.fund()
        await self.channels_through_reorgs()
        await self.chain_is_killed()
        await self.bob_is_killed_while_the_chain_is_away()
        await self.closes_through_reorgs()

    # --- acts ---------------------------------------------------------------------------------------------------------

    async def channels_through_reorgs(self) -> None:
        """One block is taken back while the channels wait, and six with all that they stand upon."""
        self.stage.act("Channels that move")
        world = self.world
        pairs = [("alice", "bob"), ("bob", "carol")]
        for opener, peer in pairs:
            await world.open(opener, peer, CAPACITY)
        self.channels += pairs
        await world.waiting_txs(2)
        await world.mine(1)
        first = await self._names(pairs)
        await world.reorganise(1)
        second = await self._names(pairs)
        assert not set(first) & set(second), "both are one block higher now"
        await world.mine(5)
        await world.usable(pairs)
        await world.known(2)
        await self._pay("alice", "carol", 50_000_000, "before six blocks go")
        await world.reorganise(6, empty=2)
        await world.mine(1)
        await world.usable(pairs)
        third = await self._names(pairs)
        assert not set(second) & set(third)
        await world.known(2)
        await self._pay("alice", "carol", 300_000_000, "and after")
        await self._pay("carol", "alice", 100_000_000, "and back")

    async def chain_is_killed(self) -> None:
        """SIGKILL for bitcoind in the middle of payments: they go on, and the nodes say that they see nothing."""
        self.stage.act("No chain")
        world = self.world
        results: list[dict[str, Any]] = []
        end = asyncio.Event()
        streams = [
            asyncio.create_task(self._stream(payer, payee, results, end))
            for payer, payee in (("alice", "carol"), ("carol", "alice"), ("alice", "bob"), ("bob", "carol"))
        ]
        await world.until("payments flow", self._reached(results, 2 * AT_ONCE))
        await world.kill_chain()
        at_kill = len(results)
        await world.sees_the_chain(False)
        await world.until("payments go on", self._reached(results, at_kill + 2 * AT_ONCE))
        await world.start_chain_again()
        end.set()
        await asyncio.gather(*streams)
        assert Counter(one["status"] for one in results) == {"succeeded": len(results)}
        await world.sees_the_chain(True)
        await world.mine(3)

    async def bob_is_killed_while_the_chain_is_away(self) -> None:
        """Both die; the chain comes back on another branch, then bob comes back."""
        self.stage.act("Neither chain nor Bob")
        world = self.world
        results: list[dict[str, Any]] = []
        end = asyncio.Event()
        stream = asyncio.create_task(self._stream("alice", "carol", results, end))
        await world.until("payments flow", self._reached(results, AT_ONCE))
        await world.kill_chain()
        await world.kill("bob")
        await world.start_chain_again()
        await world.reorganise(2)
        await world.start_node("bob")
        await world.usable(self.channels)
        end.set()
        await stream
        await self._quiet()
        await world.follow()
        # Those under way at the kill may have come back; each one was either paid or not, on both ends.
        arrived = {one["payment_hash"] for one in results if one["status"] == "succeeded"}
        assert await self._received("carol", {one["payment_hash"] for one in results}) == arrived
        await self._pay("alice", "carol", MICRO, "again")

    async def closes_through_reorgs(self) -> None:
        """A close together, taken back by one block; a close alone, taken back by six."""
        self.stage.act("Closes that move")
        world = self.world
        together, alone = await self._channel_id("alice", "bob"), await self._channel_id("bob", "carol")
        await self._call("alice", "close", channel=together)
        await self._call("carol", "close", channel=alone, force=True, wait=0)
        told = await self._explain(2)
        delay = max(one.delay for one in told)
        await world.mine(1)
        await self._explain(1)  # bob's balance in carol's commitment
        height = await world.reorganise(1)
        await world.mine(5)
        assert await world.reorganise(6, empty=3) == height + 6
        await world.mine(delay + 1)
        await self._explain(1)  # carol's own
        await world.mine(1)
        for name, channel in (("alice", together), ("bob", together), ("bob", alone), ("carol", alone)):
            await self._settled(name, channel)
        await self._why("carol", alone)

    # --- parts --------------------------------------------------------------------------------------------------------

    async def _names(self, pairs: list[tuple[str, str]]) -> list[str]:
        """The short channel ids that both ends use, once they have them."""
        found: list[str] = []
        for ends in pairs:

            async def agreed(ends: tuple[str, str] = ends) -> str:
                one, other = [await self.network.channel(*pair) for pair in (ends, ends[::-1])]
                assert one is not None and other is not None
                name = str(one["short_channel_id"] or "")
                return name if name == other["short_channel_id"] else ""

            await self.network.until(f"{ends} have a name", agreed)  # type: ignore[arg-type]
            found.append(await agreed())
        return found

    @staticmethod
    def _reached(results: list[dict[str, Any]], count: int) -> Any:
        async def enough() -> bool:
            return len(results) >= count

        return enough

    async def _stream(self, payer: str, payee: str, results: list[dict[str, Any]], end: asyncio.Event) -> None:
        """Payments of ``MICRO``, some at a time, until the end."""

        async def worker() -> None:
            while not end.is_set():
                paid = await self.network.pay(payer, await self.network.invoice(payee, MICRO))
                results.append(paid)
                if paid["status"] == "failed":
                    await asyncio.sleep(0.2)

        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


def test_three_nodes_outlive_what_a_chain_can_do(directory: Path) -> None:
    books, complaints = asyncio.run(performed(Storm, directory))
    assert books.problems == []
    assert complaints == []
    assert books.payments > 4 * AT_ONCE


@pytest.mark.parametrize("script", STORIES)
def test_a_story_of_the_demo(directory: Path, script: str) -> None:
    books, complaints = asyncio.run(performed(STORIES[script], directory))
    assert books.problems == []
    assert complaints == []
