"""Force-close: Bob's machine is gone for good, fees have risen, and Alice takes her money home alone (BOLT 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from salama.demo.acts import Story
from salama.demo.books.figures import render_msat
from salama.demo.network import FEERATE

CAPACITY: Final = 1_000_000
TO_BOB: Final = 250_000_000
DEAR: Final = "0.0002"
"""Bitcoin per 1000 virtual bytes: 20 sat/vB, four times what the commitment was made for."""


@dataclass(slots=True)
class ForceClose(Story):
    """One channel, one side of it alone."""

    NAMES: ClassVar = ("alice", "bob")
    TITLE: ClassVar = "a close without the other side"

    async def play(self) -> None:
        await self.start()
        await self.fund()
        await self.channel()
        channel_id = await self._channel_id("alice", "bob")
        delay = await self.close(channel_id)
        await self.bob_returns()
        await self.home(channel_id, delay)

    async def channel(self) -> None:
        stage = self.stage
        stage.act("A channel")
        await self._open([("alice", "bob", CAPACITY)])
        await self._pay("alice", "bob", TO_BOB, "a bicycle")
        stage.say(
            f"Alice pays Bob {render_msat(TO_BOB)} sat. Nothing of it is on the chain: each of them holds a commitment"
            " transaction, signed by the other, that would share the channel out as it stands now."
        )

    async def close(self, channel_id: str) -> int:
        """Blocks that alice has to wait for her money."""
        stage, network = self.stage, self.network
        stage.act("Bob is gone, and blocks are full")
        pid = network.nodes["bob"].child.pid
        await network.kill("bob")
        await network.ask_chain("setfeeestimate", DEAR)
        # Alice asks her chain for fees when a block has come, and acts upon them at the next one.
        await network.mine(2)
        stage.say(
            f"SIGKILL for Bob's process {pid}; and a place in a block costs 20 sat/vB now, while the commitment was"
            " made for 5. Alice closes without him:"
        )
        stage.command(f"salama close {channel_id[:16]}… --force")
        await self._call("alice", "close", channel=channel_id, force=True, wait=0)
        commitment, _ = await self._explain(2)
        stage.say("The parent pays too little, so the child pays for both: a miner takes them together or not at all.")
        height = await network.mine(1)
        stage.say(f"Both are in block {height}.")
        return commitment.delay

    async def bob_returns(self) -> None:
        stage, network = self.stage, self.network
        stage.act("Bob comes back to a closed channel")
        await network.ask_chain("setfeeestimate", FEERATE)
        await network.start_node("bob")
        stage.say("His node reads the blocks that it missed, and finds its share in Alice's commitment:")
        await self._explain(1)
        await network.mine(1)

    async def home(self, channel_id: str, delay: int) -> None:
        stage, network = self.stage, self.network
        stage.act(f"{delay} blocks later")
        stage.say(
            "Who closes alone has to wait: were the commitment an old one, this would have been Bob's time to prove it."
        )
        await network.mine(delay)
        await self._explain(1)
        await self._settled("alice", channel_id)
        stage.say("A hundred blocks later nothing can change any of it. Alice's node tells what happened:")
        await self._why("alice", channel_id)
