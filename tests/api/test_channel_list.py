"""The list of channels while one of them closes for good."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from salama.api.channels_schema import ChannelsParams
from salama.api.methods import Methods
from salama.base.units import BlockHeight, Msat
from salama.channel.state import Channel
from salama.testing.pair import Pair


def test_a_channel_that_closes_meanwhile_is_listed_once() -> None:
    """It is alive when the list begins, and already written as closed when the disk answers."""
    channel = Pair.opened().alice.state
    assert isinstance(channel, Channel)
    actor = SimpleNamespace(state=channel, record=channel.record, frozen=False)
    alive: dict[Any, Any] = {channel.record.channel_id: actor}

    async def read(_: object) -> object:
        alive.clear()
        return SimpleNamespace(rows=(channel.record,))

    channels = SimpleNamespace(by_id=alive, views=dict, can_receive=lambda _: Msat(0))
    chain = SimpleNamespace(height=BlockHeight(700))
    node = SimpleNamespace(channels=channels, journal=SimpleNamespace(read=read), chain=chain)
    listed = asyncio.run(Methods(cast(Any, node)).channels(ChannelsParams(closed=True)))
    assert [c.channel_id for c in listed.channels] == [str(channel.record.channel_id)]
