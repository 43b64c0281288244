"""Every output of funding, commitment and HTLC transactions, spent and mis-spent before Bitcoin Core's verifier
(B3.03, B3.07)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from bolt3_bench import (
    ALICE,
    BOB,
    CAPACITY,
    PER_COMMITMENT_SECRET,
    PREIMAGE,
    TO_SELF_DELAY,
    Person,
    Scene,
    htlc,
    verifies,
)

from salama.base.ids import OutPoint, Preimage, Side, Txid
from salama.base.units import Sat
from salama.bitcoin.script import p2wpkh, p2wsh
from salama.bitcoin.sighash import (
    ANYONECANPAY,
    SIGHASH_ALL,
    SIGHASH_NONE,
    SIGHASH_SINGLE,
    p2wpkh_script_code,
    segwit_v0,
)
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.channel.formats import ANCHORS, STATIC_REMOTEKEY, CommitmentFormat
from salama.channel.scripts import ANCHOR_CSV, HtlcScripts, anchor_script, funding_script
from salama.channel.transactions import (
    CommitmentTx,
    HtlcOutput,
    HtlcTx,
    commitment_sighash,
    funding_output,
    htlc_sighash,
    make_htlc_tx,
)
from salama.channel.witnesses import (
    Witness,
    abandoned_anchor_witness,
    anchor_witness,
    der,
    funding_witness,
    htlc_penalty_witness,
    htlc_preimage_claim_witness,
    htlc_success_witness,
    htlc_timeout_claim_witness,
    htlc_timeout_witness,
    penalty_witness,
    to_local_witness,
    to_remote_witness,
)
from salama.crypto.hashes import hash160, sha256
from salama.crypto.secp256k1 import public_key, sign

BOTH_FORMATS = pytest.mark.parametrize("format", [ANCHORS, STATIC_REMOTEKEY], ids=lambda one: one.name)
STRANGER = sha256(b"somebody else")
EXPIRY = 500
SINK = p2wpkh(public_key(STRANGER))

Sign = Callable[[bytes], bytes]
"""Signs the transaction under way with a secret."""


def spend(
    spent_tx: Tx,
    index: int,
    script: bytes,
    witness: Callable[[Sign], Witness],
    *,
    sequence: int = 0,
    locktime: int = 0,
    version: int = 2,
) -> bool:
    """Whether a transaction taking that output, with the witness that ``witness`` makes of a signer, is valid."""
    spent = spent_tx.outputs[index]
    output = TxOut(Sat(int(spent.value) - 100), SINK)
    tx = Tx(version, (TxIn(spent_tx.outpoint(index), sequence),), (output,), locktime)
    digest = segwit_v0(tx, 0, script, spent.value)
    return verifies(tx.with_witness(0, witness(lambda secret: sign(secret, digest))), 0, spent)


def offered(format: CommitmentFormat) -> tuple[Scene, CommitmentTx, HtlcOutput]:
    scene = Scene(format, (htlc(Side.OUTGOING, 20_000, EXPIRY),))
    commitment = scene.commitment()
    assert commitment.htlc_outputs[0].offered
    return scene, commitment, commitment.htlc_outputs[0]


def received(format: CommitmentFormat) -> tuple[Scene, CommitmentTx, HtlcOutput]:
    scene = Scene(format, (htlc(Side.INCOMING, 20_000, EXPIRY),))
    commitment = scene.commitment()
    assert not commitment.htlc_outputs[0].offered
    return scene, commitment, commitment.htlc_outputs[0]


# --- funding ---------------------------------------------------------------------------------------------------------


@BOTH_FORMATS
def test_funding_takes_both_signatures(format: CommitmentFormat) -> None:
    commitment = Scene(format).commitment()
    digest = commitment_sighash(commitment)
    alice, bob = ALICE.basepoints.funding_pubkey, BOB.basepoints.funding_pubkey
    by_alice, by_bob = (sign(person.secret("funding"), digest) for person in (ALICE, BOB))
    funding = funding_output(CAPACITY, bob, alice)

    def with_witness(witness: Witness) -> bool:
        return verifies(commitment.tx.with_witness(0, witness), 0, funding)

    good = funding_witness(alice, by_alice, bob, by_bob)
    assert good == funding_witness(bob, by_bob, alice, by_alice)
    assert with_witness(good)
    assert not with_witness(funding_witness(alice, by_bob, bob, by_alice))  # each other's key
    assert not with_witness(funding_witness(alice, by_alice, bob, by_alice))  # one side twice
    assert not with_witness((good[0], good[2], good[1], good[3]))  # out of order
    assert not with_witness((b"\x01", *good[1:]))  # NULLDUMMY
    assert not with_witness((good[0], good[1], b"", good[3]))
    assert not with_witness((good[0], good[1][:-1] + bytes((SIGHASH_NONE,)), good[2], good[3]))
    less = funding_output(Sat(int(CAPACITY) - 1), bob, alice)
    assert not verifies(commitment.tx.with_witness(0, good), 0, less)  # the amount is signed too
    stranger = sign(STRANGER, digest)
    assert not with_witness(funding_witness(alice, stranger, bob, by_bob))


def test_funding_script_sorts_its_keys() -> None:
    low, high = b"\x02" + bytes(32), b"\x03" + bytes(32)
    assert funding_script(low, high) == funding_script(high, low) == b"\x52\x21" + low + b"\x21" + high + b"\x52\xae"


# --- to_local and second-stage outputs -------------------------------------------------------------------------------


def check_delayed_output(scene: Scene, tx: Tx, index: int, script: bytes) -> None:
    delayed, revocation = scene.derived(ALICE, "delayed_payment"), scene.revocation

    def owner(sign: Sign) -> Witness:
        return to_local_witness(sign(delayed), script)

    def other(sign: Sign) -> Witness:
        return penalty_witness(sign(revocation), script)

    assert spend(tx, index, script, owner, sequence=TO_SELF_DELAY)
    assert spend(tx, index, script, owner, sequence=TO_SELF_DELAY + 1)
    assert spend(tx, index, script, other, sequence=0)
    assert spend(tx, index, script, other, sequence=0xFFFFFFFD)
    assert not spend(tx, index, script, owner, sequence=TO_SELF_DELAY - 1)
    assert not spend(tx, index, script, owner, sequence=0xFFFFFFFD)  # relative locktime switched off
    assert not spend(tx, index, script, owner, sequence=1 << 22 | TO_SELF_DELAY)  # in units of 512 seconds
    assert not spend(tx, index, script, owner, sequence=TO_SELF_DELAY, version=1)
    wrong: list[tuple[str, Callable[[Sign], Witness]]] = [
        ("penalty selector, delayed key", lambda sign: penalty_witness(sign(delayed), script)),
        ("delayed selector, revocation key", lambda sign: to_local_witness(sign(revocation), script)),
        ("half of the revocation key", lambda sign: penalty_witness(sign(BOB.secret("revocation")), script)),
        ("other half", lambda sign: penalty_witness(sign(PER_COMMITMENT_SECRET), script)),
        ("untweaked delayed key", lambda sign: to_local_witness(sign(ALICE.secret("delayed_payment")), script)),
        ("stranger", lambda sign: penalty_witness(sign(STRANGER), script)),
        ("no signature", lambda _: (b"", b"", script)),
        ("another script", lambda sign: to_local_witness(sign(delayed), script + b"\x61")),
        ("bad sighash byte", lambda sign: (der(sign(delayed), SIGHASH_NONE), b"", script)),
    ]
    for what, witness in wrong:
        assert not spend(tx, index, script, witness, sequence=TO_SELF_DELAY), what


@BOTH_FORMATS
def test_to_local(format: CommitmentFormat) -> None:
    scene = Scene(format)
    commitment = scene.commitment()
    assert commitment.to_local_index is not None
    check_delayed_output(scene, commitment.tx, commitment.to_local_index, commitment.to_local_script)


@BOTH_FORMATS
@pytest.mark.parametrize("make", [offered, received])
def test_second_stage_output(
    format: CommitmentFormat, make: Callable[[CommitmentFormat], tuple[Scene, CommitmentTx, HtlcOutput]]
) -> None:
    scene, commitment, output = make(format)
    htlc_tx = make_htlc_tx(commitment, output)
    check_delayed_output(scene, htlc_tx.tx, 0, htlc_tx.output_script)


@pytest.mark.parametrize("delay", [0, 1, 16, 17, 127, 128, 144, 2016, 32767, 32768, 65535])
def test_any_delay_is_encoded_as_the_verifier_wants_it(delay: int) -> None:
    commitment = Scene(ANCHORS, to_self_delay=delay).commitment()
    assert commitment.to_local_index is not None
    script, index = commitment.to_local_script, commitment.to_local_index
    delayed = Scene(ANCHORS).derived(ALICE, "delayed_payment")

    def owner(sign: Sign) -> Witness:
        return to_local_witness(sign(delayed), script)

    assert spend(commitment.tx, index, script, owner, sequence=delay)
    if delay:
        assert not spend(commitment.tx, index, script, owner, sequence=delay - 1)


# --- to_remote and anchors -------------------------------------------------------------------------------------------


def test_to_remote_with_anchors_waits_for_one_confirmation() -> None:
    commitment = Scene(ANCHORS).commitment()
    index, script = commitment.to_remote_index, commitment.to_remote_script
    assert index is not None and commitment.tx.outputs[index].script == p2wsh(script)
    secret = BOB.secret("payment")  # untweaked: spendable without any per-commitment point
    pubkey = public_key(secret)

    def bob(sign: Sign) -> Witness:
        return to_remote_witness(sign(secret), script, pubkey)

    assert spend(commitment.tx, index, script, bob, sequence=1)
    assert not spend(commitment.tx, index, script, bob, sequence=0)
    assert not spend(commitment.tx, index, script, bob, sequence=0xFFFFFFFD)
    for wrong in (ALICE.secret("payment"), STRANGER, BOB.secret("htlc")):
        assert not spend(
            commitment.tx, index, script, lambda sign, w=wrong: to_remote_witness(sign(w), script, pubkey), sequence=1
        )


def test_to_remote_without_anchors_pays_a_key_hash() -> None:
    commitment = Scene(STATIC_REMOTEKEY).commitment()
    index = commitment.to_remote_index
    assert index is not None and commitment.to_remote_script == b""
    secret = BOB.secret("payment")
    pubkey = public_key(secret)
    code = p2wpkh_script_code(hash160(pubkey))
    assert commitment.tx.outputs[index].script == p2wpkh(pubkey)
    assert spend(commitment.tx, index, code, lambda sign: to_remote_witness(sign(secret), b"", pubkey))
    assert not spend(commitment.tx, index, code, lambda sign: to_remote_witness(sign(STRANGER), b"", pubkey))
    other = public_key(STRANGER)
    assert not spend(commitment.tx, index, code, lambda sign: to_remote_witness(sign(STRANGER), b"", other))


@pytest.mark.parametrize("person", [ALICE, BOB], ids=lambda one: one.name)
def test_anchor(person: Person) -> None:
    commitment = Scene(ANCHORS).commitment()
    index = commitment.owner_anchor_index if person is ALICE else commitment.other_anchor_index
    assert index is not None
    secret = person.secret("funding")
    script = anchor_script(person.basepoints.funding_pubkey)
    assert commitment.tx.outputs[index] == TxOut(Sat(330), p2wsh(script))

    assert spend(commitment.tx, index, script, lambda sign: anchor_witness(sign(secret), script), sequence=0)
    assert spend(commitment.tx, index, script, lambda sign: anchor_witness(sign(secret), script), sequence=0xFFFFFFFD)
    assert spend(commitment.tx, index, script, lambda _: abandoned_anchor_witness(script), sequence=ANCHOR_CSV)
    assert not spend(commitment.tx, index, script, lambda _: abandoned_anchor_witness(script), sequence=ANCHOR_CSV - 1)
    assert not spend(commitment.tx, index, script, lambda _: abandoned_anchor_witness(script), sequence=0xFFFFFFFD)
    somebody = (BOB if person is ALICE else ALICE).secret("funding")
    assert not spend(commitment.tx, index, script, lambda sign: anchor_witness(sign(somebody), script), sequence=0)


# --- HTLC outputs, by their second stage -----------------------------------------------------------------------------


def signatures(scene: Scene, htlc_tx: HtlcTx) -> tuple[bytes, bytes]:
    """Of the owner and of the other side."""
    return (
        sign(scene.derived(ALICE, "htlc"), htlc_sighash(htlc_tx, SIGHASH_ALL)),
        sign(scene.derived(BOB, "htlc"), htlc_sighash(htlc_tx, scene.format.other_htlc_sighash)),
    )


@BOTH_FORMATS
def test_htlc_timeout(format: CommitmentFormat) -> None:
    scene, commitment, output = offered(format)
    htlc_tx = make_htlc_tx(commitment, output)
    spent, script = commitment.tx.outputs[output.index], output.script
    owner, other = signatures(scene, htlc_tx)
    assert htlc_tx.tx.locktime == EXPIRY and htlc_tx.tx.inputs[0].sequence == format.htlc_sequence

    def valid(witness: Witness, tx: Tx = htlc_tx.tx) -> bool:
        return verifies(tx.with_witness(0, witness), 0, spent)

    good = htlc_timeout_witness(format, owner, other, script)
    assert valid(good)
    assert not valid(htlc_timeout_witness(format, other, owner, script))
    assert not valid(htlc_timeout_witness(format, owner, owner, script))
    assert not valid(htlc_success_witness(format, owner, other, PREIMAGE, script))
    assert not valid((b"\x01", *good[1:]))
    # Its locktime is what the other side signed: no earlier one, and no other amount.
    sooner = Tx(2, htlc_tx.tx.inputs, htlc_tx.tx.outputs, EXPIRY - 1)
    assert not valid(good, sooner)
    more = Tx(2, htlc_tx.tx.inputs, (TxOut(Sat(int(output.amount) + 1), htlc_tx.tx.outputs[0].script),), EXPIRY)
    assert not valid(good, more)
    wrong_type = SIGHASH_ALL if format is ANCHORS else SIGHASH_SINGLE | ANYONECANPAY
    other_type = sign(scene.derived(BOB, "htlc"), htlc_sighash(htlc_tx, wrong_type))
    assert not valid(htlc_timeout_witness(format, owner, other_type, script))


@BOTH_FORMATS
def test_htlc_success(format: CommitmentFormat) -> None:
    scene, commitment, output = received(format)
    htlc_tx = make_htlc_tx(commitment, output)
    spent, script = commitment.tx.outputs[output.index], output.script
    owner, other = signatures(scene, htlc_tx)
    assert htlc_tx.tx.locktime == 0 and htlc_tx.tx.inputs[0].sequence == format.htlc_sequence

    def valid(witness: Witness, tx: Tx = htlc_tx.tx) -> bool:
        return verifies(tx.with_witness(0, witness), 0, spent)

    assert valid(htlc_success_witness(format, owner, other, PREIMAGE, script))
    assert not valid(htlc_success_witness(format, owner, other, Preimage(bytes(32)), script))
    assert not valid(htlc_timeout_witness(format, owner, other, script))
    assert not valid(htlc_success_witness(format, other, owner, PREIMAGE, script))
    assert not valid(htlc_success_witness(format, owner, sign(STRANGER, sha256(b"")), PREIMAGE, script))


def test_fees_can_be_attached_to_an_htlc_transaction_with_anchors() -> None:
    for make in (offered, received):
        scene, commitment, output = make(ANCHORS)
        htlc_tx = make_htlc_tx(commitment, output)
        _, other = signatures(scene, htlc_tx)
        purse = OutPoint(Txid(sha256(b"a coin of the owner")), 3)
        fat = Tx(
            2,
            (*htlc_tx.tx.inputs, TxIn(purse)),
            (*htlc_tx.tx.outputs, TxOut(Sat(5_000), SINK)),
            htlc_tx.tx.locktime,
        )
        owner = sign(scene.derived(ALICE, "htlc"), segwit_v0(fat, 0, output.script, output.amount))
        spent = commitment.tx.outputs[output.index]
        if output.offered:
            witness = htlc_timeout_witness(ANCHORS, owner, other, output.script)
        else:
            witness = htlc_success_witness(ANCHORS, owner, other, PREIMAGE, output.script)
        assert verifies(fat.with_witness(0, witness), 0, spent)
        # The other side's signature holds for output 0 only at its own place.
        turned = Tx(2, fat.inputs, fat.outputs[::-1], fat.locktime)
        assert not verifies(turned.with_witness(0, witness), 0, spent)


# --- HTLC outputs, directly by the other side ------------------------------------------------------------------------


@BOTH_FORMATS
def test_offered_htlc_is_claimed_with_its_preimage(format: CommitmentFormat) -> None:
    scene, commitment, output = offered(format)
    script, bob, at = output.script, scene.derived(BOB, "htlc"), output.index

    def claim(secret: bytes, preimage: bytes) -> Callable[[Sign], Witness]:
        return lambda sign: htlc_preimage_claim_witness(sign(secret), Preimage(preimage), script)

    right = claim(bob, PREIMAGE)
    assert spend(commitment.tx, at, script, right, sequence=format.htlc_sequence)
    assert spend(commitment.tx, at, script, right, sequence=0) == (format is STATIC_REMOTEKEY)
    assert not spend(commitment.tx, at, script, claim(bob, bytes(32)), sequence=1)
    assert not spend(commitment.tx, at, script, claim(scene.derived(ALICE, "htlc"), PREIMAGE), sequence=1)
    assert not spend(commitment.tx, at, script, claim(BOB.secret("htlc"), PREIMAGE), sequence=1)
    short = PREIMAGE[:31]
    assert not spend(commitment.tx, at, script, lambda sign: (der(sign(bob)), short, script), sequence=1)
    # No way to take it back by time for the other side, whatever the locktime.
    timeout = htlc_timeout_claim_witness
    assert not spend(
        commitment.tx, at, script, lambda sign: timeout(sign(bob), script), sequence=1, locktime=EXPIRY + 1000
    )


@BOTH_FORMATS
def test_received_htlc_goes_back_at_its_expiry(format: CommitmentFormat) -> None:
    scene, commitment, output = received(format)
    script, bob, at = output.script, scene.derived(BOB, "htlc"), output.index

    def back(secret: bytes) -> Callable[[Sign], Witness]:
        return lambda sign: htlc_timeout_claim_witness(sign(secret), script)

    assert spend(commitment.tx, at, script, back(bob), sequence=format.htlc_sequence, locktime=EXPIRY)
    assert spend(commitment.tx, at, script, back(bob), sequence=format.htlc_sequence, locktime=EXPIRY + 1)
    assert not spend(commitment.tx, at, script, back(bob), sequence=format.htlc_sequence, locktime=EXPIRY - 1)
    assert not spend(commitment.tx, at, script, back(bob), sequence=0xFFFFFFFF, locktime=EXPIRY)  # locktime is off
    assert not spend(commitment.tx, at, script, back(bob), sequence=1, locktime=500_000_001)  # a time, not a height
    early = spend(commitment.tx, at, script, back(bob), sequence=0, locktime=EXPIRY)
    assert early == (format is STATIC_REMOTEKEY)
    for wrong in (scene.derived(ALICE, "htlc"), STRANGER, BOB.secret("htlc")):
        assert not spend(commitment.tx, at, script, back(wrong), sequence=1, locktime=EXPIRY)
    # The preimage alone, without the owner's second stage, takes nothing.
    assert not spend(
        commitment.tx,
        at,
        script,
        lambda sign: htlc_preimage_claim_witness(sign(bob), PREIMAGE, script),
        sequence=1,
        locktime=EXPIRY,
    )


@BOTH_FORMATS
@pytest.mark.parametrize("make", [offered, received])
def test_htlc_of_a_revoked_commitment(
    format: CommitmentFormat, make: Callable[[CommitmentFormat], tuple[Scene, CommitmentTx, HtlcOutput]]
) -> None:
    scene, commitment, output = make(format)
    script, at, key = output.script, output.index, scene.keys.revocation
    assert public_key(scene.revocation) == key

    def penalty(secret: bytes, pubkey: bytes) -> Callable[[Sign], Witness]:
        return lambda sign: htlc_penalty_witness(sign(secret), pubkey, script)

    assert spend(commitment.tx, at, script, penalty(scene.revocation, key), sequence=0)
    assert spend(commitment.tx, at, script, penalty(scene.revocation, key), sequence=0xFFFFFFFD)
    for wrong in (BOB.secret("revocation"), PER_COMMITMENT_SECRET, scene.derived(BOB, "htlc"), STRANGER):
        assert not spend(commitment.tx, at, script, penalty(wrong, key))
        assert not spend(commitment.tx, at, script, penalty(wrong, public_key(wrong)))


@pytest.mark.parametrize("expiry", [1, 16, 17, 127, 128, 255, 32767, 32768, 800_000, 8_388_607, 8_388_608, 499_999_999])
def test_any_expiry_is_encoded_as_the_verifier_wants_it(expiry: int) -> None:
    scene = Scene(ANCHORS, (htlc(Side.INCOMING, 20_000, expiry),))
    commitment = scene.commitment()
    (output,) = commitment.htlc_outputs
    bob = scene.derived(BOB, "htlc")

    def back(sign: Sign) -> Witness:
        return htlc_timeout_claim_witness(sign(bob), output.script)

    assert spend(commitment.tx, output.index, output.script, back, sequence=1, locktime=expiry)
    assert not spend(commitment.tx, output.index, output.script, back, sequence=1, locktime=expiry - 1)


def test_selectors_are_minimal() -> None:
    # Consensus takes any truth, but nodes relay only the empty string and the single byte 1 (MINIMALIF).
    signature = sign(STRANGER, sha256(b""))
    assert to_local_witness(signature, b"s")[1] == b""
    assert penalty_witness(signature, b"s")[1] == b"\x01"
    assert htlc_timeout_witness(ANCHORS, signature, signature, b"s")[3] == b""
    assert htlc_timeout_claim_witness(signature, b"s")[1] == b""


@BOTH_FORMATS
def test_script_sizes_that_penalty_weights_assume(format: CommitmentFormat) -> None:
    keys = Scene(format).keys
    scripts = HtlcScripts(keys, csv=format.csv)
    extra = 3 if format is ANCHORS else 0
    # BOLT 5 counts a four-byte push of the expiry (three bytes of height), so heights from 65,536 on.
    assert len(scripts.offered(sha256(PREIMAGE))) == 133 + extra
    assert len(scripts.received(sha256(PREIMAGE), 800_000)) == 139 + extra
