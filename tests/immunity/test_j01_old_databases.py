"""J1 a backup of the database that is put back (lnd and others: "never restore an old channel.db")

What failed: whoever restored an old copy of the database published a revoked commitment, or was made to by a peer's
error, and lost the channel to the penalty.

Defence: storage/second_copy.py:SecondCopy.open, node/backup.py:Backups.check and
node/peer_storage.py:PeerBoxes.returned refuse to run a database that is older than its copy, its static backup or what
a peer keeps for us. An old one that nobody knows to be old says channel_reestablish first, and is stale for good from
the moment in which the peer proves it (channel/reestablish.py:receive_reestablish), whatever else comes in that moment.
Static backups hold no state that could be published (channel/backup.py:restored_channel).

tests/node/test_old_snapshots.py puts old directories back under running nodes: three at each run, two hundred in the
long run; the chain sees no commitment of theirs.

Not covered: a peer that says an error in place of its channel_reestablish, or nothing until an HTLC's deadline: without
any copy elsewhere an old database cannot know that it is one. And the backup's count knows changes of the set of
channels only; every payment is known to a second copy alone (database_copy).
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from salama.channel.events import MessageReceived
from salama.channel.state import Phase
from salama.storage import queries
from salama.storage.errors import CopyAhead
from salama.storage.journal import Journal
from salama.storage.writes import PutChannel
from salama.testing.pair import Pair
from salama.wire.setup import Error

MOMENTS = 9


def lived(directory: Path) -> Pair:
    """A channel on a real database, and a copy of its directory after every change of it."""
    pair = Pair.opened()
    moments = iter(range(MOMENTS))
    last = None
    with Journal.open(directory / "now", copy=directory / "copy.sqlite3") as journal:

        def keep() -> None:
            nonlocal last
            journal.commit_now([PutChannel(last, pair.alice.record)])
            last = pair.alice.record
            shutil.copytree(directory / "now", directory / str(next(moments)))

        keep()
        for _ in range((MOMENTS - 1) // 4):
            pair.alice.adds(20_000_000)
            keep()
            pair.deliver(pair.alice)
            pair.deliver(pair.bob)
            keep()
            pair.settle()
            keep()
            pair.bob.settles_all()
            pair.settle()
            keep()
    return pair


@pytest.mark.parametrize("moment", range(MOMENTS - 1))
def test_no_moment_of_the_past_is_published(tmp_path: Path, moment: int) -> None:
    pair = lived(tmp_path)
    alice, bob = pair.alice, pair.bob
    current = alice.record
    pair.cut()
    with pytest.raises(CopyAhead):
        Journal.open(tmp_path / str(moment), copy=tmp_path / "copy.sqlite3")
    with Journal.open(tmp_path / str(moment)) as journal:
        (old,) = journal.read_now(queries.open_channels)
    if old.funding.local.number == current.funding.local.number:
        return  # not old
    alice.state = type(alice.channel)(old)
    alice.effects.clear()
    pair.connect()
    (proof,) = bob.sent()
    alice.does(MessageReceived(proof), MessageReceived(Error(channel_id=old.channel_id, data=b"you are behind")))
    pair.settle()
    pair.mines(3000)
    assert alice.record.stale and not alice.broadcasts
    assert bob.record.phase is Phase.ON_CHAIN


def test_the_newest_one_goes_on(tmp_path: Path) -> None:
    pair = lived(tmp_path)
    pair.cut()
    with Journal.open(tmp_path / "now", copy=tmp_path / "copy.sqlite3") as journal:
        (record,) = journal.read_now(queries.open_channels)
    assert replace(record) == pair.alice.record
    pair.alice.state = type(pair.alice.channel)(record)
    pair.connect()
    pair.settle()
    assert pair.alice.record.phase is Phase.NORMAL and not pair.alice.record.stale
