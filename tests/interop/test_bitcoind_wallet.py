"""Our wallet and Bitcoin Core's look at the same coins: descriptors, history, and PSBTs in both directions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from interop_bench import Chain, SalamaNode, World, missing_bitcoind, need, until

from salama.base.machine import CommandRefused

pytestmark = pytest.mark.interop


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A real bitcoind with its wallet, and our node with three coins on two kinds of addresses."""
    need("bitcoind", missing_bitcoind())
    made = World(tmp_path, Chain.bitcoind(tmp_path, "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080", "-disablewallet=0"))
    try:
        made.add_node("alice")
        made.fund()
        yield made
    finally:
        made.stop()


def imported(chain: Chain, node: SalamaNode, name: str, *, private: bool) -> None:
    """A wallet of Core's that knows all that ours knows."""
    chain.call("createwallet", name, not private, True, "", False, True)
    asked = node.call("descriptors", private=private)["descriptors"]
    lines = [{key: one[key] for key in ("desc", "active", "internal", "range", "next_index")} for one in asked]
    # The devnet's blocks are older than the seed: look through all of them.
    answers = chain.call("importdescriptors", [line | {"timestamp": 0} for line in lines])
    assert all(one["success"] for one in answers), answers


def pay_ourselves(world: World) -> None:
    """Coins of both kinds, change, and a coin spent: a history worth comparing."""
    alice = world["alice"]
    for kind, amount in (("p2tr", "300000sat"), ("p2wpkh", "200000sat"), ("p2tr", "100000sat")):
        alice.call("withdraw", address=alice.call("newaddr", kind=kind)["address"], amount=amount)
        world.mine(1)
    until("all is confirmed", lambda: alice.call("balance")["onchain_unconfirmed_msat"] == 0)


def sat(amount: Any) -> int:
    return round(float(amount) * 100_000_000)


def test_core_sees_the_same_coins(world: World) -> None:
    alice, chain = world["alice"], world.chain
    pay_ourselves(world)
    imported(chain, alice, "watching", private=False)
    ours = {one["outpoint"]: one for one in alice.call("utxos", limit=1000)["utxos"]}
    theirs = {f"{one['txid']}:{one['vout']}": one for one in chain.call("listunspent", 0)}
    immature = {name for name, one in ours.items() if name not in theirs}
    assert set(theirs) <= set(ours)
    assert all(not ours[name]["spendable"] or ours[name]["confirmations"] <= 100 for name in immature)
    for name, one in theirs.items():
        assert (sat(one["amount"]) * 1000, one["address"]) == (ours[name]["amount_msat"], ours[name]["address"])
    balance = chain.call("getbalances")["mine"]
    assert (
        sat(balance["trusted"] + balance["immature"]) * 1000
        == alice.call("balance")["onchain_confirmed_msat"] + alice.call("balance")["onchain_immature_msat"]
    )
    # The next addresses are the same, too.
    for kind, name in (("p2wpkh", "bech32"), ("p2tr", "bech32m")):
        fresh = alice.call("newaddr", kind=kind)["address"]
        assert chain.call("getaddressinfo", fresh)["ismine"]
        assert chain.call("getnewaddress", "", name) == fresh


def test_core_signs_what_we_made(world: World) -> None:
    """Core with the private descriptors stands for an offline signer of the same words."""
    alice, chain = world["alice"], world.chain
    pay_ourselves(world)
    imported(chain, alice, "signing", private=True)
    target = alice.call("newaddr", kind="p2tr")["address"]
    largest = sorted(alice.call("utxos")["utxos"], key=lambda one: -one["amount_msat"])
    free = [one for one in largest if one["spendable"]]
    both = [next(one["outpoint"] for one in free if one["address"].startswith(f"bcrt1{letter}")) for letter in "pq"]
    made = alice.call("psbtfund", address=target, amount="all", feerate=1000, coins=",".join(both))
    shown = chain.call("decodepsbt", made["psbt"])
    assert len(shown["inputs"]) == 2 and sat(shown["fee"]) * 1000 == made["fee_msat"]
    assert sum("non_witness_utxo" in one for one in shown["inputs"]) == 1, "hardware wallets want it for p2wpkh"
    told = chain.call("analyzepsbt", made["psbt"])
    assert sat(told["fee"]) * 1000 == made["fee_msat"]
    signed = chain.call("walletprocesspsbt", made["psbt"], True, "DEFAULT", True, False)
    assert not any("final_scriptwitness" in one for one in chain.call("decodepsbt", signed["psbt"])["inputs"])
    done = alice.call("psbtfinalise", psbt=signed["psbt"], publish=True)
    assert done["complete"] and done["txid"] in chain.mempool()
    # What Core finishes itself is taken as well.
    finished = chain.call("finalizepsbt", signed["psbt"])
    assert finished["complete"] and finished["hex"] == done["tx"]


def test_we_sign_what_core_made(world: World) -> None:
    alice, chain = world["alice"], world.chain
    pay_ourselves(world)
    imported(chain, alice, "watching", private=False)
    target = alice.call("newaddr")["address"]
    for version in (0, 2):
        options = {"fee_rate": 5} | ({"psbt_version": 2} if version == 2 else {})
        try:
            made = chain.call("walletcreatefundedpsbt", [], [{target: 0.002}], 0, options)
        except Exception as refused:  # an option that this bitcoind does not know
            assert version == 2, refused
            continue
        signed = alice.call("psbtsign", psbt=made["psbt"])
        assert signed["complete"] and signed["fee_msat"] == sat(made["fee"]) * 1000
        tx = chain.call("finalizepsbt", signed["psbt"])
        assert tx["complete"]
        (accepted,) = chain.call("testmempoolaccept", [tx["hex"]])
        assert accepted["allowed"], accepted
        alice.call("psbtrelease", psbt=made["psbt"])


def test_a_channel_that_core_pays_for(world: World) -> None:
    """The money of another wallet, seen by nobody before both sides have signed."""
    alice, chain = world["alice"], world.chain
    world.add_node("bob")
    chain.call("createwallet", "hot")
    chain.call("generatetoaddress", 101, chain.call("getnewaddress", "", "bech32"))
    world.follow()
    until("alice is there", lambda: alice.call("getinfo")["block_height"] == chain.height)
    until("bob is there", lambda: world["bob"].call("getinfo")["block_height"] == chain.height)
    begun = alice.call("openpsbt", peer=world["bob"].uri, amount="2000000sat")
    made = chain.call("walletcreatefundedpsbt", [], [{begun["address"]: 0.02}], 0, {"fee_rate": 5, "add_inputs": True})
    held = alice.call("openverify", opening=begun["opening"], psbt=made["psbt"])
    assert chain.mempool() == []
    with pytest.raises(CommandRefused):
        alice.call("openfinish", channel=held["channel_id"], psbt=made["psbt"])
    signed = chain.call("walletprocesspsbt", made["psbt"])
    done = alice.call("openfinish", channel=held["channel_id"], psbt=signed["psbt"])
    assert chain.mempool() == [done["funding_txid"]]
    world.mine(6)
    until("it is open", lambda: alice.channel(held["channel_id"])["state"] == "normal")


def test_a_raised_fee_is_what_relays_take(world: World) -> None:
    alice, chain = world["alice"], world.chain
    sent = alice.call("withdraw", address=alice.call("newaddr")["address"], amount="90000sat", feerate=300)
    bumped = alice.call("bumpfee", txid=sent["txid"], feerate=600)
    assert chain.mempool() == [bumped["txid"]]
    child = alice.call("bumpfee", txid=bumped["txid"], feerate=2500, how="cpfp")
    assert sorted(chain.mempool()) == sorted([bumped["txid"], child["txid"]])
    fees = chain.call("getmempoolentry", child["txid"])
    assert sat(fees["fees"]["ancestor"]) / fees["ancestorsize"] >= 9.9  # sizes are rounded up
