"""A real bitcoind, as what a node must outlast: asked in turns, and with publishers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from gate import Gate
from interop_bench import Chain, World, free_port, missing_bitcoind, need, until
from outlasting import (
    ADDRESS,
    Served,
    test_a_back_end_that_goes_backwards_and_comes_again,
    test_a_back_end_that_is_slow,
    test_a_restart_between_two_blocks,
    test_another_chain_is_refused,
    test_hours_without_a_chain,
    test_reorganisations_of_one_block_and_of_six,
)

from conftest import inhabited

pytestmark = pytest.mark.interop

# The suite that the devnet passes, too.
__all__ = [
    "test_a_back_end_that_goes_backwards_and_comes_again",
    "test_a_back_end_that_is_slow",
    "test_a_restart_between_two_blocks",
    "test_another_chain_is_refused",
    "test_hours_without_a_chain",
    "test_reorganisations_of_one_block_and_of_six",
]


@pytest.fixture(scope="module", params=["asked in turns", "with publishers"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    need("bitcoind", missing_bitcoind())
    options = []
    if request.param == "with publishers":
        options = [f"-zmqpub{topic}=tcp://127.0.0.1:{free_port()}" for topic in ("hashblock", "rawtx")]
    chain = Chain.bitcoind(tmp_path_factory.mktemp("outlasting"), ADDRESS, *options)
    try:
        assert bool(chain.call("getzmqnotifications")) is bool(options)
        chain.mine(10, ADDRESS)
        yield chain
    finally:
        chain.stop()


def test_a_killed_bitcoind_that_lost_its_last_blocks(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """It comes back with a beginning of our chain: the node takes nothing back, and says that it does not see."""
    need("bitcoind", missing_bitcoind())
    with inhabited(Chain.bitcoind(tmp_path), tmp_path, request) as world:
        alice, bob = world.add_node("alice"), world.add_node("bob")
        world.fund()
        opened = alice.call("open", peer=bob.uri, amount="1000000sat")
        world.settled(opened["funding_txid"], 6)
        world.ready(opened["channel_id"], alice, bob)
        chain = world.chain
        tip, hashes = chain.height, [chain.call("getblockhash", n) for n in range(1, chain.height + 1)]
        blocks = [chain.call("getblock", one, 0) for one in hashes]
        chain.kill()
        until("alice sees that it is gone", lambda: not alice.call("getinfo")["synced"])
        chain.start_again()
        assert chain.height < tip, "what it had not written down is lost"
        paid = alice.call("pay", request=bob.call("invoice", amount="1000sat")["invoice"])
        assert paid["status"] == "succeeded", paid
        info = alice.call("getinfo")
        assert (info["block_height"], info["synced"]) == (tip, False)
        for block in blocks:
            chain.call("submitblock", block)
        until("alice sees the chain again", lambda: alice.call("getinfo")["synced"])
        world.mine(1)
        assert "A reorganisation" not in str(alice.call("why", channel=opened["channel_id"]))


def test_a_node_whose_bitcoind_serves_another_network(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """It stops and says why, before it believes a block; with the right one it goes on as if nothing had been."""
    need("bitcoind", missing_bitcoind())
    right = Chain.bitcoind(tmp_path)
    gate = Gate(right)
    with inhabited(gate, tmp_path, request) as world:
        cookie = gate.cookie = tmp_path / "cookie"
        shutil.copy(right.cookie, cookie)
        alice = world.add_node("alice")
        world.fund()
        (tmp_path / "elsewhere").mkdir()
        other = Chain.lonely(tmp_path / "elsewhere", "testnet4")
        try:
            shutil.copy(other.cookie, cookie)
            gate.inner = other
            right.call("generatetoaddress", 1, alice.address)
            assert alice.process.wait(timeout=90) != 0
        finally:
            gate.inner = right
            other.stop()
        assert "genesis" in alice.log()
        shutil.copy(right.cookie, cookie)
        _restart(world)
        world.follow()
        assert alice.call("getinfo")["block_height"] == right.height


def _restart(world: World) -> None:
    for node in world.nodes.values():
        node.stop()
        node.start()
