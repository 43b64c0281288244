"""The wallet's part in a PSBT: showing what an offline signer must see, signing what is ours, putting it together
(BIP 174's updater, signer and finaliser; BIP 371 for taproot).

What a PSBT says of our own coins is not believed: amount and script are the wallet's. Only signatures over everything
are made (SIGHASH_ALL, or taproot's default), so that nobody can take them to another transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, TypeVar

from salama.base.ids import Txid
from salama.base.machine import CommandRefused
from salama.bitcoin.networks import Network
from salama.bitcoin.psbt import KeyOrigin, Psbt, PsbtInput, PsbtOutput
from salama.bitcoin.script import is_p2sh, is_p2tr, is_p2wpkh, p2sh, push
from salama.bitcoin.sighash import SIGHASH_ALL, SIGHASH_DEFAULT, SegwitV0, p2wpkh_script_code, taproot
from salama.bitcoin.tx import Tx, TxOut
from salama.crypto import secp256k1
from salama.crypto.hashes import hash160
from salama.crypto.secp256k1 import InvalidSignature
from salama.wallet.coins import Coin, WalletState
from salama.wallet.keys import Accounts, KeyPath, full_path
from salama.wallet.signing import answer, inputs_to_sign

HARDENED: Final = 1 << 31

M = TypeVar("M", PsbtInput, PsbtOutput)


def origin_of(key: KeyPath, fingerprint: bytes, network: Network) -> KeyOrigin:
    """Where a key of ours comes from, as a PSBT tells it."""
    steps = full_path(key, network).split("/")[1:]
    return KeyOrigin(fingerprint, tuple(int(s.rstrip("'")) + HARDENED * s.endswith("'") for s in steps))


def described(
    psbt: Psbt,
    state: WalletState,
    fingerprint: bytes,
    network: Network,
    previous: Mapping[Txid, Tx] | None = None,
) -> Psbt:
    """``psbt`` with all that the wallet knows of its inputs and outputs.

    ``previous``: whole transactions, which hardware wallets want to see for each input that is not taproot.
    """
    inputs = []
    for spending, one in zip(psbt.tx.inputs, psbt.inputs, strict=True):
        coin = state.coins.get(spending.outpoint)
        if coin is not None:
            origin = origin_of(coin.key, fingerprint, network)
            one = _with_key(one, state.accounts, coin.key, origin)
            parent = (previous or {}).get(spending.outpoint.txid)
            one = replace(one, previous_output=coin.output, previous_tx=parent or one.previous_tx)
        inputs.append(one)
    outputs = []
    for output, about in zip(psbt.tx.outputs, psbt.outputs, strict=True):
        key = state.scripts.get(output.script)
        if key is not None:
            about = _with_key(about, state.accounts, key, origin_of(key, fingerprint, network))
        outputs.append(about)
    return replace(psbt, inputs=tuple(inputs), outputs=tuple(outputs))


def _with_key(one: M, accounts: Accounts, key: KeyPath, origin: KeyOrigin) -> M:
    public = accounts.public_key(key)
    if key.kind == "tr":
        internal = secp256k1.xonly(public)
        return replace(one, tap_internal_key=internal, tap_origins=((internal, origin),))
    return replace(one, origins=tuple(sorted({**dict(one.origins), public: origin}.items())))


def ours(psbt: Psbt, state: WalletState) -> dict[int, Coin]:
    """Inputs that spend coins of ours, by their number. Raises CommandRefused if the PSBT lies about one."""
    found = {}
    for index, spending in enumerate(psbt.tx.inputs):
        coin = state.coins.get(spending.outpoint)
        if coin is None:
            continue
        told = psbt.spent(index)
        if told is not None and told != coin.output:
            raise CommandRefused("psbt_lies", f"Input {index} spends another output than the PSBT says.")
        if psbt.inputs[index].sighash_type not in (None, SIGHASH_DEFAULT, SIGHASH_ALL):
            raise CommandRefused("bad_sighash", f"Input {index} asks for a signature that does not cover everything.")
        found[index] = coin
    return found


def all_spent(psbt: Psbt, mine: Mapping[int, Coin]) -> tuple[TxOut, ...]:
    """What each input spends: ours as the wallet knows it, others as the PSBT tells. Raises CommandRefused."""
    spent = []
    for index in range(len(psbt.inputs)):
        output = mine[index].output if index in mine else psbt.spent(index)
        if output is None:
            raise CommandRefused("psbt_incomplete", f"Nothing is known of what input {index} spends.", "Add its utxo.")
        spent.append(output)
    return tuple(spent)


def signed(psbt: Psbt, mine: Mapping[int, Coin], keys: Callable[[KeyPath], bytes]) -> Psbt:
    """``psbt`` with our signatures; ``keys`` gives the untweaked secret of a path. Raises CommandRefused."""
    spent = all_spent(psbt, mine)
    for owed in inputs_to_sign(psbt.tx, spent, {index: coin.key for index, coin in mine.items()}):
        one = psbt.inputs[owed.index]
        if one.is_final:
            continue
        stack = answer(owed, keys(owed.key))
        if owed.key.kind == "tr":
            one = replace(one, tap_signature=stack[0], sighash_type=None)
        else:
            others = [pair for pair in one.partial_signatures if pair[0] != stack[1]]
            one = replace(one, partial_signatures=tuple(sorted([*others, (stack[1], stack[0])])))
        psbt = psbt.with_input(owed.index, replace(one, previous_output=spent[owed.index]))
    return psbt


def finalised(psbt: Psbt) -> Psbt:
    """``psbt`` with a witness on every input whose signature is there and good; others stay as they are.

    Understood are single keys: p2wpkh, p2sh-p2wpkh and taproot's key path. What needs more comes finished by the
    program that signed it. Raises CommandRefused for a signature that is not valid.
    """
    spent = [psbt.spent(index) for index in range(len(psbt.inputs))]
    digests = SegwitV0(psbt.tx)
    for index, one in enumerate(psbt.inputs):
        output = spent[index]
        if one.is_final or output is None:
            continue
        if is_p2tr(output.script):
            if one.tap_signature is None or None in spent:
                continue
            kind = one.tap_signature[64] if len(one.tap_signature) == 65 else SIGHASH_DEFAULT
            _check(index, kind in (SIGHASH_ALL, SIGHASH_DEFAULT) and (kind == 0) == (len(one.tap_signature) == 64))
            digest = taproot(psbt.tx, index, [known for known in spent if known is not None], kind)
            _check(index, secp256k1.verify_schnorr(output.script[2:], digest, one.tap_signature[:64]))
            done = PsbtInput(one.previous_tx, one.previous_output, final_witness=(one.tap_signature,), other=one.other)
        else:
            script_sig, program = None, output.script
            if is_p2sh(program) and one.redeem_script is not None and is_p2wpkh(one.redeem_script):
                _check(index, p2sh(hash160(one.redeem_script)) == program)
                script_sig, program = push(one.redeem_script), one.redeem_script
            pairs = [(key, made) for key, made in one.partial_signatures if hash160(key) == program[2:]]
            if not is_p2wpkh(program) or not pairs:
                continue
            key, signature = pairs[0]
            _check(index, signature[-1] == SIGHASH_ALL)
            digest = digests.digest(index, p2wpkh_script_code(program[2:]), output.value)
            try:
                _check(index, secp256k1.verify(key, digest, secp256k1.from_der(signature[:-1])))
            except InvalidSignature:
                _check(index, False)
            done = PsbtInput(
                one.previous_tx, one.previous_output, final_script_sig=script_sig, final_witness=(signature, key),
                other=one.other,
            )  # fmt: skip
        psbt = psbt.with_input(index, done)
    return psbt


def _check(index: int, good: bool) -> None:
    if not good:
        raise CommandRefused("bad_signature", f"The signature of input {index} is not valid.", "Sign it again.")
