"""What the tests of this room share: a key with coins of every kind, and a devnet in this process or in its own."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salama.base.ids import OutPoint
from salama.base.units import Sat
from salama.bitcoin import script, sighash
from salama.bitcoin.address import render
from salama.bitcoin.networks import NETWORKS
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.chain.devnet.regtest import Regtest
from salama.crypto import secp256k1
from salama.crypto.hashes import hash160

SECRET = bytes(31) + b"\x07"
PUBKEY = secp256k1.public_key(SECRET)
WPKH = script.p2wpkh(PUBKEY)
PKH = script.p2pkh(hash160(PUBKEY))
# Spendable by anybody who says 7: no signature to make when a test is about something else.
SEVEN = script.script(script.OP_7, script.OP_EQUAL)
WSH = script.p2wsh(SEVEN)
# A p2wsh that wants a signature: one of one.
MULTI = script.script(script.OP_1, PUBKEY, script.OP_1, script.OP_CHECKMULTISIG)
WSH_MULTI = script.p2wsh(MULTI)
TAPROOT_KEY, _ = secp256k1.taproot_output_key(secp256k1.xonly(PUBKEY))
TR = script.p2tr(TAPROOT_KEY)
ADDRESS = str(render(WPKH, NETWORKS["regtest"]))
BTC = 100_000_000


@dataclass(frozen=True)
class Piece:
    """An output that can be spent here."""

    outpoint: OutPoint
    out: TxOut


def pieces(tx: Tx) -> list[Piece]:
    return [Piece(OutPoint(tx.txid, n), out) for n, out in enumerate(tx.outputs)]


def build(
    spent: Sequence[Piece],
    outputs: Sequence[tuple[int, bytes]],
    *,
    version: int = 2,
    locktime: int = 0,
    sequence: int = 0xFFFFFFFD,
    break_signature: bool = False,
) -> Tx:
    """A signed transaction; whatever the inputs are worth beyond the outputs is fee."""
    inputs = tuple(TxIn(piece.outpoint, sequence) for piece in spent)
    tx = Tx(version, inputs, tuple(TxOut(Sat(value), to) for value, to in outputs), locktime)
    for index, piece in enumerate(spent):
        witness = _witness(tx, index, piece.out, [p.out for p in spent])
        if break_signature:
            witness = (bytes([*witness[0][:20], witness[0][20] ^ 1, *witness[0][21:]]), *witness[1:])
        tx = tx.with_witness(index, witness)
    return tx


def _witness(tx: Tx, index: int, out: TxOut, all_spent: list[TxOut]) -> tuple[bytes, ...]:
    if out.script == WPKH:
        code = sighash.p2wpkh_script_code(hash160(PUBKEY))
        return _sign(sighash.segwit_v0(tx, index, code, out.value, 1)), PUBKEY
    if out.script == WSH_MULTI:
        return b"", _sign(sighash.segwit_v0(tx, index, MULTI, out.value, 1)), MULTI
    if out.script == TR:
        digest = sighash.taproot(tx, index, all_spent)
        return (secp256k1.sign_schnorr(secp256k1.taproot_secret(SECRET), digest, bytes(32)),)
    if out.script == WSH:
        return b"\x07", SEVEN
    return ()


def _sign(digest: bytes) -> bytes:
    return secp256k1.to_der(secp256k1.sign(SECRET, digest)) + b"\x01"


def pay(piece: Piece, fee: int, to: bytes = WPKH, **more: Any) -> Tx:
    """Moves one output on, whole."""
    return build([piece], [(piece.out.value - fee, to)], **more)


def fan_out(net: Regtest, count: int, to: bytes = WPKH, value: int = 1_000_000) -> list[Piece]:
    """``count`` confirmed outputs of the same kind, from the oldest mature coinbase."""
    coin = next(
        Piece(outpoint, c.out)
        for outpoint, c in net.chain.coins.items()
        if c.coinbase and c.height + 100 <= net.chain.height + 1 and c.out.script == WPKH
        if outpoint not in net.pool.spends
    )
    fee = 20_000 + 40 * count
    change = coin.out.value - count * value - fee
    tx = build([coin], [(value, to)] * count + [(change, WPKH)])
    net.submit_tx(tx)
    net.generate(WPKH)
    return pieces(tx)[:count]


def in_process(path: Path, clock: Callable[[], float] | None = None) -> Regtest:
    """A devnet with mature coins, without its server."""
    net = Regtest(path) if clock is None else Regtest(path, clock)
    while net.chain.height < 110:
        net.generate(WPKH)
    return net


class RpcFailed(Exception):
    """An error object came back."""

    def __init__(self, code: int, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(f"{code} {message}")


class Devnet:
    """A devnet process, and calls to it by the standard library's client."""

    def __init__(self, datadir: Path, *more: str) -> None:
        self.datadir = datadir
        command = [sys.executable, "-m", "salama.chain.devnet", "--datadir", str(datadir), "--port", "0", *more]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": ""},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.ready: dict[str, Any] = json.loads(line) if line else {"ready": False}
        if not self.ready["ready"]:
            return
        self.url = self.ready["rpc"]
        self.cookie = Path(self.ready["cookie"])
        self.port = int(self.url.rsplit(":", 1)[1])
        self.authorization = "Basic " + base64.b64encode(self.cookie.read_bytes()).decode()
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def call(self, method: str, *params: Any) -> Any:
        status, body = self.post(json.dumps({"id": 1, "method": method, "params": params}).encode())
        answer = json.loads(body)
        if answer["error"] is not None:
            raise RpcFailed(answer["error"]["code"], answer["error"]["message"])
        assert status == 200
        return answer["result"]

    def post(self, body: bytes, **headers: str) -> tuple[int, bytes]:
        self._connection.request("POST", "/", body, {"Authorization": self.authorization, **headers})
        response = self._connection.getresponse()
        return response.status, response.read()

    def ended(self) -> int:
        """Exit code of a process that ends by itself."""
        self.process.wait(timeout=30)
        return self.stop()

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout=30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        if self.ready["ready"]:
            self._connection.close()
        return code


@contextmanager
def running(datadir: Path, *more: str) -> Iterator[Devnet]:
    devnet = Devnet(datadir, *more)
    try:
        yield devnet
    finally:
        devnet.stop()
