"""Cheat: Bob publishes a state that he has revoked, and the penalty takes everything from him (BOLT 5).

A node never publishes an old state, so Bob has to deceive his own: he gives it an old copy of its disk and lets it
close before it meets anybody who knows better.
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from typing import ClassVar, Final

from salama.demo.acts import Story, StoryBroken
from salama.demo.books.figures import render_msat

CAPACITY: Final = 1_000_000
TO_BOB: Final = 400_000_000
BACK: Final = 300_000_000
OLD: Final = "bob-old"
"""Data directory with the old copy."""
ABSENT: Final = 100
"""Blocks that alice is away: fewer than Bob has to wait."""


@dataclass(slots=True)
class Cheat(Story):
    """One channel, and one who wants more of it than is his."""

    NAMES: ClassVar = ("alice", "bob")
    TITLE: ClassVar = "a cheat, and what it costs"

    async def play(self) -> None:
        await self.start()
        await self.fund()
        await self.channel()
        channel_id = await self._channel_id("alice", "bob")
        await self.cheat(channel_id)
        await self.penalty(channel_id)

    async def channel(self) -> None:
        stage, network = self.stage, self.network
        stage.act("A channel, and a copy of it")
        await self._open([("alice", "bob", CAPACITY)])
        await self._pay("alice", "bob", TO_BOB, "a bicycle")
        await network.stop("bob")
        await asyncio.to_thread(shutil.copytree, network.directory / "bob", network.directory / OLD)
        await network.start_node("bob")
        await network.usable(self.channels)
        stage.say(
            f"Alice pays Bob {render_msat(TO_BOB)} sat. Bob stops his node, copies its data directory, and goes on."
        )
        await self._pay("bob", "alice", BACK, "bread")
        stage.say(
            f"Then Bob pays {render_msat(BACK)} sat back. With each payment both hand over the secret of the state"
            " before: Alice now holds the one of the state that Bob has copied. It is worth nothing unless he"
            " publishes it."
        )

    async def cheat(self, channel_id: str) -> None:
        stage, network = self.stage, self.network
        stage.act("Bob cheats")
        await network.stop("alice", "bob")
        stage.say(
            "A Salama node never publishes an old state; were Alice on the line, she would tell it that its data is"
            " old. So Bob waits until she is away, starts his node on the old copy, and tells it to close:"
        )
        stage.command(f"salama close {channel_id[:16]}… --force --dir {OLD}")
        await network.start_node("bob", OLD)
        await self._call("bob", "close", channel=channel_id, force=True, wait=0)
        await self._explain(1, OLD)
        height = await network.mine(1)
        stage.say(f"It is in block {height}: a valid transaction. The chain knows nothing of later states.")

    async def penalty(self, channel_id: str) -> None:
        stage, network = self.stage, self.network
        stage.act("Alice comes back")
        await network.mine(ABSENT)
        await network.start_node("alice")
        stage.say(f"{ABSENT} blocks later. Alice's node reads what it missed, and answers by itself:")
        claims = await self._explain(2)
        await network.mine(1)
        await self._settled("alice", channel_id)
        lines = await self._why("alice", channel_id)
        if not any("ATTENTION" in line and "revoked" in line for line in lines):
            raise StoryBroken("alice's node does not say that it was cheated")
        stage.say(
            f"Bob wanted {render_msat(TO_BOB)} sat instead of {render_msat(TO_BOB - BACK)}; he has nothing left."
            f" {len(claims)} transactions of Alice's saw to it, and nobody had to ask her."
        )
        # Bob's real data come back, for the books: what was paid in the channel stands there.
        await network.stop("bob")
        await network.start_node("bob")
        await network.mine(1)
