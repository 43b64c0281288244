"""J3 a peer that does not act when we have lost our data (lnd#7301 and others)

What failed: nodes restored from a static backup waited for peers that ignored what they were told, or told it in a form
that the peer did not understand.

Defence: a restored channel asks at every connection, in both ways that are understood: channel_reestablish with numbers
that no peer can go on with (channel/reestablish.py:our_reestablish), then an error. It is closed by any commitment of
the peer's, also one of which we know nothing (onchain/identify.py:identify). `salama recovery` says for each channel
what is missing and for how long (node/recover.py:progress).

Not covered: a peer that never publishes keeps its own money locked beside ours, and nothing can make it. Held against
this node itself; no other node was asked yet.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from salama.base.ids import ShortChannelId
from salama.base.units import BlockHeight
from salama.channel.backup import backup_of, restored_channel
from salama.channel.state import Channel, Phase
from salama.node.recover import progress, summary
from salama.testing.pair import CHAIN, Pair
from salama.wire.setup import Error
from salama.wire.updates import ChannelReestablish


def restored_pair() -> Pair:
    pair = Pair.opened()
    pair.cut()
    alice = pair.alice
    kept = backup_of(alice.record, ())
    keys = alice.signer.channel_keys(kept.key_index)
    alice.state = Channel(restored_channel(kept, keys, alice.signer.node_id, CHAIN, ShortChannelId(0x0A11)))
    alice.effects.clear()
    return pair


def test_it_is_asked_at_every_connection() -> None:
    pair = restored_pair()
    for _ in range(5):
        pair.connect()
        asked, why = pair.alice.sent()
        assert isinstance(asked, ChannelReestablish) and isinstance(why, Error)
        assert (asked.next_commitment_number, asked.next_revocation_number) == (0, 0)
        pair.cut()  # deaf
    assert not pair.alice.broadcasts and pair.alice.record.phase is Phase.AWAITING_FUNDING


def test_a_person_is_told_what_is_missing() -> None:
    pair = restored_pair()
    env: Any = SimpleNamespace(height=BlockHeight(int(pair.alice.record.opened_at) + 16), irrevocable_depth=100)
    seen = progress(pair.alice.record, None, env, is_connected=False, has_address=False)
    assert seen.stage == "unseen" and "given up in 2000 blocks" in seen.words
    assert summary([seen], True) == "0 of 1 channels are home. Of the others: 1 not seen in the chain yet."
