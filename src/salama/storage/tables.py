"""The tables as they stand after every migration, each with its statements in one place.

A table here is its name, its key and its columns; ``put`` and ``delete`` are prepared once and reach rows by key
only. Reading statements stand in ``queries``. Amounts are whole millisatoshis, times unix seconds, ids and hashes
blobs; 64-bit unsigned numbers (short channel ids) are blobs of 8 bytes, because SQLite's integers are signed and
big-endian blobs sort alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

SqlValue = int | bytes | str | None
"""What we bind. No floats: nothing that we keep is approximate."""

Statement = tuple[str, tuple[SqlValue, ...]]
"""One prepared statement with its values."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table reached by ``key``; ``columns`` lists the key's columns first."""

    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    put: str = field(init=False)
    """Insert or replace a whole row."""
    delete: str = field(init=False)

    def __post_init__(self) -> None:
        names, marks = ", ".join(self.columns), ", ".join("?" * len(self.columns))
        rest = [column for column in self.columns if column not in self.key]
        change = ", ".join(f"{column} = excluded.{column}" for column in rest)
        then = f"UPDATE SET {change}" if rest else "NOTHING"
        # ON CONFLICT names the key, so that a clash with any *other* unique index is an error and not a silent deletion
        # of the other row, as INSERT OR REPLACE would have it.
        put = f"INSERT INTO {self.name} ({names}) VALUES ({marks}) ON CONFLICT ({', '.join(self.key)}) DO {then}"
        object.__setattr__(self, "put", put)
        where = " AND ".join(f"{column} = ?" for column in self.key)
        object.__setattr__(self, "delete", f"DELETE FROM {self.name} WHERE {where}")


CHANNELS: Final = Table("channels", ("channel_id",), ("channel_id", "peer", "phase", "open", "params", "record"))
HTLCS: Final = Table(
    "htlcs",
    ("channel", "side", "id"),
    (
        "channel", "side", "id", "amount_msat", "payment_hash", "cltv_expiry", "origin",
        "first_remote", "last_remote", "first_local", "last_local", "live", "payload", "state",
    ),
)  # fmt: skip
ONION_SECRETS: Final = Table("onion_secrets", ("secret",), ("secret", "channel", "htlc_id", "cltv_expiry"))
HANDOFFS: Final = Table("handoffs", ("channel", "htlc_id"), ("channel", "htlc_id", "kind", "origin", "payload"))
EVENTS: Final = Table("events", ("id",), ("id", "at", "name", "fields"))
INVOICES: Final = Table(
    "invoices",
    ("payment_hash",),
    ("payment_hash", "created", "expires", "status", "paid_at", "received_msat", "record"),
)
PAYMENTS: Final = Table(
    "payments",
    ("payment_hash",),
    ("payment_hash", "created", "finished", "status", "amount_msat", "fee_msat", "record"),
)
FORWARDS: Final = Table(
    "forwards",
    ("channel_in", "htlc_in"),
    ("channel_in", "htlc_in", "channel_out", "htlc_out", "msat_in", "msat_out", "status", "at"),
)
PEERS: Final = Table("peers", ("node_id",), ("node_id", "addresses", "last_seen"))
WALLET: Final = Table("wallet", ("name",), ("name", "record"))
WALLET_TRANSACTIONS: Final = Table(
    "wallet_transactions", ("txid",), ("txid", "height", "received_sat", "spent_sat", "at")
)
GOSSIP: Final = Table("gossip", ("kind", "key"), ("kind", "key", "message"))
KEY_VALUES: Final = Table("key_values", ("key",), ("key", "value"))

CHANNEL_EVENTS: Final = Table("channel_events", ("channel", "event"), ("channel", "event"))
ONCHAIN: Final = Table("onchain", ("channel",), ("channel", "record"))

LEDGER: Final = Table("ledger", ("id",), ("id", "at", "source", "target", "msat", "cause", "key"))
LEDGER_BALANCES: Final = Table("ledger_balances", ("account",), ("account", "msat"))
LEDGER_TXS: Final = Table("ledger_txs", ("txid", "channel"), ("txid", "channel", "cause", "msat"))

KEPT_BLOBS: Final = Table("kept_blobs", ("peer",), ("peer", "at", "alone_since", "blob"))
GIVEN_BACKUPS: Final = Table("given_backups", ("peer",), ("peer", "generation", "at"))

TABLES: Final = (
    CHANNELS, HTLCS, ONION_SECRETS, HANDOFFS, EVENTS, INVOICES, PAYMENTS, FORWARDS, PEERS, WALLET, WALLET_TRANSACTIONS,
    GOSSIP, KEY_VALUES,
    ONCHAIN, CHANNEL_EVENTS,
    LEDGER, LEDGER_BALANCES, LEDGER_TXS,
    KEPT_BLOBS, GIVEN_BACKUPS,
)  # fmt: skip
