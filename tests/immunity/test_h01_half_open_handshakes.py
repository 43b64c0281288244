"""H1 handshakes that never end, and too many strangers (LDK 0.0.121 #2842, and slow-loris attacks on any server)

What failed: a connection whose handshake was not finished was served gossip, or held memory for as long as it liked.

Defence: net/tcp.py:Listener bounds handshakes under way (MAX_HANDSHAKES) and the time of each (HANDSHAKE_TIMEOUT) and
hands over none that is not finished; node/peers.py:Peers bounds strangers (MAX_PEERS_WITHOUT_CHANNEL).

Not covered: whoever keeps all places for handshakes taken delays other callers; peers that we call are not concerned.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from salama.base.ids import NodeId
from salama.crypto.secp256k1 import ecdh, public_key
from salama.net import tcp
from salama.net.limits import MAX_HANDSHAKES
from salama.net.tcp import Connection, Listener, PeerAddress, connect
from salama.transport.noise import Initiator, StaticKey


def key(secret: bytes) -> StaticKey:
    return StaticKey(public_key(secret), lambda point: ecdh(secret, point))


OURS, THEIRS = key(b"\x21" * 32), key(b"\x11" * 32)


async def flood(count: int) -> None:
    """So many callers who say nothing, a byte, or the first act; then somebody honest."""
    came: list[Connection] = []

    async def serve(connection: Connection) -> None:
        came.append(connection)
        while await connection.receive():
            pass
        await connection.close()

    listener = Listener(OURS, serve)
    address = await listener.start(PeerAddress("127.0.0.1", 0))
    most = 0
    first = [b"", b"\x00", Initiator(THEIRS, NodeId(OURS.point), b"\x33" * 32).act_one]
    writers = []
    for n in range(count):
        _, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(first[n % 3])
        writers.append(writer)
        most = max(most, listener._handshakes)
        if len(writers) > 200:
            oldest = writers.pop(0)
            oldest.transport.abort()
    await asyncio.sleep(0.05)
    most = max(most, listener._handshakes)
    assert 0 < most <= MAX_HANDSHAKES
    assert not came
    began = time.monotonic()
    while True:
        try:
            honest = await connect(address, NodeId(OURS.point), THEIRS)
            break
        except tcp.ConnectFailed:
            assert time.monotonic() - began < 5
            await asyncio.sleep(0.05)
    while not came:
        await asyncio.sleep(0.01)
    await honest.close()
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(0.1)
    assert listener._handshakes == 0 and len(came) == 1
    await listener.stop()


def test_half_open_handshakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "HANDSHAKE_TIMEOUT", 0.4)
    asyncio.run(asyncio.wait_for(flood(300), 20))


@pytest.mark.slow
def test_ten_thousand_half_open_handshakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "HANDSHAKE_TIMEOUT", 0.4)
    asyncio.run(asyncio.wait_for(flood(10_000), 300))
