"""Openings that one wallet cannot make alone, on real nodes: from another wallet's PSBT, and several at once."""

from __future__ import annotations

import pytest

from salama.base.machine import CommandRefused
from salama.testing.network import LocalNetwork, LocalNode, until


def code_of(node: LocalNode, method: str, **params: object) -> str:
    with pytest.raises(CommandRefused) as refused:
        node.call(method, **params)
    return refused.value.code


def on_chain(balance: dict[str, int]) -> int:
    """All of it: what was released a moment ago may still be counted as set aside."""
    return sum(balance[f"onchain_{part}_msat"] for part in ("confirmed", "unconfirmed", "immature", "reserved"))


def ready(network: LocalNetwork, *names: str) -> list[LocalNode]:
    """Nodes with money, those that another test has started as they are."""
    new = [network.start(name) for name in names if name not in network.nodes]
    if new:
        network.fund(*new)
    return [network.nodes[name] for name in names]


def test_another_wallet_pays_for_a_channel(network: LocalNetwork) -> None:
    """Carol's wallet stands for the hardware wallet. Nothing of hers is in the mempool before both have signed."""
    alice, bob, carol = ready(network, "alice", "bob", "carol")
    begun = alice.call("openpsbt", peer=bob.uri, amount="1000000sat")
    assert begun["amount_msat"] == 1_000_000_000
    wrong = carol.call("psbtfund", address=begun["address"], amount="999999sat", feerate=1000)
    assert carol.call("psbtrelease", psbt=wrong["psbt"])["coins"] == 1
    unsigned = carol.call("psbtfund", address=begun["address"], amount="1000000sat", feerate=1000)
    assert code_of(alice, "openverify", opening=begun["opening"], psbt=wrong["psbt"]) == "funding_wrong"
    assert code_of(alice, "openverify", opening="ffff", psbt=unsigned["psbt"]) == "unknown_opening"

    verified = alice.call("openverify", opening=begun["opening"], psbt=unsigned["psbt"])
    channel = verified["channel_id"]
    assert network.mempool() == []
    assert alice.channel(bob)["state"] == "awaiting_funding"
    # A restart in between has nothing that it could publish, and loses nothing.
    network.kill(alice)
    alice = network.start("alice")
    assert network.mempool() == []
    (warning,) = alice.call("getinfo")["warnings"]
    assert channel in warning and "openabort" in warning
    assert code_of(alice, "openfinish", channel=channel, psbt=unsigned["psbt"]) == "psbt_incomplete"

    signed = carol.call("psbtsign", psbt=unsigned["psbt"])
    assert signed["complete"] and signed["signed"] >= 1
    done = alice.call("openfinish", channel=channel, psbt=signed["psbt"])
    assert done["funding_txid"] == verified["funding_txid"]
    assert network.mempool() == [done["funding_txid"]]
    assert alice.call("getinfo")["warnings"] == []
    assert code_of(alice, "openabort", opening=channel) == "not_held"
    network.mine(6)
    network.usable(alice, bob)
    assert alice.pays(bob, "5000sat")["preimage"]


def test_a_funding_cannot_be_published_before_the_peer_has_signed(network: LocalNetwork) -> None:
    alice, bob = ready(network, "alice", "bob")
    begun = alice.call("openpsbt", peer=bob.uri, amount="500000sat")
    psbt = alice.call("psbtfund", address=begun["address"], amount="500000sat", feerate=1000)["psbt"]
    signed = alice.call("psbtsign", psbt=psbt)["psbt"]
    assert code_of(alice, "psbtfinalise", psbt=signed, publish=True) == "funding_unsafe"
    assert network.mempool() == []
    alice.call("openabort", opening=begun["opening"])
    assert code_of(alice, "openverify", opening=begun["opening"], psbt=signed) == "unknown_opening"
    assert alice.call("psbtrelease", psbt=psbt)["coins"] == 1


def test_a_held_channel_is_given_up(network: LocalNetwork) -> None:
    alice, bob = ready(network, "alice", "bob")
    begun = alice.call("openpsbt", peer=bob.uri, amount="500000sat")
    psbt = alice.call("psbtfund", address=begun["address"], amount="500000sat", feerate=1000)["psbt"]
    held = alice.call("openverify", opening=begun["opening"], psbt=psbt)["channel_id"]
    assert any(one["channel_id"] == held for one in alice.channels(bob))
    alice.call("openabort", opening=held)
    until("alice has forgotten it", lambda: all(one["channel_id"] != held for one in alice.channels(bob)))
    signed = alice.call("psbtsign", psbt=psbt)["psbt"]
    assert code_of(alice, "openfinish", channel=held, psbt=signed) in ("unknown_channel", "not_held")
    alice.call("psbtrelease", psbt=psbt)
    assert network.mempool() == []


def test_a_held_channel_is_not_given_up_once_somebody_has_published_its_funding(network: LocalNetwork) -> None:
    """The owner of the other wallet did not wait for `openfinish`: forgotten now, the money would be lost."""
    alice, bob, carol = ready(network, "alice", "bob", "carol")
    begun = alice.call("openpsbt", peer=bob.uri, amount="500000sat")
    psbt = carol.call("psbtfund", address=begun["address"], amount="500000sat", feerate=1000)["psbt"]
    held = alice.call("openverify", opening=begun["opening"], psbt=psbt)["channel_id"]
    signed = carol.call("psbtsign", psbt=psbt)["psbt"]
    published = carol.call("psbtfinalise", psbt=signed, publish=True)["txid"]
    assert network.mempool() == [published]
    assert code_of(alice, "openabort", opening=held) == "funding_signed"
    network.mine(6)
    until(
        "the channel is open",
        lambda: any(one["channel_id"] == held and one["state"] == "normal" for one in alice.channels(bob)),
    )


def test_several_channels_by_one_transaction(network: LocalNetwork) -> None:
    alice, bob, carol = ready(network, "alice", "bob", "carol")
    before = alice.call("balance")
    made = alice.call("openbatch", channels=f"{bob.uri}=300000sat,{carol.uri}=400000sat,{bob.uri}=200000sat")
    assert network.mempool() == [made["funding_txid"]]
    assert len({one["funding_vout"] for one in made["channels"]}) == 3
    network.mine(6)
    new = {one["channel_id"] for one in made["channels"]}
    until(
        "all three are open",
        lambda: sum(one["channel_id"] in new and one["state"] == "normal" for one in alice.channels()) == 3,
    )
    after = alice.call("balance")
    paid = on_chain(before) - on_chain(after)
    assert 900_000_000 < paid < 905_000_000
    # They differ only at the end of their ids, and tables show beginning and end.
    assert len({one[:16] for one in new}) == 1
    assert {alice.call("why", channel=f"{one[:8]}…{one[-4:]}")["channel_id"] for one in new} == new
    (one, *_) = new
    for unclear in (one[:16], f"{one[:7]}…{one[-4:]}", f"{one[:8]}…0000"):
        assert code_of(alice, "why", channel=unclear) == "unknown_channel"


def test_all_of_a_batch_or_none(network: LocalNetwork) -> None:
    """One peer refuses (too small a channel, too large a one): no other channel stays, no coin stays aside."""
    alice, bob, carol = ready(network, "alice", "bob", "carol")
    before, known = alice.call("balance"), {one["channel_id"] for one in alice.channels()}
    for channels in (f"{bob.uri}=300000sat,{carol.uri}=400sat", f"{carol.uri}=300000sat,{bob.uri}=11btc"):
        with pytest.raises(CommandRefused):
            alice.call("openbatch", channels=channels)
        until("nothing is left of it", lambda: {one["channel_id"] for one in alice.channels()} == known)
        until("its coins are free", lambda: alice.call("balance") == before)
        assert network.mempool() == []
    assert code_of(alice, "openbatch", channels="nonsense") == "bad_batch"


def test_a_psbt_is_paid_from_chosen_coins_and_published(network: LocalNetwork) -> None:
    alice, carol = ready(network, "alice", "carol")
    target = carol.call("newaddr")["address"]
    coin = next(one["outpoint"] for one in alice.call("utxos")["utxos"] if one["spendable"])
    made = alice.call("psbtfund", address=target, amount="50000sat", coins=coin, blocks=10)
    assert {one["reserved_until"] for one in alice.call("utxos")["utxos"] if one["outpoint"] == coin} == {
        made["reserved_until"]
    }
    assert code_of(carol, "psbtsign", psbt=made["psbt"]) == "nothing_to_sign"
    assert code_of(alice, "psbtfinalise", psbt=made["psbt"], publish=True) == "psbt_incomplete"
    assert not alice.call("psbtfinalise", psbt=made["psbt"])["complete"]
    signed = alice.call("psbtsign", psbt=made["psbt"])
    assert signed["complete"] and signed["fee_msat"] == made["fee_msat"]
    done = alice.call("psbtfinalise", psbt=signed["psbt"], publish=True)
    assert network.mempool() == [done["txid"]]
    network.mine(1)
    assert code_of(alice, "psbtsign", psbt="nonsense") == "bad_psbt"


def test_a_coin_is_known_by_the_beginning_that_a_table_shows(network: LocalNetwork) -> None:
    (alice,) = ready(network, "alice")
    coin = next(one["outpoint"] for one in alice.call("utxos")["utxos"] if one["spendable"])
    txid, _, place = coin.partition(":")
    alice.call("label", coin=f"{txid[:10]}…:{place}", label="rent")
    alice.call("freeze", coins=f"{txid[:8]}:{place}")
    told = next(one for one in alice.call("utxos")["utxos"] if one["outpoint"] == coin)
    assert (told["label"], told["frozen"]) == ("rent", True)
    alice.call("unfreeze", coins=coin.upper())
    for name, code in [(f"{txid[:7]}:{place}", "bad_coin"), ("00000000:0", "unknown_coin"), ("nonsense", "bad_coin")]:
        assert code_of(alice, "freeze", coins=name) == code


def test_descriptors_are_public_unless_asked_for_otherwise(network: LocalNetwork) -> None:
    (alice,) = ready(network, "alice")
    shown = alice.call("descriptors")["descriptors"]
    assert len(shown) == 4 and all("tpub" in one["desc"] and "tprv" not in one["desc"] for one in shown)
    assert all(one["timestamp"] > 1_700_000_000 for one in shown)
    hidden = alice.call("descriptors", private=True)["descriptors"]
    assert all("tprv" in one["desc"] for one in hidden)
    assert "tprv" not in alice.log()
