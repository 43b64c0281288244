"""Row g: real processes killed with SIGKILL at random instants under load through two hops, and the books afterwards.

Alice pays carol through bob without a pause. One of the three is killed, started again, and the next kill comes when
a payment has gone through. At the end nothing may be under way, and

- every payment that alice has as succeeded is one that carol has as paid, and the other way round;
- what alice has less, carol and bob have more, to the millisatoshi: nothing lost, nothing paid twice;
- no channel was closed.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

from bench.load import percentile
from bench.payments import line_of
from salama.api.client import RpcClient
from salama.base.machine import CommandRefused
from salama.storage.database import DATABASE_NAME
from salama.testing.network import LocalNetwork, LocalNode, TookTooLong, until

IN_FLIGHT: Final = 20
AMOUNT: Final = "10000sat"
BETWEEN: Final = (0.05, 0.6)
"""Seconds of undisturbed load before a kill, drawn evenly."""
RECOVERY_SECONDS: Final = 60.0
REST_SECONDS: Final = 120.0
CALL_SECONDS: Final = 60.0
"""Most that one call to a node may take: a node that hangs must not make the load hang."""
SECONDS_EACH: Final = 10.0
"""Most that a kill may take on average with everything that follows from it."""

Say = Callable[[str], None]


@dataclass(slots=True)
class Load:
    """Payments without a pause, in a thread with a loop of its own; a node that is down is tried again."""

    payer: LocalNode
    payee: LocalNode
    succeeded: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    last_began: float = 0.0
    """When the latest of the payments that succeeded was asked for."""
    stopping: bool = False
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()), name="load")
        self._thread.start()

    def stop(self) -> None:
        self.stopping = True
        assert self._thread is not None
        self._thread.join()

    async def _all(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(IN_FLIGHT):
                tasks.create_task(self._one())

    async def _one(self) -> None:
        payer, payee = RpcClient(self.payer.socket), RpcClient(self.payee.socket)
        try:
            while not self.stopping:
                began = time.perf_counter()
                try:
                    async with asyncio.timeout(CALL_SECONDS):
                        request = (await payee.call("invoice", amount=AMOUNT))["invoice"]
                        paid = await payer.call("pay", request=request, timeout=20)
                except (CommandRefused, OSError) as refused:
                    self.failures[getattr(refused, "code", type(refused).__name__)] += 1
                    await asyncio.sleep(0.05)
                    continue
                if paid["status"] == "succeeded":
                    self.succeeded += 1
                    self.last_began = max(self.last_began, began)
                else:
                    self.failures[paid["failure_code"]] += 1
                    await asyncio.sleep(0.02)
        finally:
            await payer.close()
            await payee.close()


def rows(node: LocalNode, question: str) -> list[tuple[Any, ...]]:
    """An answer from the node's own file, read beside it."""
    uri = f"{(node.directory / DATABASE_NAME).absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as database:
        return database.execute(question).fetchall()


def shares(nodes: list[LocalNode]) -> dict[str, int]:
    """What each has in its channels, in msat."""
    return {node.name: sum(one["ours_msat"] for one in node.channels()) for node in nodes}


def audit(nodes: list[LocalNode], before: dict[str, int]) -> list[str]:
    """What is wrong with the books, nothing if they are right; ``before`` is what each owned in channels."""
    alice, _, carol = nodes
    wrong: list[str] = []
    for node in nodes:
        wrong += [
            f"{node.name} has a channel that is {one['state']}" for one in node.channels() if one["state"] != "normal"
        ]
    paid = rows(alice, "SELECT payment_hash, amount_msat, fee_msat FROM payments WHERE status = 'succeeded'")
    received = dict(rows(carol, "SELECT payment_hash, received_msat FROM invoices WHERE status = 'paid'"))
    pending = rows(alice, "SELECT payment_hash FROM payments WHERE finished = 0")
    wrong += [f"{len(pending)} payments have no end"] if pending else []
    hashes = {one[0] for one in paid}
    wrong += (
        [f"{len(hashes - received.keys())} payments succeeded that carol never saw"] if hashes - received.keys() else []
    )
    wrong += (
        [f"{len(received.keys() - hashes)} payments arrived that alice has not"] if received.keys() - hashes else []
    )
    wrong += [f"{h.hex()}: {a} msat sent, {received[h]} received" for h, a, _ in paid if received.get(h, a) != a]
    sent, fees = sum(one[1] for one in paid), sum(one[2] for one in paid)
    after = shares(nodes)
    expected = {"alice": -sent - fees, "bob": fees, "carol": sent}
    for name, change in expected.items():
        if after[name] - before[name] != change:
            wrong.append(f"{name} has {after[name] - before[name] - change:+} msat too much")
    return wrong


def come_to_rest(nodes: list[LocalNode]) -> None:
    """Until every payment has its end on both sides. Raises TookTooLong."""
    for node in nodes:
        until(f"nothing is under way in {node.name}", node.is_at_rest, REST_SECONDS)
    until(
        "every payment has its end",
        lambda: not rows(nodes[0], "SELECT 1 FROM payments WHERE finished = 0"),
        REST_SECONDS,
    )


def kill_often(count: int, say: Say, seed: int = 1) -> dict[str, Any]:
    """Row g with ``count`` kills."""
    dice = random.Random(seed)
    with line_of("alice", "bob", "carol") as (network, nodes):
        alice, _, carol = nodes
        before = shares(nodes)
        load = Load(alice, carol)
        load.start()
        ready: list[float] = []
        recovered: list[float] = []
        killed: Counter[str] = Counter()
        try:
            until("the first payment", lambda: load.succeeded)
            started = time.perf_counter()
            for number in range(count):
                if time.perf_counter() - started > 60 + SECONDS_EACH * count:
                    raise TookTooLong(f"{number} kills of {count} took {time.perf_counter() - started:.0f} seconds")
                time.sleep(dice.uniform(*BETWEEN))
                victim = dice.choice(nodes)
                killed[victim.name] += 1
                ready.append(_kill_and_start(network, victim))
                up = time.perf_counter()
                until("payments go through again", lambda: load.last_began > up, RECOVERY_SECONDS)  # noqa: B023
                recovered.append(time.perf_counter() - up + ready[-1])
                if (number + 1) % 20 == 0:
                    say(f"  {number + 1} kills, {load.succeeded} payments, last recovery {recovered[-1]:.2f} s")
        finally:
            load.stop()
        come_to_rest(nodes)
        wrong = audit(nodes, before)
        for one in wrong:
            say(f"  WRONG: {one}")
        return {
            "kills": count,
            "killed": dict(killed),
            "seed": seed,
            "wrong": wrong,
            "payments_succeeded": load.succeeded,
            "failures": dict(load.failures),
            "ready_p50_s": round(percentile(ready, 0.5), 2),
            "ready_p95_s": round(percentile(ready, 0.95), 2),
            "recovery_p50_s": round(percentile(recovered, 0.5), 2),
            "recovery_p95_s": round(percentile(recovered, 0.95), 2),
            "recovery_max_s": round(max(recovered), 2),
        }


def _kill_and_start(network: LocalNetwork, node: LocalNode) -> float:
    """Seconds from the kill until the node answers again."""
    started = time.perf_counter()
    node.child.send_signal(signal.SIGKILL)
    network.kill(node)
    network.start(node.name)
    return time.perf_counter() - started
