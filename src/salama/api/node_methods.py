"""What the methods of the node itself do. No decisions are made here."""

from __future__ import annotations

import asyncio

from salama import __version__
from salama.api import node_schema as schema
from salama.api.area import Area
from salama.api.method import Done, Nothing
from salama.channel.state import Phase
from salama.node.settings import SETTINGS, shown
from salama.storage import queries


class NodeMethods(Area):
    """The node itself: who it is, what happened to it, and what a thing that you hold is."""

    async def getinfo(self, _: Nothing) -> schema.Info:
        node = self.node
        channels = list(node.channels.by_id.values())
        active = sum(node.channels.views()[c].ready for c in list(node.channels.by_id) if c in node.channels.views())
        pending = sum(a.record is not None and a.record.phase is Phase.AWAITING_FUNDING for a in channels)
        return schema.Info(
            node_id=str(node.signer.node_id),
            alias=node.config.alias,
            network=node.config.network.name,
            version=__version__,
            block_height=int(node.chain.height),
            block_hash=str(node.chain.tip.hash) if node.chain.tip else "",
            synced=node.chain.caught_up.is_set() and not node.chain.stale,
            warnings=node.warnings(),
            addresses=[node.listening] if node.listening else [],
            peers=len(node.peers.connected),
            channels_active=active,
            channels_pending=pending,
            channels_inactive=len(channels) - active - pending,
            graph_nodes=node.gossip.graph.node_count(),
            graph_channels=len(node.gossip.graph),
        )

    async def counters(self, _: Nothing) -> schema.Counters:
        journal = self.node.journal.counters
        return schema.Counters(
            commits=journal.commits,
            syncs=journal.syncs,
            statements=journal.statements,
            bytes_written=journal.bytes,
            checkpoints=journal.checkpoints,
            longest_write_us=int(journal.longest_write * 1e6),
            signatures=self.node.signer.signatures,
        )

    async def events(self, params: schema.EventsParams) -> schema.Events:
        after = params.after
        if after < 0:
            after = await self.node.journal.read(queries.last_event)
        rows = await self.node.news.after(after, params.limit, params.wait)
        lines = [schema.Event(id=e.id, at=e.at, name=e.name, fields=e.fields) for e in rows]
        return schema.Events(events=lines, last_id=lines[-1].id if lines else after)

    async def config(self, params: schema.ConfigParams) -> schema.Settings:
        config = self.node.config
        lines = [
            schema.SettingLine(
                name=setting.name,
                value="(hidden)" if setting.secret else shown(config.value(setting.name)),
                source=config.sources.get(setting.name, "default"),
                description=setting.words,
            )
            for setting in SETTINGS.values()
            if not params.changed or setting.name in config.sources
        ]
        return schema.Settings(directory=str(config.directory), network=config.network.name, settings=lines)

    async def decode(self, params: schema.DecodeParams) -> schema.Decoded:
        from salama.api.decoding import decode_item

        return schema.Decoded(decoded=decode_item(params.item))

    async def stop(self, _: Nothing) -> Done:
        # After the answer is on its way.
        asyncio.get_running_loop().call_later(0.05, self.node.stop)
        return Done()
