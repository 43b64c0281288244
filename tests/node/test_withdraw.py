"""Sending coins on chain from a real node: an amount, everything, and refusals that set nothing aside for ever."""

from __future__ import annotations

import pytest

from salama.base.machine import CommandRefused
from salama.node.seed import load_seed, write_seed
from salama.node.seed_file import Seed
from salama.testing.network import LocalNetwork, until


def test_withdrawals_arrive_and_refusals_set_nothing_aside(network: LocalNetwork) -> None:
    alice, bob = network.start("alice"), network.start("bob")
    network.fund(alice)
    before = alice.call("balance")
    target = bob.call("newaddr", kind="p2tr")["address"]
    sent = alice.call("withdraw", address=target, amount="1000000sat")
    assert sent["amount_msat"] == 1_000_000_000
    network.mine(1)
    until("bob has it", lambda: bob.call("balance")["onchain_confirmed_msat"] == 1_000_000_000)
    until("alice sees her change", lambda: alice.call("balance")["onchain_unconfirmed_msat"] == 0)
    after = alice.call("balance")
    assert after["onchain_confirmed_msat"] == before["onchain_confirmed_msat"] - 1_000_000_000 - sent["fee_msat"]
    assert after["onchain_reserved_msat"] == 0

    for address, amount, code in [
        (target, "999btc", "insufficient_funds"),
        (target, "1000", "bad_amount"),
        (target, "1msat", "bad_amount"),
        ("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", "1000sat", "bad_address"),
        ("nonsense", "1000sat", "bad_address"),
    ]:
        with pytest.raises(CommandRefused) as refused:
            alice.call("withdraw", address=address, amount=amount)
        assert refused.value.code == code
    assert alice.call("balance") == after

    rest = alice.call("withdraw", address=target, amount="all")
    assert rest["amount_msat"] + rest["fee_msat"] == after["onchain_confirmed_msat"]
    network.mine(1)
    until("alice has nothing", lambda: alice.call("balance")["onchain_confirmed_msat"] == 0)


def test_a_wallet_restored_from_its_words_finds_its_coins(network: LocalNetwork) -> None:
    carol = network.start("carol")
    network.fund(carol)
    target = carol.call("newaddr", kind="p2tr")["address"]
    carol.call("withdraw", address=target, amount="25000sat")
    network.mine(1)
    words = load_seed(carol.directory).words
    network.stop(carol)
    network.nodes.pop("carol")
    again = network.directory / "carol again"
    again.mkdir()
    write_seed(again, Seed(words, restored=True))
    restored = network.start("carol again")
    assert restored.node_id == carol.node_id
    assert restored.call("balance")["onchain_confirmed_msat"] > 0
    until("all is found", lambda: restored.call("balance")["onchain_unconfirmed_msat"] == 0)
    assert restored.call("newaddr", kind="p2tr")["address"] != target
    # It stood at the tip when it was ready, and does not look again at the next start.
    before = restored.call("balance")
    network.stop(restored)
    restarted = network.start("carol again")
    assert restarted.call("balance") == before
    assert (network.directory / "carol again" / "salama.log").read_text().count("looking through the chain") == 1
