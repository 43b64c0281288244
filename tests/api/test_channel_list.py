"""The list of channels while one of them closes for good."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from salama.api.channels_schema import ChannelsParams
from salama.api.methods import Methods
from salama.base.ids import ChannelId
from salama.base.machine import CommandRefused
from salama.base.units import BlockHeight, Msat
from salama.channel.policy import DEFAULT_POLICY
from salama.channel.state import Channel
from salama.node.fees import RelayTerms
from salama.storage import queries
from salama.testing.pair import Pair


def test_a_channel_that_closes_meanwhile_is_listed_once() -> None:
    """It is alive when the list begins, and already written as closed when the disk answers."""
    channel = Pair.opened().alice.state
    assert isinstance(channel, Channel)
    actor = SimpleNamespace(state=channel, record=channel.record, frozen=False)
    alive: dict[Any, Any] = {channel.record.channel_id: actor}

    async def read(_: object) -> object:
        alive.clear()
        return SimpleNamespace(rows=(channel.record,), older=None)

    channels = SimpleNamespace(by_id=alive, views=dict, can_receive=lambda _: Msat(0), terms=RelayTerms(DEFAULT_POLICY))
    chain = SimpleNamespace(height=BlockHeight(700))
    node = SimpleNamespace(channels=channels, journal=SimpleNamespace(read=read), chain=chain)
    listed = asyncio.run(Methods(cast(Any, node)).channels(ChannelsParams(closed=True)))
    assert [c.channel_id for c in listed.channels] == [str(channel.record.channel_id)]


def test_pages_of_living_and_of_closed_channels() -> None:
    """Every channel is on one page, whatever the size of the pages; the living come first."""
    channel = Pair.opened().alice.state
    assert isinstance(channel, Channel)
    records = [replace(channel.record, channel_id=ChannelId(bytes([n]) * 32)) for n in (7, 1, 250, 16)]
    closed = [replace(channel.record, channel_id=ChannelId(bytes([n]) * 32)) for n in (9, 8, 5)]
    alive = {r.channel_id: SimpleNamespace(state=Channel(r), record=r, frozen=False) for r in records}
    channels = SimpleNamespace(by_id=alive, views=dict, can_receive=lambda _: Msat(0), terms=RelayTerms(DEFAULT_POLICY))
    asked: list[tuple[int | None, int]] = []

    async def read(query: Any) -> object:
        found: list[tuple[int | None, int]] = []
        with_bounds(query, found)
        ((before, limit),) = found
        asked.append((before, limit))
        begin = 0 if before is None else before
        rows = closed[begin : begin + limit]
        return SimpleNamespace(rows=tuple(rows), older=begin + limit if begin + limit < len(closed) else None)

    node = SimpleNamespace(channels=channels, journal=SimpleNamespace(read=read), chain=SimpleNamespace(height=700))
    methods = Methods(cast(Any, node))
    for limit in (1, 2, 3, 4, 100):
        seen: list[str] = []
        cursor = ""
        for _ in range(20):
            page = asyncio.run(methods.channels(ChannelsParams(closed=True, limit=limit, cursor=cursor)))
            assert len(page.channels) <= limit
            seen += [line.channel_id for line in page.channels]
            cursor = page.next_cursor
            if not cursor:
                break
        assert seen == [str(r.channel_id) for r in sorted(records, key=lambda r: r.channel_id) + closed]
    with pytest.raises(CommandRefused, match="cursor"):
        asyncio.run(methods.channels(ChannelsParams(cursor="'; drop")))


def with_bounds(query: Any, found: list[tuple[int | None, int]]) -> None:
    """What a query of closed channels is asked for."""

    def closed_channels(_: object, before: int | None = None, limit: int = 100) -> None:
        found.append((before, limit))

    real, queries.closed_channels = queries.closed_channels, closed_channels  # type: ignore[assignment]
    try:
        query(None)
    finally:
        queries.closed_channels = real
