"""A14 griefing by interactive transactions (design discussions on dual funding; Core Lightning #9498, September 2026)

What failed: a peer that begins to build a transaction with us learns our coins, locks them, or keeps us adding inputs.

Defence: dual funding and splicing are not built: node/features.py:FEATURES offers neither,
node/switchboard.py:Switchboard.message answers an open_channel2 with an error, and channel/step.py refuses every
message of the construction without touching the wallet.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from immunity_world import sample

from salama.base.ids import ChannelId
from salama.channel.events import RequestFunding, Send
from salama.channel.state import Phase
from salama.node.features import FEATURES
from salama.node.switchboard import Switchboard
from salama.testing.pair import Pair
from salama.wire import interactive_tx, updates
from salama.wire.features import OPTION_DUAL_FUND, OPTION_SPLICE
from salama.wire.opening import AcceptChannel2, OpenChannel2
from salama.wire.setup import Error

CONSTRUCTION = [
    interactive_tx.TxAddInput,
    interactive_tx.TxAddOutput,
    interactive_tx.TxRemoveInput,
    interactive_tx.TxRemoveOutput,
    interactive_tx.TxComplete,
    interactive_tx.TxSignatures,
    interactive_tx.TxInitRbf,
    interactive_tx.TxAckRbf,
    updates.SpliceInit,
    updates.SpliceAck,
    updates.SpliceLocked,
]


def test_neither_is_offered() -> None:
    assert not FEATURES.has(OPTION_DUAL_FUND) and not FEATURES.has(OPTION_SPLICE)


@pytest.mark.parametrize("kind", [OpenChannel2, AcceptChannel2])
def test_an_opening_of_version_two_is_answered_with_an_error(kind: Any) -> None:
    sent: list[Any] = []
    peer: Any = SimpleNamespace(node_id=b"\x02" * 33, send=sent.append)
    parts: Any = SimpleNamespace(message=lambda *_: False)
    board = Switchboard(parts, lambda: 0.0)
    board.join(parts, parts, parts, parts, parts)
    message = replace(sample(kind), temporary_channel_id=ChannelId(b"\x07" * 32))
    board.message(peer, message)
    assert [(type(m), m.channel_id) for m in sent] == [(Error, message.temporary_channel_id)]


@pytest.mark.parametrize("kind", CONSTRUCTION)
def test_no_message_of_the_construction_reaches_the_wallet(kind: Any) -> None:
    pair = Pair.opened()
    before = pair.bob.record
    message = sample(kind)
    effects = pair.bob.hears(message)
    assert pair.bob.record is before and before.phase is Phase.NORMAL
    assert not any(isinstance(effect, RequestFunding) for effect in effects)
    assert not pair.bob.is_connected
    assert not any(isinstance(e, Send) and isinstance(e.message, tuple(CONSTRUCTION)) for e in effects)
