"""Channels that a reorganisation lets change places go by the names that they have now, and by no old one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from salama.api.channels_schema import OpenParams
from salama.api.methods import Methods
from salama.api.peers_schema import ConnectParams
from salama.base.ids import ChannelId, ShortChannelId
from salama.base.units import Sat
from salama.bitcoin.tx import Tx, TxOut
from salama.node.channels import Channels, scids_of
from salama.sim.world import World
from salama.testing.pair import Pair

Names = dict[ShortChannelId, bool]
"""Whether we opened the channel at this place in the chain."""


def places(node: Any) -> Names:
    """Of the node's channels, as the chain has them."""
    records = [actor.record for actor in node.channels.by_id.values()]
    return {record.funding.short_channel_id: record.params.is_opener for record in records}


def looked_for(node: Any) -> Names:
    """Under which places the node looks for its channels."""
    actors = node.channels.by_id
    aliases = {actor.record.our_alias for actor in actors.values()}
    by_scid = node.channels.by_scid
    return {scid: actors[of].record.params.is_opener for scid, of in by_scid.items() if scid not in aliases}


def taken_for_ours(node: Any) -> set[int]:
    """Which places the node's gossip takes for channels of its own."""
    return set(node.gossip.state.own_names) - {actor.record.our_alias for actor in node.channels.by_id.values()}


def reorganised(
    place: Path, openers: Sequence[int], again: Callable[[Sequence[Tx]], Sequence[list[Tx]]]
) -> list[tuple[Names, Names]]:
    """Two nodes after the block with the channels that these ``openers`` opened was replaced by the blocks ``again``
    makes of it: for each node where its channels were, and where they are.
    """
    world = World(3, place)
    chain, machines = world.chain, [world.add_machine(), world.add_machine()]
    seen: list[tuple[Names, Names]] = []

    async def story() -> None:
        for machine in machines:
            machine.boot()
        while not all(machine.is_up for machine in machines):
            await asyncio.sleep(0.1)
        for machine in machines:
            chain.give([TxOut(Sat(3_000_000), await machine.ask(lambda node: node.wallet.new_script()))])
        await asyncio.sleep(3)
        where = ConnectParams(peer=f"{machines[1].node_id}@{machines[1].name}:9735")
        await machines[0].ask(lambda node: Methods(node).connect(where))
        for opener in openers:
            params = OpenParams(peer=str(machines[1 - opener].node_id), amount="1000000sat")
            await machines[opener].ask(lambda node, params=params: Methods(node).open(params))
        chain.mine()
        await asyncio.sleep(3)
        before = [places(machine.node) for machine in machines]
        block = chain.blocks[chain.state.active[-1]]
        chain.state.disconnect(block)
        for txs in again(block.txs[1:]):
            chain._connect(txs)
        chain._tell()
        await asyncio.sleep(3)
        for machine, was in zip(machines, before, strict=True):
            now = places(machine.node)
            assert looked_for(machine.node) == now
            assert taken_for_ours(machine.node) == set(now)
            seen.append((was, now))

    world.run(story())
    assert world.problems == []
    return seen


def test_channels_that_change_places_are_found_under_their_new_ones(tmp_path: Path) -> None:
    for was, now in reorganised(tmp_path, (0, 1), lambda txs: [[txs[1], txs[0]], []]):
        assert len(now) == 2
        assert now == {scid: not opened for scid, opened in was.items()}


def test_a_name_that_nobody_has_any_more_is_forgotten(tmp_path: Path) -> None:
    for was, now in reorganised(tmp_path, (0,), lambda txs: [[], list(txs)]):
        assert [scid.height for scid in now] == [scid.height + 1 for scid in was]


def test_a_name_is_not_taken_from_the_channel_that_has_it_now() -> None:
    """Both may hear of the old and the new block in one turn, and then never be without a name in between."""
    record = Pair.opened().alice.channel.record
    name, another = scids_of(record)[0], ChannelId(b"\x07" * 32)
    channels: Any = object.__new__(Channels)
    channels.by_scid = {name: another}
    channels._forget_names(record)
    assert channels.by_scid == {name: another}
    channels.by_scid = {name: record.channel_id}
    channels._forget_names(record)
    assert channels.by_scid == {}
