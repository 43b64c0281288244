"""What is read back: at start-up, by key, and in pages. Each takes a connection: ``await journal.read(open_channels)``.

Nothing here walks a table: every statement goes through a key or an index, and lists are asked for in pages. A
start reads open channels, living HTLCs and what is pending, however long the history. Damaged records raise
CorruptRecord.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import msgspec

from salama.base.ids import ChannelId, HtlcRef, NodeId, PaymentHash, Preimage, Side, Txid
from salama.base.units import BlockHeight, Msat, Sat
from salama.channel.events import Handoff, HandoffKey, Origin, PreimageLearned
from salama.channel.spec import SpecHtlc
from salama.channel.state import ChannelRecord
from salama.onchain.state import OnchainRecord
from salama.payments.records import ForwardStatus, Invoice, Payment, PutForward
from salama.storage.errors import CorruptRecord
from salama.storage.records import ChannelRows, HtlcRow, decode_channel, decode_terms
from salama.storage.wallet_record import decode_wallet
from salama.storage.writes import FAILED_HANDOFF, INVOICE, ONCHAIN, PAYMENT, PREIMAGE, WALLET_NAME
from salama.wallet.coins import WalletState
from salama.wallet.events import WalletTxConfirmed

T = TypeVar("T")

MAX_PAGE: Final = 1_000
"""Most rows of one page, whatever is asked for."""
_NEWEST: Final = (1 << 63) - 1

_CHANNEL: Final = "SELECT channel_id, peer, phase, open, params, record, rowid FROM channels"
_HTLC: Final = (
    "SELECT side, id, amount_msat, payment_hash, cltv_expiry, origin, first_remote, last_remote, first_local,"
    " last_local, live, payload, state FROM htlcs"
)
_FORWARD: Final = (
    "SELECT rowid, channel_in, htlc_in, channel_out, htlc_out, msat_in, msat_out, status, at FROM forwards"
)
_WALLET_TX: Final = "SELECT rowid, txid, height, received_sat, spent_sat, at FROM wallet_transactions"
_PAGE: Final = "WHERE rowid < ? ORDER BY rowid DESC LIMIT ?"

OPEN_CHANNELS: Final = f"{_CHANNEL} WHERE open = 1 ORDER BY rowid"
ONE_CHANNEL: Final = f"{_CHANNEL} WHERE channel_id = ?"
HAS_CHANNEL: Final = "SELECT 1 FROM channels WHERE channel_id = ?"
CLOSED_CHANNELS: Final = f"{_CHANNEL} WHERE open = 0 AND rowid < ? ORDER BY rowid DESC LIMIT ?"
LIVE_HTLCS: Final = f"{_HTLC} WHERE channel = ? AND live = 1 ORDER BY rowid"
HTLCS_AT: Final = (
    f"{_HTLC} WHERE channel = ?1 AND last_remote >= ?2 AND first_remote <= ?2"
    f" UNION ALL {_HTLC} WHERE channel = ?1 AND last_remote IS NULL AND first_remote <= ?2"
)
HAS_HANDOFF: Final = "SELECT 1 FROM handoffs WHERE channel = ? AND htlc_id = ?"
HANDOFFS: Final = "SELECT channel, htlc_id, kind, origin, payload FROM handoffs ORDER BY rowid"
ONION_OWNER: Final = "SELECT channel, htlc_id FROM onion_secrets WHERE secret = ?"
EVENTS_AFTER: Final = "SELECT id, at, name, fields FROM events WHERE id > ? ORDER BY id LIMIT ?"
EVENTS_OF_CHANNEL: Final = (
    "SELECT id, at, name, fields FROM channel_events JOIN events ON id = event WHERE channel = ? ORDER BY event LIMIT ?"
)
LAST_EVENT: Final = "SELECT max(id) FROM events"
ONE_ONCHAIN: Final = "SELECT record FROM onchain WHERE channel = ?"
ONE_INVOICE: Final = "SELECT record FROM invoices WHERE payment_hash = ?"
INVOICES: Final = f"SELECT rowid, record FROM invoices {_PAGE}"
ONE_PAYMENT: Final = "SELECT record FROM payments WHERE payment_hash = ?"
PAYMENTS: Final = f"SELECT rowid, record FROM payments {_PAGE}"
UNFINISHED_PAYMENTS: Final = "SELECT record FROM payments WHERE finished = 0 ORDER BY created, rowid"
FORWARDS: Final = f"{_FORWARD} {_PAGE}"
FORWARDED: Final = (
    "SELECT count(*), coalesce(sum(msat_in), 0), coalesce(sum(msat_out), 0) FROM forwards"
    " WHERE at >= ? AND at < ? AND status = 'settled'"
)
PEERS: Final = "SELECT node_id, addresses, last_seen FROM peers ORDER BY node_id"
WALLET: Final = "SELECT record FROM wallet WHERE name = ?"
WALLET_TRANSACTIONS: Final = f"{_WALLET_TX} {_PAGE}"
GOSSIP_AFTER: Final = "SELECT key, message FROM gossip WHERE kind = ? AND key > ? ORDER BY key LIMIT ?"
KEPT_BLOBS: Final = "SELECT peer, alone_since FROM kept_blobs"
KEPT_BLOB: Final = "SELECT blob FROM kept_blobs WHERE peer = ?"
GIVEN_BACKUPS: Final = "SELECT peer, generation, at FROM given_backups"
KEY_VALUE: Final = "SELECT value FROM key_values WHERE key = ?"


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows, newest first; ``older`` is what to pass as ``before`` for the next page, None after the last."""

    rows: tuple[T, ...]
    older: int | None


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A line of the event feed; ``id`` grows and is never used twice, ``at`` is in unix seconds."""

    id: int
    at: int
    name: str
    fields: dict[str, str | int | bool]


@dataclass(frozen=True, slots=True)
class KnownPeer:
    node_id: NodeId
    addresses: tuple[str, ...]
    last_seen: int


@dataclass(frozen=True, slots=True)
class Forwarded:
    """What settled forwards of a time brought: their number, and amounts that came in and went out."""

    count: int
    amount_in: Msat
    amount_out: Msat

    @property
    def fees(self) -> Msat:
        return self.amount_in - self.amount_out


# --- channels -------------------------------------------------------------------------------------------------------


def has_channel(connection: sqlite3.Connection, channel_id: ChannelId) -> bool:
    """Whether there is a row for this channel, living or closed."""
    return connection.execute(HAS_CHANNEL, (bytes(channel_id),)).fetchone() is not None


def open_channels(connection: sqlite3.Connection) -> list[ChannelRecord]:
    """Every channel that is not closed for good, oldest first, with its living HTLCs."""
    return [_channel(connection, row) for row in connection.execute(OPEN_CHANNELS).fetchall()]


def channel(connection: sqlite3.Connection, channel_id: ChannelId) -> ChannelRecord | None:
    """One channel, open or closed."""
    row = connection.execute(ONE_CHANNEL, (bytes(channel_id),)).fetchone()
    return None if row is None else _channel(connection, row)


def closed_channels(connection: sqlite3.Connection, before: int | None = None, limit: int = 100) -> Page[ChannelRecord]:
    """Channels that are closed for good, those opened last first."""
    rows = connection.execute(CLOSED_CHANNELS, _bounds(before, limit)).fetchall()
    return Page(tuple([_channel(connection, row) for row in rows]), _older([row[-1] for row in rows], limit))


def _channel(connection: sqlite3.Connection, row: tuple[Any, ...]) -> ChannelRecord:
    channel_id, peer, phase, is_open, params, record, _ = row
    htlcs = tuple([HtlcRow(*one) for one in connection.execute(LIVE_HTLCS, (channel_id,))])
    return decode_channel(ChannelRows(_id(ChannelId, channel_id), peer, phase, bool(is_open), params, record, htlcs))


def htlcs_at(connection: sqlite3.Connection, channel_id: ChannelId, remote_number: int) -> list[SpecHtlc]:
    """The HTLCs in the peer's commitment ``remote_number``, also a revoked one: what a penalty is built from.

    Costs a step for each HTLC of the channel that ended later than that commitment.
    """
    rows = connection.execute(HTLCS_AT, (bytes(channel_id), remote_number)).fetchall()
    return [decode_terms(HtlcRow(*row)) for row in rows]


def onchain(connection: sqlite3.Connection, channel_id: ChannelId) -> OnchainRecord | None:
    """What the chain said of a channel whose funding is being spent, None before there was anything to say."""
    row = connection.execute(ONE_ONCHAIN, (bytes(channel_id),)).fetchone()
    return None if row is None else ONCHAIN.decode(row[0])


# --- pending --------------------------------------------------------------------------------------------------------


def handoffs(connection: sqlite3.Connection) -> list[Handoff]:
    """Outcomes of outgoing HTLCs that nobody has consumed yet, in the order in which they were written."""
    return [_handoff(*row) for row in connection.execute(HANDOFFS).fetchall()]


def has_handoff(connection: sqlite3.Connection, key: HandoffKey) -> bool:
    return connection.execute(HAS_HANDOFF, (bytes(key.channel_id), key.htlc_id)).fetchone() is not None


def _handoff(channel: bytes, htlc_id: int, kind: str, origin: bytes, payload: bytes) -> Handoff:
    key = HandoffKey(_id(ChannelId, channel), htlc_id)
    if kind == PREIMAGE:
        return PreimageLearned(key, Origin(origin), _id(Preimage, payload))
    return FAILED_HANDOFF.decode(payload, key=key, origin=Origin(origin))


def onion_owners(connection: sqlite3.Connection, secrets: Iterable[bytes]) -> dict[bytes, HtlcRef]:
    """Which incoming HTLC each of ``secrets`` was first seen in; those never seen are left out.

    It is a replay if that is another HTLC than the one at hand: the same one again is only a restart.
    """
    found: dict[bytes, HtlcRef] = {}
    for secret in secrets:
        row = connection.execute(ONION_OWNER, (bytes(secret),)).fetchone()
        if row is not None:
            found[secret] = HtlcRef(_id(ChannelId, row[0]), Side.INCOMING, row[1])
    return found


# --- payments -------------------------------------------------------------------------------------------------------


def invoice(connection: sqlite3.Connection, payment_hash: PaymentHash) -> Invoice | None:
    row = connection.execute(ONE_INVOICE, (bytes(payment_hash),)).fetchone()
    return None if row is None else INVOICE.decode(row[0])


def invoices(connection: sqlite3.Connection, before: int | None = None, limit: int = 100) -> Page[Invoice]:
    rows = connection.execute(INVOICES, _bounds(before, limit)).fetchall()
    return Page(tuple([INVOICE.decode(row[1]) for row in rows]), _older([row[0] for row in rows], limit))


def payment(connection: sqlite3.Connection, payment_hash: PaymentHash) -> Payment | None:
    row = connection.execute(ONE_PAYMENT, (bytes(payment_hash),)).fetchone()
    return None if row is None else PAYMENT.decode(row[0])


def payments(connection: sqlite3.Connection, before: int | None = None, limit: int = 100) -> Page[Payment]:
    rows = connection.execute(PAYMENTS, _bounds(before, limit)).fetchall()
    return Page(tuple([PAYMENT.decode(row[1]) for row in rows]), _older([row[0] for row in rows], limit))


def unfinished_payments(connection: sqlite3.Connection) -> list[Payment]:
    """Payments of ours without a final result, oldest first."""
    return [PAYMENT.decode(row[0]) for row in connection.execute(UNFINISHED_PAYMENTS).fetchall()]


def forwards(connection: sqlite3.Connection, before: int | None = None, limit: int = 100) -> Page[PutForward]:
    rows = connection.execute(FORWARDS, _bounds(before, limit)).fetchall()
    return Page(tuple([_forward(row) for row in rows]), _older([row[0] for row in rows], limit))


def forwarded(connection: sqlite3.Connection, since: int, until: int = _NEWEST) -> Forwarded:
    """What settled from ``since`` (unix seconds) until before ``until``; a step for each forward of that time."""
    count, amount_in, amount_out = connection.execute(FORWARDED, (since, until)).fetchone()
    return Forwarded(count, Msat(amount_in), Msat(amount_out))


def _forward(row: tuple[Any, ...]) -> PutForward:
    _, channel_in, htlc_in, channel_out, htlc_out, msat_in, msat_out, status, at = row
    try:
        incoming = HtlcRef(ChannelId(channel_in), Side.INCOMING, htlc_in)
        amounts = Msat(msat_in), Msat(msat_out)
        return PutForward(incoming, ChannelId(channel_out), htlc_out, *amounts, ForwardStatus(status), at)
    except ValueError as fault:
        raise CorruptRecord("forward", str(fault)) from None


# --- the rest -------------------------------------------------------------------------------------------------------


def events_after(connection: sqlite3.Connection, event_id: int, limit: int = 100) -> list[StoredEvent]:
    """The next lines of the event feed after ``event_id`` (0 for the first), oldest first."""
    rows = connection.execute(EVENTS_AFTER, (event_id, _bounded(limit))).fetchall()
    return [
        StoredEvent(number, at, name, _json(dict[str, str | int | bool], fields)) for number, at, name, fields in rows
    ]


def events_of_channel(
    connection: sqlite3.Connection, channel_id: ChannelId, limit: int = MAX_PAGE
) -> list[StoredEvent]:
    """The lines of the event feed that name a channel, oldest first: its account."""
    rows = connection.execute(EVENTS_OF_CHANNEL, (str(channel_id), _bounded(limit))).fetchall()
    return [
        StoredEvent(number, at, name, _json(dict[str, str | int | bool], fields)) for number, at, name, fields in rows
    ]


def last_event(connection: sqlite3.Connection) -> int:
    """Id of the newest line of the event feed, 0 if there is none."""
    return int(connection.execute(LAST_EVENT).fetchone()[0] or 0)


def peers(connection: sqlite3.Connection) -> list[KnownPeer]:
    rows = connection.execute(PEERS).fetchall()
    return [KnownPeer(_id(NodeId, node), _json(tuple[str, ...], addresses), seen) for node, addresses, seen in rows]


def wallet(connection: sqlite3.Connection) -> WalletState | None:
    """The wallet's state, None before it was ever written."""
    row = connection.execute(WALLET, (WALLET_NAME,)).fetchone()
    return None if row is None else decode_wallet(row[0])


def wallet_transactions(
    connection: sqlite3.Connection, before: int | None = None, limit: int = 100
) -> Page[tuple[WalletTxConfirmed, int]]:
    """Confirmed transactions of the wallet, each with the unix seconds at which we saw it confirmed."""
    rows = connection.execute(WALLET_TRANSACTIONS, _bounds(before, limit)).fetchall()
    try:
        found = [
            (WalletTxConfirmed(Txid(txid), BlockHeight(height), Sat(received), Sat(spent)), at)
            for _, txid, height, received, spent, at in rows
        ]
    except ValueError as fault:
        raise CorruptRecord("wallet transaction", str(fault)) from None
    return Page(tuple(found), _older([row[0] for row in rows], limit))


def gossip_after(
    connection: sqlite3.Connection, kind: int, key: bytes = b"", limit: int = MAX_PAGE
) -> list[tuple[bytes, bytes]]:
    """Key and raw message of the next gossip of ``kind`` after ``key``, in the order of keys."""
    return connection.execute(GOSSIP_AFTER, (kind, key, _bounded(limit))).fetchall()


def key_value(connection: sqlite3.Connection, key: str) -> bytes | None:
    row = connection.execute(KEY_VALUE, (key,)).fetchone()
    return None if row is None else row[0]


def number(connection: sqlite3.Connection, key: str) -> int:
    """What was put as big-endian bytes; 0 before."""
    return int.from_bytes(key_value(connection, key) or b"", "big")


# --- peer storage ---------------------------------------------------------------------------------------------------


def kept_blobs(connection: sqlite3.Connection) -> dict[NodeId, int]:
    """Whose blobs we keep, and the block since which each of them has no channel with us."""
    return {_id(NodeId, node): since for node, since in connection.execute(KEPT_BLOBS).fetchall()}


def kept_blob(connection: sqlite3.Connection, node_id: NodeId) -> bytes | None:
    row = connection.execute(KEPT_BLOB, (bytes(node_id),)).fetchone()
    return None if row is None else row[0]


def given_backups(connection: sqlite3.Connection) -> dict[NodeId, tuple[int, int]]:
    """Generation and unix seconds of the backup that each peer was given last."""
    rows = connection.execute(GIVEN_BACKUPS).fetchall()
    return {_id(NodeId, node): (generation, at) for node, generation, at in rows}


# --- inside ---------------------------------------------------------------------------------------------------------


def _bounded(limit: int) -> int:
    return max(1, min(limit, MAX_PAGE))


def _bounds(before: int | None, limit: int) -> tuple[int, int]:
    return (_NEWEST if before is None else before), _bounded(limit)


def _older(numbers: list[int], limit: int) -> int | None:
    return numbers[-1] if len(numbers) == _bounded(limit) else None


def _id(cls: Any, raw: object) -> Any:
    try:
        return cls(raw)
    except (ValueError, TypeError) as fault:
        raise CorruptRecord("identifier", str(fault)) from None


def _json(kind: Any, raw: bytes | str) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as fault:
        raise CorruptRecord("list", str(fault)) from None
