"""RPC calls about unconfirmed transactions: offering, testing, listing, and what a fee should be."""

from __future__ import annotations

from typing import Any, Final

from salama.base.ids import OutPoint, Txid
from salama.bitcoin.script import is_op_return
from salama.bitcoin.tx import Tx
from salama.chain.devnet import render
from salama.chain.devnet.mempool import MAX_PACKAGE, MAX_POOL_VSIZE, Entry
from salama.chain.devnet.policy import Refusal, Rejected
from salama.chain.devnet.rpc import (
    INVALID_ADDRESS_OR_KEY,
    INVALID_PARAMETER,
    VERIFY_ERROR,
    Context,
    Params,
    RpcRefusal,
    call,
    integer,
    parse_hash,
    parse_tx,
)

DEFAULT_MAX_FEERATE: Final = 10_000_000
MAX_FEERATE_ARGUMENT: Final = 100_000_000
PACKAGE_DECODE: Final = "TX decode failed. Make sure the tx has at least one input."
FEE_EXCEEDED: Final = "Fee exceeds maximum configured by user (e.g. -maxtxfee, maxfeerate)"
BURN_EXCEEDED: Final = "Unspendable output exceeds maximum configured by user (maxburnamount)"


@call("sendrawtransaction", "hexstring", "maxfeerate?", "maxburnamount?")
def sendrawtransaction(context: Context, params: Params) -> Any:
    tx = params.tx("hexstring")
    ceiling = _max_feerate(params)
    _check_burn(tx, params.amount("maxburnamount", 0))
    pool = context.net.pool
    if tx.txid in pool.entries:
        return str(tx.txid)
    try:
        if ceiling:
            _check_ceiling(context, tx, ceiling)
        context.net.submit_tx(tx)
    except Rejected as refusal:
        raise _rpc_error(refusal) from None
    return str(tx.txid)


def _max_feerate(params: Params) -> int:
    """Satoshis per 1000 virtual bytes; zero switches the check off."""
    ceiling = params.amount("maxfeerate", DEFAULT_MAX_FEERATE)
    if ceiling >= MAX_FEERATE_ARGUMENT:
        raise RpcRefusal(INVALID_PARAMETER, "Fee rates larger than or equal to 1BTC/kvB are not accepted")
    return ceiling


def _check_burn(tx: Tx, most: int) -> None:
    if any(is_op_return(out.script) and out.value > most for out in tx.outputs):
        raise RpcRefusal(VERIFY_ERROR, BURN_EXCEEDED)


def _check_ceiling(context: Context, tx: Tx, ceiling: int) -> None:
    (result,) = context.net.pool.test([tx])
    if isinstance(result, Rejected):
        raise result
    if _exceeds(result, ceiling):
        raise RpcRefusal(VERIFY_ERROR, FEE_EXCEEDED)


def _exceeds(entry: Entry, ceiling: int) -> bool:
    return entry.fee * 1000 > ceiling * entry.vsize


def _rpc_error(refusal: Rejected) -> RpcRefusal:
    if refusal.refusal is Refusal.ALREADY_IN_CHAIN:
        return RpcRefusal(refusal.refusal.value, "Transaction outputs already in utxo set")
    return RpcRefusal(refusal.refusal.value, str(refusal))


@call("testmempoolaccept", "rawtxs", "maxfeerate?")
def testmempoolaccept(context: Context, params: Params) -> Any:
    raws = params.items("rawtxs")
    if not 1 <= len(raws) <= MAX_PACKAGE:
        raise RpcRefusal(INVALID_PARAMETER, f"Array must contain between 1 and {MAX_PACKAGE} transactions.")
    txs = [parse_tx(raw, PACKAGE_DECODE) for raw in raws]
    ceiling = _max_feerate(params)
    shown = []
    for tx, result in zip(txs, context.net.pool.test(txs), strict=True):
        one: dict[str, Any] = {"txid": str(tx.txid), "wtxid": str(tx.wtxid)}
        if isinstance(result, Rejected):
            missing = result.refusal is Refusal.MISSING_INPUTS
            one |= {"allowed": False, "reject-reason": "missing-inputs" if missing else result.word}
            one["reject-details"] = str(result)
        elif ceiling and _exceeds(result, ceiling):
            one |= {"allowed": False, "reject-reason": "max-fee-exceeded"}
        else:
            one |= {"allowed": True, "vsize": result.vsize, "fees": _fees(result)}
        shown.append(one)
    return shown


def _fees(entry: Entry) -> dict[str, Any]:
    return {
        "base": render.amount(entry.fee),
        "effective-feerate": render.feerate(entry.fee, entry.vsize),
        "effective-includes": [str(entry.wtxid)],
    }


@call("submitpackage", "package", "maxfeerate?", "maxburnamount?")
def submitpackage(context: Context, params: Params) -> Any:
    raws = params.items("package")
    if not 1 <= len(raws) <= MAX_PACKAGE:
        raise RpcRefusal(INVALID_PARAMETER, f"Array must contain between 1 and {MAX_PACKAGE} transactions.")
    txs = [parse_tx(raw, PACKAGE_DECODE) for raw in raws]
    _max_feerate(params)
    burn = params.amount("maxburnamount", 0)
    for tx in txs:
        _check_burn(tx, burn)
    malformed = _topology(txs)
    if malformed:
        return {"package_msg": malformed, "tx-results": {}, "replaced-transactions": []}
    outcome = context.net.submit_package(txs)
    results: dict[str, Any] = {}
    for tx, result in zip(txs, outcome.results, strict=True):
        one: dict[str, Any] = {"txid": str(tx.txid)}
        if isinstance(result, Rejected):
            one["error"] = str(result)
        else:
            fees = _fees(result)
            if result.wtxid in outcome.together:
                fees["effective-feerate"] = render.feerate(outcome.fee, outcome.vsize)
                fees["effective-includes"] = [str(wtxid) for wtxid in outcome.together]
            if result.wtxid != tx.wtxid:
                one["other-wtxid"] = str(result.wtxid)
            one |= {"vsize": result.vsize, "fees": fees}
        results[str(tx.wtxid)] = one
    return {
        "package_msg": outcome.word,
        "tx-results": results,
        "replaced-transactions": [str(txid) for txid in outcome.replaced],
    }


def _topology(txs: list[Tx]) -> str:
    """A package is a child, last, and before it nothing but its parents, which do not build on each other.

    What else is wrong with it as a whole is said as its result; empty if nothing is.
    """
    known = {tx.txid for tx in txs}
    wanted = {one.outpoint.txid for one in txs[-1].inputs}
    for tx in txs[:-1]:
        if tx.txid not in wanted or any(one.outpoint.txid in known for one in tx.inputs):
            raise RpcRefusal(
                VERIFY_ERROR, "package topology disallowed. not child-with-parents or parents depend on each other."
            )
    if len(known) != len(txs):
        return "package-contains-duplicates"
    spent = [one.outpoint for tx in txs for one in tx.inputs]
    return "conflict-in-package" if len(set(spent)) != len(spent) else ""


@call("getrawmempool", "verbose?", "mempool_sequence?")
def getrawmempool(context: Context, params: Params) -> Any:
    pool = context.net.pool
    if params.flag("verbose", False):
        return {str(txid): render.mempool_entry(context.net, txid, entry) for txid, entry in pool.entries.items()}
    txids = [str(txid) for txid in pool.entries]
    if params.flag("mempool_sequence", False):
        return {"txids": txids, "mempool_sequence": pool.sequence}
    return txids


@call("gettxspendingprevout", "outputs")
def gettxspendingprevout(context: Context, params: Params) -> Any:
    outputs = params.items("outputs")
    if not outputs:
        raise RpcRefusal(INVALID_PARAMETER, "Invalid parameter, outputs are missing")
    found: list[dict[str, Any]] = []
    for one in outputs:
        named = one if isinstance(one, dict) else {}
        txid = parse_hash(named.get("txid"), "txid", Txid)
        vout = integer(named.get("vout"), "vout", 0, 0xFFFFFFFF)
        spender = context.net.pool.spends.get(OutPoint(txid, vout))
        answer = {"txid": str(txid), "vout": vout}
        found.append(answer if spender is None else {**answer, "spendingtxid": str(spender)})
    return found


def _entry(context: Context, params: Params) -> tuple[Txid, Entry]:
    txid = params.hash("txid", Txid)
    entry = context.net.pool.entries.get(txid)
    if entry is None:
        raise RpcRefusal(INVALID_ADDRESS_OR_KEY, "Transaction not in mempool")
    return txid, entry


@call("getmempoolentry", "txid")
def getmempoolentry(context: Context, params: Params) -> Any:
    return render.mempool_entry(context.net, *_entry(context, params))


@call("getmempoolancestors", "txid", "verbose?")
def getmempoolancestors(context: Context, params: Params) -> Any:
    _, entry = _entry(context, params)
    return _family(context, params, context.net.pool.ancestors(entry.tx))


@call("getmempooldescendants", "txid", "verbose?")
def getmempooldescendants(context: Context, params: Params) -> Any:
    txid, _ = _entry(context, params)
    return _family(context, params, context.net.pool.descendants(txid))


def _family(context: Context, params: Params, txids: set[Txid]) -> Any:
    if not params.flag("verbose", False):
        return [str(txid) for txid in txids]
    entries = context.net.pool.entries
    return {str(txid): render.mempool_entry(context.net, txid, entries[txid]) for txid in txids}


@call("getmempoolinfo")
def getmempoolinfo(context: Context, params: Params) -> Any:
    pool = context.net.pool
    size = sum(entry.weight for entry in pool.entries.values())
    return {
        "loaded": True,
        "size": len(pool.entries),
        "bytes": pool.vsize,
        "usage": size,
        "total_fee": render.amount(sum(entry.fee for entry in pool.entries.values())),
        "maxmempool": MAX_POOL_VSIZE,
        "mempoolminfee": render.amount(max(pool.min_feerate, pool.relay_feerate)),
        "minrelaytxfee": render.amount(pool.relay_feerate),
        "incrementalrelayfee": render.amount(1000),
        "unbroadcastcount": 0,
        "fullrbf": True,
    }


@call("estimatesmartfee", "conf_target", "estimate_mode?")
def estimatesmartfee(context: Context, params: Params) -> Any:
    target = params.integer("conf_target", -(1 << 31), (1 << 31) - 1)
    if not 1 <= target <= 1008:
        raise RpcRefusal(INVALID_PARAMETER, "Invalid conf_target, must be between 1 and 1008")
    if params.has("estimate_mode") and params.text("estimate_mode").lower() not in (
        "unset",
        "economical",
        "conservative",
    ):
        raise RpcRefusal(
            INVALID_PARAMETER, 'Invalid estimate_mode parameter, must be one of: "unset", "economical", "conservative"'
        )
    if context.fee_estimate is None:
        return {"errors": ["Insufficient data or no feerate found"], "blocks": target}
    return {"feerate": render.amount(max(context.fee_estimate, context.net.pool.min_feerate)), "blocks": target}


@call("setfeeestimate", "feerate?")
def setfeeestimate(context: Context, params: Params) -> Any:
    """Not in bitcoind: what estimatesmartfee answers from now on, in BTC/kvB; nothing given means no data."""
    context.fee_estimate = params.amount("feerate", 0) or None
    return None


@call("setmempoolminfee", "feerate")
def setmempoolminfee(context: Context, params: Params) -> Any:
    """Not in bitcoind: plays a full mempool, whose floor is this rate in BTC/kvB."""
    context.net.pool.min_feerate = max(params.amount("feerate", 0), context.net.pool.relay_feerate)
    return None


@call("savemempool")
def savemempool(context: Context, params: Params) -> Any:
    # Every accepted transaction is in the log already.
    return {"filename": "chain.log"}
