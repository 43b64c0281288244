"""HTLCs and fee rates: the updates of both sides and the signatures that commit them (BOLT 2, B2.45 to B2.53).

Our own updates wait in the link until they can be signed; then removals, fee and additions go out at once, followed by
``commitment_signed``. Nothing of ours is ever sent without being signed, so a disconnect never has to take it back,
and a retransmission finds it in the record (``update_messages``). Each handler: check, apply, answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from salama.base.ids import HtlcRef, Side
from salama.base.machine import CommandRefused, Effect, PeerViolation, Reaction, Row, Transition
from salama.base.units import CltvExpiry, FeeratePerKw, OutOfRange
from salama.base.values import replace
from salama.channel import limits
from salama.channel.commitments import (
    checks_of_local,
    local_commitment_tx,
    remote_commitment_tx,
    with_next_local,
    with_next_remote,
    with_revocation,
)
from salama.channel.dispatch import READY, UPDATE_PHASES, on
from salama.channel.env import ChannelEnv, Check
from salama.channel.events import (
    AddHtlc,
    AddRefused,
    Consumed,
    FailHtlc,
    FailMalformedHtlc,
    FeeratesChanged,
    HandoffKey,
    HtlcCommitted,
    HtlcFailed,
    LatePreimage,
    Origin,
    PreimageLearned,
    Send,
    SettleHtlc,
)
from salama.channel.signing import OweCommitmentSigned, OweRevocation
from salama.channel.spec import ImpossibleUpdate, SpecHtlc, htlc_key
from salama.channel.state import (
    ActiveFunding,
    Channel,
    ChannelRecord,
    Failure,
    Fulfilment,
    Htlc,
    Link,
    LinkState,
    MalformedFailure,
    Phase,
    Removal,
)
from salama.channel.transactions import commitment_sighash, htlc_sighashes
from salama.codec.message import Message
from salama.crypto.hashes import sha256
from salama.crypto.secp256k1 import InvalidKey, public_key
from salama.crypto.shachain import FIRST_INDEX, InconsistentSecret
from salama.wire.features import OPTION_SPLICE, negotiated
from salama.wire.updates import (
    CommitmentSigned,
    RevokeAndAck,
    UpdateAddHtlc,
    UpdateFailHtlc,
    UpdateFailMalformedHtlc,
    UpdateFee,
    UpdateFulfillHtlc,
)

BADONION = 0x8000
MAX_REASON = 32 * 1024
"""Longest failure packet that we keep or send (BOLT 4 asks for about 300 bytes; more could overflow a message)."""


class InvalidUpdate(PeerViolation):
    """An update that names no HTLC it could change, or contradicts it."""


class InvalidCommitment(PeerViolation):
    """A ``commitment_signed`` that does not sign our next commitment."""


class InvalidRevocation(PeerViolation):
    """A secret that does not belong to the commitment it should revoke: the peer could still publish it (B2.52)."""

    reaction = Reaction.FAIL_CHANNEL


def linked(channel: Channel) -> Link:
    """The link of a channel whose handler is only registered for one that has it."""
    assert channel.link is not None
    return channel.link


# --- our HTLCs -------------------------------------------------------------------------------------------------------


@on(AddHtlc, phases=(Phase.NORMAL,), links=READY)
def add_htlc(channel: Channel, add: AddHtlc, env: ChannelEnv) -> Transition[Channel]:
    """Take an HTLC into the queue, from which ``commit_if_due`` sends it."""
    record, link = channel.record, linked(channel)
    counted = limits.exposures(record, link)
    try:
        if len(link.queued_adds) >= env.policy.max_queued_adds:
            raise limits.AddForbidden("queue_full", "too many HTLCs wait for the peer's revocation")
        limits.check_send_add(record, counted, add, env)
    except CommandRefused as refusal:
        return Transition(channel, (AddRefused(add.origin, refusal.code, refusal.reason),))
    link = replace(link, queued_adds=(*link.queued_adds, add), exposures=limits.with_our_add(counted, record, add))
    return Transition(Channel(record, link))


@on(SettleHtlc)
def settle_htlc(channel: Channel, event: SettleHtlc, env: ChannelEnv) -> Transition[Channel]:
    return _decide(channel, event.id, Fulfilment(event.preimage), event.consumes)


@on(FailHtlc)
def fail_htlc(channel: Channel, event: FailHtlc, env: ChannelEnv) -> Transition[Channel]:
    if len(event.reason) > MAX_REASON:
        raise CommandRefused("reason_too_long", f"a failure reason has at most {MAX_REASON} bytes")
    return _decide(channel, event.id, Failure(event.reason), event.consumes)


@on(FailMalformedHtlc)
def fail_malformed_htlc(channel: Channel, event: FailMalformedHtlc, env: ChannelEnv) -> Transition[Channel]:
    if not event.failure_code & BADONION or not 0 <= event.failure_code < 1 << 16 or len(event.sha256_of_onion) != 32:
        raise CommandRefused("not_badonion", "this failure code cannot be sent as malformed")
    removal = MalformedFailure(event.sha256_of_onion, event.failure_code)
    return _decide(channel, event.id, removal, event.consumes)


def _decide(channel: Channel, htlc_id: int, removal: Removal, consumes: HandoffKey | None) -> Transition[Channel]:
    """Write down what becomes of an incoming HTLC. The first decision stands, except that a preimage overrules a
    failure that was not sent, and on the chain also one that was: what is published may hold the HTLC still. Between
    the two, while the peer has not answered the failure, the handoff of a preimage waits on disk, to be told again."""
    record, link = channel.record, channel.link
    rows: tuple[Row, ...] = () if consumes is None else (Consumed(consumes),)
    key = htlc_key(Side.INCOMING, htlc_id)
    htlc = record.htlcs.get(key)
    if htlc is None or record.phase is Phase.CLOSED:
        return Transition(channel, (), rows + _late(record, htlc_id, removal, consumes, is_used=False))
    if not record.is_added_irrevocably(htlc):
        raise CommandRefused("htlc_not_committed", "the HTLC is not irrevocably committed")
    is_paid = isinstance(removal, Fulfilment)
    if isinstance(removal, Fulfilment) and sha256(removal.preimage) != htlc.payment_hash:
        raise CommandRefused("wrong_preimage", "the preimage does not hash to the payment hash")
    if htlc.removal is not None and (not is_paid or isinstance(htlc.removal, Fulfilment)):
        return Transition(channel, (), rows)
    is_final = htlc.last_remote is not None and record.phase is not Phase.ON_CHAIN
    if htlc.removal is not None and is_final:
        return Transition(channel)
    is_queued = htlc.removal is not None
    if is_queued:
        rows += _late(record, htlc_id, removal, consumes, is_used=True)
    htlcs = dict(record.htlcs)
    htlcs[key] = replace(htlc, removal=removal)
    record = replace(record, htlcs=htlcs)
    if link is not None and link.state is LinkState.READY:
        removals = link.queued_removals if is_queued else (*link.queued_removals, htlc_id)
        link = replace(link, queued_removals=removals, exposures=None)
    return Transition(Channel(record, link), (), rows)


def _late(
    record: ChannelRecord, htlc_id: int, removal: Removal, consumes: HandoffKey | None, *, is_used: bool
) -> tuple[Row, ...]:
    if consumes is None or not isinstance(removal, Fulfilment):
        return ()
    return (LatePreimage(HtlcRef(record.channel_id, Side.INCOMING, htlc_id), consumes, is_used),)


def undelivered_removals(record: ChannelRecord) -> tuple[int, ...]:
    """Ids of incoming HTLCs that we decided and whose removal we have not signed."""
    return tuple(
        htlc.id
        for htlc in record.htlcs.values()
        if htlc.side is Side.INCOMING and htlc.removal is not None and htlc.last_remote is None
    )


# --- our signature ---------------------------------------------------------------------------------------------------


def commit_if_due(channel: Channel, env: ChannelEnv) -> Transition[Channel] | None:
    """Send and sign all that waits, unless the last signature is unacknowledged; None if there is nothing to do."""
    record, link = channel.record, channel.link
    if (
        link is None
        or link.state is not LinkState.READY
        or record.phase not in UPDATE_PHASES
        or record.is_awaiting_revocation
        or record.their_next_point is None
        or not (record.owes_signature or link.queued_removals or link.queued_adds or link.queued_fee)
    ):
        return None
    adds, refused = _still_allowed(record, link, env)
    fee = link.queued_fee if record.our_shutdown is None else None
    if not (record.owes_signature or link.queued_removals or adds or fee):
        link = replace(link, queued_adds=(), queued_fee=None, exposures=None)
        return Transition(Channel(record, link), tuple(refused))
    signed = with_next_remote(record, link.queued_removals, fee, adds)
    link = replace(link, queued_adds=(), queued_removals=(), queued_fee=None, exposures=None)
    effects: list[Effect] = [*refused, *map(Send, update_messages(signed))]
    effects += owed_commitment_signed(signed, link)
    return Transition(Channel(signed, link), tuple(effects))


def _still_allowed(record: ChannelRecord, link: Link, env: ChannelEnv) -> tuple[Sequence[AddHtlc], list[Effect]]:
    """The queued HTLCs that the limits still let through, since the peer may have changed the channel meanwhile."""
    if not link.queued_adds:
        return (), []
    if record.phase is not Phase.NORMAL:
        return (), [AddRefused(add.origin, "closing", "the channel is closing") for add in link.queued_adds]
    counted = limits.count_exposures(record, replace(link, queued_adds=()))
    adds: list[AddHtlc] = []
    refused: list[Effect] = []
    for add in link.queued_adds:
        try:
            limits.check_send_add(record, counted, add, env)
        except CommandRefused as refusal:
            refused.append(AddRefused(add.origin, refusal.code, refusal.reason))
            continue
        counted = limits.with_our_add(counted, record, add)
        adds.append(add)
    return adds, refused


def update_messages(record: ChannelRecord) -> list[Message]:
    """Our updates that the signed but unacknowledged remote commitment was the first to cover, as first sent.

    Removals first, since they free what the rest may need; additions last and in the order of their ids.
    """
    funding, channel_id = record.funding, record.channel_id
    following = funding.next_remote
    assert following is not None
    fulfilled: list[Message] = []
    failed: list[Message] = []
    added: list[Message] = []
    for htlc in record.htlcs.values():
        if htlc.terms.side is Side.OUTGOING:
            if htlc.first_remote == following.number:
                added.append(
                    UpdateAddHtlc(
                        channel_id=channel_id,
                        id=htlc.id,
                        amount_msat=htlc.amount,
                        payment_hash=htlc.payment_hash,
                        cltv_expiry=int(htlc.cltv_expiry),
                        onion_routing_packet=htlc.onion,
                        path_key=htlc.path_key,
                    )
                )
        elif htlc.last_remote == following.number - 1:
            removal = htlc.removal
            if isinstance(removal, Fulfilment):
                fulfilled.append(
                    UpdateFulfillHtlc(channel_id=channel_id, id=htlc.id, payment_preimage=removal.preimage)
                )
            elif isinstance(removal, Failure):
                failed.append(UpdateFailHtlc(channel_id=channel_id, id=htlc.id, reason=removal.reason))
            elif removal is not None:
                failed.append(
                    UpdateFailMalformedHtlc(
                        channel_id=channel_id,
                        id=htlc.id,
                        sha256_of_onion=removal.sha256_of_onion,
                        failure_code=removal.failure_code,
                    )
                )
    fee: list[Message] = []
    if record.params.is_opener and following.spec.feerate != funding.remote.spec.feerate:
        fee.append(UpdateFee(channel_id=channel_id, feerate_per_kw=following.spec.feerate))
    return [*fulfilled, *failed, *fee, *added]


def owed_commitment_signed(record: ChannelRecord, link: Link) -> list[OweCommitmentSigned]:
    """What signs the unacknowledged remote commitment of every active funding."""
    owed: list[OweCommitmentSigned] = []
    for funding in record.active:
        following = funding.next_remote
        assert following is not None
        commitment = remote_commitment_tx(record, funding, following)
        owed.append(
            OweCommitmentSigned(
                key_index=record.params.key_index,
                digest=commitment_sighash(commitment),
                channel_id=record.channel_id,
                funding_txid=funding.outpoint.txid,
                number=following.number,
                point=following.point,
                htlc_digests=tuple(htlc_sighashes(commitment)),
                names_funding=negotiated(link.our_features, link.their_features, OPTION_SPLICE),
            )
        )
    return owed


# --- the peer's updates ----------------------------------------------------------------------------------------------


@on(UpdateAddHtlc, phases=UPDATE_PHASES, links=READY)
def receive_add(channel: Channel, message: UpdateAddHtlc, env: ChannelEnv) -> Transition[Channel]:
    record, link = channel.record, linked(channel)
    if record.their_shutdown is not None:
        raise InvalidUpdate("update_add_htlc after shutdown")
    if not (record.our_ready and record.their_ready):
        # A closing may begin before the funding is deep enough; what is paid in it could be taken back (immunity A12).
        raise InvalidUpdate("update_add_htlc before both sides said channel_ready")
    expected = record.next_incoming_id + len(link.their_adds)
    if message.id != expected:
        raise InvalidUpdate(f"HTLC id {message.id} where {expected} comes next")
    try:
        expiry = CltvExpiry(message.cltv_expiry)
    except OutOfRange:
        raise limits.HtlcNotAllowed("cltv_expiry is not a block height") from None
    terms = SpecHtlc(Side.INCOMING, message.id, message.amount_msat, message.payment_hash, expiry)
    counted = limits.exposures(record, link)
    limits.check_receive_add(record, counted, terms)
    htlc = Htlc(terms, message.onion_routing_packet, message.path_key)
    counted = limits.with_their_add(counted, record, terms)
    return Transition(Channel(record, replace(link, their_adds=(*link.their_adds, htlc), exposures=counted)))


def _ours_to_remove(record: ChannelRecord, link: Link, htlc_id: int) -> Htlc:
    """The outgoing HTLC that the peer may remove: committed on both sides, not removed already."""
    htlc = record.htlcs.get(htlc_key(Side.OUTGOING, htlc_id))
    if htlc is None or htlc.first_local is None:
        raise InvalidUpdate(f"there is no committed HTLC {htlc_id} to remove")
    if htlc.removal is not None or htlc_id in link.their_removals:
        raise InvalidUpdate(f"HTLC {htlc_id} is removed twice")
    return htlc


def _with_their_removal(channel: Channel, htlc: Htlc, removal: Removal) -> Channel:
    record, link = channel.record, linked(channel)
    counted = limits.with_their_removal(limits.exposures(record, link), record, htlc, removal)
    return Channel(record, replace(link, their_removals={**link.their_removals, htlc.id: removal}, exposures=counted))


@on(UpdateFulfillHtlc, phases=UPDATE_PHASES, links=READY)
def receive_fulfil(channel: Channel, message: UpdateFulfillHtlc, env: ChannelEnv) -> Transition[Channel]:
    record = channel.record
    htlc = _ours_to_remove(record, linked(channel), message.id)
    if sha256(message.payment_preimage) != htlc.payment_hash:
        raise InvalidUpdate(f"the preimage for HTLC {message.id} does not hash to its payment hash")
    # Knowing the preimage cannot be undone, so it is handed over before anything is signed (B2.48).
    row = PreimageLearned(HandoffKey(record.channel_id, htlc.id), _origin(htlc), message.payment_preimage)
    return Transition(_with_their_removal(channel, htlc, Fulfilment(message.payment_preimage)), (), (row,))


@on(UpdateFailHtlc, phases=UPDATE_PHASES, links=READY)
def receive_fail(channel: Channel, message: UpdateFailHtlc, env: ChannelEnv) -> Transition[Channel]:
    htlc = _ours_to_remove(channel.record, linked(channel), message.id)
    if len(message.reason) > MAX_REASON:
        raise InvalidUpdate(f"a failure reason of {len(message.reason)} bytes")
    return Transition(_with_their_removal(channel, htlc, Failure(message.reason)))


@on(UpdateFailMalformedHtlc, phases=UPDATE_PHASES, links=READY)
def receive_fail_malformed(channel: Channel, message: UpdateFailMalformedHtlc, env: ChannelEnv) -> Transition[Channel]:
    htlc = _ours_to_remove(channel.record, linked(channel), message.id)
    if not message.failure_code & BADONION:
        raise InvalidUpdate("update_fail_malformed_htlc without the BADONION bit")
    removal = MalformedFailure(message.sha256_of_onion, message.failure_code)
    return Transition(_with_their_removal(channel, htlc, removal))


@on(UpdateFee, phases=UPDATE_PHASES, links=READY)
def receive_fee(channel: Channel, message: UpdateFee, env: ChannelEnv) -> Transition[Channel]:
    record, link = channel.record, linked(channel)
    limits.check_receive_fee(record, limits.exposures(record, link), message.feerate_per_kw, env)
    return Transition(Channel(record, replace(link, their_fee=message.feerate_per_kw, exposures=None)))


def _origin(htlc: Htlc) -> Origin:
    assert htlc.origin is not None, "an outgoing HTLC has an origin"
    return htlc.origin


# --- the peer's signature and revocation -----------------------------------------------------------------------------


@on(CommitmentSigned, phases=UPDATE_PHASES, links=READY)
def receive_commitment_signed(channel: Channel, message: CommitmentSigned, env: ChannelEnv) -> Transition[Channel]:
    """The peer commits its updates: keep our new commitment, give up the old one."""
    record, link = channel.record, linked(channel)
    number = record.funding.local.number + 1
    if not (record.our_ready and record.their_ready):
        raise InvalidCommitment("commitment_signed before channel_ready")
    if record.our_points.at(number) is None:
        raise InvalidCommitment("commitment_signed before our last revocation")
    if message.funding_txid is not None and message.funding_txid != record.funding.outpoint.txid:
        raise InvalidCommitment("commitment_signed for another funding transaction")
    try:
        record = with_next_local(record, link.their_adds, link.their_removals, link.their_fee)
    except ImpossibleUpdate as problem:
        raise InvalidCommitment(str(problem)) from None
    active: list[ActiveFunding] = []
    checks: list[Check] = []
    for funding in record.active:
        commitment = local_commitment_tx(record, funding, funding.local)
        if len(message.htlc_signature) != len(commitment.htlc_outputs):
            raise InvalidCommitment(
                f"{len(message.htlc_signature)} HTLC signatures for {len(commitment.htlc_outputs)} outputs"
            )
        checks += checks_of_local(commitment, funding, message.signature, message.htlc_signature)
        local = replace(funding.local, signature=message.signature, htlc_signatures=message.htlc_signature)
        active.append(replace(funding, local=local))
    if not env.verify(checks):
        raise InvalidCommitment("a signature of commitment_signed is not valid")
    record = replace(record, active=tuple(active))
    link = replace(link, their_adds=(), their_removals={}, their_fee=None, exposures=None)
    return Transition(Channel(record, link), (owed_revocation(record),))


def owed_revocation(record: ChannelRecord) -> OweRevocation:
    """Gives up the commitment before our latest."""
    return OweRevocation(record.params.key_index, record.channel_id, record.funding.local.number - 1)


@on(RevokeAndAck, phases=UPDATE_PHASES, links=READY)
def receive_revocation(channel: Channel, message: RevokeAndAck, env: ChannelEnv) -> Transition[Channel]:
    """The peer gives up its old commitment: what the new one holds or lacks is settled on that side."""
    record, link = channel.record, linked(channel)
    if not record.is_awaiting_revocation:
        raise PeerViolation("revoke_and_ack without a signature of ours to acknowledge")
    revoked = record.funding.remote
    try:
        is_right = public_key(message.per_commitment_secret) == revoked.point
    except InvalidKey:
        is_right = False
    if not is_right:
        raise InvalidRevocation(f"the secret of revoke_and_ack is not that of commitment {revoked.number}")
    try:
        secrets = record.their_secrets.insert(FIRST_INDEX - revoked.number, message.per_commitment_secret)
    except InconsistentSecret as problem:
        raise InvalidRevocation(str(problem), Reaction.WARN) from None
    record, committed, gone = with_revocation(replace(record, their_secrets=secrets), message.next_per_commitment_point)
    effects = committed_effects(record, committed, env)
    rows = tuple(_failed_row(record, htlc) for htlc in gone if not isinstance(htlc.removal, Fulfilment))
    return Transition(Channel(record, replace(link, exposures=None)), effects, rows)


def committed_effects(record: ChannelRecord, htlcs: Sequence[Htlc], env: ChannelEnv) -> tuple[Effect, ...]:
    """Tells of incoming HTLCs that are committed for good."""
    beyond = limits.beyond_dust_exposure(record, htlcs, env) | limits.beyond_trust(record, htlcs, env)
    return tuple(
        HtlcCommitted(
            ref=HtlcRef(record.channel_id, Side.INCOMING, htlc.id),
            amount=htlc.amount,
            payment_hash=htlc.payment_hash,
            cltv_expiry=htlc.cltv_expiry,
            onion=htlc.onion,
            path_key=htlc.path_key,
            must_fail=htlc.id in beyond,
        )
        for htlc in htlcs
    )


def _failed_row(record: ChannelRecord, htlc: Htlc) -> HtlcFailed:
    key, removal = HandoffKey(record.channel_id, htlc.id), htlc.removal
    if isinstance(removal, MalformedFailure):
        return HtlcFailed(
            key, _origin(htlc), malformed_code=removal.failure_code, sha256_of_onion=removal.sha256_of_onion
        )
    assert isinstance(removal, Failure)
    return HtlcFailed(key, _origin(htlc), removal.reason)


# --- our fee rate ----------------------------------------------------------------------------------------------------


@on(FeeratesChanged, phases=UPDATE_PHASES, links=READY)
def adjust_feerate(channel: Channel, event: FeeratesChanged, env: ChannelEnv) -> Transition[Channel]:
    """As opener, follow our estimate once it is far enough from what the commitments pay (B2.53)."""
    record, link = channel.record, linked(channel)
    # From our shutdown on the peer may be negotiating at any moment, and would know no fee of a commitment any more.
    if not record.params.is_opener or record.our_shutdown is not None:
        return Transition(channel)
    now = int(link.queued_fee or record.funding.latest_remote.spec.feerate)
    least, most = int(env.policy.min_feerate), limits.highest_feerate(record, env.policy)
    wanted = FeeratePerKw(min(most, max(least, int(env.feerates.commitment))))
    if abs(int(wanted) - now) * 100 <= now * env.policy.feerate_hysteresis_percent:
        return Transition(channel)
    if int(wanted) > now and not limits.can_pay_feerate(record, limits.exposures(record, link), wanted, env):
        return Transition(channel)
    queued = None if wanted == record.funding.latest_remote.spec.feerate else wanted
    return Transition(Channel(record, replace(link, queued_fee=queued, exposures=None)))
