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


def test_a_fee_is_raised_on_a_real_mempool(network: LocalNetwork) -> None:
    """Replaced by the same payment at a higher fee, drawn along by a child, and the loser never comes back."""
    dave, target = network.start("dave"), network.nodes["bob"].call("newaddr")["address"]
    network.fund(dave)
    until("dave is rich", lambda: dave.call("balance")["onchain_confirmed_msat"] > 0)
    before = dave.call("balance")["onchain_confirmed_msat"]
    sent = dave.call("withdraw", address=target, amount="70000sat", feerate=300)
    for how in ("auto", "rbf"):
        bumped = dave.call("bumpfee", txid=sent["txid"], feerate=900 if how == "auto" else 2000, how=how)
        assert bumped["how"] == "rbf" and bumped["replaces"] == sent["txid"]
        assert network.mempool() == [bumped["txid"]]
        sent = {"txid": bumped["txid"], "fee_msat": bumped["fee_msat"]}
    child = dave.call("bumpfee", txid=sent["txid"], feerate=4000, how="cpfp")
    assert child["how"] == "cpfp" and child["replaces"] == ""
    assert sorted(network.mempool()) == sorted([sent["txid"], child["txid"]])
    with pytest.raises(CommandRefused) as refused:
        dave.call("bumpfee", txid=sent["txid"], feerate=9000, how="rbf")
    assert refused.value.code == "cannot_replace"
    network.mine(1)
    assert network.mempool() == []
    spent = 70_000_000 + sent["fee_msat"] + child["fee_msat"]
    until("dave has the rest", lambda: dave.call("balance")["onchain_confirmed_msat"] == before - spent)
    with pytest.raises(CommandRefused) as refused:
        dave.call("bumpfee", txid=sent["txid"], feerate=9000)
    assert refused.value.code == "already_confirmed"


def test_coins_are_listed_named_frozen_and_chosen(network: LocalNetwork) -> None:
    dave, target = network.nodes["dave"], network.nodes["bob"].call("newaddr")["address"]
    for amount in ("300000sat", "200000sat"):
        dave.call("withdraw", address=dave.call("newaddr")["address"], amount=amount)
    network.mine(1)
    until("dave has three coins", lambda: sum(one["confirmations"] > 0 for one in dave.call("utxos")["utxos"]) == 3)
    coins = {one["amount_msat"]: one for one in dave.call("utxos")["utxos"]}
    assert [one["spendable"] for one in coins.values()] == [True] * 3
    first = dave.call("utxos", limit=1)
    rest = dave.call("utxos", limit=10, cursor=first["next_cursor"])
    assert {one["outpoint"] for one in first["utxos"] + rest["utxos"]} == {one["outpoint"] for one in coins.values()}
    assert len(rest["utxos"]) == 2 and rest["next_cursor"] == ""
    mine = coins[200_000_000]["outpoint"]
    dave.call("label", coin=mine, label="rent")
    dave.call("freeze", coins=mine)
    with pytest.raises(CommandRefused) as refused:
        dave.call("withdraw", address=target, amount="1000sat", coins=mine)
    assert refused.value.code == "coin_unavailable" and refused.value.reason == f"{mine} is frozen."
    network.stop(dave)
    dave = network.start("dave")
    shown = {one["outpoint"]: one for one in dave.call("utxos")["utxos"]}[mine]
    assert shown["frozen"] and shown["label"] == "rent" and not shown["spendable"]
    dave.call("unfreeze", coins=mine)
    sent = dave.call("withdraw", address=target, amount="all", coins=mine)
    assert sent["amount_msat"] + sent["fee_msat"] == 200_000_000
    for coin, code in (("nonsense", "bad_coin"), (f"{'00' * 32}:0", "unknown_coin")):
        with pytest.raises(CommandRefused) as refused:
            dave.call("freeze", coins=coin)
        assert refused.value.code == code
