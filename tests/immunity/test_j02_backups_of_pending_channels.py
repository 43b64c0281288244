"""J2 a static backup that is of no use for a channel that was not confirmed yet (lnd#3444)

What failed: the backup was written, or was usable, only once the funding had confirmed: a disk lost in the hour before
cost the channel.

Defence: node/channel_actor.py:ChannelActor.secured has a new channel in the backup before its record's first message is
said (node/backup.py:Backups.renew); nothing in it depends on what comes later (channel/backup.py:backup_of).

tests/node/test_recover.py cuts the power of either side at lines of the shell all through an opening, loses its disk
and recovers it: 14 of them at each run, every 23rd line in the long run.

Not covered: the disk beside the database is lost with it: a copy elsewhere (backup_copies, or a peer's box) is asked of
the operator, and missed in `salama doctor`.
"""

from __future__ import annotations

import pytest

from salama.base.ids import ShortChannelId
from salama.channel.backup import ChannelBackup, backup_of, restored_channel
from salama.channel.state import Channel, Phase
from salama.storage.layouts import Codec
from salama.testing.pair import CHAIN, Pair


def test_a_backup_never_changes_while_its_channel_lives() -> None:
    pair = Pair.opened()
    first = backup_of(pair.alice.record, ())
    for _ in range(3):
        pair.alice.adds(20_000_000)
        pair.settle()
        pair.bob.settles_all()
        pair.settle()
        assert backup_of(pair.alice.record, ()) == first


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_it_is_enough_before_anything_is_confirmed(who: str) -> None:
    pair = Pair.opened()
    end = getattr(pair, who)
    codec = Codec(ChannelBackup, "backup")
    kept = codec.decode(codec.encode(backup_of(end.record, ())))
    made = restored_channel(
        kept, end.signer.channel_keys(kept.key_index), end.signer.node_id, CHAIN, ShortChannelId(0x0A11)
    )
    assert made.phase is Phase.AWAITING_FUNDING and made.funding.confirmation is None and made.stale
    pair.cut()
    end.state = Channel(made)
    end.effects.clear()
    pair.connect()
    pair.settle()
    assert not end.broadcasts and pair.other(end).record.phase is Phase.ON_CHAIN
