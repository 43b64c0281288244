"""The devnet's RPC: shapes and error codes that tools rely on, and hostile requests."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from devnet_bench import ADDRESS, BTC, MULTI, SEVEN, TR, WPKH, WSH, RpcFailed, build, fan_out, in_process, pay, pieces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salama.chain.devnet import chain_calls, main, mempool_calls, mining_calls, rpc  # noqa: F401
from salama.chain.devnet.regtest import Regtest
from salama.chain.devnet.rpc import Answer, Context, answer


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Regtest]:
    net = in_process(tmp_path / "devnet")
    yield net
    net.close()


def context_of(net: Regtest) -> Context:
    async def new_tip(timeout: float) -> None:
        await asyncio.sleep(min(timeout, 0.005))

    return Context(net, time.monotonic(), time.monotonic, lambda: None, new_tip)


def ask(context: Context, body: bytes) -> Answer:
    result = answer(context, body)
    if isinstance(result, Answer):
        return result

    async def waiting() -> Answer:
        return await result

    return asyncio.run(waiting())


@pytest.fixture
def context(net: Regtest) -> Context:
    return context_of(net)


def call(context: Context, method: str, *params: Any, **named: Any) -> Any:
    body = json.dumps({"jsonrpc": "1.0", "id": "x", "method": method, "params": named or list(params)})
    got = ask(context, body.encode())
    parsed = json.loads(got.body)
    assert parsed["id"] == "x"
    assert (got.status == 200) == (parsed["error"] is None)
    if parsed["error"] is not None:
        raise RpcFailed(parsed["error"]["code"], parsed["error"]["message"])
    return parsed["result"]


def fails(context: Context, code: int, word: str, method: str, *params: Any) -> None:
    with pytest.raises(RpcFailed) as caught:
        call(context, method, *params)
    assert caught.value.code == code
    assert word in caught.value.message


def test_blocks_and_headers(net: Regtest, context: Context) -> None:
    (coin,) = fan_out(net, 1)
    tx = pay(coin, 777)
    assert call(context, "sendrawtransaction", tx.encode().hex()) == str(tx.txid)
    (block_hash,) = call(context, "generatetoaddress", 1, ADDRESS)
    assert call(context, "getbestblockhash") == block_hash
    height = call(context, "getblockcount")
    assert call(context, "getblockhash", height) == block_hash
    raw = net.raw_block(net.chain.tip)
    assert bytes.fromhex(call(context, "getblock", block_hash, 0)) == raw
    shown = call(context, "getblock", block_hash)
    assert shown["tx"][1] == str(tx.txid)
    assert (shown["size"], shown["nTx"], shown["confirmations"]) == (len(raw), 2, 1)
    assert shown["weight"] == 4 * shown["strippedsize"] + (len(raw) - shown["strippedsize"])
    decoded = call(context, "getblock", block_hash, 2)["tx"][1]
    assert (decoded["fee"], decoded["hex"]) == (0.00000777, tx.encode().hex())
    header = call(context, "getblockheader", block_hash)
    assert header["previousblockhash"] == call(context, "getblockhash", height - 1)
    assert bytes.fromhex(call(context, "getblockheader", block_hash, False)) == raw[:80]
    genesis = call(context, "getblock", call(context, "getblockhash", 0), 2)
    assert genesis["height"] == 0
    assert "previousblockhash" not in genesis
    fails(context, -8, "out of range", "getblockhash", height + 1)
    fails(context, -8, "out of range", "getblockhash", -1)
    fails(context, -5, "Block not found", "getblock", "00" * 32)
    fails(context, -8, "length 64", "getblock", "00")
    fails(context, -8, "hexadecimal", "getblock", "zz" * 32)


def test_amounts_are_exact_text(net: Regtest, context: Context) -> None:
    (coin,) = fan_out(net, 1, value=2_099_999_997)
    body = json.dumps({"id": 1, "method": "gettxout", "params": [str(coin.outpoint.txid), coin.outpoint.vout]}).encode()
    assert b'"value":20.99999997' in ask(context, body).body
    total = ask(context, b'{"method":"gettxoutsetinfo","id":1}').body
    assert f'"total_amount":{net.chain.total // BTC}.{net.chain.total % BTC:08d}'.encode() in total


def test_transactions(net: Regtest, context: Context) -> None:
    (coin,) = fan_out(net, 1)
    tx = pay(coin, 300)
    raw = tx.encode().hex()
    fails(context, -5, "No such mempool or blockchain transaction", "getrawtransaction", str(tx.txid))
    call(context, "sendrawtransaction", raw)
    assert call(context, "sendrawtransaction", raw) == str(tx.txid)
    assert call(context, "getrawtransaction", str(tx.txid)) == raw
    assert "confirmations" not in call(context, "getrawtransaction", str(tx.txid), True)
    spender = call(context, "getspendingtx", str(coin.outpoint.txid), coin.outpoint.vout)
    assert (spender["txid"], spender["confirmations"]) == (str(tx.txid), 0)
    found = call(
        context, "gettxspendingprevout", [{"txid": str(coin.outpoint.txid), "vout": 0}, {"txid": "11" * 32, "vout": 1}]
    )
    assert found[0]["spendingtxid"] == str(tx.txid)
    assert "spendingtxid" not in found[1]
    assert call(context, "gettxout", str(coin.outpoint.txid), 0) is None
    assert call(context, "gettxout", str(coin.outpoint.txid), 0, False)["confirmations"] == 1
    assert call(context, "gettxout", str(tx.txid), 0)["confirmations"] == 0
    call(context, "generatetoaddress", 2, ADDRESS)
    shown = call(context, "getrawtransaction", str(tx.txid), 1)
    assert (shown["confirmations"], shown["hex"]) == (2, raw)
    assert call(context, "getspendingtx", str(coin.outpoint.txid), 0)["height"] == net.chain.height - 1
    assert call(context, "getspendingtx", str(tx.txid), 0) is None
    assert call(context, "getrawtransaction", str(tx.txid), 0, shown["blockhash"]) == raw
    fails(context, -5, "provided block", "getrawtransaction", str(tx.txid), 0, str(net.chain.tip.hash))
    fails(context, -27, "already in utxo set", "sendrawtransaction", raw)
    fails(context, -22, "TX decode failed", "sendrawtransaction", raw + "00")
    fails(context, -22, "TX decode failed", "sendrawtransaction", "xyz")
    decoded = call(context, "decoderawtransaction", raw)
    assert (decoded["txid"], decoded["vsize"], decoded["vin"][0]["sequence"]) == (str(tx.txid), tx.vsize, 0xFFFFFFFD)
    assert decoded["vout"][0]["scriptPubKey"]["address"] == ADDRESS


def test_error_words_of_the_mempool(net: Regtest, context: Context) -> None:
    (coin,) = fan_out(net, 1, value=5_000_000)
    fails(
        context,
        -25,
        "bad-txns-inputs-missingorspent",
        "sendrawtransaction",
        pay(pieces(pay(coin, 300))[0], 300).encode().hex(),
    )
    fails(context, -26, "min relay fee not met, 100 < 110", "sendrawtransaction", pay(coin, 100).encode().hex())
    fails(context, -26, "dust", "sendrawtransaction", build([coin], [(100, WPKH)]).encode().hex())
    fails(
        context,
        -26,
        "mandatory-script-verify",
        "sendrawtransaction",
        pay(coin, 300, break_signature=True).encode().hex(),
    )
    call(context, "sendrawtransaction", pay(coin, 300).encode().hex())
    fails(context, -26, "insufficient fee, rejecting replacement", "sendrawtransaction", pay(coin, 310).encode().hex())
    costly = pay(coin, 1_200_000).encode().hex()
    fails(context, -25, "Fee exceeds maximum", "sendrawtransaction", costly)
    assert call(context, "testmempoolaccept", [costly])[0]["reject-reason"] == "max-fee-exceeded"
    burning = (
        build(pieces(pay(coin, 300)), [(5_000, b"\x6a" + bytes([8]) + bytes(8)), (4_990_000, WPKH)]).encode().hex()
    )
    fails(context, -25, "maxburnamount", "sendrawtransaction", burning, 0)
    call(context, "sendrawtransaction", burning, 0, "0.00005")
    call(context, "sendrawtransaction", costly, 0)


def test_testmempoolaccept_changes_nothing(net: Regtest, context: Context) -> None:
    (coin,) = fan_out(net, 1)
    tx = pay(coin, 500)
    child = pay(pieces(tx)[0], 300)
    allowed = call(context, "testmempoolaccept", [tx.encode().hex(), child.encode().hex()])
    assert [one["allowed"] for one in allowed] == [True, True]
    assert (allowed[0]["vsize"], allowed[0]["fees"]["base"]) == (tx.vsize, 0.000005)
    assert call(context, "getrawmempool") == []
    missing = call(context, "testmempoolaccept", [child.encode().hex()])[0]
    assert (missing["allowed"], missing["reject-reason"]) == (False, "missing-inputs")
    call(context, "sendrawtransaction", tx.encode().hex())
    assert call(context, "testmempoolaccept", [tx.encode().hex()])[0]["reject-reason"] == "txn-already-in-mempool"
    fails(context, -8, "between 1 and 25", "testmempoolaccept", [])


def test_the_mempool_shown(net: Regtest, context: Context) -> None:
    (coin,) = fan_out(net, 1)
    tx = pay(coin, 500)
    child = pay(pieces(tx)[0], 300)
    for one in (tx, child):
        call(context, "sendrawtransaction", one.encode().hex())
    assert call(context, "getrawmempool") == [str(tx.txid), str(child.txid)]
    entry = call(context, "getrawmempool", True)[str(child.txid)]
    assert entry == call(context, "getmempoolentry", str(child.txid))
    assert (entry["ancestorcount"], entry["fees"]["ancestor"], entry["depends"]) == (2, 0.000008, [str(tx.txid)])
    assert call(context, "getmempoolentry", str(tx.txid))["spentby"] == [str(child.txid)]
    assert call(context, "getmempoolancestors", str(child.txid)) == [str(tx.txid)]
    assert call(context, "getmempooldescendants", str(tx.txid)) == [str(child.txid)]
    info = call(context, "getmempoolinfo")
    assert (info["size"], info["bytes"], info["total_fee"]) == (2, tx.vsize + child.vsize, 0.000008)
    fails(context, -5, "not in mempool", "getmempoolentry", "11" * 32)


def test_submitpackage(net: Regtest, context: Context) -> None:
    (coin,) = fan_out(net, 1)
    parent = pay(coin, 0, version=3)
    child = pay(pieces(parent)[0], 1_000, version=3)
    raws = [tx.encode().hex() for tx in (parent, child)]
    fails(context, -25, "package topology", "submitpackage", raws[::-1])
    for package in ([raws[0], raws[0]], [raws[0], pay(coin, 5).encode().hex()]):
        fails(context, -25, "package topology", "submitpackage", package)
    twice = call(context, "submitpackage", [raws[0], *raws])
    assert (twice["package_msg"], twice["tx-results"]) == ("package-contains-duplicates", {})
    result = call(context, "submitpackage", raws)
    assert result["package_msg"] == "success"
    shown = result["tx-results"][str(child.wtxid)]
    assert (shown["txid"], shown["fees"]["effective-feerate"]) == (str(child.txid), 0.00004545)
    assert shown["fees"]["effective-includes"] == [str(parent.wtxid), str(child.wtxid)]
    lonely = pay(pieces(child)[0], 1)
    failed = call(context, "submitpackage", [lonely.encode().hex()])
    assert failed["package_msg"] == "transaction failed"
    assert "min relay fee not met" in failed["tx-results"][str(lonely.wtxid)]["error"]


def test_generating(net: Regtest, context: Context) -> None:
    a, b = fan_out(net, 2)
    for coin in (a, b):
        call(context, "sendrawtransaction", pay(coin, 300).encode().hex())
    made = call(context, "generateblock", ADDRESS, [str(pay(b, 300).txid)])
    assert call(context, "getblock", made["hash"])["tx"][1:] == [str(pay(b, 300).txid)]
    assert call(context, "getrawmempool") == [str(pay(a, 300).txid)]
    draft = call(context, "generateblock", f"raw({TR.hex()})", [], False)
    assert net.chain.tip.hash != draft["hash"]
    assert call(context, "submitblock", draft["hex"]) is None
    assert call(context, "submitblock", draft["hex"]) == "duplicate"
    assert call(context, "getbestblockhash") == draft["hash"]
    fails(context, -5, "not in mempool", "generateblock", ADDRESS, ["11" * 32])
    fails(
        context,
        -25,
        "TestBlockValidity failed",
        "generateblock",
        ADDRESS,
        [pay(a, 300, break_signature=True).encode().hex()],
    )
    fails(context, -25, "missingorspent", "generateblock", ADDRESS, [pay(b, 9_000).encode().hex()])
    fails(context, -22, "decode failed", "generateblock", ADDRESS, ["00"])
    fails(context, -22, "decode failed", "submitblock", "00")
    fails(context, -5, "Invalid address", "generatetoaddress", 1, "tb1qw508d6qejxtdg4y5r3zarvary0c5xw7kxpjzsx")
    fails(context, -8, "out of range", "generatetoaddress", 1_000_000, ADDRESS)
    assert call(context, "generatetodescriptor", 1, f"addr({ADDRESS})#aaaaaaaa")
    assert call(context, "generatetoaddress", 0, ADDRESS) == []


def test_reorg_calls(net: Regtest, context: Context) -> None:
    old = call(context, "generatetoaddress", 3, ADDRESS)
    assert call(context, "invalidateblock", old[0]) is None
    new = call(context, "generatetoaddress", 1, ADDRESS)
    tips = {tip["hash"]: (tip["status"], tip["branchlen"]) for tip in call(context, "getchaintips")}
    assert tips == {old[2]: ("invalid", 3), new[0]: ("active", 0)}
    assert call(context, "getblockheader", old[1])["confirmations"] == -1
    call(context, "reconsiderblock", old[0])
    assert call(context, "getbestblockhash") == old[2]
    fails(context, -5, "Block not found", "invalidateblock", "11" * 32)
    fails(context, -8, "genesis", "invalidateblock", call(context, "getblockhash", 0))


def test_scanning_and_descriptors(net: Regtest, context: Context) -> None:
    coins = fan_out(net, 3, WSH, value=70_000)
    found = call(context, "scantxoutset", "start", [f"raw({WSH.hex()})", {"desc": f"addr({ADDRESS})"}])
    ours = [one for one in found["unspents"] if one["scriptPubKey"] == WSH.hex()]
    assert {(one["txid"], one["vout"], one["amount"]) for one in ours} == {
        (str(coin.outpoint.txid), coin.outpoint.vout, 0.0007) for coin in coins
    }
    assert len(found["unspents"]) == found["txouts"] == len(net.chain.coins)
    fails(context, -5, "descriptors", "scantxoutset", "start", ["wpkh(xpub)"])
    fails(context, -5, "not hex", "scantxoutset", "start", ["raw(zz)"])
    fails(context, -8, "action", "scantxoutset", "begin", [])


def test_fees_and_node_calls(context: Context) -> None:
    assert "feerate" not in call(context, "estimatesmartfee", 6)
    call(context, "setfeeestimate", 0.00012345)
    assert call(context, "estimatesmartfee", 6)["feerate"] == 0.00012345
    call(context, "setmempoolminfee", "0.0005")
    assert call(context, "getmempoolinfo")["mempoolminfee"] == 0.0005
    assert call(context, "estimatesmartfee", 6)["feerate"] == 0.0005
    call(context, "setfeeestimate")
    assert "errors" in call(context, "estimatesmartfee", 6)
    fails(context, -8, "conf_target", "estimatesmartfee", 0)
    info = call(context, "getblockchaininfo")
    assert (info["chain"], info["blocks"], info["initialblockdownload"]) == ("regtest", 110, False)
    assert call(context, "getnetworkinfo")["relayfee"] == 0.00001
    assert call(context, "uptime") >= 0
    assert call(context, "validateaddress", ADDRESS)["isvalid"] is True
    assert call(context, "validateaddress", "1nonsense")["isvalid"] is False
    assert "getblockcount" in call(context, "help").split("\n")
    assert call(context, "help", "getblockhash") == 'getblockhash "height"'
    # Every method that a node or a tool of the plan uses is there.
    for name in ["getinfo", "sendtoaddress", "walletpassphrase"]:
        fails(context, -32601, "Method not found", name)


def test_waiting_for_blocks(net: Regtest, context: Context) -> None:
    tip = call(context, "getbestblockhash")
    started = time.monotonic()
    assert call(context, "waitfornewblock", 30, tip)["hash"] == tip
    assert time.monotonic() - started >= 0.03
    (new,) = call(context, "generatetoaddress", 1, ADDRESS)
    assert call(context, "waitfornewblock", 60_000, tip) == {"hash": new, "height": 111}
    assert call(context, "waitforblockheight", 111, 60_000)["height"] == 111
    assert call(context, "waitforblock", new, 60_000)["hash"] == new
    assert call(context, "waitforblockheight", 112, 5)["height"] == 111


def test_parameters_by_name_and_their_errors(context: Context) -> None:
    genesis = call(context, "getblockhash", height=0)
    assert call(context, "getblock", blockhash=genesis, verbosity=0) == call(context, "getblock", genesis, False)
    assert call(context, "getblock", args=[genesis], verbosity=0) == call(context, "getblock", genesis, 0)
    with pytest.raises(RpcFailed, match="Unknown named parameter"):
        call(context, "getblockhash", heigth=0)
    fails(context, -1, "getblockhash", "getblockhash")
    fails(context, -1, "getblockhash", "getblockhash", 1, 2)
    fails(context, -3, "type string is not of expected type number", "getblockhash", "1")
    fails(context, -3, "type bool", "getblockhash", True)
    fails(context, -3, "type number", "getblockhash", 1.5)
    fails(context, -3, "type number is not of expected type string", "getblock", 5)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 500, -32700),
        (b"{", 500, -32700),
        (b"\xff\xfe", 500, -32700),
        (b"[" * 100_000, 500, -32700),
        (b'{"a":' * 20_000, 500, -32700),
        (b"5", 400, -32600),
        (b"{}", 400, -32600),
        (b'{"method":5,"id":1}', 400, -32600),
        (b'{"method":"getblockcount","params":"x","id":1}', 400, -32600),
        (b'{"method":"nope","id":1}', 404, -32601),
        (b'{"method":"getblockhash","params":[1e999999999999],"id":1}', 500, -3),
        (b'{"method":"getblockhash","params":[123456789012345678901234567890],"id":1}', 500, -8),
        (b'{"method":"setfeeestimate","params":[1e-400],"id":1}', 500, -3),
        (b'{"method":"setfeeestimate","params":["1e999999"],"id":1}', 500, -3),
    ],
)
def test_requests_that_make_no_sense(context: Context, body: bytes, status: int, code: int) -> None:
    got = ask(context, body)
    error = json.loads(got.body)["error"]
    assert (got.status, error["code"]) == (status, code)


def test_batches_and_the_second_protocol(context: Context) -> None:
    got = ask(
        context,
        b'[{"method":"getblockcount","id":7},{"method":"nope","id":8},5,{"method":"waitfornewblock","params":[1],"id":9}]',
    )
    answers = json.loads(got.body)
    assert got.status == 200
    assert [(one["id"], one["error"] and one["error"]["code"]) for one in answers] == [
        (7, None),
        (8, -32601),
        (None, -32600),
        (9, None),
    ]
    second = json.loads(ask(context, b'{"jsonrpc":"2.0","method":"getblockcount","id":1}').body)
    assert second == {"jsonrpc": "2.0", "result": 110, "id": 1}
    error = ask(context, b'{"jsonrpc":"2.0","method":"nope","id":1}')
    assert (error.status, json.loads(error.body)["error"]["code"]) == (200, -32601)
    for ident in (b"12345678901234567890123", b"[1]", b"1.5"):
        assert json.loads(ask(context, b'{"method":"getblockcount","id":' + ident + b"}").body)["id"] is None
    assert json.loads(ask(context, b"[]").body) == []


# --- fuzzing


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def check_answered(context: Context, body: bytes) -> bool:
    """Whether the answer is a result; that it is one or an error, and none of our own making, is asserted."""
    got = ask(context, body)
    parsed = msgspec.json.decode(got.body)
    for one in parsed if isinstance(parsed, list) else [parsed]:
        assert "error" in one or "result" in one
        error = one.get("error")
        # Our own faults are answered too, but there shall be none.
        assert error is None or error["code"] != rpc.INTERNAL_ERROR, (body[:300], error)
    return isinstance(parsed, dict) and parsed.get("error") is None


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(method=st.sampled_from(sorted(rpc.CALLS)), params=JSON_VALUES, ident=JSON_VALUES)
def test_any_json_is_answered(net: Regtest, method: str, params: Any, ident: Any) -> None:
    if method in ("waitfornewblock", "waitforblock", "waitforblockheight") or (
        isinstance(params, list) and params and params[0] == 0
    ):
        return
    check_answered(context_of(net), json.dumps({"method": method, "params": params, "id": ident}).encode())


class Fuzzer:
    """Calls that are nearly right: real hashes, heights, transactions and blocks, bent by chance."""

    def __init__(self, net: Regtest, seed: int) -> None:
        self.net, self.dice = net, random.Random(seed)
        self.coins = fan_out(net, 40, WSH)
        self.context = context_of(net)
        self.answered = 0
        self.methods = sorted(set(rpc.CALLS) - {"waitfornewblock", "waitforblock", "waitforblockheight", "stop"})

    def value(self, depth: int = 0) -> Any:
        dice, chain = self.dice, self.net.chain
        kind = dice.randrange(20)
        if kind == 0:
            return dice.choice([None, True, False, {}, [], "", "\x00", 1.5, -1, 1 << 63, -(1 << 64), 1e300])
        if kind <= 3:
            return dice.randrange(-2, 5)
        if kind == 4:
            return dice.choice(
                ["start", "addr()", f"raw({dice.randbytes(3).hex()})", f"addr({ADDRESS})", "UNSET", "0.001"]
            )
        if kind <= 6:
            return ADDRESS
        if kind <= 8:
            return str(chain.active[-1 - dice.randrange(min(4, len(chain.active)))])
        if kind == 9:
            return str(dice.choice(list(chain.blocks)))
        if kind == 10:
            return str(dice.choice(list(chain.places)))
        if kind <= 14:
            return self.tx()
        if kind == 15:
            raw = bytearray(self.net.raw_block(chain.tip))
            raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
            return bytes(raw).hex()
        if kind <= 18 and depth < 2:
            return [self.value(depth + 1) for _ in range(dice.randrange(3))]
        return {"txid": str(dice.choice(list(chain.places))), "vout": dice.randrange(3)}

    def value_for(self, name: str) -> Any:
        """Mostly what the parameter wants."""
        dice, chain = self.dice, self.net.chain
        if dice.random() < 0.2:
            return self.value()
        if name in ("blockhash", "current_tip"):
            return str(chain.active[-1 - dice.randrange(min(4, len(chain.active)))])
        if name == "txid":
            return str(dice.choice([*self.net.pool.entries, dice.choice(list(chain.places))]))
        if name in ("nblocks", "num_blocks", "n", "vout", "verbosity", "conf_target"):
            return dice.randrange(4)
        if name == "hexstring":
            return self.tx()
        if name in ("rawtxs", "package"):
            return [self.tx() for _ in range(dice.randint(1, 3))]
        if name == "transactions":
            return [
                *map(str, list(self.net.pool.entries)[: dice.randrange(3)]),
                *[self.tx() for _ in range(dice.randrange(2))],
            ]
        if name in ("address", "output"):
            return ADDRESS
        if name in ("maxfeerate", "feerate", "maxburnamount"):
            return dice.choice([0, 0.00001, 0.1])
        return self.value()

    def tx(self) -> str:
        dice = self.dice
        entries = list(self.net.pool.entries.values())
        if entries and dice.random() < 0.4:
            coin = pieces(dice.choice(entries).tx)[0]
        else:
            coin = dice.choice(self.coins)
        script = dice.choice([WSH, WSH, WSH, SEVEN, MULTI, b"", dice.randbytes(34)])
        value = max(0, coin.out.value - dice.choice([0, 50, 200, 5_000, 400_000, -5]))
        tx = build([coin], [(value, script)], version=dice.choice([2, 2, 3, 1]), locktime=dice.choice([0, 0, 0, 500]))
        if dice.random() < 0.3:
            tx = tx.with_witness(0, [dice.randbytes(dice.randrange(90)) for _ in range(dice.randrange(4))])
        raw = bytearray(tx.encode())
        if dice.random() < 0.3:
            raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
        if dice.random() < 0.1:
            del raw[dice.randrange(len(raw)) :]
        return bytes(raw).hex()

    def run(self, calls: int) -> None:
        for at in range(calls):
            method = self.dice.choice(self.methods)
            found = rpc.CALLS[method]
            most = len(found.params) + (self.dice.random() < 0.05)
            count = self.dice.randint(0 if self.dice.random() < 0.05 else found.required, most)
            params = [self.value_for(name) for name in (*found.params, "")[:count]]
            body = json.dumps({"method": method, "params": params, "id": at}).encode()
            if self.dice.random() < 0.05:
                bent = bytearray(body)
                bent[self.dice.randrange(len(bent))] = self.dice.randrange(256)
                body = bytes(bent)
            if len(self.net.chain.active) > 160 and method.startswith("generate"):
                # Keeps the chain short, and so each reorg quick.
                body = json.dumps(
                    {"method": "invalidateblock", "params": [str(self.net.chain.active[150])], "id": at}
                ).encode()
            self.answered += check_answered(self.context, body)


def test_bent_calls(net: Regtest) -> None:
    fuzzer = Fuzzer(net, 1)
    fuzzer.run(2_000)
    # Bent, not broken: most of the code is reached.
    assert fuzzer.answered > 400
    assert len(net.chain.blocks) > 120
    net.generate(WPKH)


@pytest.mark.slow
def test_a_hundred_thousand_bent_calls(tmp_path: Path) -> None:
    for seed in range(20):
        net = in_process(tmp_path / str(seed))
        Fuzzer(net, 1_000 + seed).run(5_000)
        net.generate(WPKH)
        net.close()
