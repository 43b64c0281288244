"""The demo's network with a real bitcoind in place of the devnet: the same processes, stories and books."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from gate import Gate
from interop_bench import NOBODY_ADDRESS, NOBODY_SCRIPT, Chain

from salama.demo.books.chain import ChainRpc
from salama.demo.network import FEERATE, DemoNode, Network
from salama.demo.processes import Child

PATIENCE_SECONDS = 120.0


@dataclass(slots=True, eq=False)
class OnBitcoind(Network):
    """Its bitcoind stands behind a gate, which sees every transaction of the nodes and answers for the fee rate."""

    miner: str = NOBODY_SCRIPT.hex()
    gate: Gate | None = None
    blocks: list[str] = field(default_factory=list)
    """What the rest of the world has of the chain: a bitcoind that was killed has written little of it down."""

    @property
    def bitcoind(self) -> Gate:
        assert self.gate is not None
        return self.gate

    async def start_chain(self) -> None:
        # The index is for those who tell of transactions; the nodes need none.
        chain = await asyncio.to_thread(Chain.bitcoind, self.directory, NOBODY_ADDRESS, "-txindex")
        gate = self.gate = Gate(chain)
        gate.feerate = FEERATE
        ready = {"rpc": gate.url, "cookie": str(gate.cookie)}
        self.chain = cast(Child, SimpleNamespace(pid=chain.process.pid, ready=ready))

    def books(self) -> ChainRpc:
        """A connection past the gate; for the caller to close."""
        return ChainRpc(self.bitcoind.inner.url, self.bitcoind.cookie)

    async def ask_chain(self, method: str, *params: object) -> Any:
        """Sets the fee rate at the gate, asks bitcoind for all else. Raises ChainUnreadable."""
        if method == "setfeeestimate":
            return self.bitcoind.call(method, *params)
        return await asyncio.to_thread(self._ask, method, *params)

    def _ask(self, method: str, *params: object) -> Any:
        # bitcoind hangs up on who is silent for thirty seconds: each question has a connection of its own.
        rpc = self.books()
        try:
            return rpc.call(method, *params)
        finally:
            rpc.close()

    async def until(
        self, what: str, condition: Callable[[], Awaitable[bool]], seconds: float = PATIENCE_SECONDS
    ) -> None:
        await Network.until(self, what, condition, seconds)

    async def close(self) -> None:
        await Network.close(self)
        if self.gate is not None:
            await asyncio.to_thread(self.gate.stop)

    # --- what a chain does to its nodes -------------------------------------------------------------------------------

    async def kill_chain(self) -> None:
        """SIGKILL."""
        height = int(await self.ask_chain("getblockcount"))
        hashes = [await self.ask_chain("getblockhash", one) for one in range(1, height + 1)]
        self.blocks = [await self.ask_chain("getblock", one, 0) for one in hashes]
        await asyncio.to_thread(self.bitcoind.kill)

    async def start_chain_again(self) -> None:
        """In its directory and on its port, with another cookie; what it lost comes back from the rest of the world."""
        await asyncio.to_thread(self.bitcoind.start_again)
        for block in self.blocks:
            await self.ask_chain("submitblock", block)

    async def reorganise(self, depth: int, blocks: int = 0, *, empty: int = 1) -> int:
        """Replace the last ``depth`` blocks by ``blocks`` others (else by one more), the first ``empty`` without txs.

        Returns the new height, at which every node stands then.
        """
        height = int(await self.ask_chain("getblockcount"))
        first = await self.ask_chain("getblockhash", height - depth + 1)
        # At another time of day: the very same blocks would be the invalid ones.
        tip = await self.ask_chain("getblockheader", await self.ask_chain("getbestblockhash"))
        await self.ask_chain("setmocktime", tip["time"] + 30)
        await self.ask_chain("invalidateblock", first)
        for _ in range(empty):
            await self.ask_chain("generateblock", f"raw({self.miner})", [])
        await self.ask_chain("generatetodescriptor", (blocks or depth + 1) - empty, f"raw({self.miner})")
        return await self.follow()

    async def follow(self) -> int:
        """Until every node stands at the tip; its height."""
        tip = await self.ask_chain("getbestblockhash")
        for node in self.present:

            async def there(node: DemoNode = node) -> bool:
                return bool((await node.rpc.call("getinfo"))["block_hash"] == tip)

            await self.until(f"{node.name} stands at {tip}", there)
        return int(await self.ask_chain("getblockcount"))

    async def sees_the_chain(self, yes: bool) -> None:
        """Until every node says that it does, or does not."""
        for node in self.present:

            async def says(node: DemoNode = node) -> bool:
                return bool((await node.rpc.call("getinfo"))["synced"]) is yes

            await self.until(f"{node.name} says that it {'sees' if yes else 'does not see'} the chain", says)
