"""RPC calls that read the chain and its unspent outputs, and those about the process."""

from __future__ import annotations

import re
from typing import Any, Final

from salama.base.ids import BlockHash, OutPoint, Txid
from salama.bitcoin.address import MalformedAddress
from salama.bitcoin.address import parse as parse_address
from salama.chain.devnet import render
from salama.chain.devnet.chainstate import ChainCoin, StoredBlock
from salama.chain.devnet.regtest import UnknownBlock
from salama.chain.devnet.rpc import (
    CALLS,
    INVALID_ADDRESS_OR_KEY,
    INVALID_PARAMETER,
    Context,
    Params,
    RpcRefusal,
    call,
    parse_outpoint,
)

MAX_WAIT_SECONDS: Final = 3600
MAX_DESCRIPTORS: Final = 1000
_DESCRIPTOR: Final = re.compile(r"(addr|raw)\(([0-9a-zA-Z]{0,20000})\)(?:#[0-9a-z]{8})?")


def _stored(context: Context, params: Params, name: str = "blockhash") -> StoredBlock:
    try:
        return context.net.stored(params.hash(name, BlockHash))
    except UnknownBlock:
        raise RpcRefusal(INVALID_ADDRESS_OR_KEY, "Block not found") from None


@call("getblockchaininfo")
def getblockchaininfo(context: Context, params: Params) -> Any:
    chain = context.net.chain
    tip = chain.tip
    return {
        "chain": "regtest",
        "blocks": chain.height,
        "headers": chain.height,
        "bestblockhash": str(tip.hash),
        "bits": "207fffff",
        "target": render.TARGET,
        "difficulty": render.DIFFICULTY,
        "time": tip.time,
        "mediantime": chain.median_time(chain.height),
        "verificationprogress": 1,
        "initialblockdownload": False,
        "chainwork": render.chainwork(chain.height),
        "size_on_disk": sum(stored.size for stored in chain.blocks.values()),
        "pruned": False,
        "warnings": [],
    }


@call("getblockcount")
def getblockcount(context: Context, params: Params) -> Any:
    return context.net.chain.height


@call("getbestblockhash")
def getbestblockhash(context: Context, params: Params) -> Any:
    return str(context.net.chain.active[-1])


@call("getblockhash", "height")
def getblockhash(context: Context, params: Params) -> Any:
    height = params.integer("height", -(1 << 63), (1 << 63) - 1)
    if not 0 <= height <= context.net.chain.height:
        raise RpcRefusal(INVALID_PARAMETER, "Block height out of range")
    return str(context.net.chain.active[height])


@call("getblock", "blockhash", "verbosity?")
def getblock(context: Context, params: Params) -> Any:
    stored = _stored(context, params)
    verbosity = params.get("verbosity")
    if isinstance(verbosity, bool):
        verbosity = int(verbosity)
    else:
        verbosity = params.integer("verbosity", 0, 3, 1)
    if verbosity == 0:
        return context.net.raw_block(stored).hex()
    return render.block(context.net, stored, decoded=verbosity >= 2)


@call("getblockheader", "blockhash", "verbose?")
def getblockheader(context: Context, params: Params) -> Any:
    stored = _stored(context, params)
    if params.flag("verbose", True):
        return render.header(context.net, stored)
    return context.net.block(stored).header.encode().hex()


@call("getchaintips")
def getchaintips(context: Context, params: Params) -> Any:
    chain = context.net.chain
    tips = []
    for stored in context.net.branch_tips():
        fork = stored
        while not chain.is_active(fork):
            fork = chain.blocks[fork.previous]
        active = chain.is_active(stored)
        status = "active" if active else "invalid" if context.net.is_invalid(stored) else "valid-fork"
        tips.append(
            {
                "height": stored.height,
                "hash": str(stored.hash),
                "branchlen": stored.height - fork.height,
                "status": status,
            }
        )
    return tips


@call("waitfornewblock", "timeout?", "current_tip?")
async def waitfornewblock(context: Context, params: Params) -> Any:
    chain = context.net.chain
    known = params.hash("current_tip", BlockHash) if params.has("current_tip") else chain.active[-1]
    return await _wait(context, params, lambda: chain.active[-1] != known)


@call("waitforblockheight", "height", "timeout?")
async def waitforblockheight(context: Context, params: Params) -> Any:
    height = params.integer("height", -(1 << 31), (1 << 31) - 1)
    return await _wait(context, params, lambda: context.net.chain.height >= height)


@call("waitforblock", "blockhash", "timeout?")
async def waitforblock(context: Context, params: Params) -> Any:
    wanted = params.hash("blockhash", BlockHash)
    return await _wait(context, params, lambda: context.net.chain.active[-1] == wanted)


async def _wait(context: Context, params: Params, reached: Any) -> Any:
    # Zero means for ever, as with bitcoind; bounded all the same, and a caller asks again.
    milliseconds = params.integer("timeout", 0, 1 << 40, 0) or MAX_WAIT_SECONDS * 1000
    end = context.now() + min(milliseconds / 1000, MAX_WAIT_SECONDS)
    while not reached() and (left := end - context.now()) > 0:
        await context.new_tip(left)
    chain = context.net.chain
    return {"hash": str(chain.active[-1]), "height": chain.height}


@call("getrawtransaction", "txid", "verbosity?", "blockhash?")
def getrawtransaction(context: Context, params: Params) -> Any:
    txid = params.hash("txid", Txid)
    verbosity = params.get("verbosity")
    verbosity = int(verbosity) if isinstance(verbosity, bool) else params.integer("verbosity", 0, 2, 0)
    net = context.net
    if params.has("blockhash"):
        stored: StoredBlock | None = _stored(context, params)
        assert stored is not None
        tx = next((tx for tx in net.block(stored).txs if tx.txid == txid), None)
        if tx is None:
            raise RpcRefusal(INVALID_ADDRESS_OR_KEY, "No such transaction found in the provided block.")
    else:
        found = net.transaction(txid)
        if found is None:
            raise RpcRefusal(INVALID_ADDRESS_OR_KEY, "No such mempool or blockchain transaction.")
        tx, stored = found
    if verbosity == 0:
        return tx.encode().hex()
    shown = render.transaction(tx)
    if stored is not None:
        active = net.chain.is_active(stored)
        if params.has("blockhash"):
            shown = {"in_active_chain": active, **shown}
        shown["blockhash"] = str(stored.hash)
        shown["confirmations"] = net.chain.height - stored.height + 1 if active else 0
        shown["time"] = shown["blocktime"] = stored.time
    return shown


@call("decoderawtransaction", "hexstring", "iswitness?")
def decoderawtransaction(context: Context, params: Params) -> Any:
    return render.transaction(params.tx("hexstring"), with_hex=False)


@call("gettxout", "txid", "n", "include_mempool?")
def gettxout(context: Context, params: Params) -> Any:
    outpoint = OutPoint(params.hash("txid", Txid), params.integer("n", 0, 0xFFFFFFFF))
    net = context.net
    coin: ChainCoin | None
    if params.flag("include_mempool", True):
        coin = None if outpoint in net.pool.spends else net.pool.coin(outpoint)
    else:
        coin = net.chain.coins.get(outpoint)
    if coin is None:
        return None
    return {
        "bestblock": str(net.chain.active[-1]),
        "confirmations": max(net.chain.height - coin.height + 1, 0),
        "value": render.amount(coin.out.value),
        "scriptPubKey": render.script(coin.out.script),
        "coinbase": coin.coinbase,
    }


@call("gettxoutsetinfo", "hash_type?", "hash_or_height?", "use_index?")
def gettxoutsetinfo(context: Context, params: Params) -> Any:
    chain = context.net.chain
    return {
        "height": chain.height,
        "bestblock": str(chain.active[-1]),
        "txouts": len(chain.coins),
        "bogosize": sum(50 + len(coin.out.script) for coin in chain.coins.values()),
        "total_amount": render.amount(chain.total),
        "transactions": len({outpoint.txid for outpoint in chain.coins}),
    }


@call("scantxoutset", "action", "scanobjects?")
def scantxoutset(context: Context, params: Params) -> Any:
    action = params.text("action")
    if action == "status":
        return None
    if action == "abort":
        return False
    if action != "start":
        raise RpcRefusal(INVALID_PARAMETER, "Invalid action argument")
    objects = params.items("scanobjects") if params.has("scanobjects") else None
    if objects is None:
        raise RpcRefusal(-1, "scanobjects argument is required for the start action")
    if len(objects) > MAX_DESCRIPTORS:
        raise RpcRefusal(INVALID_PARAMETER, f"more than {MAX_DESCRIPTORS} scan objects")
    wanted: dict[bytes, str] = {}
    for one in objects:
        text = one.get("desc") if isinstance(one, dict) else one
        wanted[parse_descriptor(text)] = text if isinstance(text, str) else ""
    chain = context.net.chain
    found = [(outpoint, coin) for outpoint, coin in chain.coins.items() if coin.out.script in wanted]
    return {
        "success": True,
        "txouts": len(chain.coins),
        "height": chain.height,
        "bestblock": str(chain.active[-1]),
        "unspents": [
            {
                "txid": str(outpoint.txid),
                "vout": outpoint.vout,
                "scriptPubKey": coin.out.script.hex(),
                "desc": wanted[coin.out.script],
                "amount": render.amount(coin.out.value),
                "coinbase": coin.coinbase,
                "height": coin.height,
                "blockhash": str(chain.active[coin.height]),
                "confirmations": chain.height - coin.height + 1,
            }
            for outpoint, coin in found
        ],
        "total_amount": render.amount(sum(coin.out.value for _, coin in found)),
    }


def parse_descriptor(text: Any) -> bytes:
    """The script of ``addr(...)`` or ``raw(...)``; a checksum may follow and is not compared."""
    match = _DESCRIPTOR.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise RpcRefusal(INVALID_ADDRESS_OR_KEY, "only the descriptors addr(...) and raw(...) are known here")
    kind, inner = match.groups()
    if kind == "addr":
        return address_script(inner)
    try:
        return bytes.fromhex(inner)
    except ValueError:
        raise RpcRefusal(INVALID_ADDRESS_OR_KEY, "Raw script is not hex") from None


def address_script(text: str) -> bytes:
    """The script of a regtest address."""
    try:
        return parse_address(text, render.REGTEST)
    except MalformedAddress as problem:
        raise RpcRefusal(INVALID_ADDRESS_OR_KEY, f"Invalid address: {problem.reason}") from None


@call("gettxspendingprevout", "outputs")
def gettxspendingprevout(context: Context, params: Params) -> Any:
    outputs = params.items("outputs")
    if not outputs:
        raise RpcRefusal(INVALID_PARAMETER, "Invalid parameter, outputs are missing")
    shown = []
    for one in outputs:
        outpoint = parse_outpoint(one)
        spender = context.net.pool.spends.get(outpoint)
        entry: dict[str, Any] = {"txid": str(outpoint.txid), "vout": outpoint.vout}
        if spender is not None:
            entry["spendingtxid"] = str(spender)
        shown.append(entry)
    return shown


@call("getspendingtx", "txid", "vout")
def getspendingtx(context: Context, params: Params) -> Any:
    """Not in bitcoind: what spent an output, in the chain or in the mempool; null if nothing did."""
    outpoint = OutPoint(params.hash("txid", Txid), params.integer("vout", 0, 0xFFFFFFFF))
    net = context.net
    waiting = net.pool.spends.get(outpoint)
    if waiting is not None:
        return {"txid": str(waiting), "hex": net.pool.entries[waiting].tx.encode().hex(), "confirmations": 0}
    spender = net.chain.spenders.get(outpoint)
    if spender is None:
        return None
    found = net.transaction(spender)
    assert found is not None and found[1] is not None
    tx, stored = found[0], found[1]
    return {
        "txid": str(spender),
        "hex": tx.encode().hex(),
        "confirmations": net.chain.height - stored.height + 1,
        "blockhash": str(stored.hash),
        "height": stored.height,
    }


@call("validateaddress", "address")
def validateaddress(context: Context, params: Params) -> Any:
    text = params.text("address")
    try:
        raw = parse_address(text, render.REGTEST)
    except MalformedAddress as problem:
        return {"isvalid": False, "error_locations": [], "error": problem.reason}
    return {"isvalid": True, "address": text, "scriptPubKey": raw.hex()}


@call("getnetworkinfo")
def getnetworkinfo(context: Context, params: Params) -> Any:
    return {
        "version": 290000,
        "subversion": "/Satoshi:29.0.0(salama-devnet)/",
        "protocolversion": 70016,
        "localservices": "0000000000000409",
        "localservicesnames": ["NETWORK", "WITNESS", "NETWORK_LIMITED"],
        "localrelay": True,
        "timeoffset": 0,
        "networkactive": True,
        "connections": 0,
        "connections_in": 0,
        "connections_out": 0,
        "networks": [],
        "relayfee": render.amount(context.net.pool.relay_feerate),
        "incrementalfee": render.amount(1000),
        "localaddresses": [],
        "warnings": [],
    }


@call("getconnectioncount")
def getconnectioncount(context: Context, params: Params) -> Any:
    return 0


@call("getpeerinfo")
def getpeerinfo(context: Context, params: Params) -> Any:
    return []


@call("getindexinfo", "index_name?")
def getindexinfo(context: Context, params: Params) -> Any:
    return {"txindex": {"synced": True, "best_block_height": context.net.chain.height}}


@call("getzmqnotifications")
def getzmqnotifications(context: Context, params: Params) -> Any:
    return []


@call("uptime")
def uptime(context: Context, params: Params) -> Any:
    return int(context.now() - context.started)


@call("stop", "wait?")
def stop(context: Context, params: Params) -> Any:
    context.stop()
    return "salama devnet stopping"


@call("help", "command?")
def help_(context: Context, params: Params) -> Any:
    if not params.has("command"):
        return "\n".join(CALLS[name].usage for name in sorted(CALLS))
    found = CALLS.get(params.text("command"))
    return found.usage if found else f"help: unknown command: {params.text('command')[:100]}"
