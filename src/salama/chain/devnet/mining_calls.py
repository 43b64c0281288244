"""RPC calls that make blocks and move the tip."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

from salama.base.ids import BlockHash, Txid
from salama.bitcoin.tx import Tx
from salama.chain.devnet.chain_calls import address_script, parse_descriptor
from salama.chain.devnet.policy import Rejected
from salama.chain.devnet.regtest import BlockRefused, UnknownBlock
from salama.chain.devnet.rpc import (
    DESERIALIZATION_ERROR,
    INVALID_ADDRESS_OR_KEY,
    INVALID_PARAMETER,
    VERIFY_ERROR,
    Context,
    Params,
    RpcRefusal,
    call,
    parse_tx,
)

MAX_BLOCKS: Final = 10_000
MAX_BLOCK_HEX: Final = 8_000_000
_YIELD_EVERY: Final = 10
_TXID: Final = re.compile(r"[0-9a-fA-F]{64}")


@call("generatetoaddress", "nblocks", "address", "maxtries?")
async def generatetoaddress(context: Context, params: Params) -> Any:
    return await _generate(context, params.integer("nblocks", 0, MAX_BLOCKS), address_script(params.text("address")))


@call("generatetodescriptor", "num_blocks", "descriptor", "maxtries?")
async def generatetodescriptor(context: Context, params: Params) -> Any:
    count = params.integer("num_blocks", 0, MAX_BLOCKS)
    return await _generate(context, count, parse_descriptor(params.text("descriptor")))


async def _generate(context: Context, count: int, script: bytes) -> list[str]:
    hashes: list[str] = []
    for made in range(count):
        try:
            hashes.append(str(context.net.generate(script)))
        except BlockRefused as refusal:
            raise RpcRefusal(VERIFY_ERROR, f"TestBlockValidity failed: {refusal.reason}") from None
        if made % _YIELD_EVERY == _YIELD_EVERY - 1:
            # Others are served while many blocks are made.
            await asyncio.sleep(0)
    return hashes


@call("generateblock", "output", "transactions", "submit?")
def generateblock(context: Context, params: Params) -> Any:
    output = params.text("output")
    script = parse_descriptor(output) if "(" in output else address_script(output)
    txs = [_chosen(context, one) for one in params.items("transactions")]
    net = context.net
    try:
        fees = net.fees_of(txs)
        submit = params.flag("submit", True)
        block = net.generate_with(script, txs, fees, submit)
    except Rejected as refusal:
        raise RpcRefusal(VERIFY_ERROR, f"TestBlockValidity failed: {refusal}") from None
    except BlockRefused as refusal:
        raise RpcRefusal(VERIFY_ERROR, f"TestBlockValidity failed: {refusal.reason}") from None
    return {"hash": str(block.hash)} if submit else {"hash": str(block.hash), "hex": block.encode().hex()}


def _chosen(context: Context, one: Any) -> Tx:
    if isinstance(one, str) and _TXID.fullmatch(one):
        entry = context.net.pool.entries.get(Txid.parse(one))
        if entry is None:
            raise RpcRefusal(INVALID_ADDRESS_OR_KEY, f"Transaction {one} not in mempool.")
        return entry.tx
    return parse_tx(one, "Transaction decode failed. Make sure the tx has at least one input.")


@call("submitblock", "hexdata", "dummy?")
def submitblock(context: Context, params: Params) -> Any:
    text = params.text("hexdata")
    if len(text) > MAX_BLOCK_HEX:
        raise RpcRefusal(DESERIALIZATION_ERROR, "Block decode failed")
    try:
        context.net.submit_block(bytes.fromhex(text))
    except ValueError:
        raise RpcRefusal(DESERIALIZATION_ERROR, "Block decode failed") from None
    except BlockRefused as refusal:
        if refusal.reason == "block-decode-failed":
            raise RpcRefusal(DESERIALIZATION_ERROR, "Block decode failed") from None
        return refusal.reason
    return None


@call("invalidateblock", "blockhash")
def invalidateblock(context: Context, params: Params) -> Any:
    try:
        context.net.invalidate(params.hash("blockhash", BlockHash))
    except UnknownBlock:
        raise RpcRefusal(INVALID_ADDRESS_OR_KEY, "Block not found") from None
    except BlockRefused as refusal:
        raise RpcRefusal(INVALID_PARAMETER, refusal.reason) from None
    return None


@call("reconsiderblock", "blockhash")
def reconsiderblock(context: Context, params: Params) -> Any:
    try:
        context.net.reconsider(params.hash("blockhash", BlockHash))
    except UnknownBlock:
        raise RpcRefusal(INVALID_ADDRESS_OR_KEY, "Block not found") from None
    return None
