"""Writes golden databases of the schema that the code has: ``python tests/storage/make_golden_database.py``.

Two nodes that share a channel with a past and with HTLCs under way, each with a row of every other kind. Run it with
every new migration, so that each schema that anybody may have on disk stays under test; what it wrote for earlier ones
is never made again.
"""

from __future__ import annotations

import gzip
import sqlite3
import sys
import tempfile
from pathlib import Path

from storage_samples import INVOICE, PAYMENT, channel_id, point

from salama.base.ids import HtlcRef, NodeId, Side
from salama.base.units import CltvExpiry, Msat
from salama.bitcoin.networks import REGTEST
from salama.channel.events import FailHtlc, SettleHtlc
from salama.channel.state import ChannelRecord
from salama.payments.records import ForwardStatus, PutForward, PutInvoice, PutPayment
from salama.signer.wallet import WalletKeys
from salama.storage.database import DATABASE_NAME
from salama.storage.journal import Journal
from salama.storage.schema import SCHEMA_VERSION
from salama.storage.tables import GIVEN_BACKUPS, KEPT_BLOBS
from salama.storage.writes import (
    BeginLedger,
    PutChannel,
    PutGossip,
    PutKeyValue,
    PutPeer,
    PutRecord,
    PutWallet,
    RememberOnion,
)
from salama.testing.pair import End, Pair, preimage_of
from salama.wallet.coins import new_wallet

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("alice", "bob")


def path_of(schema: int, name: str) -> Path:
    return GOLDEN / f"schema-{schema}-{name}.sqlite.gz"


def others(journal: Journal) -> None:
    """A row of every kind that is not a channel's."""
    forward = PutForward(
        incoming=HtlcRef(channel_id(1), Side.INCOMING, 4), outgoing_channel=channel_id(2), outgoing_id=7,
        amount_in=Msat(5_100), amount_out=Msat(5_000), status=ForwardStatus.SETTLED, at=1_700_000_050,
    )  # fmt: skip
    journal.commit_now([PutInvoice(INVOICE), PutPayment(PAYMENT), forward])
    journal.commit_now([PutPeer(NodeId(point(5)), ("192.0.2.7:9735",), 1_700_000_000)])
    journal.commit_now([PutGossip(256, b"key", b"message"), PutKeyValue("chain.tip", bytes(36))])
    journal.commit_now([RememberOnion(b"\x51" * 32, channel_id(1), 4, CltvExpiry(800_500))])
    journal.commit_now([PutWallet(new_wallet(WalletKeys(b"golden" * 4, REGTEST).accounts))])
    journal.commit_now([PutRecord(KEPT_BLOBS, (point(5), 1_700_000_000, 800_000, b"a sealed box"))])
    journal.commit_now([PutRecord(GIVEN_BACKUPS, (point(5), 3, 1_700_000_000))])


def lived(journals: dict[str, Journal]) -> None:
    """The channel of both, written turn by turn as a node does."""
    known: dict[str, ChannelRecord | None] = dict.fromkeys(NAMES)
    pair = Pair.of()

    def write(end: End) -> None:
        record = getattr(end.state, "record", None)
        if record is None:
            return
        changed = [] if record is known[end.name] else [PutChannel(known[end.name], record)]
        rows, end.rows = end.rows, []
        if changed or rows:
            journals[end.name].commit_now([*changed, *rows])
            known[end.name] = record

    def settle() -> None:
        while not pair.is_quiet():
            for end in (pair.alice, pair.bob):
                pair.deliver(end)
                write(pair.alice)
                write(pair.bob)

    pair.opens(1_000_000, 400_000_000)
    settle()
    pair.confirms()
    settle()
    for end in (pair.alice, pair.bob):
        end.adds(40_000_000, 100_000, 7_000_001)
        write(end)
        settle()
    pair.alice.does(SettleHtlc(0, preimage_of(0)), FailHtlc(1, b"no reason"))
    pair.alice.pending.clear()
    write(pair.alice)
    settle()
    pair.bob.settles_all()
    write(pair.bob)
    settle()
    for end in (pair.alice, pair.bob):
        end.adds(20_000_000, 30_000_000)
        write(end)
        settle()
    # One decision is signed and its answer lost, one is on record and was never sent.
    pair.bob.does(SettleHtlc(3, preimage_of(3)))
    write(pair.bob)
    pair.cut()
    pair.alice.does(SettleHtlc(3, preimage_of(3)))
    write(pair.alice)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        homes = {name: Path(directory) / name for name in NAMES}
        journals = {name: Journal.open(home, clock=lambda: 1_700_000_000) for name, home in homes.items()}
        for journal in journals.values():
            journal.commit_now([BeginLedger((), None)])
        lived(journals)
        for name, home in homes.items():
            others(journals[name])
            journals[name].close()
            whole = sqlite3.connect(home / DATABASE_NAME, isolation_level=None)
            whole.execute("VACUUM")
            whole.execute("PRAGMA journal_mode = DELETE")
            whole.close()
            file = path_of(SCHEMA_VERSION, name)
            if file.exists():
                sys.exit(f"{file.name} is there already")
            file.write_bytes(gzip.compress((home / DATABASE_NAME).read_bytes(), mtime=0))


__all__ = ["GOLDEN", "NAMES", "path_of"]

if __name__ == "__main__":
    main()
