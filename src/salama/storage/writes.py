"""What may be written, as plain data, and the one place where it becomes SQL.

A machine's rows (``base.machine.Row``) are written as they are: whatever a transition carries goes to
``Journal.commit`` beside the change of its record. A record is written by comparing old and new, so that a commit
costs what changed and not what there is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from salama.base.ids import ChannelId, NodeId, Txid
from salama.base.machine import Row
from salama.base.units import BlockHeight, CltvExpiry
from salama.channel.events import Consumed, HtlcFailed, LatePreimage, PreimageLearned, PublicEvent
from salama.channel.state import ChannelRecord, Htlc
from salama.onchain.events import OutputsLeft
from salama.onchain.state import OnchainRecord
from salama.payments.records import ForwardStatus, Invoice, Payment, PutForward, PutInvoice, PutPayment
from salama.storage import ledger, tables
from salama.storage.layouts import Codec, NoLayout
from salama.storage.records import (
    INCOMING,
    OUTGOING,
    encode_htlc,
    encode_params,
    encode_slim,
    encode_state,
    is_open,
    state_of,
)
from salama.storage.tables import SqlValue, Statement, Table
from salama.storage.wallet_record import encode_wallet
from salama.wallet.coins import WalletState
from salama.wallet.events import WalletTxConfirmed, WalletTxUnconfirmed

log = logging.getLogger("salama.storage")


class Write:
    """Something to be written that is not a machine's row."""

    __slots__ = ()


AnyWrite = Write | Row


@dataclass(frozen=True, slots=True)
class PutChannel(Write):
    """A channel's record changed from ``old`` (None if it is new) to ``new``."""

    old: ChannelRecord | None
    new: ChannelRecord


@dataclass(frozen=True, slots=True)
class PutOnchain(Write):
    """What the chain says of a closed channel, and our claims under way; with ``channel`` for the ledger."""

    record: OnchainRecord
    old: OnchainRecord | None = field(default=None, repr=False)
    channel: ChannelRecord | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class PutWallet(Write):
    """The wallet's state as it is now."""

    state: WalletState


@dataclass(frozen=True, slots=True)
class BeginLedger(Write):
    """The first lines of the ledger: what was there before it; written once."""

    records: tuple[ChannelRecord, ...]
    wallet: WalletState | None


@dataclass(frozen=True, slots=True)
class ExplainTransaction(Write):
    """In a word, what a transaction of the wallet is for where the ledger could not tell; before it is published."""

    txid: Txid
    cause: str


@dataclass(frozen=True, slots=True)
class RememberOnion(Write):
    """An incoming HTLC's onion was read: ``secret`` is a hash of its shared secret (B4.03).

    Written again for the same HTLC it changes nothing; for another one the first stays, which
    ``queries.onion_owner`` tells.
    """

    secret: bytes
    channel_id: ChannelId
    htlc_id: int
    cltv_expiry: CltvExpiry


@dataclass(frozen=True, slots=True)
class ForgetOnions(Write):
    """Onions of HTLCs that expired before ``height`` cannot be replayed: a replay would have expired as well."""

    height: BlockHeight


@dataclass(frozen=True, slots=True)
class PutPeer(Write):
    """A peer that we know: where it was reached, and when it was seen (unix seconds). ``addresses`` in our own
    order.
    """

    node_id: NodeId
    addresses: tuple[str, ...]
    last_seen: int


@dataclass(frozen=True, slots=True)
class ForgetPeer(Write):
    node_id: NodeId


@dataclass(frozen=True, slots=True)
class PutGossip(Write):
    """A gossip message, raw as it was signed; ``kind`` is its message type, ``key`` what a newer one replaces."""

    kind: int
    key: bytes
    message: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class DropGossip(Write):
    kind: int
    key: bytes


@dataclass(frozen=True, slots=True)
class PutKeyValue(Write):
    """A setting or a small state under a name of its own, such as ``chain.tip``."""

    key: str
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PutRecord(Write):
    """A whole row of any table: ``values`` in the order of its columns."""

    table: Table
    values: tuple[SqlValue, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class DeleteRecord(Write):
    """The row of ``table`` under ``key``, if there is one."""

    table: Table
    key: tuple[SqlValue, ...]


@dataclass(frozen=True, slots=True)
class MarkAlone(Write):
    """The owner of a box that we keep has had no channel with us since block ``since``; 0: it has one again.

    The box itself may be on its way to the disk at the same moment, and is left to that write.
    """

    node_id: NodeId
    since: int


class NoStatement(TypeError):
    """A kind of write that nobody taught the journal: a programming fault."""


# --- statements beyond put and delete -------------------------------------------------------------------------------

UPDATE_CHANNEL: Final = "UPDATE channels SET phase = ?, open = ?, record = ? WHERE channel_id = ?"
_HTLC_KEY: Final = "WHERE channel = ? AND side = ? AND id = ?"
MOVE_HTLC: Final = f"UPDATE htlcs SET first_remote = ?, last_remote = ?, first_local = ?, last_local = ? {_HTLC_KEY}"
DECIDE_HTLC: Final = (
    f"UPDATE htlcs SET first_remote = ?, last_remote = ?, first_local = ?, last_local = ?, state = ? {_HTLC_KEY}"
)
_KEPT: Final = ", ".join(column for column in tables.HTLCS.columns if column not in ("live", "payload", "state"))
# Not an UPDATE: SQLite leaves the room of a row that shrinks empty, 1,900 bytes for each HTLC for ever. Taken out and
# appended without its onion, the row gives its pages back. It leaves the one other unique index with ``live``.
RESOLVE_HTLC: Final = (
    f"REPLACE INTO htlcs ({_KEPT}, live, payload, state) SELECT {_KEPT}, 0, NULL, NULL FROM htlcs {_HTLC_KEY}"
)
ADD_EVENT: Final = "INSERT INTO events (at, name, fields) VALUES (?, ?, ?)"
ADD_CHANNEL_EVENT: Final = "INSERT INTO channel_events (channel, event) VALUES (?, last_insert_rowid())"
# A preimage is money and is never replaced by a failure, whatever is reported later.
ADD_HANDOFF: Final = (
    f"{tables.HANDOFFS.put.partition(' DO ')[0]} DO UPDATE SET kind = excluded.kind, origin = excluded.origin,"
    " payload = excluded.payload WHERE handoffs.kind <> 'preimage'"
)
# What became of a relay that nobody remembers: both its HTLCs are still listed. What was settled stays so.
LATE_FORWARD: Final = (
    f"INSERT INTO forwards ({', '.join(tables.FORWARDS.columns)})"
    " SELECT came.channel, came.id, went.channel, went.id, came.amount_msat, went.amount_msat, ?5, ?6"
    f" FROM htlcs AS came, htlcs AS went WHERE came.channel = ?1 AND came.side = {INCOMING} AND came.id = ?2"
    f" AND went.channel = ?3 AND went.side = {OUTGOING} AND went.id = ?4"
    " ON CONFLICT (channel_in, htlc_in) DO UPDATE SET channel_out = excluded.channel_out, htlc_out = excluded.htlc_out,"
    " msat_in = excluded.msat_in, msat_out = excluded.msat_out, status = excluded.status, at = excluded.at"
    " WHERE forwards.status <> 'settled'"
)
REMEMBER_ONION: Final = f"{tables.ONION_SECRETS.put.partition(' DO ')[0]} DO NOTHING"
FORGET_ONIONS: Final = "DELETE FROM onion_secrets WHERE cltv_expiry < ?"
MARK_ALONE: Final = "UPDATE kept_blobs SET alone_since = ? WHERE peer = ?"

MUST_FIND_ITS_ROW: Final = frozenset((UPDATE_CHANNEL, MOVE_HTLC, DECIDE_HTLC, RESOLVE_HTLC))
"""Statements that change exactly one row; finding none means that the old record given is not the one on disk."""


# --- records of other rooms -----------------------------------------------------------------------------------------

INVOICE: Final = Codec(Invoice, "invoice")
PAYMENT: Final = Codec(Payment, "payment")
ONCHAIN: Final = Codec(OnchainRecord, "closed channel")
WALLET_NAME: Final = "main"
LEDGER_BEGUN: Final = "ledger.begun"
FAILED_HANDOFF: Final = Codec(HtlcFailed, "handoff", given=("key", "origin"))

PREIMAGE, FAILED = "preimage", "failed"
"""Column ``kind`` of a handoff."""

_json: Final = msgspec.json.Encoder().encode


def _booked(book: Callable[..., list[Statement]], *given: Any) -> list[Statement]:
    """The ledger's lines. A fault of the bookkeeping must not keep what protects money from the disk: it is logged, and
    `salama ledger check` shows what is missing.
    """
    try:
        return book(*given)
    except Exception:
        log.exception("the ledger has no lines for a change: the check will differ")
        return []


def _channel(write: PutChannel, now: int) -> list[Statement]:
    statements = _channel_rows(write)
    return [*statements, *_booked(ledger.of_channel, write.old, write.new, now)] if statements else statements


def _channel_rows(write: PutChannel) -> list[Statement]:
    old, new = write.old, write.new
    if old is new:
        return []
    channel = bytes(new.channel_id)
    if old is None or (old.params is not new.params and old.params != new.params):
        peer, params = bytes(new.params.their_node_id), encode_params(new.params)
        row = (channel, peer, new.phase.value, int(is_open(new)), params, encode_slim(new))
        statements: list[Statement] = [(tables.CHANNELS.put, row)]
    else:
        statements = [(UPDATE_CHANNEL, (new.phase.value, int(is_open(new)), encode_slim(new), channel))]
    before = {} if old is None else old.htlcs
    after = new.htlcs
    if before is after:
        return statements
    for key, htlc in after.items():
        was = before.get(key)
        if was is not htlc:
            statements.append(_changed(channel, was, htlc))
    if len(before) + len(statements) - 1 != len(after):
        for key, htlc in before.items():
            if key not in after:
                statements.append((RESOLVE_HTLC, (channel, _side(htlc), htlc.id)))
    return statements


def _side(htlc: Htlc) -> int:
    return OUTGOING if htlc.key & 1 == 0 else INCOMING


def _changed(channel: bytes, was: Htlc | None, htlc: Htlc) -> Statement:
    if (
        was is None
        or (was.terms is not htlc.terms and was.terms != htlc.terms)
        or was.onion != htlc.onion
        or was.origin != htlc.origin
    ):
        return tables.HTLCS.put, (channel, *encode_htlc(htlc))
    numbers = (htlc.first_remote, htlc.last_remote, htlc.first_local, htlc.last_local)
    if state_of(was) == state_of(htlc):
        return MOVE_HTLC, (*numbers, channel, _side(htlc), htlc.id)
    return DECIDE_HTLC, (*numbers, encode_state(htlc), channel, _side(htlc), htlc.id)


def _preimage(row: PreimageLearned, now: int) -> list[Statement]:
    return [
        (ADD_HANDOFF, (bytes(row.key.channel_id), row.key.htlc_id, PREIMAGE, bytes(row.origin), bytes(row.preimage)))
    ]


def _failed(row: HtlcFailed, now: int) -> list[Statement]:
    payload = FAILED_HANDOFF.encode(row)
    return [(ADD_HANDOFF, (bytes(row.key.channel_id), row.key.htlc_id, FAILED, bytes(row.origin), payload))]


def _consumed(row: Consumed, now: int) -> list[Statement]:
    return [(tables.HANDOFFS.delete, (bytes(row.key.channel_id), row.key.htlc_id))]


def _event(row: PublicEvent, now: int) -> list[Statement]:
    fields = dict(row.fields)
    line: Statement = (ADD_EVENT, (now, row.name, _json(fields).decode()))
    channel = fields.get("channel_id")
    return [line, (ADD_CHANNEL_EVENT, (channel,))] if isinstance(channel, str) else [line]


def _invoice(row: PutInvoice, now: int) -> list[Statement]:
    one = row.invoice
    columns = (
        bytes(one.payment_hash), one.created, one.expires, one.status.value, one.paid_at, int(one.received),
        INVOICE.encode(one),
    )  # fmt: skip
    return [(tables.INVOICES.put, columns), *_booked(ledger.of_invoice, one, now)]


def _payment(row: PutPayment, now: int) -> list[Statement]:
    one = row.payment
    # A payment has its result with its first part, and its end with the last: until then start-up must know of it.
    ended = 0 if one.in_flight else one.finished
    columns = (
        bytes(one.payment_hash), one.created, ended, one.status.value, int(one.amount), int(one.fee),
        PAYMENT.encode(one),
    )  # fmt: skip
    return [(tables.PAYMENTS.put, columns), *_booked(ledger.of_payment, one, now)]


def _forward(row: PutForward, now: int) -> list[Statement]:
    columns = (
        bytes(row.incoming.channel_id), row.incoming.id, bytes(row.outgoing_channel), row.outgoing_id,
        int(row.amount_in), int(row.amount_out), row.status.value, row.at,
    )  # fmt: skip
    return [(tables.FORWARDS.put, columns), *_booked(ledger.of_forward, row, now)]


def _late(row: LatePreimage, now: int) -> list[Statement]:
    outcome = ForwardStatus.SETTLED if row.is_used else ForwardStatus.LOST
    incoming, outgoing = row.incoming, row.outgoing
    ends = (bytes(incoming.channel_id), incoming.id, bytes(outgoing.channel_id), outgoing.htlc_id)
    return [(LATE_FORWARD, (*ends, outcome.value, now)), *_booked(ledger.of_late, row, now)]


def _onchain(write: PutOnchain, now: int) -> list[Statement]:
    lines: list[Statement] = [(tables.ONCHAIN.put, (bytes(write.record.channel_id), ONCHAIN.encode(write.record)))]
    if write.channel is not None:
        lines += _booked(ledger.of_onchain, write.old, write.record, write.channel, now)
    return lines


def _left(row: OutputsLeft, now: int) -> list[Statement]:
    return _booked(ledger.of_left, row, now)


def _wallet(write: PutWallet, now: int) -> list[Statement]:
    return [(tables.WALLET.put, (WALLET_NAME, encode_wallet(write.state)))]


def _wallet_confirmed(row: WalletTxConfirmed, now: int) -> list[Statement]:
    columns = (bytes(row.txid), int(row.height), int(row.received), int(row.spent), now)
    return [(tables.WALLET_TRANSACTIONS.put, columns), *_booked(ledger.of_wallet_tx, row, now)]


def _wallet_unconfirmed(row: WalletTxUnconfirmed, now: int) -> list[Statement]:
    return [(tables.WALLET_TRANSACTIONS.delete, (bytes(row.txid),)), *_booked(ledger.of_wallet_undo, row, now)]


def _begin_ledger(write: BeginLedger, now: int) -> list[Statement]:
    mark = (tables.KEY_VALUES.put, (LEDGER_BEGUN, b"1"))
    return [mark, *_booked(ledger.opening, list(write.records), write.wallet, now)]


def _explain(write: ExplainTransaction, now: int) -> list[Statement]:
    return [(ledger.EXPECT, (bytes(write.txid), b"", write.cause, 0))]


def _remember(write: RememberOnion, now: int) -> list[Statement]:
    return [(REMEMBER_ONION, (bytes(write.secret), bytes(write.channel_id), write.htlc_id, int(write.cltv_expiry)))]


def _forget_onions(write: ForgetOnions, now: int) -> list[Statement]:
    return [(FORGET_ONIONS, (int(write.height),))]


def _peer(write: PutPeer, now: int) -> list[Statement]:
    return [(tables.PEERS.put, (bytes(write.node_id), _json(write.addresses), write.last_seen))]


def _forget_peer(write: ForgetPeer, now: int) -> list[Statement]:
    return [(tables.PEERS.delete, (bytes(write.node_id),))]


def _gossip(write: PutGossip, now: int) -> list[Statement]:
    return [(tables.GOSSIP.put, (write.kind, bytes(write.key), bytes(write.message)))]


def _drop_gossip(write: DropGossip, now: int) -> list[Statement]:
    return [(tables.GOSSIP.delete, (write.kind, bytes(write.key)))]


def _key_value(write: PutKeyValue, now: int) -> list[Statement]:
    return [(tables.KEY_VALUES.put, (write.key, bytes(write.value)))]


def _record(write: PutRecord, now: int) -> list[Statement]:
    return [(write.table.put, tuple([_exact(value) for value in write.values]))]


def _mark_alone(write: MarkAlone, now: int) -> list[Statement]:
    return [(MARK_ALONE, (write.since, bytes(write.node_id)))]


def _delete(write: DeleteRecord, now: int) -> list[Statement]:
    return [(write.table.delete, tuple([_exact(value) for value in write.key]))]


def _exact(value: SqlValue) -> SqlValue:
    """Ids and units as what they are made of: SQLite takes neither."""
    if isinstance(value, bytes):
        return bytes(value)
    return int(value) if isinstance(value, int) else value


_STATEMENTS: Final[dict[type, Callable[[Any, int], list[Statement]]]] = {
    PutChannel: _channel,
    PreimageLearned: _preimage,
    HtlcFailed: _failed,
    Consumed: _consumed,
    PublicEvent: _event,
    PutInvoice: _invoice,
    PutPayment: _payment,
    PutForward: _forward,
    LatePreimage: _late,
    PutOnchain: _onchain,
    OutputsLeft: _left,
    PutWallet: _wallet,
    WalletTxConfirmed: _wallet_confirmed,
    WalletTxUnconfirmed: _wallet_unconfirmed,
    BeginLedger: _begin_ledger,
    ExplainTransaction: _explain,
    RememberOnion: _remember,
    ForgetOnions: _forget_onions,
    PutPeer: _peer,
    ForgetPeer: _forget_peer,
    PutGossip: _gossip,
    DropGossip: _drop_gossip,
    PutKeyValue: _key_value,
    PutRecord: _record,
    DeleteRecord: _delete,
    MarkAlone: _mark_alone,
}


def statements_of(write: AnyWrite, now: int) -> list[Statement]:
    """The statements of one write; ``now`` in unix seconds dates the event feed. Raises NoStatement or NoLayout."""
    translate = _STATEMENTS.get(write.__class__)
    if translate is None:
        raise NoStatement(f"the journal does not know how to write a {type(write).__name__}")
    return translate(write, now)


__all__ = ["AnyWrite", "NoLayout", "NoStatement", "Write", "statements_of"]
