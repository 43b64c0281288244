"""One channel with LDK: opened by either side, used in both directions, lost and found again, closed by either side.

B1.01 (init), B2.02 to B2.06 (establishment), B2.45 to B2.53 (normal operation), B2.60 to B2.66 (reestablish), B2.35 to
B2.39 (closing) against the BOLTs as LDK reads them.
"""

from __future__ import annotations

import pytest
from interop_bench import World, missing_ldk, need, until
from ldk_moves import closed_together, ldk_opens, pay_ldk, pay_us, quiet, we_open

pytestmark = pytest.mark.interop


def test_it_calls_us_and_we_call_it(pair: World) -> None:
    node, ldk = pair["salama"], pair.ldk
    until("LDK has us", lambda: ldk.call("connected") == [node.node_id])
    assert node.call("peers")["peers"][0]["inbound"] is False
    ldk.call("disconnect", node_id=node.node_id)
    until("we call again by ourselves", lambda: node.log().count(": connected to") == 2)
    until("LDK has us again", lambda: ldk.call("connected") == [node.node_id])
    assert ldk.complaints() == []


def test_ldk_calls_us(world: World) -> None:
    need("ldk", missing_ldk())
    node, ldk = world.add_node("salama"), world.add_ldk()
    ldk.call("connect", node_id=node.node_id, host="127.0.0.1", port=node.port)
    peer = until("it is there", lambda: node.call("peers")["peers"])[0]
    assert (peer["node_id"], peer["connected"], peer["inbound"]) == (ldk.node_id, True, True)
    assert ldk.complaints() == []


def test_a_channel_opened_by_us(pair: World) -> None:
    node, ldk = pair["salama"], pair.ldk
    channel_id = we_open(pair)
    theirs, ours = ldk.channel(), node.channel()
    assert theirs["channel_id"] == ours["channel_id"] == channel_id
    assert theirs["anchors"] is True
    assert (theirs["outbound"], ours["opener"]) == (False, True)
    assert theirs["funding"] == f"{ours['funding_txid']}:{ours['funding_vout']}"
    assert theirs["feerate"] == ours["feerate_per_kw"]

    pay_ldk(node, ldk, 100_000_000)
    pay_us(node, ldk, 30_000_000)
    quiet(pair)
    assert node.channel()["theirs_msat"] == 70_000_000
    assert ldk.channel()["outbound_msat"] == 70_000_000 - 1000 * ldk.channel()["reserve"]

    node.call("close", channel=channel_id)
    closing = closed_together(pair, channel_id)
    assert 70_000 in [int(o.value) for o in closing.outputs]


def test_a_channel_opened_by_ldk(pair: World) -> None:
    node, ldk = pair["salama"], pair.ldk
    channel_id = ldk_opens(pair, push_msat=200_000_000)
    assert node.channel()["ours_msat"] == 200_000_000
    assert node.channel()["opener"] is False
    assert ldk.channel()["anchors"] is True

    pay_us(node, ldk, 50_000_000)
    pay_ldk(node, ldk, 20_000_000)
    quiet(pair)
    assert node.channel()["ours_msat"] == 230_000_000

    ldk.call("close", channel_id=channel_id)
    closing = closed_together(pair, channel_id)
    assert 230_000 in [int(o.value) for o in closing.outputs]
