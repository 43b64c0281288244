"""A gate between our nodes and bitcoind: it sees every transaction that a node sends, and what bitcoind said of it.

It passes on everything as it is, with two exceptions: a transaction is first put to ``testmempoolaccept``, and
``estimatesmartfee``, which knows nothing on regtest, is answered with what the test wants to have.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from interop_bench import Chain

from salama.bitcoin.tx import Tx

ALREADY = ("txn-already", "Transaction already in block chain", "Transaction outputs already in utxo set", "txn-same")
GONE = ("bad-txns-inputs-missingorspent", "missing-inputs")
TOO_CHEAP = "insufficient fee, rejecting replacement"
PUSH = 10_000_000
"""Satoshis by which a transaction is favoured to see whether anything but its fee is wrong with it."""


@dataclass(frozen=True)
class Verdict:
    """Some transactions that a node sent together, and what bitcoind had against them; empty if nothing."""

    txs: tuple[Tx, ...]
    complaint: str


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Nodes are killed here: a connection that is gone is no news.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _told(tx: Tx) -> str:
    return f"{str(tx.txid)[:8]} spends {[f'{str(i.outpoint.txid)[:8]}:{i.outpoint.vout}' for i in tx.inputs]}"


class Gate(Chain):
    """A chain whose ``url``, for nodes, is the gate's. ``call`` goes past it."""

    def __init__(self, chain: Chain) -> None:
        super().__init__(chain.process, chain.url, chain.cookie)
        self.inner, self.coins = chain, chain.coins
        self.verdicts: list[Verdict] = []
        self.feerate: str | None = None
        """Bitcoin per 1000 virtual bytes; None: bitcoind is asked."""
        self.others: list[Tx] = []
        """Sent past the gate, by those who use ``call``."""
        self._one_at_a_time = threading.Lock()
        gate = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # One packet an answer: else the other side's delayed acknowledgement holds up each.
            wbufsize, disable_nagle_algorithm = 1 << 16, True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, answer = gate._pass_on(body, self.headers.get("Authorization", ""))
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                with suppress(BrokenPipeError):
                    self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def call(self, method: str, *params: Any) -> Any:
        if method == "setfeeestimate":
            # A call of the devnet's, for which bitcoind has no like.
            self.feerate = str(params[0])
            return None
        if method not in ("sendrawtransaction", "submitpackage"):
            return self.inner.call(method, *params)
        raws = params[0] if method == "submitpackage" else params[:1]
        with self._one_at_a_time:
            answer = self.inner.call(method, *params)
            self.others += [Tx.decode(bytes.fromhex(raw)) for raw in raws]
        return answer

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.inner.stop()

    def kill(self) -> None:
        self.inner.kill()

    def start_again(self) -> None:
        self.inner.start_again()

    @property
    def complaints(self) -> list[str]:
        """What bitcoind had against transactions of our nodes."""
        return [f"{one.complaint} ({', '.join(map(_told, one.txs))})" for one in self.verdicts if one.complaint]

    @property
    def taken(self) -> dict[str, Tx]:
        """By txid, every transaction of our nodes that bitcoind took."""
        return {str(tx.txid): tx for one in self.verdicts if not one.complaint for tx in one.txs}

    # --- one request --------------------------------------------------------------------------------------------------

    def _pass_on(self, body: bytes, authorization: str) -> tuple[int, bytes]:
        asked = json.loads(body)
        requests = asked if isinstance(asked, list) else [asked]
        methods = [one["method"] for one in requests]
        if methods in (["sendrawtransaction"], ["submitpackage"]):
            with self._one_at_a_time:
                return self._judge(body, authorization, methods[0], requests[0]["params"][0])
        try:
            status, answer = self._ask(body, authorization)
        except (OSError, http.client.HTTPException):
            return 503, b"{}"
        if status == 200 and self.feerate is not None and "estimatesmartfee" in methods:
            answer = self._estimate(answer, methods)
        return status, answer

    def _judge(self, body: bytes, authorization: str, method: str, what: Any) -> tuple[int, bytes]:
        raws = [what] if method == "sendrawtransaction" else what
        forecast = self._forecast(what, authorization) if method == "sendrawtransaction" else None
        try:
            status, answer = self._ask(body, authorization)
        except (OSError, http.client.HTTPException):
            return 503, b"{}"
        if status not in (200, 500):
            # No answer of the kind: another cookie is wanted, or patience.
            return status, answer
        complaint = self._error(answer) if method == "sendrawtransaction" else self._package_error(answer)
        if not (complaint and method == "sendrawtransaction" and self._is_loser(what, complaint)):
            self._note(raws, complaint, forecast)
        return status, answer

    def _ask(self, body: bytes, authorization: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.inner.url.removeprefix("http://"), timeout=120)
        try:
            connection.request("POST", "/", body, {"Authorization": authorization})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _forecast(self, raw: str, authorization: str) -> str:
        body = json.dumps({"id": 1, "method": "testmempoolaccept", "params": [[raw]]}).encode()
        try:
            (found,) = json.loads(self._ask(body, authorization)[1])["result"]
        except (OSError, http.client.HTTPException, TypeError, ValueError):
            return ""
        return "" if found["allowed"] else str(found["reject-reason"])

    def _is_loser(self, raw: str, complaint: str) -> bool:
        """Whether it came second to another transaction of our nodes that spends the same, and is good in itself.

        Each side has a commitment, and with ``option_simple_close`` a closing transaction (B2.30): one confirms. A
        claim may be mined while one that pays more is on its way.
        """
        tx = Tx.decode(bytes.fromhex(raw))
        taken = {i.outpoint for one in (*self.taken.values(), *self.others) if one.txid != tx.txid for i in one.inputs}
        if not any(i.outpoint in taken for i in tx.inputs):
            return False
        if complaint.startswith(TOO_CHEAP) and all(len(i.witness) == 4 for i in tx.inputs):
            self.call("prioritisetransaction", str(tx.txid), 0, PUSH)
            (found,) = self.call("testmempoolaccept", [raw])
            self.call("prioritisetransaction", str(tx.txid), 0, -PUSH)
            if found["allowed"]:
                return bool(round(found["fees"]["base"] * 100_000_000) >= found["vsize"])
            # A block with the other one came in between.
            complaint = str(found["reject-reason"])
        return complaint.startswith(GONE)

    @staticmethod
    def _error(answer: bytes) -> str:
        error = json.loads(answer).get("error")
        return str(error["message"]) if error else ""

    @staticmethod
    def _package_error(answer: bytes) -> str:
        said = json.loads(answer)
        if said.get("error"):
            return str(said["error"]["message"])
        result = said["result"]
        return "" if result["package_msg"] == "success" else json.dumps(result)

    def _note(self, raws: list[str], complaint: str, forecast: str | None) -> None:
        known = complaint.startswith(ALREADY) or (forecast or "").startswith(ALREADY)
        if not complaint and forecast and not known:
            complaint = f"sendrawtransaction takes what testmempoolaccept refuses: {forecast}"
        txs = tuple(Tx.decode(bytes.fromhex(raw)) for raw in raws)
        self.verdicts.append(Verdict(txs, "" if known else complaint))

    def _estimate(self, answer: bytes, methods: list[str]) -> bytes:
        said = json.loads(answer, parse_float=Decimal)
        for one, method in zip(said if isinstance(said, list) else [said], methods, strict=True):
            if method == "estimatesmartfee":
                one["result"] = {"feerate": Decimal(str(self.feerate)), "blocks": 6}
        return json.dumps(said, default=lambda value: float(value)).encode()
