"""The audit on books made by hand, and that it knows nothing of the node."""

from __future__ import annotations

import ast
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

import salama.demo.books
from salama.demo.books.__main__ import main
from salama.demo.books.accounts import Audit
from salama.demo.books.audit import audit
from salama.demo.books.chain import Chain, ChainOutput, ChainTx, ChainUnreadable, Place, to_sat
from salama.demo.books.databases import (
    DatabaseUnreadable,
    HtlcEntry,
    HtlcId,
    InvoiceEntry,
    NodeBooks,
    PaymentEntry,
    read_node,
)
from salama.demo.books.figures import render_msat
from salama.demo.books.flows import follow
from salama.demo.books.kept import Manifest, NotADemo
from salama.demo.books.ledger import channel_id_of

COINBASE = 50 * 100_000_000
FUNDING: Place = ("ab" * 32, 0)
CHANNEL = channel_id_of(FUNDING)
HASH = b"h" * 32
KEY = HtlcId(CHANNEL, 0)
PAID = 20_000_400
"""Millisatoshis that ann pays ben in the channel of 100,000 sat that she opened."""
MANIFEST = Manifest({"ann": "aa", "ben": "bb"}, "ff")


def _coinbase(height: int, script: str, sat: int = COINBASE) -> ChainTx:
    place = (f"{height:064x}", 0)
    return ChainTx(place[0], height, 100, (), (ChainOutput(place, sat, script), ChainOutput((place[0], 1), 0, "6a")))


def _chain(closing: tuple[int, int] = (79_799, 20_000)) -> tuple[Chain, dict[Place, int]]:
    """Ann and ben mine a block each; a channel opens (fee 500) and closes; the miner's block takes the fees."""
    change = COINBASE - 100_000 - 500
    fund = ChainTx(
        FUNDING[0],
        3,
        150,
        ((f"{1:064x}", 0),),
        (ChainOutput(FUNDING, 100_000, "0020cc"), ChainOutput((FUNDING[0], 1), change, "a1")),
    )
    closed = "cd" * 32
    outputs = (ChainOutput((closed, 0), closing[0], "a2"), ChainOutput((closed, 1), closing[1], "b2"))
    close = ChainTx(closed, 3, 150, (FUNDING,), outputs)
    fees = 500 + 100_000 - sum(closing)
    txs = (_coinbase(1, "aa"), _coinbase(2, "bb"), _coinbase(3, "ff", COINBASE + fees), fund, close)
    coins = {
        (f"{2:064x}", 0): COINBASE,
        (f"{3:064x}", 0): COINBASE + fees,
        (FUNDING[0], 1): change,
        (closed, 0): closing[0],
        (closed, 1): closing[1],
    }
    # The coinbase stands first in its block; the fees of the others are known to whoever mines it.
    return Chain(3, txs, 3 * COINBASE), coins


def _nodes() -> dict[str, NodeBooks]:
    htlc = HtlcEntry(PAID, HASH, b"P" + HASH + bytes(4), False)
    ann = NodeBooks(
        "ann",
        {CHANNEL: ("a2",)},
        {},
        {KEY: htlc},
        {HASH: PaymentEntry("succeeded", PAID, 0, {0: (PAID, "settled")})},
        {},
        {},
        {"x": (COINBASE, 0), "y": (COINBASE - 100_500, COINBASE), "z": (79_799, 0)},
    )
    ben = NodeBooks(
        "ben",
        {CHANNEL: ("b2",)},
        {KEY: replace(htlc, origin=b"")},
        {},
        {},
        {HASH: InvoiceEntry("paid", PAID, frozenset((KEY,)))},
        {},
        {"x": (COINBASE, 0), "z": (20_000, 0)},
    )
    return {"ann": ann, "ben": ben}


def _audit(nodes: dict[str, NodeBooks], closing: tuple[int, int] = (79_799, 20_000)) -> Audit:
    chain, coins = _chain(closing)
    return audit(chain, coins, nodes, follow(nodes), MANIFEST)


def test_sound_books_balance_to_the_millisatoshi() -> None:
    found = _audit(_nodes())
    assert found.problems == []
    ann, ben = found.accounts["ann"], found.accounts["ben"]
    # 79,999.6 and 20,000.4 sat: both fractions go to the miner, and ann pays 200 sat for the close.
    assert (ann.funding_fees, ann.closing_fees, ann.rounded) == (500_000, 200_000, 600)
    assert (ben.closing_fees, ben.rounded, ben.received) == (0, 400, PAID)
    assert ann.expected == ann.final and ben.expected == ben.final == (COINBASE + 20_000) * 1000
    assert (found.payments, found.chain_txs, found.supply_sat) == (1, 2, 3 * COINBASE)


def test_close_that_shifts_a_satoshi_is_noticed() -> None:
    assert _audit(_nodes(), (79_798, 20_001)).problems
    assert _audit(_nodes(), (79_800, 19_999)).problems


def _forced(to_ben: int = 19_700, *, left: int = 330) -> tuple[Chain, dict[Place, int]]:
    """Ann closes alone: fee 400, two anchors; ben takes his 20,000 sat home for a fee of 300, ann hers for 250."""
    chain, coins = _chain()
    commitment = "ce" * 32
    amounts = (left, 330, 20_000, 100_000 - 400 - 330 - left - 20_000)
    outputs = tuple(ChainOutput((commitment, n), sat, f"00200{n}") for n, sat in enumerate(amounts))
    close = ChainTx(commitment, 3, 200, (FUNDING,), outputs)
    home = amounts[3] - 250
    bens = ChainTx("be" * 32, 3, 120, ((commitment, 2),), (ChainOutput(("be" * 32, 0), to_ben, "b2"),))
    anns = ChainTx("ae" * 32, 3, 120, ((commitment, 3),), (ChainOutput(("ae" * 32, 0), home, "a2"),))
    fees = 500 + 400 + 20_000 - to_ben + 250
    txs = (*chain.txs[:2], _coinbase(3, "ff", COINBASE + fees), chain.txs[3], close, bens, anns)
    coins = {place: sat for place, sat in coins.items() if place[0] != "cd" * 32}
    coins[(f"{3:064x}", 0)] = COINBASE + fees
    coins |= {(commitment, 0): left, (commitment, 1): 330, ("be" * 32, 0): to_ben, ("ae" * 32, 0): home}
    return Chain(3, txs, 3 * COINBASE), coins


def _audit_forced(forced: tuple[Chain, dict[Place, int]], nodes: dict[str, NodeBooks] | None = None) -> Audit:
    (chain, coins), nodes = forced, nodes or _nodes()
    for name, sat in (("ann", coins["ae" * 32, 0]), ("ben", coins.get(("be" * 32, 0), 0))):
        wallet = {**nodes[name].wallet, "z": (sat, 0)}
        nodes[name] = replace(nodes[name], wallet=wallet)
    return audit(chain, coins, nodes, follow(nodes), MANIFEST)


def test_close_by_one_side_alone_balances() -> None:
    found = _audit_forced(_forced())
    assert found.problems == []
    ann, ben = found.accounts["ann"], found.accounts["ben"]
    assert (ann.closing_fees, ann.claim_fees, ann.left, ann.rounded) == (399_600, 250_000, 660_000, 0)
    assert (ben.closing_fees, ben.claim_fees, ben.left, ben.rounded) == (0, 300_000, 0, 400)
    assert (ann.penalty, ben.penalty, found.left_sat) == (0, 0, 660)


def test_money_that_a_forced_close_leaves_to_nobody_is_noticed() -> None:
    assert any("to nobody" in problem for problem in _audit_forced(_forced(left=5_000)).problems)
    chain, coins = _forced()
    # Ben never comes for his output: it is not dust.
    txs = tuple(tx for tx in chain.txs if tx.txid != "be" * 32)
    coins[("ce" * 32, 2)] = 20_000
    del coins["be" * 32, 0]
    assert any("owes ben" in problem for problem in _audit_forced((replace(chain, txs=txs), coins)).problems)


def test_one_side_that_takes_what_is_the_others_is_noticed_unless_it_was_cheated() -> None:
    chain, coins = _forced()
    txs = tuple(
        replace(tx, outputs=(replace(tx.outputs[0], script="a2"),)) if tx.txid == "be" * 32 else tx for tx in chain.txs
    )
    taken = (replace(chain, txs=txs), coins)
    nodes = _nodes()
    nodes["ann"] = replace(nodes["ann"], wallet={**nodes["ann"].wallet, "p": (19_700, 0)})
    nodes["ben"] = replace(nodes["ben"], wallet={"x": (COINBASE, 0), "z": (0, 0)})

    def audited(revoked: frozenset[bytes]) -> Audit:
        both = {**nodes, "ann": replace(nodes["ann"], revoked=revoked)}
        both["ann"] = replace(both["ann"], wallet={**both["ann"].wallet, "z": (coins["ae" * 32, 0], 0)})
        return audit(*taken, both, follow(both), MANIFEST)

    assert any("owes ben" in problem for problem in audited(frozenset()).problems)
    found = audited(frozenset((CHANNEL,)))
    assert found.problems == []
    assert found.accounts["ann"].penalty == PAID == -found.accounts["ben"].penalty
    assert found.accounts["ben"].expected == COINBASE * 1000


def test_ends_that_contradict_each_other_are_noticed() -> None:
    nodes = _nodes()
    nodes["ben"] = replace(nodes["ben"], incoming={KEY: HtlcEntry(PAID - 1, HASH, b"", False)})
    assert any("HTLC 0" in problem for problem in _audit(nodes).problems)
    nodes = _nodes()
    nodes["ben"] = replace(nodes["ben"], incoming={}, invoices={})
    assert _audit(nodes).problems
    nodes = _nodes()
    nodes["ann"] = replace(nodes["ann"], payments={HASH: PaymentEntry("failed", PAID, 0, {0: (PAID, "failed")})})
    assert any("failed says ann" in problem for problem in _audit(nodes).problems)


def test_payment_that_arrives_twice_is_noticed() -> None:
    nodes = _nodes()
    invoice = InvoiceEntry("paid", 2 * PAID, frozenset((KEY,)))
    nodes["ben"] = replace(nodes["ben"], invoices={HASH: invoice})
    assert any("paid" in problem and "received" in problem for problem in _audit(nodes).problems)


def test_coins_that_nobody_explains_are_noticed() -> None:
    nodes, (chain, coins) = _nodes(), _chain()
    stray = ("ee" * 32, 0)
    assert audit(chain, {**coins, stray: 1}, nodes, follow(nodes), MANIFEST).problems
    assert audit(chain, {**coins, (FUNDING[0], 1): 1}, nodes, follow(nodes), MANIFEST).problems
    assert audit(replace(chain, supply=chain.supply + 1), coins, nodes, follow(nodes), MANIFEST).problems
    assert audit(replace(chain, txs=chain.txs[:-1]), coins, nodes, follow(nodes), MANIFEST).problems


def test_books_import_nothing_of_the_node() -> None:
    for path in Path(salama.demo.books.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert not name.startswith("salama") or name.startswith("salama.demo.books"), f"{path.name}: {name}"


def test_channel_id_is_the_funding_output() -> None:
    txid = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
    assert channel_id_of((txid, 0)).hex() == bytes.fromhex(txid)[::-1].hex()
    assert channel_id_of((txid, 0x0102))[-2:] == bytes((0x11 ^ 0x01, 0x00 ^ 0x02))


def test_amounts_are_exact() -> None:
    assert to_sat(Decimal("0.00000001")) == 1 and to_sat(Decimal("20999999.99999999")) == 2_099_999_999_999_999
    with pytest.raises(ChainUnreadable):
        to_sat(Decimal("0.000000001"))
    assert render_msat(1_234_567) == "1,234.567" and render_msat(-1000, signed=True) == "-1"
    assert render_msat(5000, signed=True) == "+5" and render_msat(0, signed=True) == "·" and render_msat(0) == "0"


def test_what_is_no_demo_is_said_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2 and main([]) == 2
    assert "demo --keep" in capsys.readouterr().out
    with pytest.raises(NotADemo):
        Manifest.load(tmp_path)
    with pytest.raises(DatabaseUnreadable):
        read_node("ann", tmp_path / "salama.sqlite3")
    (tmp_path / "salama.sqlite3").write_bytes(b"no database at all" * 100)
    with pytest.raises(DatabaseUnreadable):
        read_node("ann", tmp_path / "salama.sqlite3")
