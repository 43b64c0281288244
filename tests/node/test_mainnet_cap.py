"""The cap on what stands in channels. Mainnet itself is refused; the check is tried on a node of another network."""

from __future__ import annotations

import asyncio

import pytest

import salama
from salama.base.machine import CommandRefused
from salama.base.units import Sat
from salama.bitcoin.networks import MAINNET, NETWORKS
from salama.node.cap import beyond, cap_of, in_channels
from salama.testing.pair import Pair


def test_only_mainnet_has_a_cap() -> None:
    assert cap_of(MAINNET, Sat(1_000_000)) == Sat(1_000_000)
    assert [cap_of(n, Sat(5)) for n in NETWORKS.values() if n != MAINNET] == [None] * 3


def test_the_sum_of_all_channels_counts() -> None:
    state = Pair.opened().alice.state
    there = in_channels([state])
    assert there == int(state.record.funding.capacity)  # type: ignore[union-attr]
    cap = Sat(2 * there + 5)
    assert beyond(cap, [state], Sat(there + 5)) == ""
    assert "mainnet" in beyond(cap, [state], Sat(there + 6))
    assert "mainnet" in beyond(cap, [state, state], Sat(6))
    assert beyond(None, [state] * 100, Sat(10**12)) == ""


def test_both_ends_keep_to_their_caps() -> None:
    async def play() -> None:
        async with salama.Node.regtest() as alice, salama.Node.regtest(beside=alice) as bob:
            await alice.fund()
            alice._node.channels.cap, bob._node.channels.cap = Sat(1_000_000), Sat(500_000)
            with pytest.raises(CommandRefused) as refused:
                await alice.open(bob.uri, "1000001sat")
            assert refused.value.code == "mainnet_cap"
            # the peer refuses what is beyond its own
            with pytest.raises(CommandRefused, match="no more channels"):
                await alice.open(bob.uri, "600000sat")
            await alice.open(bob.uri, "400000sat")
            # an opening that nobody has seen confirmed counts
            with pytest.raises(CommandRefused) as refused:
                await alice.open(bob.uri, "600001sat")
            assert refused.value.code == "mainnet_cap"
            with pytest.raises(CommandRefused, match="no more channels"):
                await alice.open(bob.uri, "100001sat")
            # two at a time do not slip through side by side
            bob._node.channels.cap = None
            both = (alice.open(bob.uri, "400000sat"), alice.open(bob.uri, "400000sat"))
            ended = await asyncio.gather(*both, return_exceptions=True)
            assert [one.code for one in ended if isinstance(one, CommandRefused)] == ["mainnet_cap"], ended

    asyncio.run(asyncio.wait_for(play(), 60))
