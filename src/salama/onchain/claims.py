"""How one output is claimed: input, witness, weight, last good block (BOLT 5, B5.04 to B5.10; annex D).

A claim is plain data; ``witness`` completes it once the signer has answered. Heights: a block of height ``ready_at`` is
the first that may hold the claim, one of ``deadline`` the last in which it is surely ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from salama.base.ids import OutPoint, Preimage
from salama.base.units import Sat
from salama.bitcoin.script import p2wsh
from salama.bitcoin.tx import RBF_SEQUENCE, TxIn, TxOut, witness_size
from salama.channel.formats import CommitmentFormat
from salama.channel.spec import SpecHtlc
from salama.channel.witnesses import (
    Witness,
    anchor_witness,
    htlc_penalty_witness,
    htlc_preimage_claim_witness,
    htlc_success_witness,
    htlc_timeout_claim_witness,
    htlc_timeout_witness,
    penalty_witness,
    to_local_witness,
    to_remote_witness,
)
from salama.onchain.identify import Close
from salama.onchain.outputs import Output

_INPUT_WEIGHT: Final = 4 * 41
_SIGNATURE: Final = bytes(31) + b"\x01" + bytes(31) + b"\x01"
"""Stands for a signature that is not made yet; what a real one in DER is longer is ``_DER_GROWTH``."""
_DER_GROWTH: Final = 72 - 9
"""A DER signature with its type has 72 bytes at most; the placeholder has 9."""


class Way(Enum):
    """Who could spend the output so, and with which key we do."""

    DELAYED = "our own money after its delay"
    PAYMENT = "our balance in their commitment"
    ANCHOR = "our anchor"
    TIMEOUT_TX = "an expired HTLC of our commitment"
    SUCCESS_TX = "a paid HTLC of our commitment"
    PREIMAGE = "a paid HTLC of their commitment"
    EXPIRED = "an expired HTLC of their commitment"
    PENALTY = "a penalty"


SECOND_STAGE: Final = frozenset((Way.TIMEOUT_TX, Way.SUCCESS_TX))
"""Pay no fee themselves: each input has an output of the same index and value, and the fee comes from the wallet."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One output that we may spend from block ``ready_at`` on."""

    outpoint: OutPoint
    amount: Sat
    script: bytes = field(repr=False)
    way: Way
    ready_at: int
    deadline: int | None
    """None: it is ours for ever."""
    sequence: int = RBF_SEQUENCE
    locktime: int = 0
    htlc: SpecHtlc | None = None
    point: bytes = field(default=b"", repr=False)
    """Per-commitment point that the signing key is derived with."""
    revocation: bytes = field(default=b"", repr=False)
    """Per-commitment secret of the peer."""
    revocation_pubkey: bytes = field(default=b"", repr=False)
    preimage: Preimage | None = None
    their_signature: bytes = field(default=b"", repr=False)
    second_stage: TxOut | None = None
    format: CommitmentFormat | None = field(default=None, repr=False)

    @property
    def is_pinnable(self) -> bool:
        """Whether the peer can spend the output before us, and so hold up everything that is claimed with it."""
        return self.htlc is not None and self.way not in (Way.DELAYED,) and not self.is_from_second_stage

    @property
    def is_from_second_stage(self) -> bool:
        return self.way is Way.PENALTY and not self.revocation_pubkey

    @property
    def input(self) -> TxIn:
        return TxIn(self.outpoint, self.sequence)

    @property
    def weight(self) -> int:
        """Upper bound of what it adds to a transaction as an input, without the output of a second stage."""
        signatures = 2 if self.way in SECOND_STAGE else 1
        signed = self if self.way not in SECOND_STAGE else _with_their_placeholder(self)
        return _INPUT_WEIGHT + witness_size(witness(signed, _SIGNATURE)) + signatures * _DER_GROWTH


def _with_their_placeholder(claim: Claim) -> Claim:
    return Claim(
        claim.outpoint,
        claim.amount,
        claim.script,
        claim.way,
        claim.ready_at,
        claim.deadline,
        preimage=claim.preimage,
        their_signature=_SIGNATURE,
        format=claim.format,
    )


def witness(claim: Claim, signature: bytes) -> Witness:
    """The witness of the claim's input; ``signature`` is ours, compact, over the whole transaction."""
    script = claim.script
    if claim.way is Way.DELAYED:
        return to_local_witness(signature, script)
    if claim.way is Way.PAYMENT:
        return to_remote_witness(signature, script, b"")
    if claim.way is Way.ANCHOR:
        return anchor_witness(signature, script)
    if claim.way is Way.EXPIRED:
        return htlc_timeout_claim_witness(signature, script)
    if claim.way is Way.PENALTY:
        if claim.revocation_pubkey:
            return htlc_penalty_witness(signature, claim.revocation_pubkey, script)
        return penalty_witness(signature, script)
    if claim.way is Way.PREIMAGE:
        assert claim.preimage is not None
        return htlc_preimage_claim_witness(signature, claim.preimage, script)
    assert claim.format is not None
    if claim.way is Way.TIMEOUT_TX:
        return htlc_timeout_witness(claim.format, signature, claim.their_signature, script)
    assert claim.preimage is not None
    return htlc_success_witness(claim.format, signature, claim.their_signature, claim.preimage, script)


# --- making them -----------------------------------------------------------------------------------------------------


def claim_delayed(close: Close, output: Output, confirmed_at: int) -> Claim:
    """Our own money of our own commitment or of its second stage."""
    assert close.keys is not None
    delay = close.owner_delay
    return Claim(
        output.outpoint,
        output.amount,
        output.script,
        Way.DELAYED,
        confirmed_at + delay,
        None,
        sequence=delay,
        htlc=output.htlc,
        point=close.keys.per_commitment_point,
    )


def claim_payment(output: Output, confirmed_at: int) -> Claim:
    """Our balance in a commitment of the peer: after one confirmation."""
    return Claim(output.outpoint, output.amount, output.script, Way.PAYMENT, confirmed_at + 1, None, sequence=1)


def claim_anchor(output: Output, deadline: int | None = None) -> Claim:
    return Claim(output.outpoint, output.amount, output.script, Way.ANCHOR, 0, deadline)


def claim_htlc(
    close: Close,
    output: Output,
    format: CommitmentFormat,
    confirmed_at: int,
    preimage: Preimage | None,
    deadline: int,
) -> Claim:
    """An HTLC, with ``preimage`` or by its expiry: of our own commitment by the second stage that the peer has signed,
    of the peer's directly.
    """
    assert close.keys is not None and output.htlc is not None
    expiry = int(output.htlc.cltv_expiry)
    is_timeout = preimage is None
    ways = (Way.TIMEOUT_TX, Way.SUCCESS_TX) if close.owner_is_us else (Way.EXPIRED, Way.PREIMAGE)
    return Claim(
        output.outpoint,
        output.amount,
        output.script,
        ways[0] if is_timeout else ways[1],
        max(confirmed_at + format.htlc_sequence, expiry + 1 if is_timeout else 0),
        deadline,
        sequence=format.htlc_sequence,
        locktime=expiry if is_timeout else 0,
        htlc=output.htlc,
        point=close.keys.per_commitment_point,
        preimage=preimage,
        their_signature=output.their_signature,
        second_stage=TxOut(output.amount, p2wsh(close.second_stage_script)) if close.owner_is_us else None,
        format=format,
    )


def claim_penalty(close: Close, output: Output, deadline: int, *, is_htlc: bool) -> Claim:
    """Any output of a revoked commitment that is not ours already, and of its second stage."""
    assert close.keys is not None
    return Claim(
        output.outpoint,
        output.amount,
        output.script,
        Way.PENALTY,
        0,
        deadline,
        htlc=output.htlc,
        point=close.keys.per_commitment_point,
        revocation=close.revocation,
        revocation_pubkey=close.keys.revocation if is_htlc else b"",
    )
