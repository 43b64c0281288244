"""Every published figure of BOLT 3 that concerns keys, funding, commitments and HTLC transactions, byte for byte
(B3.01, B3.03, B3.06, B3.10)."""

from __future__ import annotations

from typing import Any

import pytest
from bolt3_bench import FORMAT_OF_OPTION, VECTORS, load, vector_commitment, vector_htlcs, vector_preimages, verifies

from salama.base.ids import OutPoint, Side, Txid
from salama.base.units import CltvExpiry, FeeratePerKw, Msat, Sat
from salama.bitcoin.script import p2pkh, p2wpkh, p2wsh
from salama.bitcoin.sighash import SIGHASH_ALL
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.channel.formats import ANCHORS, STATIC_REMOTEKEY
from salama.channel.keys import derive_public_key, derive_secret, revocation_public_key, revocation_secret
from salama.channel.spec import CommitmentSpec, SpecHtlc
from salama.channel.transactions import (
    CommitmentTx,
    HtlcSuccessTx,
    HtlcTimeoutTx,
    commitment_sighash,
    decode_commitment_number,
    funding_output,
    htlc_sighash,
    htlc_sighashes,
    make_htlc_txs,
    obscured_number,
    obscuring_factor,
)
from salama.channel.witnesses import funding_witness, htlc_success_witness, htlc_timeout_witness
from salama.crypto.hashes import hash160, sha256, sha256d
from salama.crypto.secp256k1 import from_der, public_key, sign, to_der

COMMITMENTS = [
    pytest.param(case, id=f"{case['given']['option']}: {case['name']}")
    for name in ("commitment-static-remotekey", "commitment-anchors", "htlc-collision")
    for case in load(f"bolt03-{name}.json")
]


def secrets(given: dict[str, Any], name: str) -> bytes:
    return bytes.fromhex(given[name])


@pytest.mark.parametrize("case", load("bolt03-key-derivation.json"), ids=lambda case: case["name"])
def test_published_keys(case: dict[str, Any]) -> None:
    given = {name: bytes.fromhex(value) for name, value in case["given"].items()}
    expect = case["expect"]
    if "pubkey" in expect:
        assert derive_public_key(given["basepoint"], given["per_commitment_point"]).hex() == expect["pubkey"]
    elif "private_key" in expect:
        secret = derive_secret(given["basepoint_secret"], given["per_commitment_point"])
        assert secret.hex() == expect["private_key"]
        basepoint = public_key(given["basepoint_secret"])
        assert public_key(secret) == derive_public_key(basepoint, given["per_commitment_point"])
    elif "revocation_pubkey" in expect:
        point = revocation_public_key(given["revocation_basepoint"], given["per_commitment_point"])
        assert point.hex() == expect["revocation_pubkey"]
    else:
        secret = revocation_secret(given["revocation_basepoint_secret"], given["per_commitment_secret"])
        assert secret.hex() == expect["revocation_private_key"]
        assert public_key(secret) == revocation_public_key(given["revocation_basepoint"], given["per_commitment_point"])


def test_published_commitment_number() -> None:
    (case,) = load("bolt03-commitment-number.json")
    given, expect = case["given"], case["expect"]
    factor = obscuring_factor(
        bytes.fromhex(given["opener_payment_basepoint"]), bytes.fromhex(given["accepter_payment_basepoint"])
    )
    assert factor == int(expect["mask"], 16)
    assert given["commitment_number"] ^ factor == expect["obscured_number"]
    assert obscured_number(given["commitment_number"], factor) == (expect["locktime"], expect["sequence"])
    tx = Tx(2, (TxIn(OutPoint(Txid(bytes(32)), 0), expect["sequence"]),), (), expect["locktime"])
    assert decode_commitment_number(tx, factor) == given["commitment_number"]


@pytest.mark.parametrize(
    "case",
    [case for case in load("bolt03-weights-fees.json") if "commitment_weight" in case["expect"]],
    ids=lambda case: case["name"],
)
def test_published_weights(case: dict[str, Any]) -> None:
    format = FORMAT_OF_OPTION[case["given"]["option"]]
    assert case["expect"] == {
        "commitment_weight": format.commitment_weight,
        "per_htlc_weight": format.htlc_output_weight,
        "htlc_timeout_weight": format.htlc_timeout_weight,
        "htlc_success_weight": format.htlc_success_weight,
    }


def test_published_fee_example() -> None:
    case = load("bolt03-weights-fees.json")[2]
    given, expect = case["given"], case["expect"]
    format, feerate, dust = STATIC_REMOTEKEY, FeeratePerKw(given["feerate_per_kw"]), Sat(given["dust_limit_sat"])
    assert format.htlc_timeout_fee(feerate) == expect["htlc_timeout_fee_sat"]
    assert format.htlc_success_fee(feerate) == expect["htlc_success_fee_sat"]
    amounts = [(Msat(one["amount_msat"]), one["direction"] == "offered") for one in given["htlcs"]]
    trimmed = [format.is_trimmed(feerate, dust, amount, offered=offered) for amount, offered in amounts]
    assert trimmed == expect["trimmed"]
    base = format.commit_fee(feerate, trimmed.count(False))
    assert base == expect["base_fee_sat"]
    lost = sum(int(amount.sat) for (amount, _), gone in zip(amounts, trimmed, strict=True) if gone)
    assert base + Sat(lost) == Sat(expect["actual_fee_sat"])
    htlcs = [
        SpecHtlc(Side.OUTGOING if offered else Side.INCOMING, id, amount, None, CltvExpiry(1))  # type: ignore[arg-type]
        for id, (amount, offered) in enumerate(amounts)
    ]
    spec = CommitmentSpec(True, feerate, Msat(0), Msat(0), {htlc.key: htlc for htlc in htlcs})
    assert format.split_trimmed(spec, dust) == ([htlcs[0], htlcs[2]], [htlcs[1], htlcs[3]])


def test_published_funding_transaction() -> None:
    (case,) = load("bolt03-funding.json")
    given, expect = case["given"], case["expect"]
    ours, theirs = bytes.fromhex(given["local_funding_pubkey"]), bytes.fromhex(given["remote_funding_pubkey"])
    funding = funding_output(Sat(given["funding_amount_sat"]), theirs, ours)
    assert funding.script == p2wsh(bytes.fromhex(expect["witness_script"]))
    published = Tx.decode(bytes.fromhex(expect["funding_tx"]))
    assert published.outputs[expect["funding_output_index"]] == funding
    # The rest of the transaction is the wallet's; its input is of the old kind, signed here by hand.
    secret = bytes.fromhex(given["input_private_key"])
    source = p2pkh(hash160(public_key(secret)))
    outpoint = OutPoint(Txid.parse(given["input_txid"]), given["input_index"])
    change = TxOut(Sat(given["change_amount_sat"]), published.outputs[1].script)

    def spending(script_sig: bytes) -> Tx:
        return Tx(2, (TxIn(outpoint, published.inputs[0].sequence, script_sig),), (funding, change), 0)

    digest = sha256d(spending(source).encode() + (1).to_bytes(4, "little"))
    signature = to_der(sign(secret, digest)) + b"\x01"
    signed = spending(bytes((len(signature),)) + signature + b"\x21" + public_key(secret))
    assert signed.encode().hex() == expect["funding_tx"]
    assert str(signed.txid) == expect["txid"]
    assert verifies(signed, 0, TxOut(Sat(given["input_amount_sat"]), source))


def signed_commitment(given: dict[str, Any], commitment: CommitmentTx) -> tuple[Tx, bytes, bytes]:
    """The transaction with its witness, then the signatures of its owner and of the other side."""
    digest = commitment_sighash(commitment)
    owner = sign(bytes.fromhex(given["local_funding_private_key"]), digest)
    other = sign(bytes.fromhex(given["remote_funding_private_key"]), digest)
    witness = funding_witness(
        bytes.fromhex(given["remote_funding_pubkey"]), other, bytes.fromhex(given["local_funding_pubkey"]), owner
    )
    return commitment.tx.with_witness(0, witness), owner, other


@pytest.mark.parametrize("case", COMMITMENTS)
def test_published_commitment(case: dict[str, Any]) -> None:
    given, expect = case["given"], case["expect"]
    commitment = vector_commitment(given)
    tx, owner, other = signed_commitment(given, commitment)
    assert other == from_der(bytes.fromhex(expect["remote_signature"]))
    assert tx.encode().hex() == expect["commitment_tx"]
    if "local_signature" in expect:
        assert owner == from_der(bytes.fromhex(expect["local_signature"]))
    if "actual_fee_sat" in expect:
        assert commitment.fee == Sat(expect["actual_fee_sat"])
        kept = len(commitment.htlc_outputs)
        assert commitment.format.commit_fee(commitment.spec.feerate, kept) == Sat(expect["base_fee_sat"])
    assert commitment.funding_script.hex() == given["funding_witness_script"]
    assert len(commitment.trimmed) + len(commitment.htlc_outputs) == len(given["htlcs"])
    funding = TxOut(Sat(given["funding_amount_sat"]), p2wsh(commitment.funding_script))
    assert verifies(tx, 0, funding)


@pytest.mark.parametrize("case", [case for case in COMMITMENTS if "outputs" in case.values[0]["expect"]])
def test_published_outputs_are_understood(case: dict[str, Any]) -> None:
    commitment = vector_commitment(case["given"])
    understood: dict[int, tuple[str, bytes]] = {}
    if commitment.to_local_index is not None:
        understood[commitment.to_local_index] = "to_local", p2wsh(commitment.to_local_script)
    if commitment.to_remote_index is not None:
        understood[commitment.to_remote_index] = "to_remote", p2wpkh(commitment.keys.other_payment)
    for output in commitment.htlc_outputs:
        understood[output.index] = "offered_htlc" if output.offered else "received_htlc", p2wsh(output.script)
    outputs = commitment.tx.outputs
    seen = [(understood[i][0], out.value, understood[i][1]) for i, out in enumerate(outputs)]
    assert [script for _, _, script in seen] == [out.script for out in outputs]
    # The published list is not always in the order of the outputs.
    assert sorted(seen) == sorted(
        [
            (
                one["kind"],
                one["amount_sat"],
                p2wsh(bytes.fromhex(one["witness_script"]))
                if "witness_script" in one
                else p2wpkh(bytes.fromhex(one["p2wpkh_pubkey"])),
            )
            for one in case["expect"]["outputs"]
        ]
    )


@pytest.mark.parametrize("case", COMMITMENTS)
def test_published_htlc_transactions(case: dict[str, Any]) -> None:
    given, expect = case["given"], case["expect"]
    commitment = vector_commitment(given)
    format = commitment.format
    preimages = vector_preimages(given)
    htlc_txs = make_htlc_txs(commitment)
    assert len(htlc_txs) == len(expect["htlc_txs"])
    digests = htlc_sighashes(commitment)
    for htlc_tx, digest, published in zip(htlc_txs, digests, expect["htlc_txs"], strict=True):
        assert digest == htlc_sighash(htlc_tx, format.other_htlc_sighash)
        other = sign(secrets(given, "remote_htlc_private_key"), digest)
        owner = sign(secrets(given, "local_htlc_private_key"), htlc_sighash(htlc_tx, SIGHASH_ALL))
        assert other == from_der(bytes.fromhex(published["remote_signature"]))
        script = htlc_tx.spent.script
        if isinstance(htlc_tx, HtlcTimeoutTx):
            witness = htlc_timeout_witness(format, owner, other, script)
        else:
            preimage = preimages[htlc_tx.htlc.payment_hash]
            witness = htlc_success_witness(format, owner, other, preimage, script)
        signed = htlc_tx.tx.with_witness(0, witness)
        assert signed.encode().hex() == published["tx"]
        assert verifies(signed, 0, commitment.tx.outputs[htlc_tx.spent.index])
        if "local_signature" in published:
            assert owner == from_der(bytes.fromhex(published["local_signature"]))
            assert (htlc_tx.htlc.id, htlc_tx.spent.index) == (published["htlc_id"], published["output_index"])
            kind = "htlc_success" if isinstance(htlc_tx, HtlcSuccessTx) else "htlc_timeout"
            assert kind == published["kind"]


@pytest.mark.parametrize("case", COMMITMENTS)
def test_the_other_side_builds_the_same_commitment(case: dict[str, Any]) -> None:
    ours, theirs = vector_commitment(case["given"]), vector_commitment(case["given"], owner_is_us=False)
    assert not theirs.owner_is_us and theirs.spec.our_balance == ours.spec.their_balance
    assert ours.tx == theirs.tx
    assert htlc_sighashes(ours) == htlc_sighashes(theirs)
    assert [output.htlc.side.other for output in theirs.htlc_outputs] == [
        output.htlc.side for output in ours.htlc_outputs
    ]
    assert [output.script for output in theirs.htlc_outputs] == [output.script for output in ours.htlc_outputs]


def test_every_commitment_file_is_read() -> None:
    names = {path.name for path in VECTORS.glob("bolt03-*.json")}
    elsewhere = {"bolt03-dual-funding.json", "bolt03-shachain-generation.json", "bolt03-shachain-storage.json"}
    here = {"commitment-anchors", "commitment-static-remotekey", "htlc-collision"}
    assert names - elsewhere == {
        *(f"bolt03-{name}.json" for name in here),
        *(f"bolt03-{name}.json" for name in ("commitment-number", "funding", "key-derivation", "weights-fees")),
    }
    assert len(COMMITMENTS) == 25 and {case.values[0]["given"]["option"] for case in COMMITMENTS} == {
        "static_remotekey",
        "anchors_zero_fee_htlc_tx",
    }


def test_htlcs_of_a_published_case_are_all_there() -> None:
    given = load("bolt03-commitment-anchors.json")[2]["given"]
    spec = vector_commitment(given).spec
    assert len(vector_htlcs(given)) == 5
    assert spec.total == Sat(given["funding_amount_sat"]).msat
    assert all(sha256(preimage) == digest for digest, preimage in vector_preimages(given).items())
    assert vector_commitment(given).format is ANCHORS
