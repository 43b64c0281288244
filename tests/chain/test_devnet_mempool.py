"""The devnet's mempool: what it takes, what it refuses and in which words, replacement, packages, block order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from devnet_bench import (
    BTC,
    MULTI,
    PKH,
    SEVEN,
    TR,
    WPKH,
    WSH,
    WSH_MULTI,
    Piece,
    build,
    fan_out,
    in_process,
    pay,
    pieces,
)

from salama.base.ids import OutPoint, Txid
from salama.base.units import Sat
from salama.bitcoin import script
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.chain.devnet import miner
from salama.chain.devnet.mempool import PackageOutcome
from salama.chain.devnet.policy import Refusal, Rejected, check_standard, output_kind, sigop_cost
from salama.chain.devnet.regtest import BlockRefused, Regtest

ANCHOR = script.PAY_TO_ANCHOR


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Regtest]:
    net = in_process(tmp_path / "devnet")
    yield net
    net.close()


def refused(net: Regtest, tx: Tx) -> Rejected:
    before = dict(net.pool.entries)
    with pytest.raises(Rejected) as caught:
        net.submit_tx(tx)
    assert net.pool.entries == before
    return caught.value


@pytest.mark.parametrize("kind", [WPKH, WSH, WSH_MULTI, TR], ids=["wpkh", "wsh", "multisig", "taproot"])
def test_spends_of_each_kind_confirm(net: Regtest, kind: bytes) -> None:
    (coin,) = fan_out(net, 1, kind)
    tx = pay(coin, 300)
    net.submit_tx(tx)
    net.generate(WPKH)
    assert tx.txid in net.chain.places
    assert not net.pool.entries
    assert net.chain.spenders[coin.outpoint] == tx.txid


@pytest.mark.parametrize("kind", [WPKH, TR], ids=["wpkh", "taproot"])
def test_a_bad_signature_is_refused_by_mempool_and_by_block(net: Regtest, kind: bytes) -> None:
    (coin,) = fan_out(net, 1, kind)
    bad = pay(coin, 300, break_signature=True)
    assert refused(net, bad).word.startswith("mandatory-script-verify-flag-failed")
    tip = net.chain.tip
    with pytest.raises(BlockRefused):
        net.generate_with(WPKH, [bad], 300)
    assert net.chain.tip == tip
    # The chain goes on after a refused block.
    net.submit_tx(pay(coin, 300))
    net.generate(WPKH)
    assert net.chain.height == tip.height + 1


def test_a_high_s_signature_is_refused(net: Regtest) -> None:
    from salama.crypto import secp256k1

    (coin,) = fan_out(net, 1)
    tx = pay(coin, 300)
    signature, key = tx.inputs[0].witness
    compact = secp256k1.from_der(signature[:-1])
    high = compact[:32] + secp256k1.negate_scalar(compact[32:])
    assert "S value" in str(refused(net, tx.with_witness(0, (secp256k1.to_der(high) + b"\x01", key))))


def test_missing_spent_and_foreign_inputs(net: Regtest) -> None:
    (coin,) = fan_out(net, 1)
    nowhere = pay(Piece(OutPoint(Txid(b"\x05" * 32), 0), TxOut(Sat(50_000), WPKH)), 300)
    beyond = pay(Piece(OutPoint(coin.outpoint.txid, 77), coin.out), 300)
    for tx in (nowhere, beyond):
        refusal = refused(net, tx)
        assert (refusal.word, refusal.refusal) == ("bad-txns-inputs-missingorspent", Refusal.MISSING_INPUTS)
    first = pay(coin, 300)
    net.submit_tx(first)
    net.generate(WPKH)
    # Confirmed and spent: as missing as if it had never been.
    assert refused(net, pay(coin, 5_000)).refusal is Refusal.MISSING_INPUTS
    assert refused(net, first).refusal is Refusal.ALREADY_IN_CHAIN


def test_known_transactions(net: Regtest) -> None:
    (coin,) = fan_out(net, 1, WSH)
    tx = pay(coin, 300)
    net.submit_tx(tx)
    assert refused(net, tx).word == "txn-already-in-mempool"
    assert refused(net, tx.with_witness(0, (b"\x07", b"", SEVEN))).word == "txn-same-nonwitness-data-in-mempool"


def test_an_immature_coinbase_is_refused_until_its_hundredth_block(net: Regtest) -> None:
    young = next(c for c in net.chain.coins.items() if c[1].height == net.chain.height - 98)
    tx = pay(Piece(young[0], young[1].out), 300)
    assert "depth 99" in str(refused(net, tx))
    with pytest.raises(BlockRefused):
        net.generate_with(WPKH, [tx], 300)
    net.generate(WPKH)
    net.submit_tx(tx)


def test_absolute_locks(net: Regtest) -> None:
    (coin,) = fan_out(net, 1)
    height = net.chain.height
    tx = pay(coin, 300, locktime=height + 1)
    assert refused(net, tx).word == "non-final"
    net.generate(WPKH)
    net.submit_tx(tx)
    # A final sequence switches the lock off.
    (other,) = fan_out(net, 1)
    net.submit_tx(pay(other, 300, locktime=height + 10_000, sequence=0xFFFFFFFF))
    (third,) = fan_out(net, 1)
    median = net.chain.median_time(net.chain.height)
    assert refused(net, pay(third, 300, locktime=median)).word == "non-final"
    net.submit_tx(pay(third, 300, locktime=median - 1))


def test_relative_locks(net: Regtest) -> None:
    (coin,) = fan_out(net, 1)
    tx = pay(coin, 300, sequence=3)
    for _ in range(2):
        assert refused(net, tx).word == "non-BIP68-final"
        with pytest.raises(BlockRefused):
            net.generate_with(WPKH, [tx], 300)
        net.generate(WPKH)
    net.submit_tx(tx)
    # An unconfirmed parent has age zero, and version 1 knows no relative locks.
    (child,) = pieces(tx)
    assert refused(net, pay(child, 300, sequence=1)).word == "non-BIP68-final"
    net.submit_tx(pay(child, 300, sequence=1, version=1))


def test_relative_time_lock(net: Regtest) -> None:
    (coin,) = fan_out(net, 1)
    assert refused(net, pay(coin, 300, sequence=(1 << 22) | 1)).word == "non-BIP68-final"
    net.submit_tx(pay(coin, 300, sequence=1 << 22))


@pytest.mark.parametrize(
    ("outputs", "word"),
    [
        ([(293, WPKH)], "dust"),
        ([(329, WSH)], "dust"),
        ([(545, PKH)], "dust"),
        ([(239, ANCHOR), (5_000, WPKH)], "dust"),
        ([(1000, SEVEN)], "scriptpubkey"),
        ([(0, b"\x6a" + script.push(bytes(81)))], "scriptpubkey"),
        ([(0, b"\x6a\x01a"), (0, b"\x6a\x01b")], "multi-op-return"),
        ([(2_000_000, WPKH)], "bad-txns-in-belowout"),
        ([], "bad-txns-vout-empty"),
        ([(1_000_000 - 109, WPKH)], "min relay fee not met"),
    ],
)
def test_outputs_and_fees_refused(net: Regtest, outputs: list[tuple[int, bytes]], word: str) -> None:
    (coin,) = fan_out(net, 1)
    assert refused(net, build([coin], outputs)).word == word


def test_the_least_fee_and_the_least_values_pass(net: Regtest) -> None:
    coins = fan_out(net, 2)
    net.submit_tx(pay(coins[0], 110))
    tx = build(
        coins[1:],
        [(294, WPKH), (330, WSH), (330, TR), (546, PKH), (240, ANCHOR), (0, b"\x6a" + script.push(bytes(80)))],
    )
    net.submit_tx(tx)


def test_forms_refused(net: Regtest) -> None:
    coins = fan_out(net, 2)
    assert refused(net, build([coins[0], coins[0]], [(5_000, WPKH)])).word == "bad-txns-inputs-duplicate"
    assert refused(net, pay(coins[0], 300, version=4)).word == "version"
    assert refused(net, build([coins[0]], [(1_000, b"\x6a")])).word == "tx-size-small"
    with_sig = Tx(2, (TxIn(coins[0].outpoint, script_sig=b"\x76"),), (TxOut(Sat(5_000), WPKH),), 0)
    assert refused(net, with_sig).word == "scriptsig-not-pushonly"
    coinbase = net.block(net.chain.tip).txs[0]
    assert refused(net, coinbase).word == "coinbase"
    huge = build([coins[0]], [(300, WPKH)] * 3_300)
    assert refused(net, huge).word == "tx-size"
    with pytest.raises(Rejected, match="bad-txns-txouttotal-toolarge"):
        net.submit_tx(build([coins[0]], [(21_000_000 * BTC, WPKH)] * 2))


def test_witnesses_of_unusual_size_are_refused(net: Regtest) -> None:
    (coin,) = fan_out(net, 1, WSH)
    tx = pay(coin, 10_000)
    for witness in ([bytes(81), SEVEN], [b""] * 101 + [SEVEN], [b"\x07", SEVEN + b"\x61" * 3_600]):
        assert refused(net, tx.with_witness(0, witness)).word == "bad-witness-nonstandard"


def test_an_anchor_is_spent_without_witness(net: Regtest) -> None:
    anchor, coin = fan_out(net, 1, ANCHOR)[0], fan_out(net, 1)[0]
    tx = build([anchor, coin], [(1_000_000, WPKH)])
    assert tx.inputs[0].witness == ()
    assert refused(net, tx.with_witness(0, (b"\x01",))).word == "bad-witness-nonstandard"
    net.submit_tx(tx)


# --- replacement


def test_replacement_needs_a_higher_rate_and_pays_for_its_relay(net: Regtest) -> None:
    (coin,) = fan_out(net, 1)
    first = pay(coin, 1_000)
    net.submit_tx(first)
    assert "new feerate" in str(refused(net, pay(coin, 900)))
    assert "not enough additional fees" in str(refused(net, pay(coin, 1_109)))
    better = pay(coin, 1_110)
    assert net.submit_tx(better).replaced == (first.txid,)
    assert list(net.pool.entries) == [better.txid]


def test_replacement_pays_for_descendants_too(net: Regtest) -> None:
    (coin,) = fan_out(net, 1)
    first = pay(coin, 500)
    child = pay(pieces(first)[0], 50_000)
    net.submit_tx(first)
    net.submit_tx(child)
    assert "less fees than conflicting txs" in str(refused(net, pay(coin, 50_499)))
    outcome = net.submit_tx(pay(coin, 50_610))
    assert set(outcome.replaced) == {first.txid, child.txid}


def test_replacement_adds_no_unconfirmed_input_and_spends_nothing_it_replaces(net: Regtest) -> None:
    one, two = fan_out(net, 2)
    parent, target = pay(one, 300), pay(two, 300)
    net.submit_tx(parent)
    net.submit_tx(target)
    adding = build([two, pieces(parent)[0]], [(1_900_000, WPKH)])
    assert refused(net, adding).word == "replacement-adds-unconfirmed"
    eating = build([two, pieces(target)[0]], [(1_900_000, WPKH)])
    assert refused(net, eating).word == "bad-txns-spends-conflicting-tx"


# --- families


def test_chains_of_twenty_five(net: Regtest) -> None:
    (coin,) = fan_out(net, 1)
    tx = pay(coin, 300)
    for _ in range(24):
        net.submit_tx(tx)
        tx = pay(pieces(tx)[0], 300)
    net.submit_tx(tx)
    assert refused(net, pay(pieces(tx)[0], 300)).word == "too-long-mempool-chain"
    net.generate(WPKH)
    assert not net.pool.entries


def test_one_small_child_more_than_the_limit(net: Regtest) -> None:
    (coin,) = fan_out(net, 1)
    parent = build([coin], [(30_000, WPKH)] * 30)
    net.submit_tx(parent)
    for piece in pieces(parent)[:24]:
        net.submit_tx(pay(piece, 300))
    # The 25 are full, and the carve-out lets one single-parent child in, once.
    net.submit_tx(pay(pieces(parent)[24], 300))
    assert refused(net, pay(pieces(parent)[25], 300)).word == "too-long-mempool-chain"


# --- packages


def error_of(outcome: PackageOutcome, index: int) -> str:
    result = outcome.results[index]
    assert isinstance(result, Rejected)
    return str(result)


def test_a_child_pays_for_a_parent_below_the_minimum(net: Regtest) -> None:
    (coin,) = fan_out(net, 1)
    parent = pay(coin, 0, version=3)
    poor, rich = pay(pieces(parent)[0], 219, version=3), pay(pieces(parent)[0], 220, version=3)
    outcome = net.submit_package([parent, poor])
    assert outcome.word == "transaction failed"
    assert "min relay fee not met, 219 < 220" in error_of(outcome, 1)
    assert not net.pool.entries
    outcome = net.submit_package([parent, rich])
    assert outcome.word == "success"
    assert (outcome.fee, outcome.vsize) == (220, 220)
    assert list(net.pool.entries) == [parent.txid, rich.txid]
    net.generate(WPKH)
    assert {parent.txid, rich.txid} <= net.chain.places.keys()


def test_only_version_3_may_be_below_the_relay_minimum(net: Regtest) -> None:
    """As in Bitcoin Core: no child can be trusted to stay, so a package lifts an older version over nothing."""
    (coin,) = fan_out(net, 1)
    for fee in (0, 109):
        parent = pay(coin, fee)
        outcome = net.submit_package([parent, pay(pieces(parent)[0], 1_000)])
        assert outcome.word == "transaction failed"
        assert error_of(outcome, 0) == f"min relay fee not met, {fee} < 110"
        assert error_of(outcome, 1) == "bad-txns-inputs-missingorspent"
    assert not net.pool.entries


def test_a_package_with_a_full_mempool(net: Regtest) -> None:
    (coin,) = fan_out(net, 1)
    net.pool.min_feerate = 5_000
    parent = pay(coin, 200)
    assert refused(net, parent).word == "mempool min fee not met"
    child = pay(pieces(parent)[0], 900)
    assert net.submit_package([parent, child]).word == "success"


def test_a_bad_package_leaves_only_what_stands_alone(net: Regtest) -> None:
    one, two = fan_out(net, 2)
    net.pool.min_feerate = 2_000
    good, poor = pay(one, 300), pay(two, 150)
    child = build([pieces(good)[0], pieces(poor)[0]], [(1_000_000, WPKH)], break_signature=True)
    outcome = net.submit_package([good, poor, child])
    assert outcome.word == "transaction failed"
    assert "script-verify" in error_of(outcome, 2)
    assert list(net.pool.entries) == [good.txid]


def test_a_package_replaces_a_package(net: Regtest) -> None:
    (coin,) = fan_out(net, 1)
    old = pay(coin, 110)
    old_child = pay(pieces(old)[0], 1_000)
    new = build([coin], [(coin.out.value, WSH)], version=3)
    for tx in (old, old_child):
        net.submit_tx(tx)
    cheap = pay(pieces(new)[0], 1_200, version=3)
    assert net.submit_package([new, cheap]).word.startswith("package RBF failed: insufficient fee")
    assert list(net.pool.entries) == [old.txid, old_child.txid]
    outcome = net.submit_package([new, pay(pieces(new)[0], 2_000, version=3)])
    assert outcome.word == "success"
    assert set(outcome.replaced) == {old.txid, old_child.txid}


# --- version 3 and ephemeral dust


def test_version_3_families_are_two(net: Regtest) -> None:
    coins = fan_out(net, 2)
    parent = build([coins[0]], [(400_000, WPKH), (400_000, WPKH)], version=3)
    net.submit_tx(parent)
    a, b = pieces(parent)
    assert "cannot spend from version=3" in str(refused(net, pay(a, 300)))
    child = pay(a, 300, version=3)
    net.submit_tx(child)
    assert "too many ancestors" in str(refused(net, pay(pieces(child)[0], 300, version=3)))
    # A sibling has to replace the child that is there.
    assert refused(net, pay(b, 310, version=3)).word == "insufficient fee"
    sibling = pay(b, 2_000, version=3)
    assert net.submit_tx(sibling).replaced == (child.txid,)
    plain = pay(coins[1], 300)
    net.submit_tx(plain)
    assert "cannot spend from non-version=3" in str(refused(net, pay(pieces(plain)[0], 300, version=3)))


def test_version_3_sizes(net: Regtest) -> None:
    coins = fan_out(net, 2)
    assert "too big" in str(refused(net, build([coins[0]], [(330, WPKH)] * 330, version=3)))
    parent = pay(coins[1], 300, version=3)
    net.submit_tx(parent)
    wide = build(pieces(parent), [(5_000, WPKH)] * 32, version=3)
    assert "too big" in str(refused(net, wide))


def test_ephemeral_dust_comes_with_its_spender(net: Regtest) -> None:
    coin, purse = fan_out(net, 2)
    parent = build([coin], [(coin.out.value, WPKH), (0, ANCHOR)], version=3)
    assert refused(net, parent).word == "min relay fee not met"
    main, dust = pieces(parent)
    leaving = pay(main, 1_000, version=3)
    assert "missing-ephemeral-spends" in error_of(net.submit_package([parent, leaving]), 1)
    assert not net.pool.entries
    sweeping = build([dust, purse], [(purse.out.value - 1_000, WPKH)], version=3)
    assert net.submit_package([parent, sweeping]).word == "success"
    # Paying a fee and leaving dust at once is what is refused.
    both = build([pieces(sweeping)[0]], [(200, WPKH), (5_000, WPKH)], version=3)
    assert refused(net, both).word == "dust"
    net.generate(WPKH)
    assert not net.pool.entries


# --- blocks


def test_blocks_take_the_best_paying_families_first(net: Regtest, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c = fan_out(net, 3)
    poor_parent = pay(a, 110)
    rich_child = pay(pieces(poor_parent)[0], 5_000)
    middling, cheap = pay(b, 1_100), pay(c, 220)
    for tx in (cheap, middling, poor_parent, rich_child):
        net.submit_tx(tx)
    order = [entry.tx.txid for entry in miner.choose(net.pool)]
    assert order == [poor_parent.txid, rich_child.txid, middling.txid, cheap.txid]
    # With room for three, the poorest family stays behind.
    room = sum(tx.weight for tx in (poor_parent, rich_child, middling))
    monkeypatch.setattr(miner, "MAX_BLOCK_WEIGHT", miner.RESERVED_WEIGHT + room)
    net.generate(WPKH)
    assert list(net.pool.entries) == [cheap.txid]


def test_a_block_of_others_evicts_what_conflicts(net: Regtest) -> None:
    (coin,) = fan_out(net, 1)
    ours = pay(coin, 300)
    child = pay(pieces(ours)[0], 300)
    net.submit_tx(ours)
    net.submit_tx(child)
    theirs = pay(coin, 1_000, TR)
    net.generate_with(WPKH, [theirs], 1_000)
    assert not net.pool.entries
    assert not net.pool.spends
    assert net.pool.vsize == 0


def test_output_kinds_and_sigops() -> None:
    key = b"\x02" + bytes(32)
    kinds = {
        script.push(key) + b"\xac": "pubkey",
        PKH: "pubkeyhash",
        script.p2sh(bytes(20)): "scripthash",
        script.script(script.OP_1, key, key, script.OP_2, script.OP_CHECKMULTISIG): "multisig",
        b"\x6a\x02hi": "nulldata",
        b"\x6a\x4c": "nonstandard",
        WPKH: "witness_v0_keyhash",
        WSH: "witness_v0_scripthash",
        TR: "witness_v1_taproot",
        ANCHOR: "anchor",
        b"\x52\x20" + bytes(32): "witness_unknown",
        b"\x00\x10" + bytes(16): "nonstandard",
        SEVEN: "nonstandard",
        b"": "nonstandard",
    }
    assert {raw: output_kind(raw).value for raw in kinds} == kinds
    spend = Tx(2, (TxIn(OutPoint(Txid(bytes(32)), 0), witness=(b"", MULTI)),), (TxOut(Sat(5), PKH),), 0)
    # The multisig of one key counts once in the witness, the output's CHECKSIG four times.
    assert sigop_cost(spend, [TxOut(Sat(5), WSH_MULTI)]) == 1 + 4
    bare = script.script(script.OP_1, key, script.OP_1, script.OP_CHECKMULTISIG)
    assert sigop_cost(spend, [TxOut(Sat(5), bare)]) == 4
    check_standard(Tx(2, spend.inputs, (TxOut(Sat(5), bare),), 0))
