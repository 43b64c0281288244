"""Other nodes that we talk to."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from salama.api.method import Done, Method, PageParams, Params, PeerAddress, Result


class DisconnectParams(Params, frozen=True, kw_only=True):
    peer: Annotated[str, Meta(description="node id", max_length=66)]


class ConnectParams(Params, frozen=True, kw_only=True):
    peer: PeerAddress


class Connected(Result, frozen=True, kw_only=True):
    node_id: str


class Peer(Result, frozen=True, kw_only=True):
    node_id: str
    alias: str
    connected: bool
    inbound: bool
    address: str
    channels: int


class Peers(Result, frozen=True, kw_only=True):
    peers: list[Peer]
    next_cursor: str


METHODS: tuple[Method, ...] = (
    Method("connect", "Connect to a peer and remember it.", ConnectParams, Connected, ("peer",)),
    Method("disconnect", "Disconnect from a peer and do not call it again.", DisconnectParams, Done, ("peer",)),
    Method("peers", "Peers that are connected or have a channel with us.", PageParams, Peers, aliases=("listpeers",)),
)
