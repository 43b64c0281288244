"""Numbered migrations: the only place that creates or changes tables.

A migration is never edited once a release carries it; a change is a new one at the end. Each runs in one
transaction together with the number that says it ran, so that a crash leaves the database before it or after it.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from salama.storage.errors import CorruptDatabase, NewerDatabase

APPLICATION_ID: Final = 0x53414C4D
"""``SALM`` in the file's header: tells our database from any other SQLite file."""

_FIRST: Final = (
    # params: written once, when the channel is made. record: everything else that is not an HTLC.
    """CREATE TABLE channels (
        channel_id BLOB PRIMARY KEY, peer BLOB NOT NULL, phase TEXT NOT NULL, open INTEGER NOT NULL,
        params BLOB NOT NULL, record BLOB NOT NULL
    ) STRICT""",
    # What a start loads, and nothing of the channels that are over.
    "CREATE INDEX open_channels ON channels (open) WHERE open = 1",
    # Rows stay after an HTLC is gone: a revoked commitment is rebuilt from first_remote and last_remote
    # (penalties). What only a living one needs is cleared then: payload (the onion) and state (what was decided
    # about it).
    """CREATE TABLE htlcs (
        channel BLOB NOT NULL, side INTEGER NOT NULL, id INTEGER NOT NULL, amount_msat INTEGER NOT NULL,
        payment_hash BLOB NOT NULL, cltv_expiry INTEGER NOT NULL, origin BLOB,
        first_remote INTEGER, last_remote INTEGER, first_local INTEGER, last_local INTEGER, live INTEGER NOT NULL,
        payload BLOB, state BLOB,
        PRIMARY KEY (channel, side, id)
    ) STRICT""",
    "CREATE INDEX live_htlcs ON htlcs (channel) WHERE live = 1",
    "CREATE INDEX htlcs_by_last_remote ON htlcs (channel, last_remote)",
    # Nothing is ever forwarded or sent twice: the database refuses a second live HTLC of the same origin.
    "CREATE UNIQUE INDEX one_live_htlc_per_origin ON htlcs (origin) WHERE live = 1 AND side = 1",
    """CREATE TABLE onion_secrets (
        secret BLOB PRIMARY KEY, channel BLOB NOT NULL, htlc_id INTEGER NOT NULL, cltv_expiry INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX onion_secrets_by_expiry ON onion_secrets (cltv_expiry)",
    """CREATE TABLE handoffs (
        channel BLOB NOT NULL, htlc_id INTEGER NOT NULL, kind TEXT NOT NULL, origin BLOB NOT NULL,
        payload BLOB NOT NULL, PRIMARY KEY (channel, htlc_id)
    ) STRICT""",
    """CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, name TEXT NOT NULL, fields TEXT NOT NULL
    ) STRICT""",
    """CREATE TABLE invoices (
        payment_hash BLOB PRIMARY KEY, created INTEGER NOT NULL, expires INTEGER NOT NULL, status TEXT NOT NULL,
        paid_at INTEGER NOT NULL, received_msat INTEGER NOT NULL, record BLOB NOT NULL
    ) STRICT""",
    """CREATE TABLE payments (
        payment_hash BLOB PRIMARY KEY, created INTEGER NOT NULL, finished INTEGER NOT NULL, status TEXT NOT NULL,
        amount_msat INTEGER NOT NULL, fee_msat INTEGER NOT NULL, record BLOB NOT NULL
    ) STRICT""",
    "CREATE INDEX unfinished_payments ON payments (created) WHERE finished = 0",
    """CREATE TABLE forwards (
        channel_in BLOB NOT NULL, htlc_in INTEGER NOT NULL, channel_out BLOB NOT NULL, htlc_out INTEGER NOT NULL,
        msat_in INTEGER NOT NULL, msat_out INTEGER NOT NULL, status TEXT NOT NULL, at INTEGER NOT NULL,
        PRIMARY KEY (channel_in, htlc_in)
    ) STRICT""",
    "CREATE INDEX forwards_by_time ON forwards (at)",
    """CREATE TABLE peers (
        node_id BLOB PRIMARY KEY, addresses BLOB NOT NULL, last_seen INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    "CREATE TABLE wallet (name TEXT PRIMARY KEY, record BLOB NOT NULL) STRICT",
    """CREATE TABLE wallet_transactions (
        txid BLOB PRIMARY KEY, height INTEGER NOT NULL, received_sat INTEGER NOT NULL, spent_sat INTEGER NOT NULL,
        at INTEGER NOT NULL
    ) STRICT""",
    """CREATE TABLE gossip (
        kind INTEGER NOT NULL, key BLOB NOT NULL, message BLOB NOT NULL, PRIMARY KEY (kind, key)
    ) STRICT, WITHOUT ROWID""",
    "CREATE TABLE key_values (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID",
)

_SECOND: Final = (
    # What the chain says of a channel whose funding is being spent, and the claims under way.
    "CREATE TABLE onchain (channel BLOB PRIMARY KEY, record BLOB NOT NULL) STRICT, WITHOUT ROWID",
    # The account of one channel among the feed's lines.
    """CREATE TABLE channel_events (
        channel TEXT NOT NULL, event INTEGER NOT NULL, PRIMARY KEY (channel, event)
    ) STRICT, WITHOUT ROWID""",
)

_LEDGER: Final = (
    # One line moves an amount from an account to another. key: what must be booked once, and found again to be undone.
    """CREATE TABLE ledger (
        id INTEGER PRIMARY KEY, at INTEGER NOT NULL, source TEXT NOT NULL, target TEXT NOT NULL,
        msat INTEGER NOT NULL CHECK (msat > 0), cause TEXT NOT NULL, key TEXT
    ) STRICT""",
    "CREATE UNIQUE INDEX ledger_keys ON ledger (key) WHERE key IS NOT NULL",
    # Sums, so that nobody has to read the past to know the present.
    "CREATE TABLE ledger_balances (account TEXT PRIMARY KEY, msat INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    """CREATE TRIGGER ledger_sums AFTER INSERT ON ledger BEGIN
        INSERT INTO ledger_balances (account, msat) VALUES (new.target, new.msat)
            ON CONFLICT (account) DO UPDATE SET msat = msat + excluded.msat;
        INSERT INTO ledger_balances (account, msat) VALUES (new.source, -new.msat)
            ON CONFLICT (account) DO UPDATE SET msat = msat + excluded.msat;
    END""",
    # What a transaction that touches the wallet will be for: written before it is published.
    """CREATE TABLE ledger_txs (
        txid BLOB NOT NULL, channel BLOB NOT NULL, cause TEXT NOT NULL, msat INTEGER NOT NULL,
        PRIMARY KEY (txid, channel)
    ) STRICT, WITHOUT ROWID""",
)

_LEDGER_TIMES: Final = (
    # A page of a year that is long over, without reading what came later.
    "CREATE INDEX ledger_by_time ON ledger (at)",
)

_PEER_STORAGE: Final = (
    # What peers gave us to keep, and the block since which its owner has no channel with us (0 while there is one).
    """CREATE TABLE kept_blobs (
        peer BLOB PRIMARY KEY, at INTEGER NOT NULL, alone_since INTEGER NOT NULL, blob BLOB NOT NULL
    ) STRICT""",
    # Which of our backups each peer was given last.
    """CREATE TABLE given_backups (
        peer BLOB PRIMARY KEY, generation INTEGER NOT NULL, at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
)

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (_FIRST, _SECOND, _LEDGER, _LEDGER_TIMES, _PEER_STORAGE)
"""Migration n brings the schema from n to n + 1."""

SCHEMA_VERSION: Final = len(MIGRATIONS)


def migrate(connection: sqlite3.Connection, path: Path, migrations: tuple[tuple[str, ...], ...] = MIGRATIONS) -> int:
    """Bring the database at ``path`` up to date; how many migrations ran.

    Raises NewerDatabase or CorruptDatabase (also for a sound SQLite file that is not ours), and passes on sqlite3's
    errors for a damaged file or a full disk. ``connection`` is in autocommit mode.
    """
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    application: int = connection.execute("PRAGMA application_id").fetchone()[0]
    empty = connection.execute("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)").fetchone()[0] == 1
    if application != APPLICATION_ID and not (empty and application == 0 and version == 0):
        raise CorruptDatabase(path, "it is a database of another program")
    if version > len(migrations):
        raise NewerDatabase(path, version, len(migrations))
    if version < 0 or (version > 0) == empty:
        raise CorruptDatabase(path, f"schema number {version} does not fit its tables")
    for number in range(version, len(migrations)):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in migrations[number]:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {number + 1}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    return len(migrations) - version
