"""Offline: Carol's machine dies with a payment on its way to her, and Bob, in the middle, must not lose it (BOLT 5).

The moment is the worst there is: she has accepted the HTLC, and not yet released the preimage. To hit it every time,
the script holds processes (SIGSTOP) for a moment; nothing in the nodes knows of it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from salama.demo.acts import DEPTH, Story, StoryBroken, milliseconds
from salama.demo.books.figures import render_msat
from salama.demo.books.kept import DATABASE
from salama.demo.traces import Spoken

CAPACITY: Final = 1_000_000
FIRST: Final = 200_000_000
"""Millisatoshis that carol gets before, so that something in the channel is hers."""
STUCK: Final = 150_000_000
AFTER: Final = 1_000_000
GRACE: Final = 2
"""Blocks after the expiry of an HTLC at which a node closes."""
FAIL_BACK: Final = 6
UPDATES: Final = ("update_add_htlc", "commitment_signed", "revoke_and_ack")


@dataclass(slots=True)
class Offline(Story):
    """Two channels in a row, the last node dies."""

    NAMES: ClassVar = ("alice", "bob", "carol")
    TITLE: ClassVar = "a payment to somebody who disappears"

    async def play(self) -> None:
        await self.start()
        await self.fund()
        await self.open_channels()
        payment = await self.disappear()
        try:
            channel_id = await self._channel_id("bob", "carol")
            delay = await self.close(channel_id)
            timed_out = await self.time_out(payment)
        finally:
            payment.cancel()
            await asyncio.gather(payment, return_exceptions=True)
        await self.return_of_carol()
        await self.home(channel_id, timed_out + delay)

    async def open_channels(self) -> None:
        stage = self.stage
        stage.act("Two channels")
        await self._open([("alice", "bob", CAPACITY), ("bob", "carol", CAPACITY)])
        await self._pay("alice", "carol", FIRST, "a table")
        stage.say(f"Alice pays Carol {render_msat(FIRST)} sat through Bob.")

    async def disappear(self) -> asyncio.Task[dict[str, Any]]:
        """Alice pays, and carol dies in the moment between accepting and fulfilling."""
        stage, network = self.stage, self.network
        stage.act("Carol disappears")
        invoice = await network.invoice("carol", STUCK, "four chairs")
        logs = self._logs()
        network.freeze("carol")
        paying = asyncio.create_task(network.pay("alice", invoice))

        def talk() -> list[Spoken]:
            return [one for one in logs.spoken(UPDATES) if {one.sender, one.receiver} == {"bob", "carol"}]

        def signed_by(name: str) -> Callable[[], Awaitable[bool]]:
            async def signed() -> bool:
                return any(one.sender == name and "commitment_signed" in one.messages for one in talk())

            return signed

        await network.until("bob has signed for the HTLC", signed_by("bob"))
        # Carol is to answer, and Bob not to hear it before she is dead.
        network.freeze("bob")
        network.thaw("carol")
        await network.until("carol has signed for the HTLC", signed_by("carol"))
        pid = network.nodes["carol"].child.pid
        await network.kill("carol")
        network.thaw("bob")
        await network.until("bob has heard carol's last words", self._is_committed)
        stage.say(f"Alice pays {render_msat(STUCK)} sat more. This is all that Bob and Carol say about it:")
        stage.spoken(talk())
        stage.say(
            f"Then SIGKILL for Carol's process {pid}. She is bound to the HTLC, and the preimage is on her disk:"
            " Bob owes her the amount if she ever shows it in time, and Alice owes it to Bob. Nobody knows whether she"
            " comes back."
        )
        return paying

    async def _is_committed(self) -> bool:
        return len(await asyncio.to_thread(self._expiries)) == 2

    def _expiries(self) -> list[int]:
        """When bob's living HTLCs expire, the one that he offered first; those in his own commitments alone."""
        path = self.network.directory / "bob" / DATABASE
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            found = database.execute(
                "SELECT cltv_expiry FROM htlcs WHERE live = 1 AND first_local IS NOT NULL ORDER BY side DESC"
            )
            return [expiry for (expiry,) in found]

    async def close(self, channel_id: str) -> int:
        """Blocks that bob has to wait for what is his in his commitment."""
        stage, network = self.stage, self.network
        stage.act("Bob waits as long as he may")
        expiry, upstream = await asyncio.to_thread(self._expiries)
        height = int(await network.ask_chain("getblockcount"))
        stage.say(
            f"Carol may show the preimage up to block {expiry}; Alice's HTLC to Bob runs {upstream - expiry} blocks"
            f" longer, to block {upstream}: this difference is Bob's safety. It is block {height} now. He waits for"
            f" Carol up to block {expiry + GRACE}, and then closes:"
        )
        await network.mine(expiry + GRACE - height)
        (commitment,) = await self._explain(1)
        return commitment.delay

    async def time_out(self, paying: asyncio.Task[dict[str, Any]]) -> int:
        """Height of the HTLC-timeout transaction."""
        stage, network = self.stage, self.network
        stage.act("The HTLC comes back")
        await network.mine(1)
        stage.say(
            "The commitment is in a block, and the HTLC has expired. Bob takes it; only Carol's preimage could outrun"
            " him:"
        )
        await self._explain(1)
        height = await network.mine(1)
        await network.mine(FAIL_BACK - 1)
        result = await paying
        if result["status"] != "failed":
            raise StoryBroken("a payment succeeded that cannot")
        stage.say(f"{FAIL_BACK} blocks deep, no reorganisation will undo it. Bob gives the HTLC back to Alice:")
        stage.facts([("[bold]failed[/]", self._clear(result["failure_reason"]))])
        paid = await self._pay("alice", "bob", AFTER, "and now for something else")
        stage.say(f"Their channel never noticed: Alice pays Bob {render_msat(AFTER)} sat in {milliseconds(paid)}.")
        return height

    async def return_of_carol(self) -> None:
        stage, network = self.stage, self.network
        stage.act("Carol comes back")
        await network.start_node("carol")
        stage.say("Her node finds the channel closed and the HTLC gone. What was hers before is hers:")
        await self._explain(1)
        await network.mine(1)

    async def home(self, channel_id: str, until: int) -> None:
        stage, network = self.stage, self.network
        stage.act("The rest of Bob's money")
        stage.say("What is Bob's in his own commitment is his after a delay, the HTLC's amount a block later:")
        # Spendable in the next block: the commitment's, and the one of the HTLC-timeout that came a block later.
        await network.mine(until - 2 - int(await network.ask_chain("getblockcount")))
        await self._explain(1)
        await network.mine(1)
        await self._explain(1)
        await self._settled("bob", channel_id)
        await self._why("bob", channel_id)
        stage.say("Alice and Bob close their channel together:")
        await self._call("alice", "close", channel=await self._channel_id("alice", "bob"))
        await self._explain(1)
        await network.mine(DEPTH)
