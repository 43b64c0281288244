"""Two of our nodes on a real bitcoind: its mempool policy and consensus judge every transaction that we make."""

from __future__ import annotations

from typing import Any

import pytest
from interop_bench import ANYONE_ADDRESS, NOBODY_ADDRESS, SalamaNode, World, until

pytestmark = pytest.mark.interop


def opened(world: World, depth: int = 6, **more: Any) -> str:
    """A channel from alice to bob, usable; its id."""
    said = world["alice"].call("open", peer=world["bob"].uri, amount="1000000sat", **more)
    world.settled(said["funding_txid"], depth)
    world.ready(said["channel_id"], world["alice"], world["bob"])
    return str(said["channel_id"])


def pays(payer: SalamaNode, payee: SalamaNode, amount: str) -> None:
    paid = payer.call("pay", request=payee.call("invoice", amount=amount)["invoice"])
    assert paid["status"] == "succeeded", paid


def judged(world: World, txid: str) -> dict[str, Any]:
    """What bitcoind thinks of a transaction that it took: policy and consensus both passed. Its mempool entry."""
    until(f"{txid} is in the mempool", lambda: txid in world.chain.mempool())
    entry = dict(world.chain.call("getmempoolentry", txid))
    # At the relay floor or above; a child that pays for it would show here too.
    assert int(entry["fees"]["base"] * 100_000_000) >= entry["vsize"]
    return entry


def test_funding_payments_and_a_mutual_close(real: World) -> None:
    alice, bob = real["alice"], real["bob"]
    before = alice.call("balance")["onchain_confirmed_msat"]
    said = alice.call("open", peer=bob.uri, amount="1000000sat")
    judged(real, said["funding_txid"])
    real.settled(said["funding_txid"], 6)
    real.ready(said["channel_id"], alice, bob)
    pays(alice, bob, "300000sat")
    pays(bob, alice, "100000sat")
    until("nothing is pending", lambda: not alice.channel()["htlcs_outgoing"] + alice.channel()["htlcs_incoming"])
    closed = bob.call("close", channel=said["channel_id"])
    entry = judged(real, closed["closing_txid"])
    assert entry["depends"] == []
    real.mine(6)
    for node in (alice, bob):
        assert node.channel(said["channel_id"])["closing_txid"] == closed["closing_txid"]
    until("the money is back", lambda: alice.call("balance")["onchain_confirmed_msat"] > before - 210_000_000)
    bobs = bob.call("balance")["onchain_confirmed_msat"]
    assert bobs == 3 * 50 * 100_000_000_000 + 200_000_000


def test_a_commitment_on_the_chain(real: World) -> None:
    """A close without the peer, with an HTLC of either side in it or none: bitcoind takes it as it is."""
    alice, bob = real["alice"], real["bob"]
    channel_id = opened(real, push="400000sat")
    pays(bob, alice, "50000sat")
    bob.call("close", channel=channel_id, force=True, wait=0)
    channel = bob.channel(channel_id)
    txid = until("a commitment waits", lambda: next(iter(real.chain.mempool()), None))
    judged(real, txid)
    raw = real.chain.call("getrawtransaction", txid, True)
    assert [(i["txid"], i["vout"]) for i in raw["vin"]] == [(channel["funding_txid"], channel["funding_vout"])]
    # To us, to them, and an anchor for each.
    assert sorted(round(o["value"] * 100_000_000) for o in raw["vout"])[:2] == [330, 330]
    assert len(raw["vout"]) == 4
    real.mine(1)
    for node in (alice, bob):
        until(f"{node.name} names it", lambda node=node: node.channel(channel_id)["closing_txid"] == txid)


def test_a_funding_that_moves_to_another_block(real: World) -> None:
    """A reorg before the channel is used: its place in the chain, and so its name, is another one."""
    alice, bob = real["alice"], real["bob"]
    said = alice.call("open", peer=bob.uri, amount="1000000sat")
    real.settled(said["funding_txid"], 1)
    until("it has a name", lambda: alice.channel()["short_channel_id"])
    first = alice.channel()["short_channel_id"]
    real.chain.call("invalidateblock", real.chain.call("getbestblockhash"))
    until("it waits again", lambda: said["funding_txid"] in real.chain.mempool())
    # An empty block takes its place, so that it confirms one block later.
    real.chain.call("generateblock", NOBODY_ADDRESS, [])
    real.mine(6)
    real.ready(said["channel_id"], alice, bob)
    names = {node.channel()["short_channel_id"] for node in (alice, bob)}
    assert len(names) == 1
    assert names != {first}
    pays(alice, bob, "1000sat")


def test_nodes_follow_a_reorg_and_outlive_a_restart_of_bitcoind(real: World) -> None:
    alice, bob = real["alice"], real["bob"]
    channel_id = opened(real, depth=10, push="400000sat")
    tip = real.chain.height
    real.chain.call("invalidateblock", real.chain.call("getblockhash", tip - 2))
    # To another address: the same blocks again would be the invalid ones.
    real.chain.mine(5, ANYONE_ADDRESS)
    real.follow()
    assert alice.call("getinfo")["block_height"] == tip + 2
    pays(alice, bob, "1000sat")

    real.chain.stop()
    # Without a chain payments go on.
    pays(bob, alice, "2000sat")
    real.chain.start_again()
    real.mine(3)
    pays(alice, bob, "3000sat")
    closed = alice.call("close", channel=channel_id)
    judged(real, closed["closing_txid"])


def test_a_node_restarted_after_a_reorg_that_it_missed(real: World) -> None:
    alice, bob = real["alice"], real["bob"]
    channel_id = opened(real, depth=10, push="400000sat")
    alice.stop()
    real.chain.call("invalidateblock", real.chain.call("getblockhash", real.chain.height - 3))
    real.chain.mine(6, ANYONE_ADDRESS)
    alice.start()
    real.follow()
    real.ready(channel_id, alice, bob)
    pays(alice, bob, "1000sat")
    pays(bob, alice, "1000sat")
