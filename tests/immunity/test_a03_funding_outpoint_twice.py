"""A3 a channel id that is in use already (Core Lightning #9274 fixed in 26.06.6, Electrum 4.8.1, LDK 0.0.120)

What failed: the id of a channel follows from its funding outpoint by an exclusive or (B2.01), so a peer that names the
outpoint of somebody else's channel, or one that collides with it, got that channel's place in memory or on disk.

Defence: node/openings.py:Openings.claim gives an id to one opening ever: no living channel, no other opening and no row
on disk may have it; node/chain.py:Watch tells two fundings of one transaction apart.

Not covered: dual funding and splices, which are not built.
"""

from __future__ import annotations

from pathlib import Path

from immunity_world import Registry, Stranger, outpoint

from salama.base.ids import ChannelId, OutPoint, Txid
from salama.node.chain import Watch
from salama.storage import queries


def test_an_outpoint_makes_one_channel(tmp_path: Path) -> None:
    """A second peer that names the funding of the first gets an error, and the first keeps its place on disk."""

    async def story(node: Registry) -> None:
        victim, thief = Stranger("victim"), Stranger("thief")
        await node.opened(victim, outpoint(1))
        before = node.record_of(outpoint(1))
        assert before is not None
        peer = await node.opened(thief, outpoint(1))
        assert peer.errors
        assert node.record_of(outpoint(1)) is before
        (kept,) = node.journal.read_now(queries.open_channels)
        assert kept.params.their_node_id == victim.node_id
        assert kept == before

    Registry.run(tmp_path, story)


def test_two_outpoints_that_make_one_id_make_one_channel(tmp_path: Path) -> None:
    async def story(node: Registry) -> None:
        first = outpoint(1, 0)
        txid = bytes(first.txid[:-1]) + bytes([first.txid[-1] ^ 1])
        second = OutPoint(Txid(txid), 1)
        assert ChannelId.v1(first) == ChannelId.v1(second)
        await node.opened(Stranger("one"), first)
        peer = await node.opened(Stranger("other"), second)
        assert peer.errors
        (record,) = node.journal.read_now(queries.open_channels)
        assert record.funding.outpoint == first

    Registry.run(tmp_path, story)


def test_the_same_peer_cannot_do_it_either(tmp_path: Path) -> None:
    async def story(node: Registry) -> None:
        stranger = Stranger("one")
        await node.opened(stranger, outpoint(1), 0)
        before = node.record_of(outpoint(1))
        peer = await node.opened(stranger, outpoint(1), 1)
        assert peer.errors and node.record_of(outpoint(1)) is before

    Registry.run(tmp_path, story)


def test_an_id_stays_taken_when_its_channel_is_closed(tmp_path: Path) -> None:
    """A row of a closed channel is history, perhaps with money in it, and is not written over."""

    async def story(node: Registry) -> None:
        first = Stranger("first")
        await node.opened(first, outpoint(1))
        actor = node.channels.by_id[ChannelId.v1(outpoint(1))]
        node.channels._retire(actor)  # as after a close; the row stays
        peer = await node.opened(Stranger("second"), outpoint(1))
        assert peer.errors and ChannelId.v1(outpoint(1)) not in node.channels.by_id
        (kept,) = node.journal.read_now(queries.open_channels)
        assert kept.params.their_node_id == first.node_id

    Registry.run(tmp_path, story)


def test_two_channels_funded_by_one_transaction_are_both_seen() -> None:
    """The second must not take the first one's place among the transactions that we wait for."""
    watch = Watch()
    watch.add(outpoint(1, 0), b"a")
    watch.add(outpoint(1, 1), b"b")
    assert set(watch.outputs_of(outpoint(1).txid)) == {outpoint(1, 0), outpoint(1, 1)}
    watch.remove(outpoint(1, 0))
    assert set(watch.outputs_of(outpoint(1).txid)) == {outpoint(1, 1)}
    watch.remove(outpoint(1, 1))
    assert not watch.outputs_of(outpoint(1).txid)
