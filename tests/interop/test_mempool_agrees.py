"""Our mempool against a real bitcoind's: the same cases, the same answers (replacement, packages, version 3, dust).

What the devnet takes and the network would not is money lost in earnest; so every difference fails here, but for those
named in ``KNOWN`` with a reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from devnet_bench import ADDRESS, TR, WPKH, WSH, WSH_MULTI, Piece, build, pieces
from interop_bench import Chain, RpcFailed, missing_bitcoind, need
from mempool_cases import CASES, VALUE, Case, Mine, Package, Send

from salama.base.ids import OutPoint
from salama.bitcoin.tx import Tx

pytestmark = pytest.mark.interop

STOCK = {WPKH: 160, WSH: 12, WSH_MULTI: 2, TR: 2}
_LONG = "Knots takes no output script longer than 34 bytes, whatever else is set; Core does"
KNOWN = {"dust-edge-353-5228.42": _LONG, "dust-edge-354-5228.42": _LONG}
"""Cases in which the two may differ, and why."""
SYNONYMS = {
    "mempool-script-verify-flag-failed": "mandatory-script-verify-flag-failed",
    "bad-witness-stackitem-size": "bad-witness-nonstandard",
    "missing-inputs": "bad-txns-inputs-missingorspent",
}
"""Words that differ between versions of bitcoind: what it may say, and what we say."""


@dataclass
class Bench:
    """A chain and confirmed coins of every kind on it."""

    chain: Chain
    stock: dict[bytes, list[Piece]] = field(default_factory=dict)

    def fill(self) -> None:
        self.chain.call("generatetoaddress", 101, ADDRESS)
        coinbase = self.chain.block(2 if self.chain.height > 101 else 1).txs[0]
        coin = Piece(OutPoint(coinbase.txid, 0), coinbase.outputs[0])
        kinds = [kind for kind, count in STOCK.items() for _ in range(count)]
        left = int(coin.out.value) - len(kinds) * VALUE - 20_000
        tx = build([coin], [(VALUE, kind) for kind in kinds] + [(left, WPKH)])
        self.chain.call("sendrawtransaction", tx.encode().hex())
        self.chain.mine(1)
        for piece, kind in zip(pieces(tx), kinds, strict=False):
            self.stock.setdefault(kind, []).append(piece)

    def take(self, kind: bytes) -> Piece:
        return self.stock[kind].pop()

    def answers(self, play: Case) -> list[str]:
        """What the chain says to each step: "taken", or its word of refusal."""
        said = []
        for step in play(self.take, self.chain.height):
            match step:
                case Send(tx):
                    said.append(self._send(tx))
                case Package(txs):
                    said.append(self._package(txs))
                case Mine(count):
                    self.chain.mine(count)
        self.chain.mine(1)
        assert self.chain.mempool() == []
        return said

    def _send(self, tx: Tx) -> str:
        raw = tx.encode().hex()
        (asked,) = self.chain.call("testmempoolaccept", [raw])
        try:
            self.chain.call("sendrawtransaction", raw)
            answer = "taken"
        except RpcFailed as failed:
            answer = _word(failed.message)
        # What is known already is no error to who sends, only to who asks.
        forecast = "taken" if asked["allowed"] else _word(asked["reject-reason"])
        assert answer == forecast or forecast.startswith(("txn-already", "txn-same")), asked
        return f"{answer} ({forecast})"

    def _package(self, txs: tuple[Tx, ...]) -> str:
        try:
            answer: dict[str, Any] = self.chain.call("submitpackage", [tx.encode().hex() for tx in txs])
        except RpcFailed as failed:
            return _word(failed.message)
        by_txid = {one["txid"]: one for one in answer["tx-results"].values()}
        each = [_word(by_txid.get(str(tx.txid), {"error": "nothing"}).get("error", "taken")) for tx in txs]
        return f"{_word(answer['package_msg'])}: {', '.join(each)}; {len(answer.get('replaced-transactions', []))}"


def _word(reason: str) -> str:
    """Core's word, without what follows it."""
    word = reason.partition(",")[0].partition(" (")[0].partition(":")[0].strip()
    # Knots names each rule of version 3.
    return "TRUC-violation" if word.startswith("truc-") else SYNONYMS.get(word, word)


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, Bench]]:
    """A devnet and a real bitcoind."""
    need("bitcoind", missing_bitcoind())
    chains = [Chain.devnet(tmp_path_factory.mktemp("devnet"))]
    try:
        chains.append(Chain.bitcoind(tmp_path_factory.mktemp("bitcoind")))
        ours, real = (Bench(chain) for chain in chains)
        for bench in (ours, real):
            bench.fill()
        yield ours, real
    finally:
        for chain in chains:
            chain.stop()


@pytest.mark.parametrize("name", CASES)
def test_both_say_the_same(benches: tuple[Bench, Bench], name: str) -> None:
    ours, real = (bench.answers(CASES[name]) for bench in benches)
    if name in KNOWN:
        pytest.xfail(f"{KNOWN[name]}: we say {ours}, bitcoind {real}")
    assert ours == real


def test_the_table_has_cases_of_both_kinds(benches: tuple[Bench, Bench]) -> None:
    """So that agreement is not that of two who refuse everything."""
    ours, _ = benches
    assert ours.answers(CASES["a_fee-fee-200"]) == ["taken (taken)"]
    assert ours.answers(CASES["a_fee-fee-1"]) == ["min relay fee not met (min relay fee not met)"]
