"""What a signature is owed for on our inputs, and where the answer goes (BIP 143 p2wpkh, BIP 86 taproot key path).

Pure: a signer that holds the seed computes the answers, here or elsewhere. ``sign`` does both steps for a signer that
gives keys by path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from salama.bitcoin.script import is_p2tr, is_p2wpkh
from salama.bitcoin.sighash import SIGHASH_ALL, SegwitV0, p2wpkh_script_code, taproot
from salama.bitcoin.tx import Tx, TxOut
from salama.crypto import secp256k1
from salama.wallet.funding import Funded
from salama.wallet.keys import KeyPath


@dataclass(frozen=True, slots=True)
class InputToSign:
    """One input of ours: ECDSA by the key for ``wpkh``, Schnorr by the tweaked key (BIP 86) for ``tr``."""

    index: int
    key: KeyPath
    digest: bytes


def inputs_to_sign(tx: Tx, spent: Sequence[TxOut], ours: Mapping[int, KeyPath]) -> tuple[InputToSign, ...]:
    """Digests for the inputs ``ours`` of a transaction that may hold inputs of others, too.

    ``spent``: the output each input spends, in input order; taproot signs them all. ValueError if one is missing, or if
    the script of an input of ours is not of the kind that its key path says.
    """
    if len(spent) != len(tx.inputs):
        raise ValueError(f"{len(spent)} spent outputs for {len(tx.inputs)} inputs")
    shared = SegwitV0(tx)
    owed = []
    for index, key in sorted(ours.items()):
        output = spent[index]
        if key.kind == "tr" and is_p2tr(output.script):
            digest = taproot(tx, index, spent)
        elif key.kind == "wpkh" and is_p2wpkh(output.script):
            digest = shared.digest(index, p2wpkh_script_code(output.script[2:]), output.value)
        else:
            raise ValueError(f"the script of input {index} is not {key.kind}")
        owed.append(InputToSign(index, key, digest))
    return tuple(owed)


def witness(key: KeyPath, signature: bytes, public_key: bytes) -> tuple[bytes, ...]:
    """The witness of an input of ours from its 64-byte signature; ``public_key`` is of use for ``wpkh`` only."""
    if key.kind == "tr":
        return (signature,)
    return (secp256k1.to_der(signature) + bytes((SIGHASH_ALL,)), public_key)


def answer(owed: InputToSign, secret: bytes, aux: bytes = bytes(32)) -> tuple[bytes, ...]:
    """The witness for one input, by the untweaked secret of its key path. ``aux``: 32 fresh bytes, or zeros."""
    if owed.key.kind == "tr":
        signature = secp256k1.sign_schnorr(secp256k1.taproot_secret(secret), owed.digest, aux)
        return witness(owed.key, signature, b"")
    return witness(owed.key, secp256k1.sign(secret, owed.digest), secp256k1.public_key(secret))


def sign_inputs(tx: Tx, spent: Sequence[TxOut], ours: Mapping[int, KeyPath], keys: Callable[[KeyPath], bytes]) -> Tx:
    """``tx`` with witnesses on our inputs; ``keys`` gives the untweaked secret of a path."""
    for owed in inputs_to_sign(tx, spent, ours):
        tx = tx.with_witness(owed.index, answer(owed, keys(owed.key)))
    return tx


def sign(funded: Funded, keys: Callable[[KeyPath], bytes]) -> Tx:
    """The funded transaction with every input signed."""
    spent = tuple(coin.output for coin in funded.coins)
    return sign_inputs(funded.tx, spent, {i: coin.key for i, coin in enumerate(funded.coins)}, keys)
