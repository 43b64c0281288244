"""Both sequences of commitments: what the next one of each holds, and the transactions they stand for (BOLT 2, B2.51,
B2.52).

An update travels: sent, signed by its sender (into the receiver's commitment), acknowledged by revocation, signed
back (into the sender's commitment), acknowledged again. ``Htlc`` says where each one is; the four functions
``with_...`` move all that may move, and nothing else in the house writes those numbers.

Refuses to know limits and messages: what comes here has been checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from salama.base.ids import Side
from salama.base.units import FeeratePerKw
from salama.base.values import replace
from salama.channel.env import Check
from salama.channel.events import AddHtlc
from salama.channel.formats import ANCHORS, STATIC_REMOTEKEY, CommitmentFormat
from salama.channel.keys import commitment_keys
from salama.channel.spec import Add, CommitmentSpec, Fail, Fee, Fulfil, SpecHtlc, Update, htlc_key, reduce
from salama.channel.state import (
    ActiveFunding,
    ChannelRecord,
    Fulfilment,
    Htlc,
    LocalCommitment,
    RemoteCommitment,
    Removal,
)
from salama.channel.transactions import (
    CommitmentTx,
    commitment_sighash,
    htlc_sighashes,
    make_commitment_tx,
    obscuring_factor,
)
from salama.wire.features import OPTION_ANCHORS


def format_of(record: ChannelRecord) -> CommitmentFormat:
    """The format that the channel type stands for."""
    return ANCHORS if record.params.channel_type.has(OPTION_ANCHORS) else STATIC_REMOTEKEY


# --- transactions ----------------------------------------------------------------------------------------------------


def local_commitment_tx(record: ChannelRecord, funding: ActiveFunding, local: LocalCommitment) -> CommitmentTx:
    """Our commitment transaction, unsigned. ``local`` must be within the window of our points."""
    point = record.our_points.at(local.number)
    assert point is not None, "a commitment outside the window of our points"
    return _commitment_tx(record, funding, local.number, local.spec, point)


def remote_commitment_tx(record: ChannelRecord, funding: ActiveFunding, remote: RemoteCommitment) -> CommitmentTx:
    """The peer's commitment transaction, unsigned; also of a revoked number, if ``remote`` was built again."""
    return _commitment_tx(record, funding, remote.number, remote.spec, remote.point)


def _commitment_tx(
    record: ChannelRecord, funding: ActiveFunding, number: int, spec: CommitmentSpec, point: bytes
) -> CommitmentTx:
    """The one of its owner: with the owner's dust limit, and the delay that the other side demanded."""
    params, is_ours = record.params, spec.owner_is_us
    keys = (funding.our_funding_pubkey, funding.their_funding_pubkey)
    owner, other = (params.ours, params.theirs) if is_ours else (params.theirs, params.ours)
    return make_commitment_tx(
        format=format_of(record),
        funding=funding.outpoint,
        capacity=funding.capacity,
        owner_funding_pubkey=keys[0] if is_ours else keys[1],
        other_funding_pubkey=keys[1] if is_ours else keys[0],
        number=number,
        obscuring_factor=obscuring_factor(params.opener.basepoints.payment, params.accepter.basepoints.payment),
        spec=spec,
        keys=commitment_keys(owner.basepoints, other.basepoints, point),
        dust_limit=owner.dust_limit,
        to_self_delay=other.to_self_delay,
        owner_is_opener=params.is_opener is is_ours,
    )


def derive_next_keys(record: ChannelRecord) -> None:
    """Work out the keys of both commitments to come, as far as their points are known: ``commitment_keys`` remembers
    them, so that neither side waits for them later.
    """
    ours, theirs = record.params.ours.basepoints, record.params.theirs.basepoints
    point = record.our_points.at(record.funding.local.number + 1)
    if point is not None:
        commitment_keys(ours, theirs, point)
    if record.their_next_point is not None:
        commitment_keys(theirs, ours, record.their_next_point)


def checks_of_local(
    commitment: CommitmentTx, funding: ActiveFunding, signature: bytes, htlc_signatures: Iterable[bytes]
) -> list[Check]:
    """What the peer's ``commitment_signed`` for our ``commitment`` must satisfy, counted by the caller."""
    checks: list[Check] = [(funding.their_funding_pubkey, commitment_sighash(commitment), signature)]
    if commitment.htlc_outputs:
        key = commitment.keys.other_htlc
        checks += [(key, digest, sig) for digest, sig in zip(htlc_sighashes(commitment), htlc_signatures, strict=True)]
    return checks


# --- updates that are on their way -----------------------------------------------------------------------------------


def removal_update(htlc: Htlc | SpecHtlc, removal: Removal) -> Update:
    return Fulfil(htlc.id) if isinstance(removal, Fulfilment) else Fail(htlc.id)


def acknowledged_of_theirs(record: ChannelRecord) -> list[Update]:
    """Updates of the peer that we have revoked for: our next signature must cover them."""
    if not record.owes_signature:
        return []
    updates: list[Update] = []
    for htlc in record.htlcs.values():
        if htlc.terms.side is Side.INCOMING:
            if htlc.first_remote is None:
                updates.append(Add(htlc.terms))
        elif htlc.last_local is not None and htlc.last_remote is None:
            assert htlc.removal is not None
            updates.append(removal_update(htlc, htlc.removal))
    if not record.params.is_opener:
        feerate = record.funding.local.spec.feerate
        if feerate != record.funding.latest_remote.spec.feerate:
            updates.append(Fee(feerate))
    return updates


def acknowledged_of_ours(record: ChannelRecord) -> list[Update]:
    """Updates of ours that the peer has revoked for: the peer's next signature must cover them."""
    acknowledged = record.funding.remote.number
    updates: list[Update] = []
    for htlc in record.htlcs.values():
        if htlc.terms.side is Side.OUTGOING:
            if htlc.first_local is None and _reached(htlc.first_remote, acknowledged):
                updates.append(Add(htlc.terms))
        elif htlc.last_local is None and _passed(htlc.last_remote, acknowledged):
            assert htlc.removal is not None
            updates.append(removal_update(htlc, htlc.removal))
    if record.params.is_opener:
        feerate = record.funding.remote.spec.feerate
        if feerate != record.funding.local.spec.feerate:
            updates.append(Fee(feerate))
    return updates


def _reached(number: int | None, acknowledged: int) -> bool:
    return number is not None and number <= acknowledged


def _passed(number: int | None, acknowledged: int) -> bool:
    return number is not None and number < acknowledged


# --- moving them -----------------------------------------------------------------------------------------------------


def with_next_remote(
    record: ChannelRecord, removals: Iterable[int], feerate: FeeratePerKw | None, adds: Iterable[AddHtlc]
) -> ChannelRecord:
    """``record`` after we sign the peer's next commitment, covering updates of ours and all that are acknowledged.

    ``removals`` are ids of incoming HTLCs whose ``removal`` is decided. Raises spec.ImpossibleUpdate.
    """
    assert record.their_next_point is not None and not record.is_awaiting_revocation
    number = record.funding.latest_remote.number + 1
    theirs = acknowledged_of_theirs(record)
    ours: list[Update] = []
    htlcs = dict(record.htlcs)
    for update in theirs:
        if isinstance(update, Add):
            key = update.htlc.key
            htlcs[key] = replace(htlcs[key], first_remote=number)
        elif not isinstance(update, Fee):
            key = htlc_key(Side.OUTGOING, update.id)
            htlcs[key] = replace(htlcs[key], last_remote=number - 1)
    for htlc_id in removals:
        key = htlc_key(Side.INCOMING, htlc_id)
        htlc = htlcs[key]
        assert htlc.removal is not None
        ours.append(removal_update(htlc, htlc.removal))
        htlcs[key] = replace(htlc, last_remote=number - 1)
    if feerate is not None:
        ours.append(Fee(feerate))
    next_id = record.next_outgoing_id
    for add in adds:
        terms = SpecHtlc(Side.OUTGOING, next_id, add.amount, add.payment_hash, add.cltv_expiry)
        ours.append(Add(terms))
        htlcs[terms.key] = Htlc(terms, add.onion, add.path_key, add.origin, first_remote=number)
        next_id += 1
    point = record.their_next_point
    return replace(
        record,
        active=tuple(
            replace(funding, next_remote=RemoteCommitment(number, reduce(funding.remote.spec, ours, theirs), point))
            for funding in record.active
        ),
        htlcs=htlcs,
        next_outgoing_id=next_id,
        their_next_point=None,
        owes_signature=False,
        sent_after_local_number=record.funding.local.number,
    )


def with_next_local(
    record: ChannelRecord,
    adds: Iterable[Htlc],
    removals: Mapping[int, Removal],
    feerate: FeeratePerKw | None,
) -> ChannelRecord:
    """``record`` after the peer signs our next commitment, covering updates of the peer and all that are acknowledged.

    The new commitments carry no signatures yet: the caller checks and adds them. Raises spec.ImpossibleUpdate.
    """
    number = record.funding.local.number + 1
    ours = acknowledged_of_ours(record)
    theirs: list[Update] = []
    htlcs = dict(record.htlcs)
    for update in ours:
        if isinstance(update, Add):
            key = update.htlc.key
            htlcs[key] = replace(htlcs[key], first_local=number)
        elif not isinstance(update, Fee):
            # Gone from the peer's commitments and their predecessors are revoked; ours is revoked with this step.
            del htlcs[htlc_key(Side.INCOMING, update.id)]
    for htlc_id, removal in removals.items():
        key = htlc_key(Side.OUTGOING, htlc_id)
        htlcs[key] = replace(htlcs[key], removal=removal, last_local=number - 1)
        theirs.append(removal_update(htlcs[key], removal))
    if feerate is not None:
        theirs.append(Fee(feerate))
    next_id = record.next_incoming_id
    for htlc in adds:
        theirs.append(Add(htlc.terms))
        htlcs[htlc.key] = replace(htlc, first_local=number)
        next_id = htlc.id + 1
    return replace(
        record,
        active=tuple(
            replace(funding, local=LocalCommitment(number, reduce(funding.local.spec, ours, theirs), b""))
            for funding in record.active
        ),
        htlcs=htlcs,
        next_incoming_id=next_id,
        owes_signature=record.owes_signature or bool(theirs),
    )


def with_revocation(record: ChannelRecord, next_point: bytes) -> tuple[ChannelRecord, list[Htlc], list[Htlc]]:
    """``record`` after the peer revoked; with the incoming HTLCs that are now committed for good and the outgoing ones
    that are now gone for good. The secret was checked and stored by the caller."""
    active = tuple(
        replace(funding, remote=funding.next_remote, next_remote=None)
        for funding in record.active
        if funding.next_remote is not None
    )
    assert len(active) == len(record.active)
    number = active[0].remote.number
    committed: list[Htlc] = []
    gone: list[Htlc] = []
    for htlc in record.htlcs.values():
        if htlc.terms.side is Side.INCOMING:
            if htlc.first_remote == number:
                committed.append(htlc)
        elif htlc.last_remote is not None and htlc.last_remote < number:
            gone.append(htlc)
    htlcs: Mapping[int, Htlc] = record.htlcs
    if gone:
        left = dict(htlcs)
        for htlc in gone:
            del left[htlc.key]
        htlcs = left
    return replace(record, active=active, htlcs=htlcs, their_next_point=next_point), committed, gone
