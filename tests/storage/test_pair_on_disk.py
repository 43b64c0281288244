"""Two real channel machines, each with a database: every record is written as a difference and comes back equal."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from salama.channel.spec import SpecHtlc
from salama.channel.state import ChannelRecord
from salama.storage import queries
from salama.storage.journal import Journal
from salama.storage.writes import PutChannel
from salama.testing.pair import Pair


@dataclass
class Disk:
    """Writes each record of one side and reads it back; remembers every remote commitment that was ever signed."""

    journal: Journal
    last: ChannelRecord | None = None
    commitments: dict[int, dict[int, SpecHtlc]] = field(default_factory=dict)
    records: int = 0

    def keep(self, record: ChannelRecord) -> ChannelRecord:
        self.journal.commit_now([PutChannel(self.last, record)])
        found = self.journal.read_now(lambda connection: queries.channel(connection, record.channel_id))
        assert found == record
        assert found is not None and list(found.htlcs) == list(record.htlcs)
        remote = record.funding.latest_remote
        before = self.commitments.setdefault(remote.number, dict(remote.spec.htlcs))
        assert before == dict(remote.spec.htlcs), "a signed commitment changed"
        self.last = record
        self.records += 1
        # The same object: the next difference is found by identity, as in a node.
        return record


@pytest.mark.parametrize("seed", range(4))
def test_a_life_of_two_channels_on_disk(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    with Journal.open(tmp_path / "alice") as first, Journal.open(tmp_path / "bob") as second:
        pair = Pair.opened(keeps=None)
        disks = {pair.alice.name: Disk(first), pair.bob.name: Disk(second)}
        for end in (pair.alice, pair.bob):
            end.keeps = disks[end.name].keep
            disks[end.name].keep(end.record)
        for _ in range(200):
            end = dice.choice((pair.alice, pair.bob))
            what = dice.randrange(10)
            if what < 2:
                end.adds(*[dice.randrange(1_000, 3_000_000) for _ in range(dice.randrange(1, 4))])
            elif what == 3 and end.pending:
                end.settles_all()
            elif what == 4 and end.pending:
                end.fails_all()
            elif what == 5 and dice.random() < 0.2:
                pair.cut()
                pair.connect()
            else:
                pair.deliver(end, dice.randrange(1, 40))
        pair.settle()
        pair.alice.settles_all()
        pair.bob.fails_all()
        pair.settle()
        for end in (pair.alice, pair.bob):
            disk = disks[end.name]
            assert disk.records > 40 and len(disk.commitments) > 10
            for number, expected in disk.commitments.items():
                rows = disk.journal.read_now(
                    lambda connection, n=number: queries.htlcs_at(connection, end.record.channel_id, n)  # noqa: B023
                )
                assert {terms.key: terms for terms in rows} == expected and len(rows) == len(expected)
            assert disk.journal.read_now(queries.open_channels) == [end.record]
            assert disk.journal.check() == []
