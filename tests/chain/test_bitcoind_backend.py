"""The back-end against a real devnet process, and against servers that fail, lie or stay silent."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from devnet_bench import ADDRESS, TR, WPKH, Devnet, Piece, build, pay, pieces, running

from salama.base.ids import BlockHash, OutPoint, ShortChannelId, Txid
from salama.base.units import FeeratePerKw, Sat
from salama.bitcoin.block import Block
from salama.bitcoin.tx import TxOut
from salama.chain import bitcoind as bitcoind_module
from salama.chain.backend import BackendError, BackendUnavailable, BroadcastResult, ChainBackend
from salama.chain.bitcoind import Bitcoind
from salama.chain.http_client import Login

R = TypeVar("R")


@pytest.fixture(scope="module")
def devnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devnet]:
    with running(tmp_path_factory.mktemp("backend") / "devnet") as one:
        one.call("generatetoaddress", 120, ADDRESS)
        yield one


def using(devnet: Devnet, work: Callable[[Bitcoind], Awaitable[R]]) -> R:
    async def run() -> R:
        backend = Bitcoind(devnet.url, cookie=devnet.cookie)
        try:
            return await work(backend)
        finally:
            await backend.close()

    return asyncio.run(run())


_next_coin = 0


def coinbase(devnet: Devnet) -> Piece:
    """A mature coin that no other test has taken."""
    global _next_coin
    _next_coin += 1
    block = Block.decode(bytes.fromhex(devnet.call("getblock", devnet.call("getblockhash", _next_coin), 0)))
    devnet.call("generatetoaddress", 1, ADDRESS)
    return pieces(block.txs[0])[0]


def test_it_is_a_chain_backend(devnet: Devnet) -> None:
    async def work(backend: Bitcoind) -> ChainBackend:
        return backend

    assert using(devnet, work) is not None


def test_chain_questions(devnet: Devnet) -> None:
    async def work(backend: Bitcoind) -> None:
        info = await backend.info()
        assert (info.network_name, info.synced) == ("regtest", True)
        assert str(info.genesis_hash).startswith("0f9188f13cb7b2c7")
        assert await backend.block_hash(info.height) == info.best_hash
        assert await backend.block_hash(info.height + 1) is None
        block = await backend.block(info.best_hash)
        assert block.hash == info.best_hash
        header = await backend.header(info.best_hash)
        assert header is not None
        assert (header.height, header.previous, header.connected) == (info.height, block.header.previous, True)
        genesis = await backend.header(info.genesis_hash)
        assert genesis is not None
        assert genesis.previous is None
        assert await backend.header(BlockHash(b"\x01" * 32)) is None
        with pytest.raises(BackendError) as caught:
            await backend.block(BlockHash(b"\x01" * 32))
        assert caught.value.code == -5
        assert backend.is_local

    using(devnet, work)


def test_broadcast_and_outputs(devnet: Devnet) -> None:
    coin = coinbase(devnet)
    tx = pay(coin, 1_000, TR)

    async def work(backend: Bitcoind) -> None:
        before = await backend.utxo(coin.outpoint)
        assert before is not None
        assert (before.txout, before.coinbase) == (coin.out, True)
        assert before.height == _next_coin
        assert await backend.test_accept(tx) == BroadcastResult(True)
        assert await backend.mempool_txids() == frozenset()
        assert await backend.mempool_spenders([]) == frozenset()
        assert await backend.mempool_spenders([coin.outpoint]) == frozenset()
        assert await backend.broadcast(tx) == BroadcastResult(True)
        assert (await backend.test_accept(tx)).already_known
        assert (await backend.broadcast(tx)).accepted
        assert await backend.mempool_txids() == {tx.txid}
        assert await backend.mempool_spenders([OutPoint(tx.txid, 0), coin.outpoint]) == {tx.txid}
        assert await backend.utxo(coin.outpoint) is None
        assert await backend.utxo(coin.outpoint, include_mempool=False) == before
        waiting = await backend.utxo(OutPoint(tx.txid, 0))
        assert waiting is not None
        assert waiting.height is None
        assert await backend.transaction(tx.txid) == tx
        assert await backend.transaction(Txid(b"\x07" * 32)) is None
        await backend.rpc("generatetoaddress", 1, ADDRESS)
        known = await backend.broadcast(tx)
        assert known.accepted
        assert known.already_known
        info = await backend.info()
        confirmed = await backend.utxo(OutPoint(tx.txid, 0))
        assert confirmed is not None
        assert (confirmed.height, confirmed.coinbase) == (info.height, False)
        scid = ShortChannelId.of(info.height, 1, 0)
        assert await backend.utxo_by_scid(scid) == (OutPoint(tx.txid, 0), tx.outputs[0])
        assert await backend.utxo_by_scid(scid) == (OutPoint(tx.txid, 0), tx.outputs[0])
        assert await backend.utxo_by_scid(ShortChannelId.of(info.height, 2, 0)) is None
        assert await backend.utxo_by_scid(ShortChannelId.of(info.height, 1, 1)) is None
        assert await backend.utxo_by_scid(ShortChannelId.of(info.height + 1, 1, 0)) is None

    using(devnet, work)


def test_remembered_blocks_are_bounded(devnet: Devnet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bitcoind_module, "MAX_TXID_CACHE", 3 * 32)

    async def work(backend: Bitcoind) -> None:
        for height in range(50, 70):
            assert await backend.utxo_by_scid(ShortChannelId.of(height, 0, 0)) is not None
        assert len(backend._txids) == 3
        assert backend._txids_size == 96

    using(devnet, work)


def test_refusals_keep_their_words(devnet: Devnet) -> None:
    coin = coinbase(devnet)

    async def work(backend: Bitcoind) -> None:
        poor = await backend.broadcast(pay(coin, 10))
        assert (poor.accepted, poor.code, poor.retry) == (False, -26, True)
        assert poor.reason.startswith("min relay fee not met")
        assert (await backend.test_accept(pay(coin, 10))).reason == "min relay fee not met"
        broken = await backend.broadcast(pay(coin, 500, break_signature=True))
        assert (broken.accepted, broken.retry) == (False, False)
        orphan = await backend.broadcast(pay(pieces(pay(coin, 300))[0], 300))
        assert (orphan.accepted, orphan.code, orphan.retry) == (False, -25, True)
        # A rate beyond any default ceiling: budgets are not the back-end's business.
        rich = build([coin], [(coin.out.value - 30_000_000, WPKH)])
        assert (await backend.broadcast(rich)).accepted

    using(devnet, work)


def test_packages(devnet: Devnet) -> None:
    coin = coinbase(devnet)
    parent = pay(coin, 0, version=3)
    poor, rich = pay(pieces(parent)[0], 100, version=3), pay(pieces(parent)[0], 1_000, version=3)
    bad = pay(pieces(parent)[0], 1_000, version=3, break_signature=True)

    async def work(backend: Bitcoind) -> None:
        refused = await backend.submit_package([parent, poor])
        assert (refused.accepted, refused.retry) == (False, True)
        assert refused.reason.startswith("min relay fee not met, 100 < 220")
        broken = await backend.submit_package([parent, bad])
        assert (broken.accepted, broken.retry) == (False, False)
        unsorted = await backend.submit_package([rich, parent])
        assert (unsorted.accepted, unsorted.code) == (False, -25)
        assert await backend.submit_package([parent, rich]) == BroadcastResult(True)
        assert (await backend.submit_package([parent, rich])).accepted
        assert {parent.txid, rich.txid} <= await backend.mempool_txids()
        rival = build([coin], [(int(coin.out.value) - 1_000, WPKH), (1_000, WPKH)], version=3)
        cheap = pay(pieces(rival)[0], 1_020, version=3)
        outbid = await backend.submit_package([rival, cheap])
        # Of the child alone bitcoind says that its parent is missing, which is true and tells nothing.
        assert (outbid.accepted, outbid.retry) == (False, True) and "fee" in outbid.reason

    using(devnet, work)


def test_fee_rates_stay_inside_their_bounds(devnet: Devnet) -> None:
    async def work(backend: Bitcoind) -> None:
        assert await backend.feerate(6) is None
        for rate, expected in [("0.00001", 253), ("0.0001", 2_500), ("0.00010003", 2_501), ("1", 500_000)]:
            await backend.rpc("setfeeestimate", rate)
            assert await backend.feerate(6) == FeeratePerKw(expected)
        await backend.rpc("setfeeestimate", "0.0001")
        await backend.rpc("setmempoolminfee", "0.0002")
        assert await backend.feerate(2_000) == FeeratePerKw(5_000)
        await backend.rpc("setmempoolminfee", 0)
        await backend.rpc("setfeeestimate")

    using(devnet, work)


def test_waiting_sees_a_block_at_once(devnet: Devnet) -> None:
    async def work(backend: Bitcoind) -> None:
        info = await backend.info()
        started = time.monotonic()
        waiting = asyncio.create_task(backend.wait_for_block(info.best_hash, info.height, 20.0))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await backend.rpc("generatetoaddress", 1, ADDRESS)
        await waiting
        assert time.monotonic() - started < 10
        # It changed already.
        await backend.wait_for_block(info.best_hash, info.height, 20.0)

    using(devnet, work)


def test_many_questions_at_once(devnet: Devnet) -> None:
    async def work(backend: Bitcoind) -> None:
        hashes = await asyncio.gather(*(backend.block_hash(h) for h in range(100)))
        assert len(set(hashes)) == 100
        # A call given up in the middle does not mix up the answers of the next.
        for _ in range(20):
            task = asyncio.create_task(backend.block_hash(5))
            await asyncio.sleep(0.0005)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await backend.block_hash(7) == hashes[7]

    using(devnet, work)


def test_a_restart_with_a_new_cookie_goes_unnoticed(tmp_path: Path) -> None:
    devnet = Devnet(tmp_path / "devnet")

    async def work() -> None:
        nonlocal devnet
        backend = Bitcoind(devnet.url, cookie=devnet.cookie)
        assert (await backend.info()).height == 0
        port = str(devnet.port)
        devnet.kill()
        with pytest.raises(BackendUnavailable):
            await backend.info()
        devnet = Devnet(tmp_path / "devnet", "--port", port)
        assert (await backend.info()).height == 0
        await backend.close()
        with pytest.raises(BackendUnavailable, match="closed by us"):
            await backend.info()

    try:
        asyncio.run(work())
    finally:
        devnet.stop()


# --- a server of our own making


@asynccontextmanager
async def server(respond: Callable[[bytes], bytes | None], password: str = "b") -> AsyncIterator[Bitcoind]:
    """``respond`` gets a request's body and gives the raw HTTP answer; None hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                answer = respond(await reader.readexactly(length))
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    backend = Bitcoind(f"http://127.0.0.1:{port}", user="a", password=password, timeout=0.5)
    try:
        yield backend
    finally:
        await backend.close()
        listening.close()
        await listening.wait_closed()
        await asyncio.sleep(0)


def http(body: bytes, status: int = 200, length: int | None = None) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body) if length is None else length) + body


def result(value: Any) -> bytes:
    return http(json.dumps({"result": value, "error": None, "id": 0}).encode())


def error(code: Any, message: Any) -> bytes:
    return http(json.dumps({"result": None, "error": {"code": code, "message": message}, "id": 0}).encode(), 500)


def ask(respond: Callable[[bytes], bytes | None], work: Callable[[Bitcoind], Awaitable[R]]) -> R:
    async def run() -> R:
        async with server(respond) as backend:
            return await work(backend)

    return asyncio.run(run())


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 900000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        http(b"{"),
        http(b"[" * 100_000),
        http(b"5"),
        http(b"{}"),
        http(b'{"error":5}'),
        http(b'{"error":{"code":"x","message":[]}}'),
        http(b'{"result":null,"error":null}'),
        result(5),
        result("xyz"),
        result(1.5),
        result("00" * 31),
        error(-99, "x" * 5_000),
    ],
)
def test_answers_without_sense_are_typed_errors(answer: bytes) -> None:
    questions: list[Callable[[Bitcoind], Awaitable[object]]] = [
        lambda b: b.info(),
        lambda b: b.block_hash(5),
        lambda b: b.header(BlockHash(bytes(32))),
        lambda b: b.block(BlockHash(bytes(32))),
        lambda b: b.transaction(Txid(bytes(32))),
        lambda b: b.mempool_txids(),
        lambda b: b.mempool_spenders([OutPoint(Txid(bytes(32)), 0)]),
        lambda b: b.feerate(6),
        lambda b: b.utxo_by_scid(ShortChannelId.of(1, 1, 1)),
    ]

    async def work(backend: Bitcoind) -> None:
        for question in questions:
            with pytest.raises((BackendError, BackendUnavailable)) as caught:
                await question(backend)
            assert len(str(caught.value)) < 2_000

    ask(lambda _: answer, work)


@pytest.mark.parametrize(
    "number", ["-1", "21000001", "1e999999", "1e-9", "0.000000001", "1e9999999999999999999999", '"1"', "null", "true"]
)
def test_amounts_that_cannot_be_are_refused(number: str) -> None:
    body = '{"result":{"value":NUMBER,"confirmations":0,"coinbase":false,"scriptPubKey":{"hex":"51"}}}'
    body = body.replace("NUMBER", number)
    with pytest.raises(BackendError) as caught:
        ask(lambda _: http(body.encode()), lambda b: b.utxo(OutPoint(Txid(bytes(32)), 0)))
    assert caught.value.code == 0


def test_amounts_are_exact() -> None:
    body = b'{"result":{"value":20999999.97690001,"confirmations":0,"coinbase":false,"scriptPubKey":{"hex":"51"}}}'
    found = ask(lambda _: http(body), lambda b: b.utxo(OutPoint(Txid(bytes(32)), 0)))
    assert found is not None
    assert found.txout == TxOut(Sat(2_099_999_997_690_001), b"\x51")


def test_a_lying_server_is_caught(devnet: Devnet) -> None:
    block = devnet.call("getblock", devnet.call("getblockhash", 3), 0)
    with pytest.raises(BackendError, match="another block"):
        ask(lambda _: result(block), lambda b: b.block(BlockHash(b"\x01" * 32)))
    decoded = Block.decode(bytes.fromhex(block))
    doctored = Block(decoded.header, (pay(Piece(OutPoint(Txid(bytes(32)), 0), TxOut(Sat(5_000), WPKH)), 300),)).encode()
    with pytest.raises(BackendError, match="another block"):
        ask(lambda _: result(doctored.hex()), lambda b: b.block(decoded.hash))
    tx = decoded.txs[0].encode().hex()
    with pytest.raises(BackendError, match="another transaction"):
        ask(lambda _: result(tx), lambda b: b.transaction(Txid(bytes(32))))
    with pytest.raises(BackendError, match="another txid"):
        ask(lambda _: result("00" * 32), lambda b: b.broadcast(decoded.txs[0]))


def test_every_unknown_broadcast_error_is_tried_again(devnet: Devnet) -> None:
    tx = Block.decode(bytes.fromhex(devnet.call("getblock", devnet.call("getblockhash", 3), 0))).txs[0]
    cases = [
        (-26, "a word from the future", True),
        (-1, "", True),
        (-25, "bad-txns-inputs-missingorspent", True),
        (-26, "txn-mempool-conflict", True),
        (-26, "insufficient fee, rejecting replacement", True),
        (-26, "too-long-mempool-chain, too many ancestors", True),
        (-26, "mandatory-script-verify-flag-failed (x)", False),
        (-22, "TX decode failed", False),
        (-26, "dust", False),
    ]
    for code, message, retry in cases:
        got = ask(lambda _, c=code, m=message: error(c, m), lambda b: b.broadcast(tx))  # type: ignore[misc]
        assert (got.accepted, got.retry, got.code) == (False, retry, code), message
    for code, message in [(-27, "anything"), (-26, "txn-already-in-mempool"), (-26, "txn-already-known")]:
        got = ask(lambda _, c=code, m=message: error(c, m), lambda b: b.broadcast(tx))  # type: ignore[misc]
        assert got == BroadcastResult(True, already_known=True)


def test_no_package_relay_means_one_by_one(devnet: Devnet) -> None:
    tx = Block.decode(bytes.fromhex(devnet.call("getblock", devnet.call("getblockhash", 3), 0))).txs[0]
    asked: list[str] = []

    def respond(body: bytes) -> bytes:
        asked.append(json.loads(body)["method"])
        return error(-32601, "Method not found") if asked[-1] == "submitpackage" else result(str(tx.txid))

    assert ask(respond, lambda b: b.submit_package([tx, tx])).accepted
    assert asked == ["submitpackage", "sendrawtransaction", "sendrawtransaction"]


def test_lost_connections_are_tried_again() -> None:
    answers = [None, None, result("11" * 32), None, result("22" * 32)]

    async def work(backend: Bitcoind) -> list[str]:
        return [str(await backend.block_hash(1)), str(await backend.block_hash(1))]

    assert ask(lambda _: answers.pop(0), work) == ["11" * 32, "22" * 32]
    started = time.monotonic()
    with pytest.raises(BackendUnavailable):
        ask(lambda _: None, lambda b: b.block_hash(1))
    assert time.monotonic() - started < 5


def test_unavailable_for_a_while() -> None:
    with pytest.raises(BackendUnavailable, match="starting up"):
        ask(lambda _: error(-28, "Loading block index..."), lambda b: b.block_hash(1))
    with pytest.raises(BackendUnavailable, match="refuses our user"):
        ask(lambda _: http(b"", 401), lambda b: b.block_hash(1))
    busy = [http(b"Work queue depth exceeded", 503), result("11" * 32)]
    assert ask(lambda _: busy.pop(0), lambda b: b.block_hash(1)) is not None
    with pytest.raises(BackendUnavailable, match="no answer within"):
        ask(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", lambda b: b.block_hash(1))


def test_an_older_bitcoind_is_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bitcoind_module, "BLIND_WAIT_SECONDS", 0.01)
    asked: list[str] = []

    def respond(body: bytes) -> bytes:
        asked.append(json.loads(body)["method"])
        return error(-1, "usage") if asked[-1] == "waitfornewblock" else error(-32601, "Method not found")

    async def work(backend: Bitcoind) -> None:
        for _ in range(3):
            await backend.wait_for_block(BlockHash(bytes(32)), 5, 10.0)

    ask(respond, work)
    assert asked == ["waitfornewblock", "waitforblockheight"]


def test_where_and_as_whom() -> None:
    for url in (
        "https://127.0.0.1:1",
        "http://",
        "127.0.0.1:8332",
        "http://user:pass@127.0.0.1",
        "http://127.0.0.1:99999",
    ):
        with pytest.raises(ValueError, match=r"http://host:port|[Pp]ort"):
            Bitcoind(url)
    assert not Bitcoind("http://192.0.2.1:8332").is_local
    assert Bitcoind("http://[::1]:8332").is_local
    login = Login(None, "alice", "do not show")
    assert "show" not in repr(login)
    missing = Bitcoind("http://127.0.0.1:1", cookie=Path("/nonexistent/.cookie"))
    with pytest.raises(BackendUnavailable, match="cookie"):
        asyncio.run(missing.info())
