"""What a recovery writes before the node starts: into empty directories only, for their owner only, and again without
harm (immunity J1, J2).
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from salama.base.ids import BlockHash, ChannelId
from salama.base.machine import CommandRefused
from salama.base.units import BlockHeight
from salama.bitcoin.networks import REGTEST
from salama.channel.backup import backup_of
from salama.node.backup import GENERATION
from salama.node.chain import TIP
from salama.node.recover import NotEmpty, is_recovering, prepare
from salama.signer.local import LocalSigner
from salama.signer.wallet import WalletKeys
from salama.storage import queries
from salama.storage.backup import StaticBackup
from salama.storage.journal import Journal
from salama.storage.writes import PutChannel
from salama.testing.pair import Pair

SEED = bytes(range(32))
SIGNER, KEYS = LocalSigner(SEED), WalletKeys(SEED, REGTEST)


def a_backup(channels: int = 2) -> StaticBackup:
    one = replace(backup_of(Pair.opened().alice.record, ("10.0.0.1:9735", "nowhere:0", "")), opened_at=BlockHeight(70))
    kept = tuple(replace(one, channel_id=ChannelId(bytes([n]) * 32), key_index=n) for n in range(channels))
    chain = BlockHash(REGTEST.chain_hash)
    return StaticBackup(7, 0, SIGNER.node_id, chain, BlockHeight(50), {("wpkh", 0): 90}, kept)


def prepared(journal: Journal, backup: StaticBackup | None, height: int = 100) -> None:
    async def hash_at(asked: int) -> BlockHash | None:
        return BlockHash(bytes([asked]) * 32) if asked <= height else None

    asyncio.run(prepare(journal, SIGNER, KEYS, REGTEST, backup, hash_at, lambda limit: limit // 3, 1))


def test_it_knows_what_the_backup_knows_and_twice_is_once(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        for _ in range(2):
            prepared(journal, a_backup())
            records = journal.read_now(queries.open_channels)
            assert len(records) == 2 and all(one.stale and one.restored for one in records)
            assert is_recovering(journal, records)
            (peer,) = journal.read_now(queries.peers)
            assert peer.addresses == ("10.0.0.1:9735",), "what is no address would stop the next start"
            wallet = journal.read_now(queries.wallet)
            assert wallet is not None and wallet.branches["wpkh", 0].watched >= 90 + 20
            tip = journal.read_now(lambda db: queries.key_value(db, TIP))
            assert tip == (49).to_bytes(4, "big") + bytes([49]) * 32
        prepared(journal, a_backup(3))
        assert len(journal.read_now(queries.open_channels)) == 3


@pytest.mark.parametrize("backup", [a_backup(), None], ids=["with a backup", "by words alone"])
def test_no_backup_of_the_former_life_counts_as_newer(tmp_path: Path, backup: StaticBackup | None) -> None:
    with Journal.open(tmp_path) as journal:
        prepared(journal, backup)
        generation = journal.read_now(lambda db: queries.key_value(db, GENERATION))
        assert int.from_bytes(generation or b"", "big") > 1_000_000


def test_a_living_database_is_left_alone(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        journal.commit_now([PutChannel(None, Pair.opened().alice.record)])
        with pytest.raises(NotEmpty):
            prepared(journal, a_backup())
        assert len(journal.read_now(queries.open_channels)) == 1


@pytest.mark.parametrize("foreign", ["node", "chain"])
def test_the_backup_of_somebody_else_is_refused(tmp_path: Path, foreign: str) -> None:
    other = {"node": {"node_id": Pair.opened().bob.signer.node_id}, "chain": {"chain_hash": BlockHash(bytes(32))}}
    with Journal.open(tmp_path) as journal:
        with pytest.raises(CommandRefused, match="another node or another network"):
            prepared(journal, replace(a_backup(), **other[foreign]))  # type: ignore[arg-type]
        assert not journal.read_now(queries.open_channels)


def test_a_chain_that_is_behind_is_told(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        with pytest.raises(CommandRefused, match="does not know block 49"):
            prepared(journal, a_backup(), height=20)
        assert not journal.read_now(queries.open_channels)
