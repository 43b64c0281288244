"""What every output of a commitment transaction is for, seen by us (BOLT 5, B5.02, annex D).

An HTLC output is named by channel, side, id and output index, never by its hash or amount: several HTLCs may be equal
in both (immunity C4). Knows nothing of heights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from salama.base.ids import OutPoint
from salama.base.units import Sat
from salama.bitcoin.script import p2wsh
from salama.bitcoin.tx import Tx
from salama.channel.formats import CommitmentFormat
from salama.channel.keys import CommitmentKeys
from salama.channel.scripts import anchor_script, to_local_script
from salama.channel.spec import SpecHtlc
from salama.channel.state import ActiveFunding
from salama.channel.transactions import CommitmentTx


class Role(Enum):
    """What an output is for; ``owner`` is whose commitment it is."""

    TO_LOCAL = "to_local"
    """The owner's money, delayed."""
    TO_REMOTE = "to_remote"
    OUR_ANCHOR = "our anchor"
    THEIR_ANCHOR = "their anchor"
    HTLC = "HTLC"
    SECOND_STAGE = "second stage"
    """Of an HTLC transaction of the owner: delayed like ``to_local``."""


@dataclass(frozen=True, slots=True)
class Output:
    """One output that may have to be spent."""

    outpoint: OutPoint
    amount: Sat
    script: bytes = field(repr=False)
    """Witness script."""
    role: Role
    htlc: SpecHtlc | None = None
    """Also of the second stage: the HTLC that it comes from."""
    offered: bool = False
    """The HTLC was offered by the owner of the commitment."""
    their_signature: bytes = field(default=b"", repr=False)
    """The peer's, for the second stage of an HTLC of our own commitment."""


def outputs_of(
    commitment: CommitmentTx, funding: ActiveFunding, their_signatures: Sequence[bytes] = ()
) -> tuple[Output, ...]:
    """All outputs of ``commitment``, in order; ``their_signatures`` in the order of its HTLC outputs."""
    tx = commitment.tx
    owner, other = funding.our_funding_pubkey, funding.their_funding_pubkey
    owner_role, other_role = Role.OUR_ANCHOR, Role.THEIR_ANCHOR
    if not commitment.owner_is_us:
        owner, other = other, owner
        owner_role, other_role = other_role, owner_role
    singles = (
        (commitment.to_local_index, commitment.to_local_script, Role.TO_LOCAL),
        (commitment.to_remote_index, commitment.to_remote_script, Role.TO_REMOTE),
        (commitment.owner_anchor_index, anchor_script(owner), owner_role),
        (commitment.other_anchor_index, anchor_script(other), other_role),
    )
    found = {
        index: Output(tx.outpoint(index), tx.outputs[index].value, script, role)
        for index, script, role in singles
        if index is not None
    }
    signatures = their_signatures or (b"",) * len(commitment.htlc_outputs)
    for output, signature in zip(commitment.htlc_outputs, signatures, strict=True):
        found[output.index] = Output(
            tx.outpoint(output.index),
            output.amount,
            output.script,
            Role.HTLC,
            output.htlc,
            output.offered,
            signature,
        )
    return tuple(found[index] for index in sorted(found))


def outputs_of_revoked(
    tx: Tx,
    format: CommitmentFormat,
    keys: CommitmentKeys,
    funding: ActiveFunding,
    to_self_delay: int,
    htlcs: Iterable[SpecHtlc],
) -> tuple[Output, ...]:
    """The outputs of the peer's revoked commitment, recognised by their scripts.

    Balances and fee rates of the past are not kept, so the transaction cannot be built again; it need not be: keys and
    ``htlcs`` give every script. HTLCs with the same script and amount are interchangeable but for their expiry, by
    which (then by id) the commitment had sorted them.
    """
    to_local = to_local_script(keys.revocation, keys.delayed_payment, to_self_delay)
    to_remote_spk, to_remote = format.to_remote(keys.other_payment)
    ours, theirs = anchor_script(funding.our_funding_pubkey), anchor_script(funding.their_funding_pubkey)
    singles = {
        p2wsh(to_local): (to_local, Role.TO_LOCAL),
        to_remote_spk: (to_remote, Role.TO_REMOTE),
        p2wsh(ours): (ours, Role.OUR_ANCHOR),
        p2wsh(theirs): (theirs, Role.THEIR_ANCHOR),
    }
    scripts = format.htlc_scripts(keys)
    waiting: dict[tuple[bytes, int], list[tuple[SpecHtlc, bool, bytes]]] = {}
    for htlc in sorted(htlcs, key=lambda one: (int(one.cltv_expiry), one.id)):
        offered = htlc.key & 1 == 1
        script = (
            scripts.offered(htlc.payment_hash) if offered else scripts.received(htlc.payment_hash, htlc.cltv_expiry)
        )
        waiting.setdefault((p2wsh(script), int(htlc.amount) // 1000), []).append((htlc, offered, script))
    found: list[Output] = []
    for index, out in enumerate(tx.outputs):
        outpoint = tx.outpoint(index)
        alike = waiting.get((out.script, int(out.value)))
        if alike:
            htlc, offered, script = alike.pop(0)
            found.append(Output(outpoint, out.value, script, Role.HTLC, htlc, offered))
        elif out.script in singles:
            script, role = singles[out.script]
            found.append(Output(outpoint, out.value, script, role))
    return tuple(found)
