"""A channel that is used before its funding is in a block, between real processes (B2.06, immunity A12)."""

from __future__ import annotations

import pytest

from salama.base.machine import CommandRefused
from salama.testing.network import LocalNetwork


@pytest.mark.slow
def test_it_is_refused_until_both_name_each_other_and_then_used_at_once_up_to_the_cap(network: LocalNetwork) -> None:
    alice, bob = network.start("trusted"), network.start("trusting")
    network.fund(alice)
    with pytest.raises(CommandRefused) as refusal:
        alice.call("open", peer=bob.uri, amount="500000sat", private=True, zero_conf=True)
    assert refusal.value.code == "zero_conf_missing"
    assert "zero_conf_peers" in refusal.value.remedy
    named = alice.node_id, bob.node_id
    for node, other, cap in ((alice, named[1], "100000sat"), (bob, named[0], "50000sat")):
        assert network.stop(node) == 0
        network.start(node.name, f"zero_conf_peers={other}", f"zero_conf_cap={cap}")
    alice.call("open", peer=bob.uri, amount="500000sat", private=True, zero_conf=True)
    network.usable(alice, bob)
    height = network.height()
    (waiting,) = network.mempool()
    assert alice.channel(bob)["funding_txid"] == waiting, "its funding is in no block"
    assert alice.pays(bob, "40000sat")["status"] == "succeeded"
    network.at_rest()
    assert 0 < bob.channel(alice)["can_receive_msat"] <= 10_000_000, "what the cap leaves"
    assert alice.pays(bob, "20000sat")["status"] == "failed", "bob might lose it again"
    assert network.height() == height
    network.mine(6)
    assert alice.pays(bob, "20000sat")["status"] == "succeeded"
