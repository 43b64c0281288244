"""An opening that its peer leaves lying ends by itself: nobody waits for ever, no place and no coin is held."""

import asyncio
from pathlib import Path

import pytest

from salama.base.ids import NodeId
from salama.base.machine import CommandRefused
from salama.base.units import Msat, Sat
from salama.bitcoin.networks import REGTEST
from salama.channel.policy import DEFAULT_POLICY
from salama.crypto.secp256k1 import public_key
from salama.node import openings as node_openings
from salama.node.chain import Broadcaster
from salama.node.channels import Channels
from salama.node.wallet import WalletActor
from salama.signer.local import LocalSigner
from salama.signer.wallet import WalletKeys
from salama.storage.journal import Journal
from salama.testing.pair import CHAIN, FEATURES, START, default_env
from salama.wallet.coins import new_wallet
from salama.wire.opening import OpenChannel
from salama.wire.setup import Error

SEED = b"the node and a silent one" * 2


class Silent:
    """A peer that is there, reads, and says nothing."""

    node_id = NodeId(public_key(b"\x55" * 32))
    features = FEATURES

    def __init__(self) -> None:
        self.sent: list[object] = []
        self.ready = asyncio.Event()
        self.ready.set()

    def send(self, message: object) -> None:
        self.sent.append(message)

    def disconnect(self, reason: str) -> None:
        raise AssertionError(reason)


class Nobody:
    """Stands for whatever channels report to, and for the connections."""

    def __init__(self, peer: Silent) -> None:
        self.connected = {peer.node_id: peer}

    def __getattr__(self, name: str) -> object:
        return lambda *_: None


def test_a_peer_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_openings, "OPENING_SECONDS", 0.05)

    async def main() -> None:
        with Journal.open(tmp_path) as journal:
            async with asyncio.TaskGroup() as tasks:
                keys = WalletKeys(SEED[:32], REGTEST)
                wallet = WalletActor(new_wallet(keys.accounts), journal, keys, lambda: START)
                running = tasks.create_task(wallet.run())
                signer, broadcaster = LocalSigner(SEED), Broadcaster(None)  # type: ignore[arg-type]
                made = Channels(journal, signer, wallet, broadcaster, DEFAULT_POLICY, FEATURES, CHAIN, 0, tasks)
                peer = Silent()
                made.peers = made.around = Nobody(peer)  # type: ignore[assignment]
                made.height, made.feerate = START, default_env().feerates.commitment
                with pytest.raises(CommandRefused) as refused:
                    async with asyncio.timeout(5):
                        await made.open(peer.node_id, Sat(100_000), Msat(0), announce=False, feerate=None)
                assert "in time" in refused.value.reason
                kinds = [type(message) for message in peer.sent]
                assert kinds == [OpenChannel, Error]
                await asyncio.sleep(0)
                assert made.by_peer == {}
                assert made._openings == {}
                running.cancel()

    asyncio.run(main())
