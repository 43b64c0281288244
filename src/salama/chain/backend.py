"""What a node asks of the Bitcoin network, whoever answers (BOLT 2 funding depth, BOLT 5, BOLT 7 B7.03).

A Protocol and the values it speaks in. Amounts are ``Sat``, fee rates ``FeeratePerKw``. Every method may raise
``BackendUnavailable`` (nobody answered: the same question may be asked again) and ``BackendError`` (an answer that is a
refusal or makes no sense). Nothing here is trusted: a caller that acts on an output compares its script and amount.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from salama.base.ids import BlockHash, OutPoint, ShortChannelId, Txid
from salama.base.units import BlockHeight, FeeratePerKw
from salama.bitcoin.block import Block
from salama.bitcoin.tx import Tx, TxOut

# One satoshi a virtual byte is 250 sat/kW; 253 keeps a rounded weight from falling below it at the relay's door.
MIN_FEERATE: Final = FeeratePerKw(253)
# 2,000 sat/vB: above anything mainnet has seen, so an estimate beyond it is a broken estimator, not a market.
MAX_FEERATE: Final = FeeratePerKw(500_000)

# Reject reasons after which the very same transaction will not be taken by another try: it is broken in itself.
_HOPELESS: Final = (
    "mandatory-script-verify-flag-failed",
    "non-mandatory-script-verify-flag",
    "block-script-verify-flag-failed",
    "mempool-script-verify-flag-failed",
    "bad-txns-in-belowout",
    "bad-txns-inputs-duplicate",
    "bad-txns-vin-empty",
    "bad-txns-vout",
    "bad-txns-oversize",
    "bad-txns-nonstandard-inputs",
    "bad-witness-nonstandard",
    "coinbase",
    "dust",
    "scriptpubkey",
    "scriptsig",
    "tx-size",
    "version",
)
DESERIALIZATION_FAILED: Final = -22


class BackendUnavailable(Exception):
    """No answer from the chain back-end: not running, starting up, too slow, or it closed the connection."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the chain back-end does not answer: {reason}")


class BackendError(Exception):
    """The chain back-end refused a question or answered with something that cannot be true.

    ``code`` is Bitcoin Core's RPC error code, 0 when the answer itself made no sense.
    """

    def __init__(self, code: int, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(f"the chain back-end answered with error {code}: {message}")


@dataclass(frozen=True, slots=True)
class ChainInfo:
    """Where the back-end stands. ``network_name`` is ours: mainnet, testnet, testnet4, signet, regtest.

    ``tip_time`` is what its best block says of its time, unix seconds: right to about two hours.
    """

    network_name: str
    height: BlockHeight
    best_hash: BlockHash
    genesis_hash: BlockHash
    synced: bool
    tip_time: int


@dataclass(frozen=True, slots=True)
class HeaderInfo:
    """One block's place. ``connected``: it belongs to the best chain now."""

    hash: BlockHash
    previous: BlockHash | None
    height: BlockHeight
    connected: bool


@dataclass(frozen=True, slots=True)
class Utxo:
    """An unspent output; ``height`` is None while its transaction is unconfirmed."""

    txout: TxOut
    height: BlockHeight | None
    coinbase: bool


@dataclass(frozen=True, slots=True)
class BroadcastResult:
    """What became of a transaction handed to the network.

    ``accepted`` includes what was already in the mempool or the chain (``already_known``). ``code`` and ``reason`` are
    Bitcoin Core's, 0 and empty when accepted.
    """

    accepted: bool
    already_known: bool = False
    code: int = 0
    reason: str = ""

    @property
    def retry(self) -> bool:
        """Whether to offer the same transaction again later.

        Anything that is not known to be hopeless is offered again (immunity C23): a fee floor falls, a conflict is
        reorganised away, and an error with a new name must not be the end of a penalty transaction.
        """
        return not self.accepted and self.code != DESERIALIZATION_FAILED and not self.reason.startswith(_HOPELESS)


class ChainBackend(Protocol):
    """A view of the Bitcoin network and a way to speak to it."""

    @property
    def is_local(self) -> bool:
        """False if questions and passwords cross a network in the clear (immunity G7): the node warns then."""

    async def info(self) -> ChainInfo:
        """Network, tip and whether the back-end has caught up."""

    async def block_hash(self, height: int) -> BlockHash | None:
        """The best chain's block at ``height``, None above the tip."""

    async def header(self, block_hash: BlockHash) -> HeaderInfo | None:
        """Place of a block, also of one that left the best chain; None if the back-end never saw it."""

    async def block(self, block_hash: BlockHash) -> Block:
        """The whole block; BackendError if unknown or pruned."""

    async def wait_for_block(self, tip: BlockHash, height: int, timeout: float) -> None:
        """Returns once the tip is not ``tip`` at ``height``, or after about ``timeout`` seconds; may return early."""

    async def broadcast(self, tx: Tx) -> BroadcastResult:
        """Offers a transaction to the mempool."""

    async def submit_package(self, txs: Sequence[Tx]) -> BroadcastResult:
        """Offers parents and, last, the child that pays for them; accepted only if all are."""

    async def test_accept(self, tx: Tx) -> BroadcastResult:
        """What ``broadcast`` would say, without doing it."""

    async def utxo(self, outpoint: OutPoint, include_mempool: bool = True) -> Utxo | None:
        """The output if it exists and is unspent (with ``include_mempool``: also not spent by the mempool)."""

    async def utxo_by_scid(self, scid: ShortChannelId) -> tuple[OutPoint, TxOut] | None:
        """The confirmed unspent output that a short_channel_id names, else None (B7.03)."""

    async def feerate(self, target_blocks: int) -> FeeratePerKw | None:
        """Estimate for confirmation within ``target_blocks``, inside MIN_FEERATE..MAX_FEERATE; None without data."""

    async def mempool_txids(self) -> frozenset[Txid]:
        """What waits for a block, as the back-end sees it."""

    async def mempool_spenders(self, outpoints: Sequence[OutPoint]) -> frozenset[Txid]:
        """The unconfirmed transactions that spend any of ``outpoints``; empty where the back-end cannot tell."""

    async def transaction(self, txid: Txid) -> Tx | None:
        """A transaction of the mempool or, where the back-end has an index, of the chain; None if it knows none."""

    async def close(self) -> None:
        """Closes connections; afterwards every method raises BackendUnavailable."""
