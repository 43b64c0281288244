"""J5 a peer that lies about what it keeps for us (BOLT 1, peer storage)

What failed: not published yet; a peer may give back nothing, noise, another node's box or an old one, and an old box
that is believed hides the channels that came after it.

Defence: a box is sealed and counted (storage/backup.py:BackupKey.open); node/peer_storage.py:PeerBoxes.returned takes
from all of them what any one knows (node/recover.py:merged), names whoever gives back less than he was given, and gives
it again.

Not covered: if every peer gives back an old box and there is no file, channels that are not in any of them are found
only once their peer connects and says so.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from salama.base.units import BlockHeight
from salama.channel.backup import backup_of
from salama.node.recover import merged
from salama.storage.backup import BackupKey, BackupUnusable, StaticBackup
from salama.testing.pair import CHAIN, Pair

KEY = BackupKey.of_seed(bytes(32))


def boxes() -> tuple[StaticBackup, StaticBackup]:
    """An old one, and a new one that has lost a channel and won another."""
    pair = Pair.opened()
    one = backup_of(pair.alice.record, ("10.0.0.1:9735",))
    channels = [replace(one, channel_id=type(one.channel_id)(bytes([n]) * 32)) for n in range(3)]
    old = StaticBackup(3, 100, pair.alice.signer.node_id, CHAIN, BlockHeight(9), {("wpkh", 0): 50}, tuple(channels[:2]))
    moved = replace(channels[1], addresses=("10.0.0.2:9735",))
    new = replace(old, generation=8, birthday=BlockHeight(5), branches={("wpkh", 0): 20}, channels=(moved, channels[2]))
    return old, new


def test_what_any_of_them_knows_is_taken() -> None:
    old, new = boxes()
    for order in ([old, new], [new, old]):
        found = merged(order)
        assert [one.channel_id[0] for one in found.channels] == [0, 1, 2]
        assert found.generation == 8 and int(found.birthday) == 5
        assert list(found.branches.values()) == [50]
        assert found.channels[1].addresses == ("10.0.0.2:9735",), "the newer one counts"


@given(st.data())
def test_nothing_but_what_we_sealed_is_believed(data: st.DataObject) -> None:
    _, new = boxes()
    sealed = bytearray(KEY.seal(new, bytes(32), 2000))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    for lie in (bytes(sealed), bytes(sealed[:at])):
        try:
            KEY.open(lie)
        except BackupUnusable:
            continue
        raise AssertionError(f"believed with byte {at} changed")
