"""Payments from one node to another, so many in flight, and what they cost."""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.machine import cpu_seconds, resident_kb
from salama.api.client import RpcClient
from salama.storage.database import DATABASE_NAME
from salama.testing.network import LocalNode

INVOICES_AT_A_TIME: Final = 64
QUIET_SECONDS: Final = 5.0


@dataclass(slots=True)
class Run:
    """One run: everything that was seen."""

    seconds: float
    latencies: list[float]
    failures: Counter[str]
    cpu: dict[str, float]
    counted: dict[str, dict[str, int]]
    database: dict[str, int]
    resident_kb: dict[str, int] = field(default_factory=dict)

    @property
    def paid(self) -> int:
        return len(self.latencies)

    @property
    def per_second(self) -> float:
        return self.paid / self.seconds


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


async def make_invoices(payee: LocalNode, amount: str, count: int) -> tuple[list[str], float]:
    """So many invoices, and how long they took."""
    rpc = RpcClient(payee.socket)
    await rpc.connect()
    waiting = iter(range(count))
    made: list[str] = []

    async def worker() -> None:
        for _ in waiting:
            answer = await rpc.call("invoice", amount=amount, expiry=86_400)
            made.append(answer["invoice"])

    started = time.perf_counter()
    try:
        await asyncio.gather(*(worker() for _ in range(INVOICES_AT_A_TIME)))
    finally:
        await rpc.close()
    return made, time.perf_counter() - started


async def pay_all(payer: LocalNode, invoices: Sequence[str], in_flight: int) -> tuple[float, list[float], Counter[str]]:
    """Seconds in all, seconds of each that succeeded, and the codes of those that failed."""
    rpc = RpcClient(payer.socket)
    await rpc.connect()
    waiting = iter(invoices)
    latencies: list[float] = []
    failures: Counter[str] = Counter()

    async def worker() -> None:
        for request in waiting:
            began = time.perf_counter()
            paid = await rpc.call("pay", request=request)
            if paid["status"] == "succeeded":
                latencies.append(time.perf_counter() - began)
            else:
                failures[f"{paid['failure_code']}: {paid['failure_reason']}"] += 1

    started = time.perf_counter()
    try:
        await asyncio.gather(*(worker() for _ in range(in_flight)))
        return time.perf_counter() - started, latencies, failures
    finally:
        await rpc.close()


def ask_database(node: LocalNode, question: str) -> Any:
    """The first value of an answer from the node's own file, read beside it."""
    path: Path = node.directory / DATABASE_NAME
    with sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True) as database:
        answer = database.execute(question).fetchone()[0]
    database.close()
    return answer


def settled(payer: LocalNode, payee: LocalNode) -> tuple[int, int]:
    """Payments that succeeded and invoices that were paid, as the two databases have it."""
    paid = ask_database(payer, "SELECT count(*) FROM payments WHERE status = 'succeeded'")
    return int(paid), int(ask_database(payee, "SELECT count(*) FROM invoices WHERE status = 'paid'"))


def database_bytes(node: LocalNode) -> int:
    """Size of the database with what its log holds, without the pages that are free to be used again."""
    pages = int(ask_database(node, "PRAGMA page_count")) - int(ask_database(node, "PRAGMA freelist_count"))
    return pages * int(ask_database(node, "PRAGMA page_size"))


def wait_for_quiet(nodes: Sequence[LocalNode]) -> None:
    """Return once no HTLC is under way, or after a while: a payer has its answer before the last of it is gone."""
    until = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < until and any(ask_database(n, "SELECT count(*) FROM htlcs WHERE live = 1") for n in nodes):
        time.sleep(0.02)


def run(nodes: Sequence[LocalNode], amount: str, count: int, in_flight: int) -> Run:
    """``count`` payments from the first node to the last; the others lie between them."""
    payer, payee = nodes[0], nodes[-1]
    invoices, _ = asyncio.run(make_invoices(payee, amount, count))
    size = {node.name: database_bytes(node) for node in nodes}
    done = settled(payer, payee)
    cpu = {node.name: cpu_seconds(node.child.pid) for node in nodes}
    counted = {node.name: node.call("counters") for node in nodes}
    seconds, latencies, failures = asyncio.run(pay_all(payer, invoices, in_flight))
    again = settled(payer, payee)
    if (again[0] - done[0], again[1] - done[1]) != (len(latencies), len(latencies)):
        failures[f"the databases say {again[0] - done[0]} paid, {again[1] - done[1]} received"] += 1
    spent = {node.name: cpu_seconds(node.child.pid) - cpu[node.name] for node in nodes}
    wait_for_quiet(nodes)
    return Run(
        seconds,
        latencies,
        failures,
        spent,
        {node.name: _difference(counted[node.name], node.call("counters")) for node in nodes},
        {node.name: database_bytes(node) - size[node.name] for node in nodes},
        {node.name: resident_kb(node.child.pid) for node in nodes},
    )


def _difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after if name != "longest_write_us"} | {
        "longest_write_us": after["longest_write_us"]
    }


def summary(runs: Sequence[Run], in_flight: int, amount: str) -> dict[str, Any]:
    """What a row of the results says of its runs."""
    speeds = [one.per_second for one in runs]
    latencies = [latency * 1000 for one in runs for latency in one.latencies]
    paid = sum(one.paid for one in runs) or 1
    failures: Counter[str] = Counter()
    for one in runs:
        failures.update(one.failures)
    return {
        "payments_per_s": round(statistics.median(speeds), 1),
        "payments_per_s_min": round(min(speeds), 1),
        "payments_per_s_max": round(max(speeds), 1),
        "runs": len(runs),
        "payments": paid,
        "in_flight": in_flight,
        "amount": amount,
        "p50_ms": round(percentile(latencies, 0.5), 2),
        "p95_ms": round(percentile(latencies, 0.95), 2),
        "p99_ms": round(percentile(latencies, 0.99), 2),
        "failures": dict(failures),
        "nodes": {
            name: {
                "cpu_ms_per_payment": round(sum(one.cpu[name] for one in runs) / paid * 1000, 3),
                "syncs_per_payment": _each(runs, name, "syncs", paid),
                "statements_per_payment": _each(runs, name, "statements", paid),
                "signatures_per_payment": _each(runs, name, "signatures", paid),
                "database_bytes_per_payment": round(sum(one.database[name] for one in runs) / paid),
                "longest_write_ms": round(max(one.counted[name]["longest_write_us"] for one in runs) / 1000, 1),
                "resident_mb": round(runs[-1].resident_kb[name] / 1024, 1),
            }
            for name in runs[-1].cpu
        },
    }


def _each(runs: Sequence[Run], node: str, counter: str, paid: int) -> float:
    return round(sum(one.counted[node][counter] for one in runs) / paid, 3)
