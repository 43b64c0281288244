"""A little Lightning network for tests: a chain and nodes, each a real process, in one directory.

    with LocalNetwork(directory) as network:
        alice, bob = network.start("alice"), network.start("bob")
        network.fund(alice)
        network.open(alice, bob, "1000000sat")
        alice.pays(bob, "5000sat")

Everything is blocking, so that a test reads from top to bottom. Whatever happens, ``with`` ends every process.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from salama.api.client import call
from salama.demo.addresses import address_to_keep
from salama.demo.books.chain import ChainRpc
from salama.demo.processes import Child, Processes, ProcessFailed

T = TypeVar("T")

SETTINGS: Final = ("gossip_flush_seconds=0.2", "reconnect_seconds=0.1", "poll_seconds=0.05", "log_level=debug")
FEERATE: Final = "0.00005"
"""What the chain answers when asked for a fee rate, in bitcoin per 1000 virtual bytes: 5 sat/vB."""
WAIT_SECONDS: Final = 30.0
PAUSE: Final = 0.02
MATURITY: Final = 100


class TookTooLong(AssertionError):
    """Something that a test waits for did not happen."""


def until(what: str, condition: Callable[[], T], seconds: float = WAIT_SECONDS) -> T:
    """Ask again and again until the answer is true; that answer. Raises TookTooLong."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > end:
            raise TookTooLong(f"waited {seconds:.0f} seconds until {what}")
        time.sleep(PAUSE)
    return answer


@dataclass(slots=True, eq=False)
class LocalNode:
    """A node's process and the way to talk to it."""

    name: str
    directory: Path
    child: Child
    settings: tuple[str, ...]

    @property
    def node_id(self) -> str:
        return str(self.child.ready["node_id"])

    @property
    def listen(self) -> str:
        return str(self.child.ready["listen"])

    @property
    def uri(self) -> str:
        return f"{self.node_id}@{self.listen}"

    @property
    def socket(self) -> Path:
        return Path(self.child.ready["socket"])

    def call(self, method: str, **params: Any) -> Any:
        """A method of its API. Raises CommandRefused."""
        return call(self.socket, method, params, timeout=WAIT_SECONDS)

    def log(self) -> str:
        """What it wrote into its log."""
        return (self.directory / "salama.log").read_text()

    def complaints(self) -> str:
        """What it wrote to standard error."""
        return self.child.log.read_text()

    # --- what tests ask for most ---

    def channels(self, peer: LocalNode | None = None) -> list[dict[str, Any]]:
        """Its channels, with ``peer`` alone if given."""
        listed: list[dict[str, Any]] = self.call("channels")["channels"]
        return [one for one in listed if peer is None or one["peer"] == peer.node_id]

    def channel(self, peer: LocalNode) -> dict[str, Any]:
        """Its one channel with ``peer``."""
        (one,) = self.channels(peer)
        return one

    def invoice(self, amount: str, description: str = "", **params: Any) -> str:
        return str(self.call("invoice", amount=amount, description=description, **params)["invoice"])

    def pays(self, payee: LocalNode, amount: str, **params: Any) -> dict[str, Any]:
        """Pay a fresh invoice of ``payee``; the result, also of a payment that failed."""
        paid: dict[str, Any] = self.call("pay", request=payee.invoice(amount), **params)
        return paid

    def is_usable_with(self, peer: LocalNode) -> bool:
        """Whether there is a channel with ``peer``, on the line and open for payments."""
        return any(one["connected"] and one["state"] == "normal" for one in self.channels(peer))

    def is_at_rest(self) -> bool:
        """Whether no HTLC is under way in any of its channels."""
        return not any(one["htlcs_incoming"] or one["htlcs_outgoing"] for one in self.channels())


@dataclass(slots=True, eq=False)
class LocalNetwork:
    """The chain and the nodes."""

    directory: Path
    nodes: dict[str, LocalNode] = field(default_factory=dict)
    miner: str = field(default_factory=lambda: "0014" + secrets.token_hex(20))
    """The script of whoever mines: a key that nobody has."""
    processes: Processes = field(init=False)
    _chain: Child | None = None
    _rpc: ChainRpc | None = None
    # Starting and ending a process is asynchronous; nothing else here is.
    _runner: asyncio.Runner = field(default_factory=asyncio.Runner)

    def __post_init__(self) -> None:
        self.processes = Processes(self.directory)

    def __enter__(self) -> Self:
        try:
            self._start_chain()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything."""
        if self._rpc is not None:
            self._rpc.close()
        self._runner.run(self.processes.stop_all())
        self._runner.close()

    # --- processes ----------------------------------------------------------------------------------------------------

    def _start_chain(self) -> None:
        arguments = ("devnet", "--dir", str(self.directory / "chain"), "--port", "0")
        self._chain = self._runner.run(self.processes.start("chain", arguments))
        self._rpc = ChainRpc(self._chain.ready["rpc"], Path(self._chain.ready["cookie"]))
        self.chain("setfeeestimate", FEERATE)

    def arguments(self, name: str, listen: str = "127.0.0.1:0", settings: Sequence[str] = ()) -> list[str]:
        """The command line of a node of this network, without the program."""
        assert self._chain is not None
        made = ["run", "--network", "regtest", "--dir", str(self.directory / name), "--listen", listen]
        made += ["--alias", name, "--bitcoind", self._chain.ready["rpc"], "--cookie", self._chain.ready["cookie"]]
        for setting in (*SETTINGS, *settings):
            made += ["--set", setting]
        return made

    def start(self, name: str, *settings: str) -> LocalNode:
        """Start a node; one of this name that ran before goes on in its directory, at its address. Raises
        ProcessFailed.
        """
        before = self.nodes.get(name)
        settings = settings or (before.settings if before else ())
        arguments = self.arguments(name, before.listen if before else address_to_keep(), settings)
        child = self._runner.run(self.processes.start(name, arguments))
        if before is None:
            node = self.nodes[name] = LocalNode(name, self.directory / name, child, settings)
        else:
            node, before.child, before.settings = before, child, settings
        return node

    def refused(self, name: str, arguments: Sequence[str]) -> str:
        """Start a process that must not come up; what it says on standard error."""
        try:
            self._runner.run(self.processes.start(name, arguments))
        except ProcessFailed as failed:
            child = self.processes.children[-1]
            self._runner.run(child.stop())
            self.processes.forget(child)
            said = failed.log.read_text()
            failed.log.unlink()
            return said
        raise AssertionError(f"{name} came up")

    def kill(self, node: LocalNode) -> None:
        """SIGKILL: nothing is finished, flushed or said goodbye to."""
        self._end(node.child, node.child.kill())

    def stop(self, node: LocalNode) -> int:
        """SIGTERM, and wait; its exit status."""
        return self._end(node.child, node.child.stop())

    def ended(self, node: LocalNode, seconds: float = WAIT_SECONDS) -> int:
        """Wait until a node ends by itself; its exit status. Raises TimeoutError."""
        return self._end(node.child, asyncio.wait_for(node.child.process.wait(), seconds))

    def _end(self, child: Child, end: Any) -> int:
        async def wait() -> int:
            await end
            await child.stop()
            return await child.process.wait()

        status = self._runner.run(wait())
        self.processes.forget(child)
        return status

    # --- the chain ----------------------------------------------------------------------------------------------------

    def chain(self, method: str, *params: object) -> Any:
        """A call to the chain. Raises ChainUnreadable."""
        assert self._rpc is not None
        return self._rpc.call(method, *params)

    def height(self) -> int:
        return int(self.chain("getblockcount"))

    def mine(self, blocks: int = 1, script: str = "") -> int:
        """Mine, and return once every running node stands at the new height, which is the answer."""
        self.chain("generatetodescriptor", blocks, f"raw({script or self.miner})")
        height = self.height()
        for node in self.running():
            until(
                f"{node.name} is at block {height}",
                lambda node=node: node.call("getinfo")["block_height"] >= height,  # type: ignore[misc]
            )
        return height

    def mempool(self) -> list[str]:
        """Ids of the transactions that wait to be mined."""
        waiting: list[str] = self.chain("getrawmempool")
        return waiting

    def running(self) -> list[LocalNode]:
        return [node for node in self.nodes.values() if node.child.is_running]

    # --- money --------------------------------------------------------------------------------------------------------

    def fund(self, *nodes: LocalNode) -> None:
        """Each of them mines a block to itself; a hundred more make the coins spendable."""
        for node in nodes:
            address = node.call("newaddr")["address"]
            script = self.chain("validateaddress", address)["scriptPubKey"]
            self.chain("generatetodescriptor", 1, f"raw({script})")
        self.mine(MATURITY)

    def open(self, opener: LocalNode, peer: LocalNode, amount: str, **params: Any) -> str:
        """Open a channel and mine until both may use it; its id."""
        opened = opener.call("open", peer=peer.uri, amount=amount, **params)
        self.mine(6)
        self.usable(opener, peer)
        return str(opened["channel_id"])

    def usable(self, *ends: LocalNode) -> None:
        """Until both ends of a channel have each other on the line."""
        for node, peer in (ends, ends[::-1]):
            until(f"{node.name} can use its channel with {peer.name}", lambda n=node, p=peer: n.is_usable_with(p))  # type: ignore[misc]

    def known(self, channels: int) -> None:
        """Until every running node has heard of so many announced channels."""
        for node in self.running():
            until(
                f"{node.name} hears of {channels} channels",
                lambda node=node: node.call("getinfo")["graph_channels"] >= channels,  # type: ignore[misc]
            )

    def at_rest(self) -> None:
        """Until no HTLC is under way anywhere."""
        for node in self.running():
            until(f"nothing is under way in {node.name}", node.is_at_rest)
