"""The network of a demo: one chain and some nodes, each a process, and what a story does with them."""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from salama.api.client import RpcClient
from salama.demo.addresses import address_to_keep
from salama.demo.books.chain import ChainRpc
from salama.demo.books.kept import CHAIN, Manifest
from salama.demo.processes import Child, Processes

FEERATE: Final = "0.00005"
"""What the chain answers when asked for a fee rate, in bitcoin per 1000 virtual bytes: 5 sat/vB."""
SETTINGS: Final = ("gossip_flush_seconds=0.5", "reconnect_seconds=0.2", "poll_seconds=0.2", "log_level=debug")
WAIT_SECONDS: Final = 30.0
PAUSE: Final = 0.05


class TookTooLong(Exception):
    """Something that the story waits for did not happen."""


@dataclass(slots=True, eq=False)
class DemoNode:
    """A running node and the way to talk to it."""

    name: str
    child: Child
    rpc: RpcClient
    node_id: str
    listen: str
    address: str = ""
    is_deaf: bool = False
    """Stopped in mid-air: the process is there and does nothing."""

    @property
    def is_here(self) -> bool:
        return self.child.is_running and not self.is_deaf

    @property
    def uri(self) -> str:
        return f"{self.node_id}@{self.listen}"


@dataclass(slots=True, eq=False)
class Network:
    """Everything that runs. ``processes.stop_all`` ends it."""

    directory: Path
    processes: Processes
    names: tuple[str, ...] = ("alice", "bob", "carol", "dave")
    nodes: dict[str, DemoNode] = field(default_factory=dict)
    miner: str = field(default_factory=lambda: "0014" + secrets.token_hex(20))
    """The script of whoever mines: a key that nobody has."""
    chain: Child | None = None
    chain_rpc: ChainRpc | None = None

    # --- processes ----------------------------------------------------------------------------------------------------

    async def start_chain(self) -> None:
        """Raises ProcessFailed."""
        arguments = ("devnet", "--dir", str(self.directory / CHAIN), "--port", "0")
        self.chain = await self.processes.start("chain", arguments)
        self.chain_rpc = ChainRpc(self.chain.ready["rpc"], Path(self.chain.ready["cookie"]))
        await self.ask_chain("setfeeestimate", FEERATE)

    async def start_node(self, name: str, folder: str = "") -> DemoNode:
        """Start a node, or start it again at its address. Raises ProcessFailed.

        ``folder``: its data directory, if that is not the one of its name.
        """
        assert self.chain is not None
        directory = self.directory / (folder or name)
        before = self.nodes.get(name)
        listen = before.listen if before else address_to_keep()
        arguments = ["run", "--network", "regtest", "--dir", str(directory), "--listen", listen, "--alias", name]
        arguments += ["--bitcoind", self.chain.ready["rpc"], "--cookie", self.chain.ready["cookie"]]
        for setting in SETTINGS:
            arguments += ["--set", setting]
        child = await self.processes.start(name, arguments)
        said = child.ready
        node = DemoNode(name, child, RpcClient(Path(said["socket"])), said["node_id"], said["listen"])
        await node.rpc.connect()
        self.nodes[name] = node
        return node

    async def kill(self, name: str) -> None:
        """SIGKILL a node: nothing is finished, flushed or said goodbye to."""
        node = self.nodes[name]
        self.processes.forget(node.child)
        await node.child.kill()
        await node.rpc.close()

    async def stop(self, *names: str) -> None:
        """Stop nodes in good order: the ones named, else all; the chain goes on."""
        nodes = [self.nodes[name] for name in names or self.nodes]
        running = [node for node in nodes if node.child.is_running]
        for node in running:
            await node.rpc.close()
        await self.processes.stop([node.child for node in running])

    def freeze(self, name: str) -> None:
        """SIGSTOP: a node that neither hears nor answers, until it is thawed."""
        self.nodes[name].child.send_signal(signal.SIGSTOP)
        self.nodes[name].is_deaf = True

    def thaw(self, name: str) -> None:
        self.nodes[name].child.send_signal(signal.SIGCONT)
        self.nodes[name].is_deaf = False

    @property
    def present(self) -> list[DemoNode]:
        """The nodes that hear and answer."""
        return [node for node in self.nodes.values() if node.is_here]

    async def close(self) -> None:
        """Let go of every connection; processes are the business of ``Processes``."""
        for node in self.nodes.values():
            await node.rpc.close()
        if self.chain_rpc is not None:
            self.chain_rpc.close()

    # --- the chain ----------------------------------------------------------------------------------------------------

    async def ask_chain(self, method: str, *params: object) -> Any:
        """A call to the chain. Raises ChainUnreadable."""
        assert self.chain_rpc is not None
        return await asyncio.to_thread(self.chain_rpc.call, method, *params)

    async def mine(self, blocks: int, script: str = "") -> int:
        """Mine, and return the new height once every node that is there stands at it."""
        await self.ask_chain("generatetodescriptor", blocks, f"raw({script or self.miner})")
        height = int(await self.ask_chain("getblockcount"))
        for node in self.present:
            await self.until(f"{node.name} follows the chain to block {height}", self._is_at(node, height))
        return height

    @staticmethod
    def _is_at(node: DemoNode, height: int) -> Callable[[], Awaitable[bool]]:
        async def reached() -> bool:
            info = await node.rpc.call("getinfo")
            return bool(info["block_height"] >= height)

        return reached

    async def waiting_txs(self, count: int) -> None:
        """Until so many transactions wait to be mined."""

        async def there() -> bool:
            return len(await self.ask_chain("getrawmempool")) >= count

        await self.until(f"{count} transactions reach the chain", there)

    async def until(self, what: str, condition: Callable[[], Awaitable[bool]], seconds: float = WAIT_SECONDS) -> None:
        """Ask again and again until ``condition`` holds. Raises TookTooLong and, if a process died, says so."""
        end = time.monotonic() + seconds
        while not await condition():
            dead = self.processes.dead()
            if dead is not None:
                raise TookTooLong(f"{dead.name} ended by itself (see {dead.log})")
            if time.monotonic() > end:
                raise TookTooLong(f"waited {seconds:.0f} seconds until {what}")
            await asyncio.sleep(PAUSE)

    # --- money --------------------------------------------------------------------------------------------------------

    async def fund(self) -> None:
        """Each node mines a block to itself; a hundred more make the coins spendable."""
        scripts = {}
        for name in self.names:
            node = self.nodes[name]
            node.address = (await node.rpc.call("newaddr"))["address"]
            scripts[name] = (await self.ask_chain("validateaddress", node.address))["scriptPubKey"]
        Manifest(scripts, self.miner).save(self.directory)
        for script in scripts.values():
            await self.ask_chain("generatetodescriptor", 1, f"raw({script})")
        await self.mine(100)

    # --- channels -----------------------------------------------------------------------------------------------------

    async def open(self, opener: str, peer: str, sat: int) -> dict[str, Any]:
        """Open a channel; its funding transaction is in the mempool afterwards."""
        opened: dict[str, Any] = await self.nodes[opener].rpc.call(
            "open", peer=self.nodes[peer].uri, amount=f"{sat}sat"
        )
        return opened

    async def channel(self, name: str, peer: str) -> dict[str, Any] | None:
        """The channel of ``name`` with ``peer`` as ``name`` sees it."""
        listed = await self.nodes[name].rpc.call("channels")
        theirs = self.nodes[peer].node_id
        return next((one for one in listed["channels"] if one["peer"] == theirs), None)

    async def usable(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Until both ends of these channels have each other on the line and may use it."""
        for ends in pairs:
            for name, peer in (ends, ends[::-1]):

                async def ready(name: str = name, peer: str = peer) -> bool:
                    one = await self.channel(name, peer)
                    return one is not None and one["connected"] and one["state"] == "normal"

                await self.until(f"{name}'s channel with {peer} can be used", ready)

    async def known(self, channels: int) -> None:
        """Until every node that has a channel has heard of so many."""
        for node in self.present:

            async def heard(node: DemoNode = node) -> bool:
                info = await node.rpc.call("getinfo")
                return info["graph_channels"] >= channels or not info["peers"]

            await self.until(f"{node.name} hears of {channels} channels", heard)

    # --- payments -----------------------------------------------------------------------------------------------------

    async def invoice(self, payee: str, msat: int, description: str = "") -> str:
        made = await self.nodes[payee].rpc.call("invoice", amount=f"{msat}msat", description=description)
        return str(made["invoice"])

    async def pay(self, payer: str, invoice: str) -> dict[str, Any]:
        """The result, also of a payment that failed."""
        paid: dict[str, Any] = await self.nodes[payer].rpc.call("pay", request=invoice)
        return paid
