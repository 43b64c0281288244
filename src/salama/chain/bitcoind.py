"""The one chain back-end: bitcoind's JSON-RPC, served by bitcoind or by our devnet (immunity G1, G4, G7, C23).

What comes back is checked for what can be checked without validating the chain: a block has the hash and the merkle
root asked for, a transaction its txid, a number the range of its unit. A ``BackendError`` with code 0 reports such a
contradiction.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Final

from salama.base.ids import BlockHash, MalformedId, OutPoint, ShortChannelId, Txid
from salama.base.units import MAX_SAT, BlockHeight, FeeratePerKw, OutOfRange, Sat
from salama.bitcoin.block import Block, MalformedBlock
from salama.bitcoin.tx import MalformedTx, Tx, TxOut
from salama.chain.backend import (
    MAX_FEERATE,
    MIN_FEERATE,
    BackendError,
    BroadcastResult,
    ChainInfo,
    HeaderInfo,
    Utxo,
)
from salama.chain.http_client import JsonRpcClient, Login

DEFAULT_TIMEOUT: Final = 30.0
BLIND_WAIT_SECONDS: Final = 1.0
# Txids of recently asked blocks, for gossip: 32 bytes each, so this is some 250 full mainnet blocks.
MAX_TXID_CACHE: Final = 32_000_000
MAX_HEIGHT_CACHE: Final = 1_000
# Decoding more than this takes longer than an event loop should stand still.
_DECODE_ELSEWHERE: Final = 200_000
_SAT_PER_BTC: Final = 100_000_000

_NETWORKS: Final = {
    "main": "mainnet",
    "test": "testnet",
    "testnet4": "testnet4",
    "signet": "signet",
    "regtest": "regtest",
}

_MISC_ERROR: Final = -1
_NOT_FOUND: Final = -5
_INVALID_PARAMETER: Final = -8
_REJECTED: Final = -26
_ALREADY_IN_CHAIN: Final = -27
_METHOD_NOT_FOUND: Final = -32601
_ALREADY_KNOWN: Final = ("txn-already-in-mempool", "txn-already-known", "txn-same-nonwitness-data-in-mempool")
_PACKAGE_RBF: Final = "package RBF failed"
# Why a package's member failed by itself while the package was the point: not the reason to report.
_WAITS_FOR_PACKAGE: Final = ("min relay fee not met", "mempool min fee not met", "bad-txns-inputs-missingorspent")


class _Waiting(Enum):
    """How the back-end can be asked to tell of a new block, best first."""

    NEW_BLOCK = "waitfornewblock with the tip we know"
    HEIGHT = "waitforblockheight"
    NEWS = "its publisher tells us, and we ask in between"
    SLEEP = "not at all"


class Bitcoind:
    """A ``ChainBackend`` over JSON-RPC. Belongs to one event loop.

    ``url`` is ``http://host:port``. Give the path of the cookie file, or user and password.
    """

    def __init__(
        self,
        url: str,
        *,
        cookie: Path | None = None,
        user: str = "",
        password: str = "",
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        self._rpc = JsonRpcClient(url, Login(cookie, user, password), timeout)
        self._waiting = _Waiting.NEW_BLOCK
        self._news = asyncio.Event()
        self._txids: OrderedDict[BlockHash, bytes] = OrderedDict()
        self._txids_size = 0
        self._heights: OrderedDict[BlockHash, BlockHeight] = OrderedDict()

    @property
    def is_local(self) -> bool:
        """False if questions and passwords cross a network in the clear (immunity G7): the node warns then."""
        return self._rpc.is_local

    @property
    def host(self) -> str:
        """Name or address of the machine that answers."""
        return self._rpc.host

    def hear_blocks(self) -> None:
        """From now on somebody calls ``heard_block``: no call of the back-end is kept waiting for a block."""
        self._waiting = _Waiting.NEWS

    def heard_block(self, _: BlockHash) -> None:
        """A publisher says that the tip has moved."""
        self._news.set()

    async def rpc(self, method: str, *params: Any) -> Any:
        """Any call, for tools and tests; results as parsed JSON, numbers with a point as ``Decimal``."""
        return await self._rpc.call(method, *params)

    async def close(self) -> None:
        await self._rpc.close()

    # --- the chain

    async def info(self) -> ChainInfo:
        answer, genesis = await self._rpc.batch([("getblockchaininfo", ()), ("getblockhash", (0,))])
        name = _NETWORKS.get(_field(answer, "chain", str))
        if name is None:
            raise BackendError(0, "a network with a name unknown to us")
        height = _height(_field(answer, "blocks", int))
        headers = _field(answer, "headers", int)
        return ChainInfo(
            network_name=name,
            height=height,
            best_hash=_hash(_field(answer, "bestblockhash", str)),
            genesis_hash=_hash(genesis),
            synced=not _field(answer, "initialblockdownload", bool) and headers <= height + 1,
            # Bitcoin Core tells the tip's own time since version 23; the median of eleven is an hour older.
            tip_time=_field(answer, "time" if "time" in answer else "mediantime", int),
        )

    async def block_hash(self, height: int) -> BlockHash | None:
        try:
            return _hash(await self._rpc.call("getblockhash", int(height)))
        except BackendError as error:
            if error.code == _INVALID_PARAMETER:
                return None
            raise

    async def header(self, block_hash: BlockHash) -> HeaderInfo | None:
        try:
            answer = await self._rpc.call("getblockheader", str(block_hash), True)
        except BackendError as error:
            if error.code == _NOT_FOUND:
                return None
            raise
        height = _height(_field(answer, "height", int))
        previous = _hash(_field(answer, "previousblockhash", str)) if height else None
        if _hash(_field(answer, "hash", str)) != block_hash:
            raise BackendError(0, "the header of another block than the one asked for")
        return HeaderInfo(block_hash, previous, height, _field(answer, "confirmations", int) >= 0)

    async def block(self, block_hash: BlockHash) -> Block:
        text = await self._rpc.call("getblock", str(block_hash), 0)
        if not isinstance(text, str):
            raise BackendError(0, "a block that is no text")
        if len(text) > _DECODE_ELSEWHERE:
            return await asyncio.to_thread(_decode_block, text, block_hash)
        return _decode_block(text, block_hash)

    async def wait_for_block(self, tip: BlockHash, height: int, timeout: float) -> None:
        if self._waiting is _Waiting.NEW_BLOCK:
            try:
                await self._rpc.wait(timeout, "waitfornewblock", max(1, int(timeout * 1000)), str(tip))
                return
            except BackendError as error:
                self._cannot_wait(error, _Waiting.HEIGHT)
        if self._waiting is _Waiting.NEWS:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._news.wait()
            self._news.clear()
            return
        # These two do not see a reorganisation to the same height, so they may not take long.
        timeout = min(timeout, BLIND_WAIT_SECONDS)
        if self._waiting is _Waiting.HEIGHT:
            try:
                await self._rpc.wait(timeout, "waitforblockheight", height + 1, max(1, int(timeout * 1000)))
                return
            except BackendError as error:
                self._cannot_wait(error, _Waiting.SLEEP)
        await asyncio.sleep(timeout)

    def _cannot_wait(self, error: BackendError, instead: _Waiting) -> None:
        """An older bitcoind answers with the usage of the call, a restricted one that there is no such call."""
        if error.code not in (_MISC_ERROR, _METHOD_NOT_FOUND, _INVALID_PARAMETER):
            raise error
        self._waiting = instead

    # --- transactions

    async def broadcast(self, tx: Tx) -> BroadcastResult:
        try:
            # No ceiling on the fee rate: a small child may rightly pay for a large parent. Budgets are set elsewhere.
            answer = await self._rpc.call("sendrawtransaction", tx.encode().hex(), 0)
        except BackendError as error:
            if error.code == 0:
                raise
            known = error.code == _ALREADY_IN_CHAIN or error.message.startswith(_ALREADY_KNOWN)
            if known:
                return BroadcastResult(True, already_known=True)
            return BroadcastResult(False, code=error.code, reason=error.message)
        if answer != str(tx.txid):
            raise BackendError(0, "a broadcast answered with another txid")
        return BroadcastResult(True)

    async def submit_package(self, txs: Sequence[Tx]) -> BroadcastResult:
        raw = [tx.encode().hex() for tx in txs]
        try:
            answer = await self._rpc.call("submitpackage", raw, 0)
        except BackendError as error:
            if error.code in (_MISC_ERROR, _METHOD_NOT_FOUND):
                # No package relay there: one by one is the best that is left.
                return await self._one_by_one(txs)
            if error.code == 0:
                raise
            return BroadcastResult(False, code=error.code, reason=error.message)
        results = _field(answer, "tx-results", dict)
        word = _field(answer, "package_msg", str)[:1000]
        if word == "success":
            return BroadcastResult(True)
        if word.startswith(_PACKAGE_RBF):
            # The transactions themselves are told only what each of them lacks alone.
            return BroadcastResult(False, code=_REJECTED, reason=word)
        reasons: list[str] = []
        for tx in txs:
            one = results.get(str(tx.wtxid))
            reason = one.get("error") if isinstance(one, dict) else "no result"
            if isinstance(reason, str) and not reason.startswith(_ALREADY_KNOWN):
                reasons.append(reason[:1000])
        telling = [reason for reason in reasons if not reason.startswith(_WAITS_FOR_PACKAGE)] or reasons[-1:]
        return BroadcastResult(False, code=_REJECTED, reason=telling[0] if telling else word)

    async def _one_by_one(self, txs: Sequence[Tx]) -> BroadcastResult:
        result = BroadcastResult(False, code=_MISC_ERROR, reason="an empty package")
        for tx in txs:
            result = await self.broadcast(tx)
            if not result.accepted:
                return result
        return result

    async def test_accept(self, tx: Tx) -> BroadcastResult:
        try:
            answer = await self._rpc.call("testmempoolaccept", [tx.encode().hex()], 0)
        except BackendError as error:
            if error.code == 0:
                raise
            return BroadcastResult(False, code=error.code, reason=error.message)
        if not isinstance(answer, list) or len(answer) != 1:
            raise BackendError(0, "a test of one transaction without one result")
        if _field(answer[0], "allowed", bool):
            return BroadcastResult(True)
        reason = _field(answer[0], "reject-reason", str)[:1000]
        if reason.startswith(_ALREADY_KNOWN):
            return BroadcastResult(True, already_known=True)
        return BroadcastResult(False, code=_REJECTED, reason=reason)

    async def mempool_txids(self) -> frozenset[Txid]:
        answer = await self._rpc.call("getrawmempool")
        if not isinstance(answer, list):
            raise BackendError(0, "a mempool that is no list")
        return frozenset(_txid(one) for one in answer)

    async def mempool_spenders(self, outpoints: Sequence[OutPoint]) -> frozenset[Txid]:
        if not outpoints:
            return frozenset()
        asked = [{"txid": str(one.txid), "vout": one.vout} for one in outpoints]
        try:
            answer = await self._rpc.call("gettxspendingprevout", asked)
        except BackendError as error:
            if error.code == _METHOD_NOT_FOUND:
                # Bitcoin Core before version 24.
                return frozenset()
            raise
        if not isinstance(answer, list) or len(answer) != len(asked) or not all(isinstance(o, dict) for o in answer):
            raise BackendError(0, "an answer about spent outputs that does not fit the question")
        return frozenset(_txid(one["spendingtxid"]) for one in answer if "spendingtxid" in one)

    async def transaction(self, txid: Txid) -> Tx | None:
        try:
            text = await self._rpc.call("getrawtransaction", str(txid), False)
        except BackendError as error:
            if error.code == _NOT_FOUND:
                return None
            raise
        try:
            tx = Tx.decode(bytes.fromhex(text))
        except (MalformedTx, ValueError, TypeError):
            raise BackendError(0, "a transaction that cannot be decoded") from None
        if tx.txid != txid:
            raise BackendError(0, "another transaction than the one asked for")
        return tx

    # --- outputs

    async def utxo(self, outpoint: OutPoint, include_mempool: bool = True) -> Utxo | None:
        answer = await self._rpc.call("gettxout", str(outpoint.txid), outpoint.vout, include_mempool)
        if answer is None:
            return None
        confirmations = _field(answer, "confirmations", int)
        height: BlockHeight | None = None
        if confirmations > 0:
            # Against the tip the answer itself names: a block may have come since.
            best = await self._height_of(_hash(_field(answer, "bestblock", str)))
            height = _height(best - confirmations + 1)
        return Utxo(_txout(answer), height, _field(answer, "coinbase", bool))

    async def utxo_by_scid(self, scid: ShortChannelId) -> tuple[OutPoint, TxOut] | None:
        block_hash = await self.block_hash(scid.height)
        if block_hash is None:
            return None
        txids = await self._block_txids(block_hash)
        txid = txids[32 * scid.index : 32 * scid.index + 32]
        if not txid:
            return None
        outpoint = OutPoint(Txid(txid), scid.vout)
        answer = await self._rpc.call("gettxout", str(outpoint.txid), outpoint.vout, False)
        return None if answer is None else (outpoint, _txout(answer))

    async def _block_txids(self, block_hash: BlockHash) -> bytes:
        found = self._txids.get(block_hash)
        if found is not None:
            self._txids.move_to_end(block_hash)
            return found
        answer = await self._rpc.call("getblock", str(block_hash), 1)
        found = b"".join(_txid(one) for one in _field(answer, "tx", list))
        if block_hash not in self._txids:
            self._txids[block_hash] = found
            self._txids_size += len(found)
        while self._txids_size > MAX_TXID_CACHE:
            _, dropped = self._txids.popitem(last=False)
            self._txids_size -= len(dropped)
        return found

    async def _height_of(self, block_hash: BlockHash) -> BlockHeight:
        height = self._heights.get(block_hash)
        if height is None:
            header = await self.header(block_hash)
            if header is None:
                raise BackendError(0, "the tip it named is unknown to it")
            height = self._heights[block_hash] = header.height
            if len(self._heights) > MAX_HEIGHT_CACHE:
                self._heights.popitem(last=False)
        return height

    # --- fees

    async def feerate(self, target_blocks: int) -> FeeratePerKw | None:
        mode = "CONSERVATIVE" if target_blocks <= 6 else "ECONOMICAL"
        estimate, pool = await self._rpc.batch(
            [("estimatesmartfee", (max(1, min(target_blocks, 1008)), mode)), ("getmempoolinfo", ())]
        )
        if not isinstance(estimate, dict):
            raise BackendError(0, "an estimate that is no object")
        rate = estimate.get("feerate")
        if rate is None:
            return None
        # Below the mempool's own floor nothing is relayed, whatever history says.
        floor = pool.get("mempoolminfee") if isinstance(pool, dict) else None
        per_kvb = max(_sat(rate), _sat(floor) if floor is not None else Sat(0))
        per_kw = -(-int(per_kvb) // 4)
        return FeeratePerKw(min(max(per_kw, MIN_FEERATE), MAX_FEERATE))


def _field(answer: Any, name: str, kind: type[Any]) -> Any:
    """A field that must be there; JSON's true is no number."""
    value = answer.get(name) if isinstance(answer, dict) else None
    if type(value) is not kind:
        raise BackendError(0, f"an answer without a proper {name}")
    return value


def _hash(text: Any) -> BlockHash:
    return BlockHash(_txid(text))


def _txid(text: Any) -> Txid:
    if not isinstance(text, str):
        raise BackendError(0, "a hash that is no text")
    try:
        return Txid.parse(text)
    except MalformedId:
        raise BackendError(0, "a malformed hash") from None


def _height(value: int) -> BlockHeight:
    try:
        return BlockHeight(value)
    except OutOfRange:
        raise BackendError(0, "an impossible height") from None


def _sat(value: Any) -> Sat:
    """A JSON number of bitcoin to satoshis, exactly: the parser hands over decimals, never floats."""
    if type(value) is int:
        value = Decimal(value) if abs(value) <= MAX_SAT else Decimal("NaN")
    if type(value) is not Decimal or not value.is_finite() or not 0 <= value <= MAX_SAT // _SAT_PER_BTC:
        raise BackendError(0, "an impossible amount")
    sat = value * _SAT_PER_BTC
    if sat != sat.to_integral_value():
        raise BackendError(0, "an amount with a part of a satoshi")
    return Sat(int(sat))


def _txout(answer: Any) -> TxOut:
    script = _field(_field(answer, "scriptPubKey", dict), "hex", str)
    try:
        return TxOut(_sat(answer.get("value")), bytes.fromhex(script))
    except ValueError:
        raise BackendError(0, "a script that is not hexadecimal") from None


def _decode_block(text: str, block_hash: BlockHash) -> Block:
    try:
        block = Block.decode(bytes.fromhex(text))
    except (MalformedBlock, ValueError):
        raise BackendError(0, "a block that cannot be decoded") from None
    if block.hash != block_hash or not block.has_right_merkle_root():
        raise BackendError(0, "another block than the one asked for")
    return block
