"""Which transaction spent a funding output (BOLT 5, B5.01).

Our own commitment and both of the peer's that are not revoked are known to the byte; a revoked one is known by the
number in its locktime and sequence. What is none of these is named UNKNOWN, for a person to look at: somebody may have
our key. Whatever it is, an output to our static key is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from salama.bitcoin.script import p2wsh
from salama.bitcoin.tx import Tx
from salama.channel.commitments import format_of, local_commitment_tx, remote_commitment_tx
from salama.channel.keys import CommitmentKeys, commitment_keys
from salama.channel.scripts import to_local_script
from salama.channel.spec import SpecHtlc
from salama.channel.state import ActiveFunding, ChannelRecord
from salama.channel.transactions import decode_commitment_number, obscuring_factor
from salama.crypto.secp256k1 import public_key
from salama.crypto.shachain import FIRST_INDEX
from salama.onchain.outputs import Output, Role, outputs_of, outputs_of_revoked


class CloseKind(Enum):
    """What spent the funding."""

    MUTUAL = "mutual close"
    LOCAL = "our commitment"
    REMOTE = "their commitment"
    REMOTE_NEXT = "their next commitment"
    """Signed by us; its predecessor was not revoked yet."""
    REVOKED = "a revoked commitment of theirs"
    FUTURE = "a commitment of theirs newer than our data"
    """We lost data (B5.12)."""
    UNKNOWN = "a transaction that neither of us should have"


HtlcsAt = Callable[[int], Sequence[SpecHtlc]]
"""The HTLCs of the peer's commitment of a number, from the journal (``storage.queries.htlcs_at``)."""


@dataclass(frozen=True, slots=True)
class Close:
    """The transaction that spent the funding, and what each of its outputs is."""

    kind: CloseKind
    funding: ActiveFunding = field(repr=False)
    tx: Tx = field(repr=False)
    number: int | None
    outputs: tuple[Output, ...]
    keys: CommitmentKeys | None = field(default=None, repr=False)
    second_stage_script: bytes = field(default=b"", repr=False)
    """Witness script of the outputs of the owner's HTLC transactions."""
    owner_delay: int = 0
    """Blocks for which the owner's own money is delayed."""
    revocation: bytes = field(default=b"", repr=False)
    """The per-commitment secret that the peer gave away, if revoked."""

    @property
    def owner_is_us(self) -> bool:
        return self.kind is CloseKind.LOCAL


def identify(record: ChannelRecord, tx: Tx, htlcs_at: HtlcsAt) -> Close | None:
    """What ``tx`` is to the channel; None if it spends no funding of it."""
    spent = {one.outpoint for one in tx.inputs}
    for funding in (*record.active, *record.inactive):
        if funding.outpoint in spent:
            return _identify(record, funding, tx, htlcs_at)
    return None


def _identify(record: ChannelRecord, funding: ActiveFunding, tx: Tx, htlcs_at: HtlcsAt) -> Close:
    params = record.params
    factor = obscuring_factor(params.opener.basepoints.payment, params.accepter.basepoints.payment)
    number = decode_commitment_number(tx, factor)
    if record.restored:
        # Of a channel made from a backup we know the terms alone.
        kind = CloseKind.MUTUAL if number is None else CloseKind.FUTURE
        return Close(kind, funding, tx, number, _to_our_static_key(record, tx))
    if number is None:
        return _mutual(record, funding, tx)
    if number == funding.local.number:
        commitment = local_commitment_tx(record, funding, funding.local)
        if commitment.tx.txid == tx.txid:
            outputs = outputs_of(commitment, funding, funding.local.htlc_signatures)
            delay = params.theirs.to_self_delay
            keys, script = commitment.keys, commitment.to_local_script
            return Close(CloseKind.LOCAL, funding, tx, number, outputs, keys, script, delay)
    for kind, remote in ((CloseKind.REMOTE, funding.remote), (CloseKind.REMOTE_NEXT, funding.next_remote)):
        if remote is not None and remote.number == number:
            commitment = remote_commitment_tx(record, funding, remote)
            if commitment.tx.txid == tx.txid:
                outputs = outputs_of(commitment, funding)
                delay = params.ours.to_self_delay
                return Close(kind, funding, tx, number, outputs, commitment.keys, commitment.to_local_script, delay)
    if number < funding.remote.number:
        revoked = _revoked(record, funding, tx, number, htlcs_at)
        if revoked is not None:
            return revoked
    kind = CloseKind.FUTURE if number > funding.latest_remote.number else CloseKind.UNKNOWN
    return Close(kind, funding, tx, number, _to_our_static_key(record, tx))


def _mutual(record: ChannelRecord, funding: ActiveFunding, tx: Tx) -> Close:
    """Only what pays nobody but the scripts that we agreed to close to is a mutual close."""
    agreed = {record.our_shutdown, record.their_shutdown}
    is_ours = any(close.tx.txid == tx.txid for close in record.closes)
    if is_ours or (None not in agreed and all(out.script in agreed for out in tx.outputs)):
        return Close(CloseKind.MUTUAL, funding, tx, None, ())
    return Close(CloseKind.UNKNOWN, funding, tx, None, _to_our_static_key(record, tx))


def _revoked(record: ChannelRecord, funding: ActiveFunding, tx: Tx, number: int, htlcs_at: HtlcsAt) -> Close | None:
    secret = record.their_secrets.secret_at(FIRST_INDEX - number)
    if secret is None:
        return None
    params = record.params
    keys = commitment_keys(params.theirs.basepoints, params.ours.basepoints, public_key(secret))
    delay = params.ours.to_self_delay
    outputs = outputs_of_revoked(tx, format_of(record), keys, funding, delay, htlcs_at(number))
    if not any(output.role not in (Role.OUR_ANCHOR, Role.THEIR_ANCHOR) for output in outputs):
        return None
    script = to_local_script(keys.revocation, keys.delayed_payment, delay)
    return Close(CloseKind.REVOKED, funding, tx, number, outputs, keys, script, delay, secret)


def _to_our_static_key(record: ChannelRecord, tx: Tx) -> tuple[Output, ...]:
    """Our balance in any commitment of the peer, whatever else we do not know of it."""
    spk, script = format_of(record).to_remote(record.params.ours.basepoints.payment)
    return tuple(
        Output(tx.outpoint(index), out.value, script, Role.TO_REMOTE)
        for index, out in enumerate(tx.outputs)
        if out.script == spk and script and p2wsh(script) == spk
    )
