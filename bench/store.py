"""Rows e, f and h: starting with much in the database, memory per channel, invoices.

The many channels are copies of a real one's record under other ids, outpoints and peers; the past payments are copies
of real rows under other hashes. Both are written into the database of a node that is stopped.
"""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final

from bench.load import make_invoices, percentile
from bench.machine import cpu_seconds, resident_kb
from bench.payments import NON_DUST, line_of
from salama.base.ids import ChannelId, NodeId, OutPoint, PaymentHash, ShortChannelId, Txid
from salama.crypto import secp256k1
from salama.payments.records import Payment
from salama.storage import queries
from salama.storage.database import DATABASE_NAME
from salama.storage.journal import Journal
from salama.storage.writes import PAYMENT, PutChannel
from salama.testing.network import LocalNetwork, LocalNode, until

CHANNELS: Final = 1000
STARTS: Final = 5
BATCH: Final = 20_000
ALIAS_HEIGHT: Final = 15_900_000

Say = Callable[[str], None]


def _hash(kind: str, number: int) -> bytes:
    return sha256(f"{kind} {number}".encode()).digest()


def add_channels(node: LocalNode, count: int) -> None:
    """Give a stopped node more channels, each with a peer of its own that never answers."""
    with Journal.open(node.directory) as journal:
        model = journal.read_now(queries.open_channels)[0]
        funding = model.funding
        for number in range(count):
            outpoint = OutPoint(Txid(_hash("funding", number)), 0)
            peer = NodeId(secp256k1.public_key(_hash("peer", number)))
            record = replace(
                model,
                channel_id=ChannelId(bytes(outpoint.txid)),
                params=replace(model.params, their_node_id=peer, key_index=1_000_000 + number, announce=False),
                active=(replace(funding, outpoint=outpoint, tx=None),),
                our_alias=ShortChannelId.of(ALIAS_HEIGHT, number, 0),
            )
            journal.commit_now([PutChannel(None, record)])


def add_payments(node: LocalNode, count: int) -> None:
    """Give a stopped node a past: so many payments that succeeded, with their HTLCs."""
    with closing(sqlite3.connect(node.directory / DATABASE_NAME, isolation_level=None)) as database:
        ((record, created, finished, amount, fee),) = database.execute(
            "SELECT record, created, finished, amount_msat, fee_msat FROM payments WHERE status = 'succeeded' LIMIT 1"
        ).fetchall()
        htlc = database.execute("SELECT * FROM htlcs WHERE live = 0 AND side = 1 LIMIT 1").fetchone()
        model: Payment = PAYMENT.decode(record)
        for start in range(0, count, BATCH):
            numbers = range(start, min(start + BATCH, count))
            hashes = [_hash("payment", number) for number in numbers]
            database.execute("BEGIN")
            database.executemany(
                "INSERT INTO payments VALUES (?, ?, ?, 'succeeded', ?, ?, ?)",
                [
                    (one, created, finished, amount, fee, PAYMENT.encode(replace(model, payment_hash=PaymentHash(one))))
                    for one in hashes
                ],
            )
            database.executemany(
                f"INSERT INTO htlcs VALUES ({', '.join('?' * len(htlc))})",
                [
                    (*htlc[:2], 1_000_000 + number, htlc[3], one, *htlc[5:])
                    for number, one in zip(numbers, hashes, strict=True)
                ],
            )
            database.execute("COMMIT")


def _start(network: LocalNetwork, node: LocalNode) -> float:
    started = time.perf_counter()
    network.start(node.name)
    node.call("getinfo")
    return time.perf_counter() - started


def _starts(network: LocalNetwork, node: LocalNode) -> tuple[dict[str, float], int]:
    """Seconds from the process's start to its first answer, and its resident kilobytes then."""
    seconds, cpu, resident = [], [], 0
    for _ in range(STARTS):
        seconds.append(_start(network, node))
        cpu.append(cpu_seconds(node.child.pid))
        resident = resident_kb(node.child.pid)
        network.stop(node)
    figures = {"median_s": statistics.median(seconds), "min_s": min(seconds), "max_s": max(seconds)}
    figures["cpu_s"] = min(cpu)
    return {name: round(value, 3) for name, value in figures.items()}, resident


def starting(past: int, say: Say) -> dict[str, dict[str, Any]]:
    """Rows e and f: a start with one channel, with ``CHANNELS``, and then with ``past`` payments as well."""
    with line_of("alice", "bob") as (network, (alice, bob)):
        alice.pays(bob, NON_DUST)
        until("the payment's HTLC is gone", alice.is_at_rest)
        network.stop(bob)
        network.stop(alice)
        one, small = _starts(network, alice)
        say(f"e: ready with 1 channel after {one['median_s']} s (cpu {one['cpu_s']} s)")
        add_channels(alice, CHANNELS)
        many, large = _starts(network, alice)
        per_channel = (large - small) / CHANNELS
        say(f"e: ready with {CHANNELS} more after {many['median_s']} s (cpu {many['cpu_s']} s)")
        say(f"f: {per_channel:.1f} kB for each channel")
        add_payments(alice, past)
        old, _ = _starts(network, alice)
        adds = old["median_s"] / many["median_s"] - 1
        say(f"e: and with {past} past payments after {old['median_s']} s ({adds:+.1%}; cpu {old['cpu_s']} s)")
    return {
        "e": {
            "ready_1_channel": one,
            "ready_1000_channels": many,
            "ready_with_past": old,
            "past_payments": past,
            "past_adds_percent": round(adds * 100, 1),
            "past_adds_cpu_percent": round((old["cpu_s"] / many["cpu_s"] - 1) * 100, 1),
        },
        "f": {
            "kb_per_own_channel": round(per_channel, 2),
            "mb_with_1_channel": round(small / 1024, 1),
            "mb_with_1000_channels": round(large / 1024, 1),
        },
    }


def invoices(count: int, say: Say) -> dict[str, Any]:
    """Row h, the part that is not counted while paying."""
    with line_of("alice", "bob") as (_, (_, bob)):
        speeds = []
        for _ in range(3):
            made, seconds = asyncio.run(make_invoices(bob, NON_DUST, count))
            speeds.append(len(made) / seconds)
        say(f"h: {statistics.median(speeds):.0f} invoices/s")
        return {
            "invoices_per_s": round(statistics.median(speeds)),
            "invoices_per_s_min": round(percentile(speeds, 0.0)),
            "invoices_per_s_max": round(max(speeds)),
        }
