"""What the methods about peers do. No decisions are made here."""

from __future__ import annotations

from salama.api import peers_schema as schema
from salama.api.area import Area, page_of
from salama.api.method import Done, PageParams
from salama.base.ids import NodeId
from salama.base.machine import CommandRefused
from salama.node.addresses import parse_peer
from salama.node.graph import node_alias
from salama.storage.writes import PutPeer


class PeerMethods(Area):
    """Other nodes that we talk to."""

    async def connect(self, params: schema.ConnectParams) -> schema.Connected:
        node_id, address = parse_peer(params.peer)
        node = self.node
        if node_id == node.signer.node_id:
            raise CommandRefused("own_node_id", "That is this node itself.", "Connect to another one.")
        address = address or node.peers.addresses.get(node_id)
        if address is None:
            if node_id in node.peers.connected:
                return schema.Connected(node_id=str(node_id))
            raise CommandRefused("no_address", "Nobody has told us where that node is.", "Write NODE_ID@host:port.")
        await node.peers.connect(node_id, address)
        await node.journal.commit([PutPeer(node_id, (str(address),), int(node.outside.now()))])
        node.peers.keep(node_id)
        return schema.Connected(node_id=str(node_id))

    async def reach(self, peer: str) -> NodeId:
        """The id of a peer as a person writes it, which is on the line from now on. Raises CommandRefused."""
        node_id, address = parse_peer(peer)
        if node_id not in self.node.peers.connected:
            if address is None and node_id not in self.node.peers.addresses:
                raise CommandRefused(
                    "not_connected", "The peer is not connected.", "Write NODE_ID@host:port, or connect first."
                )
            await self.connect(schema.ConnectParams(peer=peer))
        return node_id

    async def disconnect(self, params: schema.DisconnectParams) -> Done:
        node_id, _ = parse_peer(params.peer)
        peer = self.node.peers.connected.get(node_id)
        if peer is None:
            raise CommandRefused("not_connected", "That peer is not connected.", "`salama peers` lists who is.")
        self.node.peers.let_go(node_id)
        peer.disconnect("asked for by the user")
        return Done()

    async def peers(self, params: PageParams) -> schema.Peers:
        node = self.node
        known, more = page_of({*node.peers.connected, *node.channels.by_peer}, params)
        lines = []
        for node_id in known:
            peer = node.peers.connected.get(node_id)
            address = peer.connection.address if peer else str(node.peers.addresses.get(node_id, ""))
            lines.append(
                schema.Peer(
                    node_id=str(node_id),
                    alias=node_alias(node.gossip.graph, node_id),
                    connected=peer is not None,
                    inbound=peer is not None and peer.connection.inbound,
                    address=address,
                    channels=len(node.channels.by_peer.get(node_id, ())),
                )
            )
        return schema.Peers(peers=lines, next_cursor=str(known[-1]) if more else "")
