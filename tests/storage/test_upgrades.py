"""Databases of every schema are opened, brought up to date, and gone on with."""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from make_golden_database import GOLDEN, NAMES, path_of
from storage_samples import INVOICE, PAYMENT, channel_id, point

from salama.base.ids import HtlcRef, NodeId, Side
from salama.bitcoin.networks import REGTEST
from salama.channel.events import CloseChannel, PreimageLearned
from salama.channel.spec import htlc_key
from salama.channel.state import Channel, ChannelRecord
from salama.crypto.secp256k1 import public_key
from salama.crypto.shachain import FIRST_INDEX
from salama.signer.local import LocalSigner
from salama.signer.wallet import WalletKeys
from salama.storage import ledger_check, queries
from salama.storage.database import DATABASE_NAME
from salama.storage.journal import Journal
from salama.storage.schema import SCHEMA_VERSION
from salama.storage.writes import LEDGER_BEGUN, BeginLedger, PutChannel
from salama.testing.pair import Pair
from salama.wallet.coins import new_wallet

KEPT = range(1, SCHEMA_VERSION + 1)
"""Schemas of which databases are kept; ``make_golden_database`` says how the next one joins them."""
PEER_STORAGE = 5
"""The schema that brought it."""


SEEDS = (b"alice" * 5, b"bobby" * 5)
"""Of ``Pair``."""
HELD = [0, 47_100_001, 94_200_002, 54_100_002, 7_000_001, 57_000_001]
"""Msat in HTLCs of each revoked commitment, on either side."""


@dataclass
class Home:
    schema: int
    """As it was found."""
    journal: Journal

    @property
    def record(self) -> ChannelRecord:
        (record,) = self.journal.read_now(queries.open_channels)
        return record


@pytest.fixture(params=KEPT)
def homes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Home]]:
    """Both nodes' databases as a version with that schema left them, opened by this one."""
    with ExitStack() as opened:
        found = {}
        for name in NAMES:
            directory = tmp_path / name
            directory.mkdir(mode=0o700)
            (directory / DATABASE_NAME).write_bytes(gzip.decompress(path_of(request.param, name).read_bytes()))
            before = sqlite3.connect(directory / DATABASE_NAME)
            assert before.execute("PRAGMA user_version").fetchone()[0] == request.param
            before.close()
            found[name] = Home(request.param, opened.enter_context(Journal.open(directory)))
        yield found


def test_every_kept_database_is_tested() -> None:
    kept = {path.name for path in GOLDEN.glob("schema-*")}
    assert kept == {path_of(schema, name).name for schema in KEPT for name in NAMES}


def test_it_is_brought_up_to_date_and_nothing_is_lost(homes: dict[str, Home]) -> None:
    for home in homes.values():
        look = home.journal.read_now
        assert look(lambda db: db.execute("PRAGMA user_version").fetchone()[0]) == SCHEMA_VERSION
        assert look(lambda db: db.execute("PRAGMA integrity_check").fetchall()) == [("ok",)]
        assert look(lambda db: queries.invoice(db, INVOICE.payment_hash)) == INVOICE
        assert look(lambda db: queries.payment(db, PAYMENT.payment_hash)) == PAYMENT
        (forward,) = look(queries.forwards).rows
        assert (forward.incoming.id, forward.outgoing_id, int(forward.amount_in)) == (4, 7, 5_100)
        (peer,) = look(queries.peers)
        assert (peer.node_id, peer.addresses) == (NodeId(point(5)), ("192.0.2.7:9735",))
        assert look(lambda db: queries.key_value(db, "chain.tip")) == bytes(36)
        assert look(lambda db: list(queries.gossip_after(db, 256, b"", 10)))
        has_boxes = home.schema >= PEER_STORAGE
        assert look(queries.kept_blobs) == ({NodeId(point(5)): 800_000} if has_boxes else {})
        assert look(lambda db: queries.kept_blob(db, NodeId(point(5)))) == (b"a sealed box" if has_boxes else None)
        assert look(queries.given_backups) == ({NodeId(point(5)): (3, 1_700_000_000)} if has_boxes else {})
        owner = look(lambda db: queries.onion_owners(db, [b"\x51" * 32]))
        assert owner == {b"\x51" * 32: HtlcRef(channel_id(1), Side.INCOMING, 4)}
        assert look(queries.wallet) == new_wallet(WalletKeys(b"golden" * 4, REGTEST).accounts)
        names = [one.name for one in look(lambda db: queries.events_after(db, 0))]
        assert names == ["channel.pending", "channel.opened"]


def test_htlcs_under_way_are_where_they_were(homes: dict[str, Home]) -> None:
    alice, bob = homes["alice"].record, homes["bob"].record
    assert {(h.side, h.id, int(h.amount)) for h in alice.htlcs.values()} == {
        (Side.OUTGOING, 3, 20_000_000),
        (Side.OUTGOING, 4, 30_000_000),
        (Side.INCOMING, 2, 7_000_001),
        (Side.INCOMING, 3, 20_000_000),
        (Side.INCOMING, 4, 30_000_000),
    }
    assert {(h.side.other, h.id) for h in bob.htlcs.values()} == {(h.side, h.id) for h in alice.htlcs.values()}
    for record, is_signed in ((alice, False), (bob, True)):
        decided = record.htlcs[htlc_key(Side.INCOMING, 3)]
        assert decided.removal is not None and (decided.last_remote is not None) == is_signed
    for home in homes.values():
        preimages = [one for one in home.journal.read_now(queries.handoffs) if isinstance(one, PreimageLearned)]
        assert {one.key.htlc_id for one in preimages} <= {0, 1, 2} and preimages


def test_every_revoked_commitment_can_still_be_punished(homes: dict[str, Home]) -> None:
    """Its secret and its HTLCs are there: what a penalty needs."""
    for name, home in homes.items():
        record = home.record
        revoked = record.funding.remote.number
        assert revoked > 5
        held: list[int] = []
        for number in range(revoked):
            secret = record.their_secrets.secret_at(FIRST_INDEX - number)
            assert secret is not None
            # The other side's secret of this very number, as its signer has it.
            assert public_key(secret) == LocalSigner(SEEDS[name == "alice"])._point(1, number)
            found = home.journal.read_now(partial(queries.htlcs_at, channel_id=record.channel_id, remote_number=number))
            held.append(sum(int(htlc.amount) for htlc in found))
        assert held == HELD


def test_the_channel_goes_on_and_each_turn_is_written(homes: dict[str, Home]) -> None:
    pair = Pair.of()
    ends = {"alice": pair.alice, "bob": pair.bob}
    for name, end in ends.items():
        home = homes[name]
        if home.journal.read_now(lambda db: queries.key_value(db, LEDGER_BEGUN)) is None:
            home.journal.commit_now([BeginLedger((home.record,), home.journal.read_now(queries.wallet))])
        end.state = Channel(home.record)
    known = {name: home.record for name, home in homes.items()}

    def write() -> None:
        for name, end in ends.items():
            if end.record is not known[name]:
                rows, end.rows = list(end.rows), []
                homes[name].journal.commit_now([PutChannel(known[name], end.record), *rows])
                known[name] = end.record

    def settle() -> None:
        while not pair.is_quiet():
            for end in ends.values():
                pair.deliver(end)
                write()

    for end in ends.values():
        pair.restarts(end)
    pair.connect()
    settle()
    for _ in range(2):
        for end in ends.values():
            end.settles_all()
            write()
            settle()
    for end in ends.values():
        end.numbers = iter(range(10, 20))  # type: ignore[assignment]
        end.adds(1_000_000, 2_000)
        write()
        settle()
        pair.other(end).settles_all()
        write()
        settle()
    pair.check()
    assert not pair.alice.record.htlcs and not pair.bob.record.htlcs
    pair.alice.does(CloseChannel(pair.alice.record.params.closing_script))
    write()
    settle()
    for name, home in homes.items():
        assert home.record == known[name] and home.record.mutual_close is not None
        report = home.journal.read_now(lambda db: ledger_check.check(db, deep=True))
        assert all(one.is_sound for one in report.findings), report.findings
