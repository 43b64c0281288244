"""A peer with several addresses is looked for at each of them."""

from __future__ import annotations

import asyncio
from typing import Any

from salama.net.tcp import ConnectFailed, PeerAddress
from salama.node.outside import Outside
from salama.node.peers import Peers
from salama.signer.local import LocalSigner
from salama.transport.noise import StaticKey
from salama.wire import Init
from salama.wire.features import Features

US, PEER = LocalSigner(bytes(32)), LocalSigner(b"\x01" * 32).node_id
PLACES = [PeerAddress("10.0.0.1", 9735), PeerAddress("10.0.0.2", 9735), PeerAddress("10.0.0.3", 9735)]


class NobodyThere(Outside):
    def __init__(self) -> None:
        self.called: list[PeerAddress] = []

    async def connect(self, address: PeerAddress, *_: Any) -> Any:
        self.called.append(address)
        raise ConnectFailed(f"nobody answers at {address}")


def test_a_lost_peer_is_called_at_every_address() -> None:
    async def story() -> None:
        outside = NobodyThere()
        ours: Any = StaticKey(bytes(US.node_id), US.ecdh)
        init = Init(globalfeatures=Features.of(), features=Features.of(), networks=())
        listeners: Any = None
        peers = Peers(ours, init, listeners, 0.001, outside)
        peers.addresses[PEER], peers.elsewhere[PEER] = PLACES[0], tuple(PLACES[1:])
        peers.keep(PEER)
        async with asyncio.timeout(20):
            while len(outside.called) < 6:
                await asyncio.sleep(0.001)
        peers.let_go(PEER)
        assert outside.called[:6] == PLACES * 2

    asyncio.run(story())
