"""The devnet as a process: its ready line, its HTTP, its end by signal, and what SIGKILL leaves."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from devnet_bench import ADDRESS, WPKH, Devnet, Piece, pay, pieces, running

from salama.base.ids import OutPoint
from salama.base.units import Sat
from salama.bitcoin.block import Block
from salama.bitcoin.tx import TxOut


@pytest.fixture(scope="module")
def devnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devnet]:
    with running(
        tmp_path_factory.mktemp("shared") / "devnet", "--rpcuser", "alice", "--rpcpassword", "secret word"
    ) as one:
        one.call("generatetoaddress", 101, ADDRESS)
        yield one


def exchange(devnet: Devnet, request: bytes, *, until_closed: bool = False) -> bytes:
    """Raw bytes in, raw bytes out."""
    with socket.create_connection(("127.0.0.1", devnet.port), timeout=10) as sock:
        sock.sendall(request)
        received = b""
        while until_closed or b"\r\n\r\n" not in received:
            part = sock.recv(65536)
            if not part:
                break
            received += part
        return received


def head(devnet: Devnet, length: int, first: str = "POST / HTTP/1.1", authorization: str | None = None) -> bytes:
    authorization = devnet.authorization if authorization is None else authorization
    return f"{first}\r\nHost: x\r\nAuthorization: {authorization}\r\nContent-Length: {length}\r\n\r\n".encode()


COUNT = b'{"method":"getblockcount","id":1}'


def test_the_ready_line_and_the_cookie(devnet: Devnet) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", devnet.ready["rpc"])
    assert devnet.cookie.stat().st_mode & 0o777 == 0o600
    assert devnet.cookie.read_text().startswith("__cookie__:")
    assert devnet.datadir.stat().st_mode & 0o777 == 0o700


def test_who_may_ask(devnet: Devnet) -> None:
    assert devnet.post(COUNT, Authorization="Basic YWxpY2U6c2VjcmV0IHdvcmQ=")[0] == 200
    for wrong in ("Basic YWxpY2U6d3Jvbmc=", "Basic !!!", "Bearer x", "", devnet.authorization[:-4]):
        answer = exchange(devnet, head(devnet, len(COUNT), authorization=wrong) + COUNT)
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert b"WWW-Authenticate: Basic" in answer


def test_one_connection_serves_many_and_pipelined_requests(devnet: Devnet) -> None:
    one = head(devnet, len(COUNT)) + COUNT
    wait = json.dumps({"method": "waitfornewblock", "params": [20], "id": 2}).encode()
    last = b'{"method":"getblockcount","id":3}'
    closing = head(devnet, len(last)).replace(b"Host: x", b"Connection: close") + last
    answer = exchange(devnet, one * 3 + head(devnet, len(wait)) + wait + closing, until_closed=True)
    assert [int(i) for i in re.findall(rb'"id":(\d)', answer)] == [1, 1, 1, 2, 3]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/3\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nbroken header\r\n\r\n", 400),
        (b"A" * 20_000, 413),
        (b"POST / HTTP/1.1\r\nX: " + b"y" * 20_000, 413),
    ],
)
def test_what_is_not_http_is_refused(devnet: Devnet, request_bytes: bytes, status: int) -> None:
    assert exchange(devnet, request_bytes).startswith(b"HTTP/1.1 %d " % status)
    assert devnet.call("getblockcount") >= 101


def test_requests_refused_after_authentication(devnet: Devnet) -> None:
    assert exchange(devnet, head(devnet, 0, "GET / HTTP/1.1")).startswith(b"HTTP/1.1 405 ")
    assert exchange(devnet, head(devnet, 33_000_000)).startswith(b"HTTP/1.1 413 ")
    assert exchange(devnet, head(devnet, 0).replace(b"Length: 0", b"Length: -5")).startswith(b"HTTP/1.1 400 ")
    no_length = head(devnet, 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    assert exchange(devnet, no_length).startswith(b"HTTP/1.1 411 ")
    elsewhere = head(devnet, len(COUNT), "POST /wallet/x HTTP/1.1") + COUNT
    assert exchange(devnet, elsewhere).startswith(b"HTTP/1.1 404 ")
    assert exchange(devnet, head(devnet, len(COUNT), "POST / HTTP/1.0") + COUNT, until_closed=True).endswith(b'"id":1}')


def test_a_caller_that_vanishes_disturbs_nobody(devnet: Devnet) -> None:
    for cut in (3, 60, 150):
        with socket.create_connection(("127.0.0.1", devnet.port)) as sock:
            sock.sendall((head(devnet, len(COUNT)) + COUNT)[:cut])
    wait = json.dumps({"method": "waitfornewblock", "params": [100_000], "id": 2}).encode()
    with socket.create_connection(("127.0.0.1", devnet.port)) as sock:
        sock.sendall(head(devnet, len(wait)) + wait)
    assert devnet.call("getblockcount") >= 101


def test_others_are_served_while_many_blocks_are_made(tmp_path: Path) -> None:
    with running(tmp_path / "devnet") as devnet:
        other = Devnet.__new__(Devnet)
        other.__dict__.update(devnet.__dict__)
        other._connection = http.client.HTTPConnection("127.0.0.1", devnet.port, timeout=30)
        maker = threading.Thread(target=lambda: devnet.call("generatetoaddress", 600, ADDRESS))
        maker.start()
        seen = set()
        while maker.is_alive():
            seen.add(other.call("getblockcount"))
        maker.join()
        other._connection.close()
        assert len(seen) > 3


def test_one_devnet_a_directory(devnet: Devnet) -> None:
    second = Devnet(devnet.datadir)
    assert second.ready["ready"] is False
    assert "in use" in second.ready["error"]
    assert second.ended() == 1


def test_only_loopback(tmp_path: Path) -> None:
    other = Devnet(tmp_path / "devnet", "--host", "0.0.0.0")
    assert "loopback" in other.ready["error"]
    assert other.ended() == 1


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [
            sys.executable,
            "-m",
            "salama.chain.devnet",
            "--datadir",
            str(tmp_path / "d"),
            "--port",
            str(taken.getsockname()[1]),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "cannot listen" in json.loads(done.stdout)["error"]


@pytest.mark.parametrize("way", ["term", "int", "rpc"])
def test_a_graceful_end(tmp_path: Path, way: str) -> None:
    devnet = Devnet(tmp_path / "devnet")
    devnet.call("generatetoaddress", 5, ADDRESS)
    if way == "rpc":
        assert devnet.call("stop") == "salama devnet stopping"
        code = devnet.process.wait(timeout=10)
        devnet.stop()
    elif way == "int":
        code = devnet._end(signal.SIGINT)
    else:
        code = devnet.stop()
    assert code == 0
    assert not devnet.cookie.exists()
    with running(tmp_path / "devnet") as again:
        assert again.ready["height"] == 5


def test_starts_quickly_with_hundreds_of_blocks(tmp_path: Path) -> None:
    with running(tmp_path / "devnet") as devnet:
        devnet.call("generatetoaddress", 500, ADDRESS)
    started = time.monotonic()
    with running(tmp_path / "devnet") as again:
        # A second on an idle machine; other tests may be running on this one.
        assert time.monotonic() - started < 5
        assert again.ready["height"] == 500


def test_killed_in_the_middle_of_mining(tmp_path: Path) -> None:
    """Everything that was answered is there after a SIGKILL, and the chain goes on."""
    told: list[str] = []
    for round_ in range(3):
        devnet = Devnet(tmp_path / "devnet")
        assert devnet.call("getblockcount") >= len(told)
        for height, block_hash in enumerate(told, start=1):
            assert devnet.call("getblockhash", height) == block_hash
        # Blocks made by a call that was never answered may be there too.
        told = [devnet.call("getblockhash", h) for h in range(1, devnet.call("getblockcount") + 1)]
        told += devnet.call("generatetoaddress", 40, ADDRESS)

        def mine(one: Devnet = devnet, told: list[str] = told) -> None:
            try:
                while True:
                    told.extend(one.call("generatetoaddress", 1, ADDRESS))
            except (OSError, http.client.HTTPException):
                return

        miner = threading.Thread(target=mine)
        miner.start()
        time.sleep(0.05 + 0.03 * round_)
        os.kill(devnet.process.pid, signal.SIGKILL)
        miner.join()
        devnet.kill()
    with running(tmp_path / "devnet") as last:
        for height, block_hash in enumerate(told, start=1):
            assert last.call("getblockhash", height) == block_hash
        last.call("generatetoaddress", 1, ADDRESS)


def test_a_killed_devnet_keeps_its_mempool(tmp_path: Path) -> None:
    devnet = Devnet(tmp_path / "devnet")
    first = devnet.call("generatetoaddress", 101, ADDRESS)[0]
    block = Block.decode(bytes.fromhex(devnet.call("getblock", first, 0)))
    coin = Piece(OutPoint(block.txs[0].txid, 0), TxOut(Sat(50 * 10**8), WPKH))
    tx = pay(coin, 300)
    child = pay(pieces(tx)[0], 300)
    for one in (tx, child):
        devnet.call("sendrawtransaction", one.encode().hex())
    devnet.kill()
    with running(tmp_path / "devnet") as again:
        assert again.call("getrawmempool") == [str(tx.txid), str(child.txid)]
        again.call("generatetoaddress", 1, ADDRESS)
        assert again.call("getrawmempool") == []
