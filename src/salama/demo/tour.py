"""The tour: the life of a network, act by act. Every figure it prints was measured or read a moment before."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from salama.demo.acts import DEPTH, Story, StoryBroken
from salama.demo.acts import milliseconds as _ms
from salama.demo.books.figures import render_msat

CAPACITY: Final = 1_000_000
"""Satoshis in each of the first two channels."""
SMALL_CAPACITY: Final = 300_000
FIRST_PAYMENT: Final = 25_000_000
SHARE: Final = 400_000_000
"""Millisatoshis that alice sends to bob so that both have something to send."""
TO_DAVE: Final = 200_000_000
TOO_MUCH: Final = 150_000_000
"""More than carol has left on her side of the channel with dave."""
MICRO: Final = 21_000
WORKERS: Final = 25
"""Payments under way at a time in each direction; a channel holds 30."""
AT_ONCE: Final = 20
"""Payments under way through bob when he is killed."""
BEFORE_KILL: Final = 30
STAGGER: Final = 0.01
UPDATES: Final = (
    "update_add_htlc",
    "update_fulfill_htlc",
    "update_fail_htlc",
    "commitment_signed",
    "revoke_and_ack",
)
CLOSING: Final = ("shutdown", "closing_signed", "closing_complete", "closing_sig")


@dataclass(slots=True)
class Tour(Story):
    """Four nodes that live through everything that happens in a good week, and one kill."""

    NAMES: ClassVar = ("alice", "bob", "carol", "dave")
    TITLE: ClassVar = "a Lightning network on this machine"

    async def play(self) -> None:
        await self.start()
        await self.fund()
        await self.open_channels()
        await self.first_payment()
        await self.micro_payments()
        await self.failures()
        await self.kill_bob()
        await self.close_channels()

    # --- acts ---------------------------------------------------------------------------------------------------------

    async def open_channels(self) -> None:
        stage = self.stage
        stage.act("Channels")
        stage.say(
            "A channel is an output on the chain that two nodes can only spend together. Inside it they change who owns"
            " how much as often as they like; the chain sees the opening and the close."
        )
        await self._open([("alice", "bob", CAPACITY), ("bob", "carol", CAPACITY)])

    async def first_payment(self) -> None:
        stage, network = self.stage, self.network
        stage.act("Alice pays Carol through Bob")
        invoice = await network.invoice("carol", FIRST_PAYMENT, "a book")
        stage.say(f"Carol asks for {render_msat(FIRST_PAYMENT)} sat with an invoice:")
        stage.facts([(f"[dim]{invoice[:66]}…[/]",)])
        stage.say(
            "Alice has no channel with Carol, but a way: over Bob. This is what they say, from the nodes' own logs:"
        )
        logs = self._logs()
        paid = self._must_succeed(await network.pay("alice", invoice))
        await self._quiet()
        stage.spoken(logs.spoken(UPDATES))
        stage.say(
            f"Paid in {_ms(paid)}; Bob earned {render_msat(paid['fee_msat'])} sat. One hash locked both hops, and the"
            " preimage that Carol released is Alice's receipt:"
        )
        stage.facts([(f"[dim]{paid['preimage']}[/]",)])

    async def micro_payments(self) -> None:
        stage, network, count = self.stage, self.network, self.payments
        if count <= 0:
            return
        stage.act(f"{count:,} micro-payments, both ways over one channel")
        self._must_succeed(await network.pay("alice", await network.invoice("bob", SHARE, "a share")))
        forth = count - count // 2
        plan = [("alice", "bob", forth), ("bob", "alice", count - forth)]
        invoices = [await self._invoices(payee, n, MICRO) for _, payee, n in plan]
        await self._quiet()
        before = await self.network.channel("alice", "bob")
        began = time.monotonic()
        results = await asyncio.gather(
            *(self._pay_all(payer, texts, WORKERS) for (payer, _, _), texts in zip(plan, invoices, strict=True))
        )
        took = time.monotonic() - began
        statuses = Counter(one["status"] for result in results for one in result)
        if statuses != {"succeeded": count}:
            raise StoryBroken(f"of {count} micro-payments {count - statuses['succeeded']} failed: {_why(results)}")
        slowest = max(one["seconds"] for result in results for one in result)
        await self._quiet()
        after = await self.network.channel("alice", "bob")
        assert before is not None and after is not None
        stage.say(
            f"{forth:,} from Alice to Bob and {count - forth:,} back, {render_msat(MICRO)} sat each, up to"
            f" {2 * WORKERS} at a time:"
        )
        stage.facts(
            [
                (f"[bold]{count / took:,.0f} payments a second[/]", f"{took:.2f} s in all"),
                (f"{slowest * 1000:,.0f} ms the slowest", "each one signed by both and on both disks"),
                ("0 chain transactions", f"alice's side {self._sat(before)} → {self._sat(after)} sat"),
            ]
        )

    async def failures(self) -> None:
        stage, network = self.stage, self.network
        stage.act("Payments that fail, and cost nothing")
        await self._refused(
            "Dave has no channel yet. Alice tries to pay him all the same:",
            await network.invoice("dave", FIRST_PAYMENT, "too early"),
        )
        stage.say("So Carol opens a channel with Dave; three hops lead to him now.")
        await self._open([("carol", "dave", SMALL_CAPACITY)])
        paid = self._must_succeed(await network.pay("alice", await network.invoice("dave", TO_DAVE, "on time")))
        stage.say(
            f"Alice pays Dave {render_msat(TO_DAVE)} sat in {_ms(paid)};"
            f" Bob and Carol share {render_msat(paid['fee_msat'])} sat."
        )
        await self._refused(
            f"Now {render_msat(TOO_MUCH)} sat more, which Carol no longer has on her side. Only Carol can know that:",
            await network.invoice("dave", TOO_MUCH, "too much"),
            midway=True,
        )

    async def kill_bob(self) -> None:
        stage, network = self.stage, self.network
        stage.act("Bob is killed in the middle of everything")
        count = BEFORE_KILL + 2 * AT_ONCE
        invoices = deque(await self._invoices("carol", count, MICRO))
        results: list[dict[str, Any]] = []
        under_way = 0
        stopped = False

        async def pay_on(number: int) -> None:
            nonlocal under_way
            # One after the other, so that each is at another point of its way when the end comes.
            await asyncio.sleep(number * STAGGER)
            while invoices and not stopped:
                under_way += 1
                results.append(await network.pay("alice", invoices.popleft()))
                under_way -= 1

        paying = [asyncio.create_task(pay_on(number)) for number in range(AT_ONCE)]
        try:
            while len(results) < BEFORE_KILL and not all(task.done() for task in paying):
                await asyncio.sleep(0.005)
            done, stopped, caught = len(results), True, under_way
            pid = network.nodes["bob"].child.pid
            await network.kill("bob")
            stage.say(
                f"Alice pays Carol again and again through Bob. After {done} payments, SIGKILL for process {pid}:"
                f" {caught} payments are under way."
            )
            began = time.monotonic()
            await network.start_node("bob")
            await network.usable([("alice", "bob"), ("bob", "carol")])
            back = time.monotonic() - began
            await asyncio.wait_for(asyncio.gather(*paying), 30)
        except TimeoutError:
            raise StoryBroken(f"{under_way} payments are still under way 30 seconds after bob's return") from None
        finally:
            for task in paying:
                task.cancel()
            await asyncio.gather(*paying, return_exceptions=True)
        tail = results[done:]
        failed = [one for one in tail if one["status"] == "failed"]
        stage.say(
            f"{back:.1f} s later Bob is back (process {network.nodes['bob'].child.pid}) and both channels are alive. Of"
            f" the {caught} payments {len(tail) - len(failed)} arrived and {len(failed)} came back; none was lost, none"
            " was paid twice."
        )
        if failed:
            reason, count = Counter(one["failure_reason"] for one in failed).most_common(1)[0]
            stage.facts([("came back", f"{self._clear(reason)} [dim]({count} of {len(failed)})[/]")])
        arrived = await self._received("carol", {one["payment_hash"] for one in results})
        succeeded = {one["payment_hash"] for one in results if one["status"] == "succeeded"}
        if arrived != succeeded:
            raise StoryBroken(f"alice says {len(succeeded)} payments arrived, carol says {len(arrived)}")
        again = self._must_succeed(await network.pay("alice", await network.invoice("carol", FIRST_PAYMENT, "again")))
        stage.say(f"And Alice pays Carol once more, in {_ms(again)}.")

    async def close_channels(self) -> None:
        stage, network = self.stage, self.network
        stage.act("Closing together")
        stage.say("Both sides say that they are done, and sign a last transaction together:")
        logs = self._logs()
        asked: list[tuple[str, str, str]] = []
        for opener, peer in self.channels:
            # Either side may ask for it.
            asking = peer if (opener, peer) == ("carol", "dave") else opener
            other = opener if asking == peer else peer
            channel = await network.channel(asking, other)
            assert channel is not None
            await network.nodes[asking].rpc.call("close", channel=channel["channel_id"])
            if not asked:
                stage.spoken(logs.spoken(CLOSING))
            asked.append((opener, peer, asking))
        await network.waiting_txs(len(self.channels))
        await network.mine(DEPTH)
        lines = []
        for opener, peer, asking in asked:
            # Where each side offers a transaction, only the chain knows which of the two it took.
            channel = await network.channel(asking, opener if asking == peer else peer)
            assert channel is not None
            lines.append((f"{opener} — {peer}", f"{asking} asked", f"closed by {channel['closing_txid'][:16]}…"))
        stage.facts(lines)
        stage.say("Each transaction pays both sides what they own by now, and the coins are on chain again.")

    # --- what several acts do -----------------------------------------------------------------------------------------

    async def _refused(self, text: str, invoice: str, *, midway: bool = False) -> None:
        """A payment that must fail, told to a person, and the proof that it cost nothing."""
        stage, network = self.stage, self.network
        stage.say(text)
        before = await self._owns("alice")
        logs = self._logs()
        result = await network.pay("alice", invoice)
        await self._quiet()
        if result["status"] != "failed":
            raise StoryBroken("a payment succeeded that cannot")
        if midway:
            stage.spoken(logs.spoken(UPDATES))
        reason = self._clear(result["failure_reason"])
        stage.facts([("[bold]failed[/]", f"{reason} [dim]({result['failure_code']}, {_ms(result)})[/]")])
        if await self._owns("alice") != before:
            raise StoryBroken("a failed payment changed alice's balance")
        stage.facts([("refunded", f"alice owns {render_msat(before)} sat in channels, as before")])

    async def _invoices(self, payee: str, count: int, msat: int) -> list[str]:
        return list(await asyncio.gather(*(self.network.invoice(payee, msat) for _ in range(count))))

    async def _pay_all(self, payer: str, invoices: list[str], at_once: int) -> list[dict[str, Any]]:
        """Pay them all, ``at_once`` at a time."""
        left, results = deque(invoices), []

        async def worker() -> None:
            while left:
                results.append(await self.network.pay(payer, left.popleft()))

        await asyncio.gather(*(worker() for _ in range(min(at_once, len(invoices)))))
        return results

    async def _received(self, name: str, hashes: set[str]) -> set[str]:
        """Those of ``hashes`` that were paid, says the payee."""
        found: set[str] = set()
        cursor = ""
        while True:
            page = await self.network.nodes[name].rpc.call("invoices", limit=1000, cursor=cursor)
            found |= {one["payment_hash"] for one in page["invoices"] if one["status"] == "paid"}
            cursor = page["next_cursor"]
            if not cursor:
                return found & hashes


def _why(results: Any) -> str:
    reasons = Counter(one["failure_reason"] for result in results for one in result if one["status"] != "succeeded")
    return "; ".join(f"{count} times {reason}" for reason, count in reasons.most_common(3))
