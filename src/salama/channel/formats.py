"""The scripts, weights and fee rules of a channel type as one object (BOLT 3, B3.04 to B3.07).

A new kind of commitment joins as another object here, not as an ``if`` in ``transactions``. ``STATIC_REMOTEKEY`` exists
for the published figures alone; channels are opened with ``ANCHORS``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from salama.base.units import FeeratePerKw, Msat, Sat
from salama.bitcoin.script import p2wpkh, p2wsh
from salama.bitcoin.sighash import ANYONECANPAY, SIGHASH_ALL, SIGHASH_SINGLE
from salama.channel.keys import CommitmentKeys
from salama.channel.scripts import HtlcScripts, to_remote_script
from salama.channel.spec import CommitmentSpec, SpecHtlc


@dataclass(frozen=True, slots=True)
class CommitmentFormat:
    """How a commitment and its HTLC transactions are written, and what they cost.

    Weights are the *expected* ones of BOLT 3, on which both sides agree, not those of a signed transaction.
    """

    name: str
    commitment_weight: int
    """Without HTLCs, with everything else."""
    htlc_output_weight: int
    htlc_timeout_weight: int
    htlc_success_weight: int
    anchor_amount: Sat
    """Of each anchor; zero if there are none."""
    htlc_fee_from_feerate: bool
    """Whether HTLC transactions pay the commitment's fee rate (else nothing: fees are attached when needed)."""
    csv: bool
    """Whether every output that the other side can spend at once, except by penalty, waits for one confirmation."""
    other_htlc_sighash: int
    """What the other side signs of the owner's HTLC transactions; the owner itself signs with SIGHASH_ALL."""
    anchors_total: Sat = field(init=False)
    """What the opener sets aside for both anchors, present or not."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "anchors_total", Sat(2 * int(self.anchor_amount)))

    @property
    def htlc_sequence(self) -> int:
        """``sequence`` of an HTLC transaction, and of a direct spend of an HTLC output by the other side."""
        return 1 if self.csv else 0

    def commit_fee(self, feerate: FeeratePerKw, untrimmed_htlcs: int) -> Sat:
        """Base fee of a commitment, paid by the opener; anchors not included (B3.06)."""
        return Sat(int(feerate) * (self.commitment_weight + self.htlc_output_weight * untrimmed_htlcs) // 1000)

    def htlc_timeout_fee(self, feerate: FeeratePerKw) -> Sat:
        """Fee of the second stage of an HTLC that the owner offered."""
        return feerate.fee(self.htlc_timeout_weight) if self.htlc_fee_from_feerate else Sat(0)

    def htlc_success_fee(self, feerate: FeeratePerKw) -> Sat:
        """Fee of the second stage of an HTLC that the owner received."""
        return feerate.fee(self.htlc_success_weight) if self.htlc_fee_from_feerate else Sat(0)

    def trim_below(self, feerate: FeeratePerKw, dust_limit: Sat, *, offered: bool) -> Sat:
        """HTLCs of fewer whole satoshis than this have no output in a commitment of the ``dust_limit``'s owner (B3.05).

        ``offered`` by that owner. An HTLC of exactly this amount has an output.
        """
        if not self.htlc_fee_from_feerate:
            return dust_limit
        fee = self.htlc_timeout_fee(feerate) if offered else self.htlc_success_fee(feerate)
        return Sat(int(dust_limit) + int(fee))

    def is_trimmed(self, feerate: FeeratePerKw, dust_limit: Sat, amount: Msat, *, offered: bool) -> bool:
        """Whether an HTLC has no output in the commitment of the ``dust_limit``'s owner, who offered or received it."""
        return int(amount) // 1000 < int(self.trim_below(feerate, dust_limit, offered=offered))

    def split_trimmed(self, spec: CommitmentSpec, dust_limit: Sat) -> tuple[list[SpecHtlc], list[SpecHtlc]]:
        """The HTLCs of ``spec`` with an output and those without; ``dust_limit`` of the owner."""
        least_offered = 1000 * int(self.trim_below(spec.feerate, dust_limit, offered=True))
        least_received = 1000 * int(self.trim_below(spec.feerate, dust_limit, offered=False))
        kept: list[SpecHtlc] = []
        trimmed: list[SpecHtlc] = []
        for htlc in spec.htlcs.values():
            least = least_offered if spec.is_offered(htlc) else least_received
            (kept if int(htlc.amount) >= least else trimmed).append(htlc)
        return kept, trimmed

    def htlc_scripts(self, keys: CommitmentKeys) -> HtlcScripts:
        return HtlcScripts(keys, csv=self.csv)

    def to_remote(self, other_payment: bytes) -> tuple[bytes, bytes]:
        """Scriptpubkey of ``to_remote`` and its witness script, which is empty if it pays to a public key hash."""
        if not self.csv:
            return p2wpkh(other_payment), b""
        witness_script = to_remote_script(other_payment)
        return p2wsh(witness_script), witness_script


ANCHORS: Final = CommitmentFormat(
    name="anchors",
    commitment_weight=1124,
    htlc_output_weight=172,
    htlc_timeout_weight=666,
    htlc_success_weight=706,
    anchor_amount=Sat(330),
    htlc_fee_from_feerate=False,
    csv=True,
    other_htlc_sighash=SIGHASH_SINGLE | ANYONECANPAY,
)
"""``option_anchors``: two anchors, HTLC transactions without a fee of their own."""

STATIC_REMOTEKEY: Final = CommitmentFormat(
    name="static_remotekey",
    commitment_weight=724,
    htlc_output_weight=172,
    htlc_timeout_weight=663,
    htlc_success_weight=703,
    anchor_amount=Sat(0),
    htlc_fee_from_feerate=True,
    csv=False,
    other_htlc_sighash=SIGHASH_ALL,
)
"""Before anchors: never opened, kept for the published figures."""

FORMATS: Final = {one.name: one for one in (ANCHORS, STATIC_REMOTEKEY)}
"""By name, for records."""
