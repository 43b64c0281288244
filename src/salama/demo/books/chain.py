"""What the chain says: every transaction on it, and the set of unspent outputs."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

COIN: Final = 100_000_000
FIRST_SUBSIDY: Final = 50 * COIN
HALVING: Final = 150
"""Blocks between halvings on regtest."""

Place = tuple[str, int]
"""An output: transaction id as people write it, and index."""


class ChainUnreadable(Exception):
    """The chain's JSON-RPC does not answer, or not as Bitcoin Core would."""


class ChainRpc:
    """Bitcoin Core's JSON-RPC, blocking."""

    def __init__(self, url: str, cookie: Path) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        secret = base64.b64encode(cookie.read_bytes()).decode()
        self._headers = {"Authorization": f"Basic {secret}", "Content-Type": "application/json"}

    def call(self, method: str, *params: object) -> Any:
        """The result; numbers with a point come as Decimal. Raises ChainUnreadable."""
        body = json.dumps({"id": 1, "method": method, "params": params})
        try:
            self._connection.request("POST", "/", body, self._headers)
            answer = json.loads(self._connection.getresponse().read(), parse_float=Decimal)
        except (OSError, http.client.HTTPException, ValueError) as problem:
            raise ChainUnreadable(f"{method}: {problem}") from None
        if answer.get("error"):
            raise ChainUnreadable(f"{method}: {answer['error'].get('message')}")
        return answer["result"]

    def close(self) -> None:
        self._connection.close()


@contextmanager
def open_chain(url: str, cookie: Path) -> Iterator[ChainRpc]:
    """A connection that is closed afterwards."""
    rpc = ChainRpc(url, cookie)
    try:
        yield rpc
    finally:
        rpc.close()


def to_sat(amount: Decimal | int) -> int:
    """Bitcoin, as the RPC writes it, to satoshis, exactly."""
    sat = Decimal(amount) * COIN
    if sat != sat.to_integral_value():
        raise ChainUnreadable(f"{amount} is no amount of bitcoin")
    return int(sat)


@dataclass(frozen=True, slots=True)
class ChainOutput:
    """An output of a transaction on the chain; ``script`` in hex."""

    place: Place
    sat: int
    script: str


@dataclass(frozen=True, slots=True)
class ChainTx:
    """A transaction on the chain; a coinbase has no inputs."""

    txid: str
    height: int
    vsize: int
    inputs: tuple[Place, ...]
    outputs: tuple[ChainOutput, ...]

    @property
    def is_coinbase(self) -> bool:
        return not self.inputs


@dataclass(frozen=True, slots=True)
class Chain:
    """The best chain, without its genesis block, whose coin nobody can spend."""

    height: int
    txs: tuple[ChainTx, ...]
    """In the order of the chain."""
    supply: int
    """Sum of the UTXO set, as the chain itself reports it, in satoshis."""

    @property
    def subsidies(self) -> int:
        """All coins that these blocks were allowed to create, in satoshis."""
        return sum(FIRST_SUBSIDY >> (height // HALVING) for height in range(1, self.height + 1))


def read_chain(rpc: ChainRpc) -> Chain:
    """Every transaction, block by block. Raises ChainUnreadable."""
    info = rpc.call("gettxoutsetinfo", "none")
    height = int(info["height"])
    txs: list[ChainTx] = []
    for number in range(1, height + 1):
        block = rpc.call("getblock", rpc.call("getblockhash", number), 2)
        txs += [_transaction(tx, number) for tx in block["tx"]]
    return Chain(height, tuple(txs), to_sat(info["total_amount"]))


def _transaction(tx: Any, height: int) -> ChainTx:
    txid = tx["txid"]
    return ChainTx(
        txid,
        height,
        int(tx["vsize"]),
        tuple((one["txid"], int(one["vout"])) for one in tx["vin"] if "coinbase" not in one),
        tuple(
            ChainOutput((txid, int(out["n"])), to_sat(out["value"]), out["scriptPubKey"]["hex"]) for out in tx["vout"]
        ),
    )


def unspent(rpc: ChainRpc, scripts: Iterable[str]) -> dict[Place, int]:
    """What the UTXO set holds for these scripts, in satoshis. Raises ChainUnreadable."""
    found: dict[Place, int] = {}
    wanted = sorted({f"raw({script})" for script in scripts})
    if wanted:
        for one in rpc.call("scantxoutset", "start", wanted)["unspents"]:
            found[(one["txid"], int(one["vout"]))] = to_sat(one["amount"])
    return found
