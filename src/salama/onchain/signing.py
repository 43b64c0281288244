"""What a claim owes to the signer, and how its answers are put in place (BOLT 3, B3.10; BOLT 5).

The signer gets the whole transaction and every witness script: it makes the digest itself and signs only for a script
that names the very key, so that no mistake here can make it sign a commitment (``signer.claims``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from salama.base.machine import Effect
from salama.base.units import Sat
from salama.base.values import replace
from salama.bitcoin.script import p2wsh
from salama.bitcoin.tx import Tx, TxOut
from salama.channel.signing import ChannelOwed, MisplacedAnswer
from salama.onchain.claims import Claim, Way, witness
from salama.onchain.state import Sweep
from salama.wallet.keys import KeyPath
from salama.wallet.signing import sign_inputs


class ClaimKey(Enum):
    """Which key of the channel spends an output."""

    DELAYED = "delayed payment, moved by a per-commitment point of ours"
    HTLC = "HTLC, moved by a per-commitment point of either side"
    PAYMENT = "payment, as it is"
    FUNDING = "funding, for our anchor and nothing else"
    REVOCATION = "revocation, with a per-commitment secret of the peer"


KEY_OF = {
    Way.DELAYED: ClaimKey.DELAYED,
    Way.PAYMENT: ClaimKey.PAYMENT,
    Way.ANCHOR: ClaimKey.FUNDING,
    Way.TIMEOUT_TX: ClaimKey.HTLC,
    Way.SUCCESS_TX: ClaimKey.HTLC,
    Way.PREIMAGE: ClaimKey.HTLC,
    Way.EXPIRED: ClaimKey.HTLC,
    Way.PENALTY: ClaimKey.REVOCATION,
}


@dataclass(frozen=True, slots=True)
class InputOfClaim:
    """One input to sign with SIGHASH_ALL."""

    index: int
    key: ClaimKey
    script: bytes = field(repr=False)
    amount: Sat
    point: bytes = field(default=b"", repr=False)
    secret: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class OweClaim(ChannelOwed):
    """Sign the claims of ``sweep``, whose transaction has no witnesses yet. Answer: ``ClaimSignatures``."""

    sweep: Sweep
    claims: tuple[Claim, ...]
    why: str

    @property
    def tx(self) -> Tx:
        return self.sweep.tx

    @property
    def inputs(self) -> tuple[InputOfClaim, ...]:
        return tuple(
            InputOfClaim(index, KEY_OF[one.way], one.script, one.amount, one.point, one.revocation)
            for index, one in enumerate(self.claims)
        )


@dataclass(frozen=True, slots=True)
class ClaimSignatures:
    """Compact signatures in the order of ``OweClaim.inputs``."""

    signatures: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PublishClaim(Effect):
    """Offer ``sweep.tx`` to the network once, together with its unconfirmed parent if it has one."""

    sweep: Sweep
    why: str


def place(owed: OweClaim, answer: object, secret_of: Callable[[KeyPath], bytes]) -> Sweep:
    """The sweep with every witness. ``secret_of`` gives the wallet's untweaked secrets. Raises MisplacedAnswer."""
    if not isinstance(answer, ClaimSignatures) or len(answer.signatures) != len(owed.claims):
        raise MisplacedAnswer(f"{type(answer).__name__} to OweClaim")
    tx = owed.tx
    for index, (claim, signature) in enumerate(zip(owed.claims, answer.signatures, strict=True)):
        tx = tx.with_witness(index, witness(claim, signature))
    coins = owed.sweep.coins
    if coins:
        first = len(owed.claims)
        # Taproot inputs sign the scripts and amounts of all outputs spent, those of the claims included.
        spent = _spent(owed.claims, [TxOut(coin.value, coin.script) for coin in coins])
        tx = sign_inputs(tx, spent, {first + i: coin.key for i, coin in enumerate(coins)}, secret_of)
    return replace(owed.sweep, tx=tx)


def _spent(claims: Sequence[Claim], coins: Sequence[TxOut]) -> list[TxOut]:
    return [*(TxOut(one.amount, p2wsh(one.script)) for one in claims), *coins]
