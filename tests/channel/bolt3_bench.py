"""What the BOLT 3 tests share: the published figures, two sides with keys, and Bitcoin Core's script verifier."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pbk

from salama.base.ids import OutPoint, PaymentHash, Preimage, Side, Txid
from salama.base.units import CltvExpiry, FeeratePerKw, Msat, Sat
from salama.bitcoin.tx import Tx, TxOut
from salama.channel.formats import ANCHORS, STATIC_REMOTEKEY, CommitmentFormat
from salama.channel.keys import Basepoints, CommitmentKeys, commitment_keys, derive_secret, revocation_secret
from salama.channel.spec import CommitmentSpec, SpecHtlc
from salama.channel.transactions import CommitmentTx, make_commitment_tx, obscuring_factor
from salama.crypto.hashes import sha256
from salama.crypto.secp256k1 import public_key

VECTORS = Path(__file__).parent.parent / "vectors"
FORMAT_OF_OPTION = {"static_remotekey": STATIC_REMOTEKEY, "anchors_zero_fee_htlc_tx": ANCHORS, "anchors": ANCHORS}


def load(name: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((VECTORS / name).read_text())["cases"]
    return cases


def verifies(tx: Tx, index: int, spent: TxOut) -> bool:
    """Whether Bitcoin Core's consensus lets input ``index`` of ``tx`` spend ``spent``."""
    assert 0 <= index < len(tx.inputs)  # the kernel would abort the process
    return bool(
        pbk.ScriptPubkey(spent.script).verify(
            int(spent.value),
            pbk.Transaction(tx.encode()),
            None,
            index,
            pbk.ScriptVerificationFlags.ALL & ~pbk.ScriptVerificationFlags.TAPROOT,
        )
    )


# --- the published commitments ---------------------------------------------------------------------------------------


def vector_htlcs(given: dict[str, Any], *, owner_is_us: bool = True) -> dict[int, SpecHtlc]:
    htlcs = {}
    for one in given["htlcs"]:
        offered_by_us = (one["direction"] == "offered") == owner_is_us
        htlc = SpecHtlc(
            Side.OUTGOING if offered_by_us else Side.INCOMING,
            one["id"],
            Msat(one["amount_msat"]),
            PaymentHash(sha256(bytes.fromhex(one["payment_preimage"]))),
            CltvExpiry(one["cltv_expiry"]),
        )
        htlcs[htlc.key] = htlc
    return htlcs


def vector_preimages(given: dict[str, Any]) -> dict[bytes, Preimage]:
    preimages = [Preimage.parse(one["payment_preimage"]) for one in given["htlcs"]]
    return {sha256(preimage): preimage for preimage in preimages}


def vector_commitment(given: dict[str, Any], *, owner_is_us: bool = True) -> CommitmentTx:
    """The local commitment of a published case; ``owner_is_us=False`` looks at the same one from the other side."""

    def point(name: str) -> bytes:
        return bytes.fromhex(given[name])

    any_point = point("local_payment_basepoint")
    owner = Basepoints(
        funding_pubkey=point("local_funding_pubkey"),
        revocation=any_point,
        payment=point("local_payment_basepoint"),
        delayed_payment=point("local_delayed_payment_basepoint"),
        htlc=point("local_htlc_basepoint"),
    )
    other = Basepoints(
        funding_pubkey=point("remote_funding_pubkey"),
        revocation=point("remote_revocation_basepoint"),
        payment=point("remote_payment_basepoint"),
        delayed_payment=any_point,
        htlc=point("remote_htlc_basepoint"),
    )
    assert given["opener"] == "local"
    return make_commitment_tx(
        format=FORMAT_OF_OPTION[given["option"]],
        funding=OutPoint(Txid.parse(given["funding_txid"]), given["funding_output_index"]),
        capacity=Sat(given["funding_amount_sat"]),
        owner_funding_pubkey=owner.funding_pubkey,
        other_funding_pubkey=other.funding_pubkey,
        number=given["commitment_number"],
        obscuring_factor=obscuring_factor(owner.payment, other.payment),
        spec=CommitmentSpec(
            owner_is_us,
            FeeratePerKw(given["feerate_per_kw"]),
            Msat(given["to_local_msat"]),
            Msat(given["to_remote_msat"]),
            vector_htlcs(given, owner_is_us=owner_is_us),
        ),
        keys=commitment_keys(owner, other, point("local_per_commitment_point")),
        dust_limit=Sat(given["dust_limit_sat"]),
        to_self_delay=given["to_self_delay"],
        owner_is_opener=True,
    )


# --- two sides of our own --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Person:
    """One side with all its secrets, made from its name."""

    name: str

    def secret(self, purpose: str) -> bytes:
        return sha256(f"{self.name} {purpose}".encode())

    @property
    def basepoints(self) -> Basepoints:
        return Basepoints(*(public_key(self.secret(purpose)) for purpose in _PURPOSES))


_PURPOSES = ("funding", "revocation", "payment", "delayed_payment", "htlc")
ALICE, BOB = Person("alice"), Person("bob")
PER_COMMITMENT_SECRET = sha256(b"per-commitment secret of the owner")
FUNDING = OutPoint(Txid(sha256(b"funding")), 1)
CAPACITY = Sat(1_000_000)
BOB_HAS = Msat(300_000_000)
FEERATE = FeeratePerKw(1000)
DUST_LIMIT = Sat(354)
TO_SELF_DELAY = 144


@dataclass(frozen=True)
class Scene:
    """A commitment of Alice (the owner, us) with Bob, and every secret that could spend it."""

    format: CommitmentFormat
    htlcs: tuple[SpecHtlc, ...] = ()
    feerate: FeeratePerKw = FEERATE
    to_remote: Msat = BOB_HAS
    owner_is_opener: bool = True
    dust_limit: Sat = DUST_LIMIT
    number: int = 7
    to_self_delay: int = TO_SELF_DELAY
    capacity: Sat = CAPACITY

    @property
    def keys(self) -> CommitmentKeys:
        return commitment_keys(ALICE.basepoints, BOB.basepoints, public_key(PER_COMMITMENT_SECRET))

    @property
    def spec(self) -> CommitmentSpec:
        held = sum(int(htlc.amount) for htlc in self.htlcs)
        to_local = Msat(int(self.capacity) * 1000 - int(self.to_remote) - held)
        return CommitmentSpec(True, self.feerate, to_local, self.to_remote, {htlc.key: htlc for htlc in self.htlcs})

    def commitment(self) -> CommitmentTx:
        return make_commitment_tx(
            format=self.format,
            funding=FUNDING,
            capacity=self.capacity,
            owner_funding_pubkey=ALICE.basepoints.funding_pubkey,
            other_funding_pubkey=BOB.basepoints.funding_pubkey,
            number=self.number,
            obscuring_factor=obscuring_factor(ALICE.basepoints.payment, BOB.basepoints.payment),
            spec=self.spec,
            keys=self.keys,
            dust_limit=self.dust_limit,
            to_self_delay=self.to_self_delay,
            owner_is_opener=self.owner_is_opener,
        )

    def derived(self, person: Person, purpose: str) -> bytes:
        """A secret of ``person`` for this commitment."""
        return derive_secret(person.secret(purpose), self.keys.per_commitment_point)

    @property
    def revocation(self) -> bytes:
        """Bob's, once Alice has told her per-commitment secret."""
        return revocation_secret(BOB.secret("revocation"), PER_COMMITMENT_SECRET)


PREIMAGE = Preimage(sha256(b"preimage"))


def htlc(side: Side, amount_sat: int, cltv_expiry: int = 500, htlc_id: int = 0, preimage: bytes = PREIMAGE) -> SpecHtlc:
    return SpecHtlc(side, htlc_id, Msat(amount_sat * 1000), PaymentHash(sha256(preimage)), CltvExpiry(cltv_expiry))
