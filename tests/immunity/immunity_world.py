"""A node's registry of channels on a real journal, strangers who open channels with it, and no network."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from hypothesis import Phase, find, settings

from salama.base.ids import BlockHash, ChannelId, NodeId, OutPoint, ShortChannelId, Txid
from salama.base.units import BlockHeight, Sat
from salama.bitcoin.networks import REGTEST
from salama.bitcoin.script import p2wpkh
from salama.channel.commitments import remote_commitment_tx
from salama.channel.events import HtlcCommitted, MessageReceived
from salama.channel.opening import OpenRequest, first_record, open_channel
from salama.channel.policy import DEFAULT_POLICY, Policy
from salama.channel.signing import OweFundingCreated, complete
from salama.channel.state import AnyChannel, Channel, ChannelRecord, Opening
from salama.channel.step import turn
from salama.channel.transactions import commitment_sighash
from salama.codec.message import Message
from salama.crypto.hashes import sha256
from salama.node.chain import Broadcaster
from salama.node.channel_actor import ChannelActor
from salama.node.channels import Channels
from salama.node.wallet import WalletActor
from salama.signer.local import LocalSigner
from salama.signer.wallet import WalletKeys
from salama.storage.journal import Journal
from salama.testing.messages import instances
from salama.testing.pair import CHAIN, FEATURES, START, default_env
from salama.wallet.coins import new_wallet
from salama.wire.opening import AcceptChannel, FundingCreated, OpenChannel
from salama.wire.setup import Error

D = TypeVar("D", bound=Message)
SEED = b"a node that strangers visit" * 2


@dataclass(eq=False)
class FakePeer:
    """A connection as the registry sees it."""

    node_id: NodeId
    features: Any = FEATURES
    sent: list[Message] = field(default_factory=list)
    closed: str = ""
    ready: Any = field(default_factory=lambda: SimpleNamespace(is_set=lambda: True))

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def disconnect(self, reason: str) -> None:
        self.closed = self.closed or reason

    def last(self, kind: type) -> Any:
        return next((m for m in reversed(self.sent) if isinstance(m, kind)), None)

    @property
    def errors(self) -> list[str]:
        return [m.data.decode() for m in self.sent if isinstance(m, Error)]


class _Around:
    """What channels report to; keeps what was reported."""

    def __init__(self) -> None:
        self.committed: list[HtlcCommitted] = []

    def htlc_committed(self, htlc: HtlcCommitted) -> None:
        self.committed.append(htlc)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


class _Backend:
    async def broadcast(self, tx: Any) -> Any:
        return SimpleNamespace(accepted=True, already_known=False, retry=False, reason="")


@dataclass(eq=False)
class Registry:
    """The channels of one node."""

    journal: Journal
    channels: Channels
    wallet: WalletActor
    peers: dict[NodeId, FakePeer]
    around: _Around

    @classmethod
    def run(cls, directory: Path, story: Callable[[Registry], Awaitable[None]], *, seconds: float = 20) -> None:
        """Tell ``story`` beside a registry that lives in ``directory``."""

        async def main() -> None:
            with Journal.open(directory) as journal:
                try:
                    async with asyncio.timeout(seconds), asyncio.TaskGroup() as tasks:
                        await story(cls._build(journal, tasks))
                        raise _Over
                except* _Over:
                    pass

        asyncio.run(main())

    @classmethod
    def _build(cls, journal: Journal, tasks: asyncio.TaskGroup, policy: Policy = DEFAULT_POLICY) -> Registry:
        keys = WalletKeys(SEED[:32], REGTEST)
        wallet = WalletActor(new_wallet(keys.accounts), journal, keys, lambda: START)
        tasks.create_task(wallet.run())
        signer = LocalSigner(SEED)
        broadcaster = Broadcaster(_Backend())  # type: ignore[arg-type]
        channels = Channels(journal, signer, wallet, broadcaster, policy, FEATURES, CHAIN, 0, tasks)
        connected: dict[NodeId, FakePeer] = {}
        channels.peers = SimpleNamespace(  # type: ignore[assignment]
            connected=connected, keep=lambda _: None, let_go=lambda _: None
        )
        around = _Around()
        channels.around = around  # type: ignore[assignment]
        channels.height = BlockHeight(int(START))
        channels.feerate = default_env().feerates.commitment
        return cls(journal, channels, wallet, connected, around)

    def meets(self, stranger: Stranger) -> FakePeer:
        peer = self.peers[stranger.node_id] = FakePeer(stranger.node_id)
        return peer

    def leaves(self, stranger: Stranger) -> None:
        del self.peers[stranger.node_id]
        self.channels.peer_gone(stranger.node_id)

    async def rests(self) -> None:
        """Until every actor has done what it was told."""
        for _ in range(3):
            await self.channels.settled()
            await self.wallet.settled()
            await asyncio.sleep(0)

    async def hears(self, stranger: Stranger, message: Message) -> None:
        channel_id = getattr(message, "channel_id", None) or getattr(message, "temporary_channel_id", None)
        self.channels.message(stranger.node_id, channel_id, message)
        await self.rests()

    async def opened(self, stranger: Stranger, outpoint: OutPoint, number: int = 0) -> FakePeer:
        """``stranger`` opens a channel with the funding that it claims to be at ``outpoint``."""
        peer = self.peers.get(stranger.node_id) or self.meets(stranger)
        offer = stranger.offers(self.channels.signer.node_id, number)
        await self.channels.open_received(stranger.node_id, offer)
        answer = peer.last(AcceptChannel)
        if answer is not None and answer.temporary_channel_id == offer.temporary_channel_id:
            await self.hears(stranger, stranger.names_funding(answer, outpoint))
        return peer

    def things(self) -> int:
        """How many objects are alive, but for the keys that the signer keeps at hand (at most 4096)."""
        self.channels.signer._secrets.cache_clear()
        self.channels.signer._branch.cache_clear()
        gc.collect()
        return len(gc.get_objects())

    @property
    def unfunded(self) -> list[ChannelActor]:
        """Channels whose funding nobody has seen."""
        return [
            a for a in self.channels.by_id.values() if a.record is not None and a.record.funding.confirmation is None
        ]

    def record_of(self, outpoint: OutPoint) -> ChannelRecord | None:
        actor = self.channels.by_id.get(ChannelId.v1(outpoint))
        return None if actor is None else actor.record


class _Over(Exception):
    """The story is told."""


class Stranger:
    """Somebody with keys who opens channels as the BOLTs say, but may lie about the funding."""

    def __init__(self, name: int | str) -> None:
        self.name = name
        self.signer = LocalSigner(sha256(f"stranger {name}".encode()))
        self.state: AnyChannel | None = None
        self.env = default_env()

    @property
    def node_id(self) -> NodeId:
        """May be another than its keys say: whoever only offers signs nothing."""
        return self.signer.node_id

    def offers(self, to: NodeId, number: int = 0, capacity: int = 1_000_000) -> OpenChannel:
        begun = open_channel(
            OpenRequest(
                temporary_id=ChannelId(sha256(f"temporary {self.name} {number}".encode())),
                our_node_id=self.node_id,
                their_node_id=to,
                chain_hash=BlockHash(CHAIN),
                our_features=FEATURES,
                their_features=FEATURES,
                keys=self.signer.channel_keys(number),
                alias=ShortChannelId(0xA11CE),
                closing_script=p2wpkh(b"\x02" + bytes(31) + b"\x0a"),
                funding=Sat(capacity),
                announce=False,
            ),
            self.env,
        )
        self.state = begun.state
        message = begun.effects[0].message  # type: ignore[attr-defined]
        assert isinstance(message, OpenChannel)
        return message

    def names_funding(self, answer: AcceptChannel, outpoint: OutPoint) -> FundingCreated:
        """A rightly signed ``funding_created`` for any outpoint."""
        assert self.state is not None
        agreed = turn(self.state, [MessageReceived(answer)], self.env).state
        assert isinstance(agreed, Opening)
        record = first_record(agreed, outpoint, self.env)
        digest = commitment_sighash(remote_commitment_tx(record, record.funding, record.funding.remote))
        owed = OweFundingCreated(record.params.key_index, digest, agreed.temporary_id, outpoint)
        (signature,) = self.signer.answer([owed])
        message: FundingCreated = FundingCreated(
            temporary_channel_id=agreed.temporary_id,
            funding_txid=outpoint.txid,
            funding_output_index=outpoint.vout,
            signature=signature.signature,  # type: ignore[union-attr]
        )
        return message


def outpoint(number: int, vout: int = 0) -> OutPoint:
    """The output of a transaction that nobody has ever seen."""
    return OutPoint(Txid(sha256(b"funding %d" % number)), vout)


def sample(cls: type[D]) -> D:
    """Some message of a kind."""
    quick = settings(max_examples=10, phases=(Phase.generate,), database=None, deadline=None)
    return find(instances(cls), lambda _: True, settings=quick)


__all__ = ["Channel", "FakePeer", "Registry", "Stranger", "complete", "outpoint", "sample"]
