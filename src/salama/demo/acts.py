"""What every story of the demo has: nodes with money, channels, payments, and a way to say what happened."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from salama.demo.books.figures import render_msat
from salama.demo.network import Network
from salama.demo.stage import Stage
from salama.demo.traces import Logs
from salama.demo.transactions import Explainer, Told

DEPTH: Final = 6
IRREVOCABLE: Final = 100
"""Blocks after which a node forgets what is on the chain."""
_NUMBERS: Final = {2: "two", 3: "three", 4: "four"}
_HASH: Final = re.compile(r"\b([0-9a-f]{16})[0-9a-f]{48,50}\b")


class StoryBroken(Exception):
    """The network did something that it must not."""


@dataclass(slots=True)
class Story:
    """Plays on a network that has not been started yet."""

    NAMES: ClassVar[tuple[str, ...]] = ()
    """Its nodes."""
    TITLE: ClassVar[str] = ""

    network: Network
    stage: Stage
    payments: int
    channels: list[tuple[str, str]] = field(default_factory=list)
    _explainer: Explainer | None = None

    async def play(self) -> None:
        """Everything up to the closes. Raises ProcessFailed, TookTooLong, CommandRefused, StoryBroken."""
        raise NotImplementedError

    # --- the beginning ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        stage, network = self.stage, self.network
        stage.act(f"A chain and {_NUMBERS[len(self.NAMES)]} nodes")
        await network.start_chain()
        assert network.chain is not None
        stage.facts([("chain", f"process {network.chain.pid}", "Bitcoin Core's consensus, a block whenever we ask")])
        nodes = await asyncio.gather(*(network.start_node(name) for name in self.NAMES))
        stage.facts((n.name, f"process {n.child.pid}", f"{n.node_id[:20]}…", n.listen) for n in nodes)

    async def fund(self) -> None:
        stage, network = self.stage, self.network
        stage.act("Bitcoin for everybody")
        await network.fund()
        balances = {name: await self._on_chain(name) for name in self.NAMES}
        stage.say(
            "Each node mines one block to itself, and a hundred more blocks make the rewards spendable:"
            f" {balances['alice'] // 100_000_000_000} BTC each."
        )

    async def _open(self, wanted: list[tuple[str, str, int]]) -> None:
        network = self.network
        opened = [(one, await network.open(*one)) for one in wanted]
        await network.waiting_txs(len(opened))
        self.channels += [(opener, peer) for opener, peer, _ in wanted]
        await network.mine(DEPTH)
        await network.usable(self.channels)
        await network.known(len(self.channels))
        self.stage.facts(
            (
                f"{opener} — {peer}",
                f"{sat:,} sat",
                f"opened by {opener} in {made['funding_txid'][:16]}…:{made['funding_vout']}",
            )
            for (opener, peer, sat), made in opened
        )

    async def _pay(self, payer: str, payee: str, msat: int, description: str) -> dict[str, Any]:
        """A payment that must succeed, and is over in every channel."""
        paid = self._must_succeed(
            await self.network.pay(payer, await self.network.invoice(payee, msat, description)),
        )
        await self._quiet()
        return paid

    # --- the chain ----------------------------------------------------------------------------------------------------

    async def _explain(self, count: int, *folders: str) -> list[Told]:
        """Wait until ``count`` transactions more wait to be mined, and tell what each is.

        ``folders``: data directories to read beside those of the nodes.
        """
        if self._explainer is None:
            ids = {name: node.node_id for name, node in self.network.nodes.items()}
            self._explainer = Explainer(self.network.ask_chain, self.network.directory, ids)
        found: list[str] = []

        async def there() -> bool:
            assert self._explainer is not None
            found[:] = await self._explainer.unseen()
            return len(found) >= count

        await self.network.until(f"{count} transactions more reach the chain", there)
        explained = await self._explainer.explain(found, folders)
        for told in explained:
            self.stage.transaction(told)
        return explained

    async def _why(self, name: str, channel_id: str) -> list[str]:
        """Show what a node says became of a channel; its sentences."""
        lines = [line["text"] for line in (await self._call(name, "why", channel=channel_id))["lines"]]
        self.stage.command(f"salama why {channel_id[:16]}… --dir {name}")
        self.stage.quote(self._clear(line) for line in lines)
        return lines

    async def _settled(self, name: str, channel_id: str) -> None:
        """Bury everything so deep that a node counts a channel as closed for good."""
        await self.network.mine(IRREVOCABLE)

        async def over() -> bool:
            listed = (await self._call(name, "channels"))["channels"]
            return all(one["channel_id"] != channel_id for one in listed)

        await self.network.until(f"{name} has settled everything", over)

    # --- small things -------------------------------------------------------------------------------------------------

    async def _call(self, name: str, method: str, **params: Any) -> dict[str, Any]:
        found: dict[str, Any] = await self.network.nodes[name].rpc.call(method, **params)
        return found

    async def _channel_id(self, name: str, peer: str) -> str:
        channel = await self.network.channel(name, peer)
        if channel is None:
            raise StoryBroken(f"{name} has no channel with {peer}")
        return str(channel["channel_id"])

    def _clear(self, text: str) -> str:
        """Node ids in a sentence become the names of this story, hashes become short."""
        for node in self.network.nodes.values():
            text = text.replace(f"Node {node.node_id[:16]}…", node.name.capitalize())
            text = text.replace(node.node_id, node.name.capitalize())
        return _HASH.sub(r"\1…", text)

    async def _owns(self, name: str) -> int:
        return int((await self._call(name, "balance"))["channels_ours_msat"])

    async def _on_chain(self, name: str) -> int:
        return int((await self._call(name, "balance"))["onchain_confirmed_msat"])

    async def _quiet(self) -> None:
        """Until no HTLC is left in any open channel: the last messages of a payment come after its result."""
        for node in self.network.present:

            async def empty(node: Any = node) -> bool:
                listed = await node.rpc.call("channels")
                living = [one for one in listed["channels"] if one["state"] == "normal"]
                return not any(one["htlcs_incoming"] or one["htlcs_outgoing"] for one in living)

            await self.network.until(f"{node.name}'s channels are quiet", empty)

    def _logs(self, names: Sequence[str] = ()) -> Logs:
        logs = Logs(self.network.directory, {name: self.network.nodes[name].node_id for name in names or self.NAMES})
        logs.mark()
        return logs

    @staticmethod
    def _sat(channel: dict[str, Any]) -> str:
        return render_msat(channel["ours_msat"])

    @staticmethod
    def _must_succeed(result: dict[str, Any]) -> dict[str, Any]:
        if result["status"] != "succeeded":
            raise StoryBroken(
                f"a payment failed that should not: {result['failure_reason']} ({result['failure_code']})"
            )
        return result


def milliseconds(result: dict[str, Any]) -> str:
    """How long a payment took."""
    return f"{result['seconds'] * 1000:,.0f} ms"
