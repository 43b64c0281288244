"""Opening a channel, version 1: from ``open_channel`` to both first signatures (BOLT 2, B2.01 to B2.05).

    we open:    OpenRequest -> open_channel | accept_channel -> the wallet makes the funding -> funding_created
                | funding_signed -> the record exists -> the funding is published
    they open:  InboundOpen -> accept_channel | funding_created -> the record exists -> funding_signed

Until there is a record nothing can be lost: whatever goes wrong, the opening is abandoned and the wallet released.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from salama.base.ids import BlockHash, ChannelId, NodeId, OutPoint, ShortChannelId
from salama.base.machine import CommandRefused, Effect, Event, PeerViolation, Reaction, Row, Transition
from salama.base.units import FeeratePerKw, Msat, Sat
from salama.base.values import replace
from salama.channel.commitments import checks_of_local, local_commitment_tx, remote_commitment_tx
from salama.channel.env import ChannelEnv
from salama.channel.events import (
    BlockArrived,
    Broadcast,
    CommandAnswered,
    Disconnected,
    FeeratesChanged,
    ForgetChannel,
    FundingMade,
    FundingRefused,
    PublicEvent,
    ReleaseFunding,
    RequestFunding,
    Send,
    WatchFunding,
)
from salama.channel.keys import Basepoints
from salama.channel.opening_rules import (
    ANNOUNCE_CHANNEL,
    Offer,
    first_objection,
    funding_size,
    large_channel,
    minimum_depth,
    objection_to_accept,
    objection_to_open,
    opener_pays_fee,
    push,
    reserve,
    reserve_met,
    to_self_delay,
    type_for,
)
from salama.channel.params import ChannelParams, PartyParams
from salama.channel.policy import Policy
from salama.channel.signing import OweFundingCreated, OweFundingSigned
from salama.channel.spec import CommitmentSpec
from salama.channel.state import (
    ActiveFunding,
    AnyChannel,
    Channel,
    ChannelRecord,
    Link,
    LinkState,
    LocalCommitment,
    Opening,
    OpeningStage,
    OurKeys,
    Phase,
    PointWindow,
    RemoteCommitment,
)
from salama.channel.transactions import commitment_sighash, funding_output
from salama.wire.features import OPTION_ANCHORS, OPTION_SCID_ALIAS, OPTION_ZEROCONF, Features, negotiated
from salama.wire.opening import AcceptChannel, FundingCreated, FundingSigned, OpenChannel
from salama.wire.setup import Error, Warning


class OpeningRefused(PeerViolation):
    """The peer's terms, or its part of the exchange, cannot be gone on with."""

    reaction = Reaction.ERROR


# --- what begins one -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """The user wants a channel. All that needs dice or keys was prepared by the shell."""

    temporary_id: ChannelId
    """Random."""
    our_node_id: NodeId
    their_node_id: NodeId
    chain_hash: BlockHash
    our_features: Features
    their_features: Features
    keys: OurKeys
    alias: ShortChannelId
    """Random, unlike any other of the node."""
    closing_script: bytes
    funding: Sat
    push: Msat = Msat(0)  # noqa: RUF009  (immutable)
    announce: bool = True
    zero_conf: bool = False
    """Ask the peer to use the channel before it confirms; the peer decides whether it trusts us."""
    promise_closing_script: bool = False
    """Tell the peer now, so that it enforces ``closing_script`` even if we are robbed later."""
    feerate: FeeratePerKw | None = None
    """Of the commitment; our estimate if None."""
    funding_feerate: FeeratePerKw | None = None


@dataclass(frozen=True, slots=True)
class InboundOpen:
    """A peer sent ``open_channel``. All that needs dice or keys was prepared by the shell."""

    message: OpenChannel
    our_node_id: NodeId
    their_node_id: NodeId
    chain_hash: BlockHash
    our_features: Features
    their_features: Features
    keys: OurKeys
    alias: ShortChannelId
    closing_script: bytes
    pending: int = 0
    """Openings and unconfirmed channels that this peer holds with us already."""


def open_channel(request: OpenRequest, env: ChannelEnv) -> Transition[AnyChannel]:
    """Send ``open_channel``. Raises CommandRefused."""
    policy = env.policy
    both = (request.our_features, request.their_features)
    if not negotiated(*both, OPTION_ANCHORS):
        raise CommandRefused("anchors_missing", "the peer does not support anchor outputs", "choose another peer")
    if request.zero_conf and not all(negotiated(*both, f) for f in (OPTION_ZEROCONF, OPTION_SCID_ALIAS)):
        raise CommandRefused(
            "zero_conf_missing",
            "not both sides use channels before they confirm",
            "each must name the other in zero_conf_peers; or wait for confirmations",
        )
    is_alias_type = not request.announce and negotiated(*both, OPTION_SCID_ALIAS)
    wanted = type_for(alias=is_alias_type, zero_conf=request.zero_conf)
    message = OpenChannel(
        chain_hash=request.chain_hash,
        temporary_channel_id=request.temporary_id,
        funding_satoshis=request.funding,
        push_msat=request.push,
        feerate_per_kw=request.feerate or max(env.feerates.commitment, policy.min_feerate),
        channel_flags=ANNOUNCE_CHANNEL if request.announce else 0,
        upfront_shutdown_script=request.closing_script if request.promise_closing_script else b"",
        channel_type=wanted,
        **_our_terms(policy, request.funding, Sat(0), request.keys),
    )
    offer = Offer(message, request.chain_hash, *both, 0, env)
    objection = first_objection(
        rule(offer) for rule in (push, large_channel, funding_size, opener_pays_fee, reserve_met)
    )
    if objection:
        raise CommandRefused("terms_impossible", objection)
    opening = Opening(
        stage=OpeningStage.SENT_OPEN,
        temporary_id=request.temporary_id,
        our_node_id=request.our_node_id,
        their_node_id=request.their_node_id,
        our_features=request.our_features,
        their_features=request.their_features,
        our_keys=request.keys,
        our_alias=request.alias,
        closing_script=request.closing_script,
        minimum_depth=minimum_depth(policy, request.funding, wanted),
        open=message,
        funding_feerate=request.funding_feerate,
    )
    return Transition(opening, (Send(message),))


def accept_inbound(request: InboundOpen, env: ChannelEnv) -> Transition[AnyChannel]:
    """Answer ``open_channel`` with ``accept_channel``, or abandon it with an error to the peer. Never raises."""
    message, policy = request.message, env.policy
    both = (request.our_features, request.their_features)
    depth = minimum_depth(policy, message.funding_satoshis, message.channel_type)
    opening = Opening(
        stage=OpeningStage.SENT_ACCEPT,
        temporary_id=message.temporary_channel_id,
        our_node_id=request.our_node_id,
        their_node_id=request.their_node_id,
        our_features=request.our_features,
        their_features=request.their_features,
        our_keys=request.keys,
        our_alias=request.alias,
        closing_script=request.closing_script,
        minimum_depth=depth,
        open=message,
    )
    is_trusted = str(request.their_node_id) in policy.zero_conf_peers
    objection = objection_to_open(Offer(message, request.chain_hash, *both, request.pending, env, is_trusted))
    if objection:
        return _abandon(opening, objection)
    answer = AcceptChannel(
        temporary_channel_id=message.temporary_channel_id,
        minimum_depth=depth,
        upfront_shutdown_script=b"",
        channel_type=message.channel_type,
        **_our_terms(policy, message.funding_satoshis, message.dust_limit_satoshis, request.keys),
    )
    return Transition(replace(opening, accept=answer), (Send(answer),))


def _our_terms(policy: Policy, funding: Sat, their_dust_limit: Sat, keys: OurKeys) -> dict[str, Any]:
    """What both messages say alike: our demands, and our keys."""
    points = keys.basepoints
    return {
        "dust_limit_satoshis": policy.dust_limit,
        "max_htlc_value_in_flight_msat": int(funding.msat) // policy.max_in_flight_divisor,
        "channel_reserve_satoshis": reserve(policy, funding, their_dust_limit),
        "htlc_minimum_msat": policy.htlc_minimum,
        "to_self_delay": to_self_delay(policy, funding),
        "max_accepted_htlcs": policy.max_accepted_htlcs,
        "funding_pubkey": points.funding_pubkey,
        "revocation_basepoint": points.revocation,
        "payment_basepoint": points.payment,
        "delayed_payment_basepoint": points.delayed_payment,
        "htlc_basepoint": points.htlc,
        "first_per_commitment_point": keys.first_point,
    }


# --- what becomes of it ----------------------------------------------------------------------------------------------


def receive_accept(opening: Opening, message: AcceptChannel, env: ChannelEnv) -> Transition[AnyChannel]:
    objection = objection_to_accept(message, opening.open, opening.our_features, opening.their_features, env.policy)
    if objection:
        raise OpeningRefused(objection)
    output = funding_output(opening.open.funding_satoshis, opening.open.funding_pubkey, message.funding_pubkey)
    opening = replace(opening, stage=OpeningStage.AWAITING_WALLET, accept=message)
    return Transition(opening, (RequestFunding(output.value, output.script, opening.funding_feerate),))


def funding_made(opening: Opening, event: FundingMade, env: ChannelEnv) -> Transition[AnyChannel]:
    """Tell the peer where the money will be, and sign its first commitment. Nothing may be published yet."""
    assert opening.accept is not None
    output = funding_output(opening.open.funding_satoshis, opening.open.funding_pubkey, opening.accept.funding_pubkey)
    is_ours = 0 <= event.vout < min(len(event.tx.outputs), 1 << 16) and event.tx.outputs[event.vout] == output
    if not is_ours or any(spent.script_sig for spent in event.tx.inputs):
        return _abandon(opening, "the wallet did not make the funding that was asked for", code="funding_wrong")
    record = first_record(opening, event.tx.outpoint(event.vout), env)
    if event.publish:
        record = replace(record, active=(replace(record.funding, tx=event.tx),))
    commitment = remote_commitment_tx(record, record.funding, record.funding.remote)
    owed = OweFundingCreated(
        record.params.key_index, commitment_sighash(commitment), opening.temporary_id, record.funding.outpoint
    )
    return Transition(replace(opening, stage=OpeningStage.SENT_CREATED, draft=record), (owed,))


def funding_refused(opening: Opening, event: FundingRefused, env: ChannelEnv) -> Transition[AnyChannel]:
    return _abandon(opening, event.reason, code=event.code)


def receive_funding_signed(opening: Opening, message: FundingSigned, env: ChannelEnv) -> Transition[AnyChannel]:
    """The peer signed our first commitment: now the money can be spent into the channel, unless it is held back."""
    record = opening.draft
    assert record is not None
    if message.channel_id != record.channel_id:
        raise OpeningRefused("funding_signed for another channel")
    record = _with_first_signature(record, message.signature, env)
    tx = record.funding.tx
    published = () if tx is None else (Broadcast(tx, "funding"),)
    effects = (watch(record), *published, CommandAnswered("", "channel funded"))
    return Transition(_linked(opening, record), effects, (_pending_row(record),))


def receive_funding_created(opening: Opening, message: FundingCreated, env: ChannelEnv) -> Transition[AnyChannel]:
    """The peer signed our first commitment and will publish the funding once we have signed its own."""
    record = first_record(opening, OutPoint(message.funding_txid, message.funding_output_index), env)
    record = _with_first_signature(record, message.signature, env)
    commitment = remote_commitment_tx(record, record.funding, record.funding.remote)
    owed = OweFundingSigned(record.params.key_index, commitment_sighash(commitment), record.channel_id)
    return Transition(_linked(opening, record), (owed, watch(record)), (_pending_row(record),))


def _with_first_signature(record: ChannelRecord, signature: bytes, env: ChannelEnv) -> ChannelRecord:
    funding = record.funding
    commitment = local_commitment_tx(record, funding, funding.local)
    if not env.verify(checks_of_local(commitment, funding, signature, ())):
        raise OpeningRefused("the signature of the first commitment is not valid")
    return replace(record, active=(replace(funding, local=replace(funding.local, signature=signature)),))


def _linked(opening: Opening, record: ChannelRecord) -> Channel:
    return Channel(record, Link(LinkState.READY, opening.our_features, opening.their_features))


def watch(record: ChannelRecord) -> WatchFunding:
    """Asks the shell for news of the funding output."""
    funding = record.funding
    output = funding_output(funding.capacity, funding.our_funding_pubkey, funding.their_funding_pubkey)
    return WatchFunding(funding.outpoint, output.script, output.value)


def _pending_row(record: ChannelRecord) -> Row:
    return PublicEvent(
        "channel.pending",
        (
            ("channel_id", str(record.channel_id)),
            ("peer", str(record.params.their_node_id)),
            ("funding", str(record.funding.outpoint)),
            ("capacity_sat", int(record.funding.capacity)),
        ),
    )


def first_record(opening: Opening, funding: OutPoint, env: ChannelEnv) -> ChannelRecord:
    """Everything that both sides know once the funding outpoint is; the peer's signature is still missing."""
    offered, accepted, keys = opening.open, opening.accept, opening.our_keys
    assert accepted is not None
    is_opener = opening.stage is not OpeningStage.SENT_ACCEPT
    opener, accepter = _party(offered), _party(accepted)
    capacity, pushed = offered.funding_satoshis, offered.push_msat
    opener_balance = capacity.msat - pushed
    local = CommitmentSpec(
        owner_is_us=True,
        feerate=offered.feerate_per_kw,
        to_local=opener_balance if is_opener else pushed,
        to_remote=pushed if is_opener else opener_balance,
    )
    ours, theirs = (offered, accepted) if is_opener else (accepted, offered)
    assert offered.channel_type is not None
    # A zero that the type does not stand for makes nobody trust anybody.
    depth = 0 if offered.channel_type.has(OPTION_ZEROCONF) else max(1, accepted.minimum_depth)
    return ChannelRecord(
        channel_id=ChannelId.v1(funding),
        params=ChannelParams(
            our_node_id=opening.our_node_id,
            their_node_id=opening.their_node_id,
            chain_hash=offered.chain_hash,
            is_opener=is_opener,
            announce=bool(offered.channel_flags & ANNOUNCE_CHANNEL),
            channel_type=offered.channel_type,
            key_index=keys.key_index,
            minimum_depth=depth,
            closing_script=opening.closing_script,
            ours=opener if is_opener else accepter,
            theirs=accepter if is_opener else opener,
        ),
        phase=Phase.AWAITING_FUNDING,
        active=(
            ActiveFunding(
                outpoint=funding,
                capacity=capacity,
                our_funding_pubkey=ours.funding_pubkey,
                their_funding_pubkey=theirs.funding_pubkey,
                local=LocalCommitment(0, local, b""),
                remote=RemoteCommitment(0, local.seen_by_other(), theirs.first_per_commitment_point),
            ),
        ),
        opened_at=env.height,
        our_points=PointWindow(0, (keys.first_point, keys.second_point)),
        their_next_point=None,
        our_alias=opening.our_alias,
    )


def _party(message: OpenChannel | AcceptChannel) -> PartyParams:
    return PartyParams(
        basepoints=Basepoints(
            message.funding_pubkey,
            message.revocation_basepoint,
            message.payment_basepoint,
            message.delayed_payment_basepoint,
            message.htlc_basepoint,
        ),
        dust_limit=message.dust_limit_satoshis,
        channel_reserve=message.channel_reserve_satoshis,
        max_htlc_value_in_flight=Msat(min(int(message.max_htlc_value_in_flight_msat), Msat.MAX)),
        max_accepted_htlcs=message.max_accepted_htlcs,
        htlc_minimum=message.htlc_minimum_msat,
        to_self_delay=message.to_self_delay,
        upfront_shutdown_script=message.upfront_shutdown_script or None,
    )


# --- giving up -------------------------------------------------------------------------------------------------------


def _abandon(
    opening: Opening, reason: str, *, code: str = "opening_failed", tell: bool = True
) -> Transition[AnyChannel]:
    """Forget the opening; tell the peer, the wallet and the user, as far as each is concerned."""
    effects: list[Effect] = []
    if tell:
        known_as = opening.temporary_id if opening.draft is None else opening.draft.channel_id
        effects.append(Send(Error(channel_id=known_as, data=reason.encode())))
    if opening.stage in (OpeningStage.AWAITING_WALLET, OpeningStage.SENT_CREATED):
        effects.append(ReleaseFunding())
    if opening.stage is not OpeningStage.SENT_ACCEPT:
        effects.append(CommandAnswered(code, reason))
    return Transition(replace(opening, stage=OpeningStage.ABANDONED, reason=reason), tuple(effects))


def peer_gave_up(opening: Opening, message: Error, env: ChannelEnv) -> Transition[AnyChannel]:
    words = message.data[:500].decode("ascii", "backslashreplace")
    said = "".join(c if c.isprintable() else "?" for c in words)
    return _abandon(opening, f"the peer refused: {said}", tell=False)


def disconnected(opening: Opening, event: Disconnected, env: ChannelEnv) -> Transition[AnyChannel]:
    return _abandon(opening, "the connection was lost", code="disconnected", tell=False)


def forget(opening: Opening, event: ForgetChannel, env: ChannelEnv) -> Transition[AnyChannel]:
    return _abandon(opening, event.reason, code="forgotten")


def funding_came_late(opening: Opening, event: FundingMade, env: ChannelEnv) -> Transition[AnyChannel]:
    return Transition(opening, (ReleaseFunding(),))


def ignore(opening: Opening, event: object, env: ChannelEnv) -> Transition[AnyChannel]:
    return Transition(opening)


_Handler = Callable[[Opening, Any, ChannelEnv], Transition[AnyChannel]]
_LIVE = (
    OpeningStage.SENT_OPEN,
    OpeningStage.AWAITING_WALLET,
    OpeningStage.SENT_CREATED,
    OpeningStage.SENT_ACCEPT,
)

STAGES: Final[dict[tuple[OpeningStage, type], _Handler]] = {
    (OpeningStage.SENT_OPEN, AcceptChannel): receive_accept,
    (OpeningStage.AWAITING_WALLET, FundingMade): funding_made,
    (OpeningStage.AWAITING_WALLET, FundingRefused): funding_refused,
    (OpeningStage.SENT_CREATED, FundingSigned): receive_funding_signed,
    (OpeningStage.SENT_ACCEPT, FundingCreated): receive_funding_created,
    (OpeningStage.ABANDONED, FundingMade): funding_came_late,
    **{(stage, Error): peer_gave_up for stage in _LIVE},
    **{(stage, Disconnected): disconnected for stage in _LIVE},
    **{(stage, ForgetChannel): forget for stage in _LIVE},
    **{(stage, kind): ignore for stage in OpeningStage for kind in (BlockArrived, FeeratesChanged, Warning)},
    **{(OpeningStage.ABANDONED, kind): ignore for kind in (FundingRefused, Disconnected, ForgetChannel, Error)},
}


def step_opening(
    opening: Opening, event: Event, kind: type, subject: object, env: ChannelEnv
) -> Transition[AnyChannel]:
    """One event of an opening; ``subject`` is the message if the event brings one, else the event, ``kind`` its class.

    Raises OpeningRefused or CommandRefused.
    """
    handler = STAGES.get((opening.stage, kind))
    if handler is not None:
        return handler(opening, subject, env)
    if opening.stage is OpeningStage.ABANDONED and subject is not event:
        return Transition(opening)
    if subject is not event:
        raise OpeningRefused(f"{kind.__name__} out of turn while the channel is opened")
    raise CommandRefused("not_open_yet", "the channel is still being opened", "wait, or forget it")


def react_opening(opening: Opening, violation: PeerViolation) -> Transition[AnyChannel]:
    """A violation ends an opening."""
    return _abandon(opening, violation.reason)
