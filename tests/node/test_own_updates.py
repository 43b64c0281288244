"""The times of what we announce are ours: no word of a peer moves them (B7.05)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from salama.base.units import BlockHeight, Msat
from salama.channel.events import AnnounceChannel
from salama.gossip.announce import make_channel_update
from salama.gossip.events import OwnMessage
from salama.gossip.limits import DAY
from salama.node.graph import GossipActor
from salama.payments.views import RelayPolicy
from salama.storage.journal import Journal
from salama.testing.pair import CHAIN, Pair
from salama.wire import ChannelAnnouncement, ChannelUpdate
from salama.wire.features import Features

NOW = 1_800_000_000
TERMS = RelayPolicy(1000, 100, 80, Msat(1), Msat(500_000_000))


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_peer_whose_clock_runs_ahead_does_not_move_ours(tmp_path: Path, who: str) -> None:
    """Else nobody would take our next terms: they would come from further ahead than anybody allows."""
    pair = Pair.opened(announce=True)
    us = getattr(pair, who)
    peer = pair.other(us).signer.node_id
    (announcement,) = [effect.announcement for effect in us.effects if isinstance(effect, AnnounceChannel)]
    assert isinstance(announcement, ChannelAnnouncement)

    async def story(journal: Journal) -> None:
        nothing: Any = None
        actor = GossipActor(
            journal, us.signer, nothing, nothing, lambda: BlockHeight(600), chain_hash=CHAIN, alias="",
            features=Features(), flush_seconds=60.0, outside=SimpleNamespace(now=lambda: NOW),  # type: ignore[arg-type]
        )  # fmt: skip
        told: list[ChannelUpdate] = []
        actor.tell = lambda event: told.append(event.message) if isinstance(event, OwnMessage) else None  # type: ignore[assignment, method-assign, arg-type, return-value]
        assert actor.graph.add_channel(announcement, us.record.funding.capacity)
        theirs = make_channel_update(
            chain_hash=CHAIN, short_channel_id=announcement.short_channel_id, our_node_id=peer,
            their_node_id=us.signer.node_id, timestamp=NOW + DAY, cltv_expiry_delta=80, htlc_minimum=Msat(1),
            htlc_maximum=Msat(1000), fee_base_msat=1, fee_proportional_millionths=1,
        )  # fmt: skip
        actor.graph.apply_update(theirs)
        for _ in range(2):
            actor.update(us.record, TERMS)
        actor.update(us.record, RelayPolicy(2000, 100, 80, Msat(1), Msat(500_000_000)))
        assert [one.timestamp for one in told] == [NOW, NOW + 1]
        actor.graph.apply_update(told[-1])
        actor._own.clear()  # as after a start, when the graph alone knows what we have said
        actor.update(us.record, TERMS)
        assert told[-1].timestamp == NOW + 2

    with Journal.open(tmp_path) as journal:
        asyncio.run(story(journal))
