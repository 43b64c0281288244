"""The cap on what stands in channels: on nodes of another network, and as it is by default on mainnet.

The mainnet of these tests is a private chain that says that it is mainnet: everything else is as on the real one.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

import salama
from salama.api.embedded import Chain, Node
from salama.base.ids import BlockHash
from salama.base.machine import CommandRefused
from salama.base.units import Sat
from salama.bitcoin import address
from salama.bitcoin.networks import MAINNET, NETWORKS, REGTEST
from salama.chain.backend import ChainInfo
from salama.chain.bitcoind import Bitcoind
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


@pytest.fixture
def as_mainnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain of `salama devnet` says that it is mainnet, and fresh."""
    asked = Bitcoind.info

    async def info(backend: Bitcoind) -> ChainInfo:
        found = await asked(backend)
        genesis = BlockHash(MAINNET.chain_hash)
        return replace(found, network_name="mainnet", genesis_hash=genesis, tip_time=int(time.time()))

    monkeypatch.setattr(Bitcoind, "info", info)


@pytest.mark.usefixtures("as_mainnet")
def test_on_mainnet_both_ends_keep_to_the_cap_by_default(tmp_path: Path) -> None:
    async def play() -> None:
        async with AsyncExitStack() as stack:
            chain = Chain(tmp_path / "chain")
            stack.push_async_callback(chain.stop)
            await chain.start()
            where = {"bitcoind": chain.url, "cookie": chain.cookie, "listen": "127.0.0.1:0"}
            alice = await stack.enter_async_context(Node("mainnet", tmp_path / "alice", where))
            bob = await stack.enter_async_context(Node("mainnet", tmp_path / "bob", where))
            for node in (alice, bob):
                info = await node.getinfo()
                young, no_estimate = info.warnings
                assert info.network == "mainnet" and "young" in young and "1,000,000 sat together" in young
                assert "no estimate of fees" in no_estimate
            ours = (await alice.newaddr()).address
            assert ours.startswith("bc1q")
            await alice.mine(1, address.render(address.parse(ours, MAINNET), REGTEST) or "")
            # nothing is begun before anybody knows what a transaction must pay
            with pytest.raises(CommandRefused, match="no estimate of fees") as refused:
                await alice.open(bob.uri, "400000sat")
            assert refused.value.code == "chain_stale"
            await alice.chain("setfeeestimate", "0.00005")
            await alice.mine(100)
            assert len((await alice.getinfo()).warnings) == 1
            # an open beyond the cap
            with pytest.raises(CommandRefused) as refused:
                await alice.open(bob.uri, "1000001sat")
            assert refused.value.code == "mainnet_cap"
            # who could not pay for claims on the chain takes no channel, however small
            with pytest.raises(CommandRefused, match="too few coins"):
                await alice.open(bob.uri, "100000sat")
            theirs = (await bob.newaddr()).address
            await alice.mine(1, address.render(address.parse(theirs, MAINNET), REGTEST) or "")
            await alice.mine(100)
            async with asyncio.timeout(30):
                while not bob._node.wallet.spendable():  # its node follows the chain by itself
                    await asyncio.sleep(0.02)
            # a peer's open_channel beyond it
            alice._node.channels.cap = None
            with pytest.raises(CommandRefused, match="no more channels"):
                await alice.open(bob.uri, "1000001sat")
            assert (await bob.channels()).channels == []
            # within it a channel comes into use and carries a payment, between nodes of mainnet
            await alice.open(bob.uri, "1000000sat")
            await alice.mine(6)
            async with asyncio.timeout(30):
                while not all([(await one.getinfo()).channels_active for one in (alice, bob)]):
                    await asyncio.sleep(0.02)
            invoice = (await bob.invoice("25000sat")).invoice
            assert invoice.startswith("lnbc250u1")
            assert (await alice.pay(invoice)).status == "succeeded"

    asyncio.run(asyncio.wait_for(play(), 90))
