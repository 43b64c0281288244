"""What a node wrote down: its database, read with plain SQL and never written.

Columns give the amounts. Three facts stand only inside a record (a version byte, MessagePack, a CRC-32): the scripts
that a channel closes to, the parts of a payment, and the HTLCs that an invoice claimed. Amounts are millisatoshis.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

INCOMING: Final = 0
OUTGOING: Final = 1
REVOKED: Final = "a revoked commitment of theirs"


class DatabaseUnreadable(Exception):
    """A node's database is missing, damaged or not laid out as we know it."""


class HtlcId(NamedTuple):
    """One HTLC as both ends name it: its channel, who offered it, its number."""

    channel: bytes
    number: int


@dataclass(frozen=True, slots=True)
class HtlcEntry:
    """A row of ``htlcs``. ``origin`` says why it was offered: empty for incoming ones."""

    amount: int
    payment_hash: bytes
    origin: bytes
    is_live: bool


@dataclass(frozen=True, slots=True)
class PaymentEntry:
    """A payment that the node made. ``parts``: number to (amount with fees, status)."""

    status: str
    amount: int
    fee: int
    parts: dict[int, tuple[int, str]]


@dataclass(frozen=True, slots=True)
class InvoiceEntry:
    """An invoice of the node. ``claimed``: the HTLCs that paid it."""

    status: str
    received: int
    claimed: frozenset[HtlcId]


@dataclass(frozen=True, slots=True)
class ForwardEntry:
    """A payment that the node relayed for others."""

    went: HtlcId
    amount_in: int
    amount_out: int
    status: str


@dataclass(frozen=True, slots=True)
class NodeBooks:
    """Everything of one node that concerns money."""

    name: str
    channels: dict[bytes, tuple[str, ...]]
    """Channel id to the scripts, in hex, that the node's share of a close pays: agreed in the end, or on its own."""
    incoming: dict[HtlcId, HtlcEntry]
    outgoing: dict[HtlcId, HtlcEntry]
    payments: dict[bytes, PaymentEntry]
    invoices: dict[bytes, InvoiceEntry]
    forwards: dict[HtlcId, ForwardEntry]
    """By the incoming HTLC."""
    wallet: dict[str, tuple[int, int]]
    """Transaction id to (satoshis received, satoshis spent), as the node's wallet saw it confirm."""
    revoked: frozenset[bytes] = frozenset()
    """Channels that, says the node's account, the other side closed with a revoked commitment."""


def read_node(name: str, database: Path) -> NodeBooks:
    """The books of one node. Raises DatabaseUnreadable."""
    if not database.is_file():
        raise DatabaseUnreadable(f"{database} is missing")
    try:
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
        try:
            return _read(name, connection)
        finally:
            connection.close()
    except (sqlite3.Error, KeyError, ValueError, TypeError, msgspec.DecodeError) as problem:
        raise DatabaseUnreadable(f"{database}: {problem}") from None


def _read(name: str, db: sqlite3.Connection) -> NodeBooks:
    htlcs: dict[int, dict[HtlcId, HtlcEntry]] = {INCOMING: {}, OUTGOING: {}}
    # What was under way when a channel ended for good is so no more, whatever its own row says.
    rows = db.execute(
        "SELECT channel, side, id, amount_msat, payment_hash, origin, live AND open"
        " FROM htlcs JOIN channels ON channel_id = channel"
    )
    for channel, side, number, amount, payment_hash, origin, live in rows:
        htlcs[side][HtlcId(channel, number)] = HtlcEntry(amount, payment_hash, origin or b"", bool(live))
    return NodeBooks(
        name,
        {
            channel: _closing_scripts(params, record)
            for channel, params, record in db.execute("SELECT channel_id, params, record FROM channels")
        },
        htlcs[INCOMING],
        htlcs[OUTGOING],
        {
            payment_hash: PaymentEntry(status, amount, fee, _parts(record))
            for payment_hash, status, amount, fee, record in db.execute(
                "SELECT payment_hash, status, amount_msat, fee_msat, record FROM payments"
            )
        },
        {
            payment_hash: InvoiceEntry(status, received, _claimed(record))
            for payment_hash, status, received, record in db.execute(
                "SELECT payment_hash, status, received_msat, record FROM invoices"
            )
        },
        {
            HtlcId(came, came_id): ForwardEntry(HtlcId(went, went_id), amount_in, amount_out, status)
            for came, came_id, went, went_id, amount_in, amount_out, status in db.execute(
                "SELECT channel_in, htlc_in, channel_out, htlc_out, msat_in, msat_out, status FROM forwards"
            )
        },
        {
            txid[::-1].hex(): (received, spent)
            for txid, received, spent in db.execute("SELECT txid, received_sat, spent_sat FROM wallet_transactions")
        },
        frozenset(
            bytes.fromhex(fields["channel_id"])
            for (line,) in db.execute("SELECT fields FROM events WHERE name = 'onchain.closed'")
            if (fields := json.loads(line))["what"] == REVOKED
        ),
    )


def _open_record(data: bytes) -> Any:
    body, check = data[:-4], data[-4:]
    if zlib.crc32(body).to_bytes(4, "big") != check:
        raise ValueError("a record's checksum does not match")
    return msgspec.msgpack.decode(body[1:])


def _closing_scripts(params: bytes, record: bytes) -> tuple[str, ...]:
    """What was said in the closing, and what the channel's terms say."""
    said: bytes | None = _open_record(record).get("our_shutdown")
    script: bytes = _open_record(params)["closing_script"]
    return tuple({one.hex() for one in (said, script) if one})


def _parts(record: bytes) -> dict[int, tuple[int, str]]:
    return {part["number"]: (part["hops"][0]["amount"], part["status"]) for part in _open_record(record)["parts"]}


def _claimed(record: bytes) -> frozenset[HtlcId]:
    return frozenset(HtlcId(channel, number) for channel, _, number in _open_record(record)["claiming"])
