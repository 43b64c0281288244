"""Our part in a PSBT: an offline signer sees all it needs, our own coins are never believed, embit signs the same."""

from dataclasses import replace

import pytest
from embit import bip32
from embit.psbt import PSBT
from hypothesis import given, settings
from hypothesis import strategies as st
from wallet_world import EMPTY, MASTER, STRANGER, block, env, fresh_outpoint, ours, payment, play, secret_of

from salama.base.machine import CommandRefused
from salama.base.units import FeeratePerKw, Sat
from salama.bitcoin.networks import REGTEST
from salama.bitcoin.psbt import Psbt, PsbtInput
from salama.bitcoin.script import p2wpkh
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.crypto import secp256k1
from salama.signer.policy import SigningRefused
from salama.signer.wallet import WalletKeys
from salama.wallet.events import FundTransaction
from salama.wallet.psbts import all_spent, described, finalised, origin_of, signed
from salama.wallet.psbts import ours as find_ours
from salama.wallet.signing import sign
from salama.wallet.step import step

ROOT = bip32.HDKey.from_seed(bytes(range(32)))
KEYS = WalletKeys(bytes(range(32)), REGTEST)
DEPOSITS = [payment(ours("wpkh", 0, 0), 60_000), payment(ours("tr", 0, 0), 70_000)]
STATE = play(EMPTY, block(3, *DEPOSITS))


def drafted(state=STATE, value=120_000):
    done = step(state, FundTransaction((TxOut(Sat(value), STRANGER),), FeeratePerKw(1000), "psbt 1"), env())
    funded = done.effects[0].funded
    previous = {tx.txid: tx for tx in DEPOSITS}
    return done.state, funded, described(Psbt.of(funded.tx), done.state, MASTER.fingerprint, REGTEST, previous)


def code_of(call, *arguments):
    with pytest.raises(CommandRefused) as refused:
        call(*arguments)
    return refused.value.code


def test_embit_signs_ours_and_we_finish_it():
    """What a hardware wallet of the same seed is shown is enough for it, and its signatures are the witnesses."""
    _, funded, psbt = drafted()
    shown = PSBT.from_string(psbt.render())
    assert shown.sign_with(ROOT) == 2
    theirs = Psbt.parse(shown.to_string())
    mine = signed(psbt, find_ours(psbt, STATE), secret_of)
    assert theirs.inputs[0].partial_signatures == mine.inputs[0].partial_signatures
    assert finalised(theirs).extract().txid == funded.tx.txid
    assert finalised(mine).extract() == sign(funded, secret_of)
    assert int(psbt.fee()) == int(funded.fee)


def test_an_offline_signer_is_told_of_our_change():
    state, funded, psbt = drafted()
    told = psbt.outputs[funded.change_index]
    key = state.scripts[psbt.tx.outputs[funded.change_index].script]
    assert told.tap_origins == ((told.tap_internal_key, origin_of(key, MASTER.fingerprint, REGTEST)),)
    assert not psbt.outputs[1 - funded.change_index].tap_origins
    told_of = [
        *psbt.inputs[0].origins,
        *psbt.inputs[0].tap_origins,
        *psbt.inputs[1].origins,
        *psbt.inputs[1].tap_origins,
    ]
    assert {origin.path[0] - (1 << 31) for _, origin in told_of} == {84, 86}


def test_we_sign_what_others_made():
    stranger_key = b"\x07" * 32
    theirs = TxOut(Sat(50_000), p2wpkh(secp256k1.public_key(stranger_key)))
    tx = Tx(2, (TxIn(fresh_outpoint()), TxIn(DEPOSITS[1].outpoint(1))), (TxOut(Sat(119_000), STRANGER),), 0)
    psbt = Psbt.of(tx)
    assert code_of(all_spent, psbt, find_ours(psbt, STATE)) == "psbt_incomplete"
    psbt = psbt.with_input(0, PsbtInput(previous_output=theirs))
    made = KEYS.sign_psbt(psbt, find_ours(psbt, STATE))
    assert made.inputs[1].tap_signature is not None and not made.inputs[0].partial_signatures
    half = finalised(made)
    assert half.inputs[1].is_final and not half.inputs[0].is_final


def test_what_is_said_of_our_coins_is_not_believed():
    _, _, psbt = drafted()
    for index in (0, 1):
        true = psbt.spent(index)
        bare = PsbtInput(previous_output=TxOut(Sat(int(true.value) - 1), true.script))
        assert code_of(find_ours, psbt.with_input(index, bare), STATE) == "psbt_lies"
        assert find_ours(psbt.with_input(index, PsbtInput()), STATE)[index].output == true


@pytest.mark.parametrize("kind", [2, 3, 0x81, 0x83, 7])
def test_only_signatures_over_everything_are_made(kind):
    _, _, psbt = drafted()
    assert code_of(find_ours, psbt.with_input(0, replace(psbt.inputs[0], sighash_type=kind)), STATE) == "bad_sighash"


def test_an_absurd_fee_is_not_signed():
    _, _, psbt = drafted()
    less = replace(psbt, tx=replace(psbt.tx, outputs=(TxOut(Sat(1_000), STRANGER),)), outputs=psbt.outputs[:1])
    with pytest.raises(SigningRefused):
        KEYS.sign_psbt(less, find_ours(less, STATE))


@given(st.integers(0, 1), st.integers(0, 62), st.integers(0, 7))
@settings(max_examples=40, deadline=None)
def test_a_bent_signature_is_never_finished(index, at, bit):
    _, _, psbt = drafted()
    made = signed(psbt, find_ours(psbt, STATE), secret_of)
    one = made.inputs[index]
    if one.tap_signature is not None:
        bent = bytearray(one.tap_signature)
        bent[at] ^= 1 << bit
        one = replace(one, tap_signature=bytes(bent))
    else:
        ((key, signature),) = one.partial_signatures
        bent = bytearray(signature)
        bent[at] ^= 1 << bit
        one = replace(one, partial_signatures=((key, bytes(bent)),))
    assert code_of(finalised, made.with_input(index, one)) == "bad_signature"


def test_a_signature_of_another_type_is_not_finished():
    _, _, psbt = drafted()
    made = signed(psbt, find_ours(psbt, STATE), secret_of)
    for index, one in enumerate(made.inputs):
        if one.tap_signature is not None:
            wrong = replace(one, tap_signature=one.tap_signature + b"\x02")
        else:
            ((key, signature),) = one.partial_signatures
            wrong = replace(one, partial_signatures=((key, signature[:-1] + b"\x02"),))
        assert code_of(finalised, made.with_input(index, wrong)) == "bad_signature"
