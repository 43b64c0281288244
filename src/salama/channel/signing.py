"""What a turn owes to the signer, and how the answers are put in place.

``step`` never touches a key. Where a message or a transaction needs one, it leaves an ``Owed`` at the place where the
finished effect belongs; the shell has all of them answered in one request and ``complete`` turns them into effects,
in the same order. Every request is plain data from which the answer follows (``signer.local``), so asking twice gives
the same answer.

Digests are made here and not by the signer. What the signer can refuse on its own is an order of numbers that would
cost money: see ``signer.local``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from salama.base.ids import ChannelId, OutPoint, ShortChannelId, Txid
from salama.base.machine import Effect, Owed, Row, Transition
from salama.base.units import Sat
from salama.base.values import replace
from salama.bitcoin.tx import Tx
from salama.channel.closing_forms import Form
from salama.channel.events import AnnounceChannel, Broadcast, Disconnect, PublicEvent, Send
from salama.channel.state import AnyChannel, Channel, PointWindow
from salama.channel.witnesses import funding_witness
from salama.wire.closing import ClosingComplete, ClosingSig, ClosingSigned, FeeRange
from salama.wire.gossip import AnnouncementSignatures, ChannelAnnouncement
from salama.wire.opening import FundingCreated, FundingSigned
from salama.wire.setup import Error
from salama.wire.updates import CommitmentSigned, RevokeAndAck

C = TypeVar("C", bound=AnyChannel)


# --- requests --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChannelOwed(Owed):
    """A request concerning the keys of one channel."""

    key_index: int


@dataclass(frozen=True, slots=True)
class OweFundingSignature(ChannelOwed):
    """Sign ``digest`` with the funding key; the digest is of remote commitment ``number`` or of a closing
    transaction."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class OweFundingCreated(OweFundingSignature):
    """Our signature for the peer's first commitment, as opener. Answer: ``Signature``."""

    temporary_id: ChannelId
    funding: OutPoint


@dataclass(frozen=True, slots=True)
class OweFundingSigned(OweFundingSignature):
    """Our signature for the peer's first commitment, as accepter. Answer: ``Signature``."""

    channel_id: ChannelId


@dataclass(frozen=True, slots=True)
class OweCommitmentSigned(OweFundingSignature):
    """Sign the peer's commitment ``number``: ``digest`` with the funding key, each of ``htlc_digests`` with the HTLC
    key of the peer's per-commitment ``point``. Answer: ``CommitmentSignatures``."""

    channel_id: ChannelId
    funding_txid: Txid
    number: int
    point: bytes
    htlc_digests: tuple[bytes, ...] = field(repr=False)
    names_funding: bool = False
    """Whether the message names its funding transaction (``option_splice``)."""


@dataclass(frozen=True, slots=True)
class OweRevocation(ChannelOwed):
    """Give away the secret of our commitment ``number``, for good. Answer: ``Revocation``."""

    channel_id: ChannelId
    number: int


@dataclass(frozen=True, slots=True)
class OweClosingSigned(OweFundingSignature):
    """Sign a closing transaction that pays ``fee``. Answer: ``Signature``."""

    channel_id: ChannelId
    fee: Sat
    fee_range: tuple[Sat, Sat]


@dataclass(frozen=True, slots=True)
class OweClosingComplete(ChannelOwed):
    """Sign each form of a closing transaction that we pay for. Answer: ``ClosingSignatures``."""

    draft: ClosingComplete
    digests: tuple[tuple[Form, bytes], ...]


@dataclass(frozen=True, slots=True)
class OweClosingSig(OweFundingSignature):
    """Sign a closing transaction that the peer pays for. Answer: ``Signature``."""

    draft: ClosingSig
    form: Form


@dataclass(frozen=True, slots=True)
class OwePublication(OweFundingSignature):
    """Sign a transaction that spends the funding output, complete it with the peer's signature and publish it.

    ``commitment_number`` is that of our own commitment, None for a mutual close. Answer: ``Signature``.
    """

    tx: Tx
    commitment_number: int | None
    our_funding_pubkey: bytes
    their_funding_pubkey: bytes
    their_signature: bytes
    why: str


@dataclass(frozen=True, slots=True)
class OweAnnouncement(ChannelOwed):
    """Sign ``announcement`` with node key and funding key. Answer: ``AnnouncementSigned``.

    If ``send``, the signatures go to the peer; with ``their_signatures`` the announcement is complete and goes to
    gossip.
    """

    channel_id: ChannelId
    short_channel_id: ShortChannelId
    announcement: ChannelAnnouncement
    digest: bytes
    we_are_first: bool
    """Our node id is ``node_id_1``."""
    send: bool
    their_signatures: tuple[bytes, bytes] | None


@dataclass(frozen=True, slots=True)
class OweSecretCheck(ChannelOwed):
    """Is ``claimed`` our per-commitment secret of ``number``, which we do not remember having revoked (B2.65)?

    Answer: ``SecretChecked``.
    """

    channel_id: ChannelId
    number: int
    claimed: bytes = field(repr=False)


# --- answers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signature:
    """Compact, low-S."""

    signature: bytes


@dataclass(frozen=True, slots=True)
class CommitmentSignatures:
    signature: bytes
    htlc_signatures: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class ClosingSignatures:
    """In the order of the digests."""

    signatures: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Revocation:
    secret: bytes = field(repr=False)
    next_point: bytes
    """Of commitment ``number`` + 2."""


@dataclass(frozen=True, slots=True)
class AnnouncementSigned:
    node_signature: bytes
    bitcoin_signature: bytes


@dataclass(frozen=True, slots=True)
class SecretChecked:
    is_ours: bool


Answer = Signature | CommitmentSignatures | ClosingSignatures | Revocation | AnnouncementSigned | SecretChecked


class MisplacedAnswer(Exception):
    """The signer answered something else than it was asked: nothing may be said."""


# --- putting them in place -------------------------------------------------------------------------------------------


def complete(transition: Transition[C], answers: Sequence[Answer]) -> Transition[C]:
    """``transition`` with every owed effect replaced by what its answer makes of it.

    ``answers`` stand in the order of ``transition.owed``. Raises MisplacedAnswer if they do not fit.
    """
    state: AnyChannel = transition.state
    rows: list[Row] = list(transition.rows)
    effects: list[Effect] = []
    waiting = iter(answers)
    for effect in transition.effects:
        if not isinstance(effect, Owed):
            effects.append(effect)
            continue
        answer = next(waiting, None)
        if isinstance(effect, OweRevocation) and isinstance(answer, Revocation):
            effects.append(_revoke_and_ack(effect, answer))
            state = _with_point(state, effect.number + 2, answer.next_point)
        elif isinstance(effect, OweSecretCheck) and isinstance(answer, SecretChecked):
            state = _after_secret_check(state, effect, answer, effects, rows)
        elif isinstance(effect, OweAnnouncement) and isinstance(answer, AnnouncementSigned):
            effects.extend(_announcement(effect, answer))
        else:
            effects.append(_signed(effect, answer))
    if next(waiting, None) is not None:
        raise MisplacedAnswer("more answers than requests")
    return Transition(state, tuple(effects), tuple(rows))  # type: ignore[arg-type]


def _signed(owed: Owed, answer: Answer | None) -> Effect:
    """The effect that needs nothing but signatures."""
    if isinstance(owed, OweCommitmentSigned) and isinstance(answer, CommitmentSignatures):
        if len(answer.htlc_signatures) != len(owed.htlc_digests):
            raise MisplacedAnswer("a signature for each HTLC is needed")
        return Send(
            CommitmentSigned(
                channel_id=owed.channel_id,
                signature=answer.signature,
                htlc_signature=answer.htlc_signatures,
                funding_txid=owed.funding_txid if owed.names_funding else None,
            )
        )
    if isinstance(owed, OweClosingComplete) and isinstance(answer, ClosingSignatures):
        if len(answer.signatures) != len(owed.digests):
            raise MisplacedAnswer("a signature for each form is needed")
        signed: dict[str, Any] = {
            form.value: one for (form, _), one in zip(owed.digests, answer.signatures, strict=True)
        }
        return Send(dataclasses.replace(owed.draft, **signed))
    if not isinstance(answer, Signature):
        raise MisplacedAnswer(f"{type(answer).__name__} to {type(owed).__name__}")
    if isinstance(owed, OweFundingCreated):
        return Send(
            FundingCreated(
                temporary_channel_id=owed.temporary_id,
                funding_txid=owed.funding.txid,
                funding_output_index=owed.funding.vout,
                signature=answer.signature,
            )
        )
    if isinstance(owed, OweFundingSigned):
        return Send(FundingSigned(channel_id=owed.channel_id, signature=answer.signature))
    if isinstance(owed, OweClosingSigned):
        return Send(
            ClosingSigned(
                channel_id=owed.channel_id,
                fee_satoshis=owed.fee,
                signature=answer.signature,
                fee_range=FeeRange(*owed.fee_range),
            )
        )
    if isinstance(owed, OweClosingSig):
        chosen: dict[str, Any] = {owed.form.value: answer.signature}
        return Send(dataclasses.replace(owed.draft, **chosen))
    if isinstance(owed, OwePublication):
        witness = funding_witness(
            owed.our_funding_pubkey, answer.signature, owed.their_funding_pubkey, owed.their_signature
        )
        return Broadcast(owed.tx.with_witness(0, witness), owed.why)
    raise MisplacedAnswer(f"{type(answer).__name__} to {type(owed).__name__}")


def _revoke_and_ack(owed: OweRevocation, answer: Revocation) -> Effect:
    return Send(
        RevokeAndAck(
            channel_id=owed.channel_id,
            per_commitment_secret=answer.secret,
            next_per_commitment_point=answer.next_point,
        )
    )


def _with_point(state: AnyChannel, number: int, point: bytes) -> AnyChannel:
    if not isinstance(state, Channel):
        raise MisplacedAnswer("nothing to revoke before there is a channel")
    window: PointWindow = state.record.our_points.extended(number, point)
    if window is state.record.our_points:
        return state
    return Channel(replace(state.record, our_points=window), state.link)


def _announcement(owed: OweAnnouncement, answer: AnnouncementSigned) -> list[Effect]:
    effects: list[Effect] = []
    if owed.send:
        effects.append(
            Send(
                AnnouncementSignatures(
                    channel_id=owed.channel_id,
                    short_channel_id=owed.short_channel_id,
                    node_signature=answer.node_signature,
                    bitcoin_signature=answer.bitcoin_signature,
                )
            )
        )
    if owed.their_signatures is not None:
        ours = (answer.node_signature, answer.bitcoin_signature)
        first, second = (ours, owed.their_signatures) if owed.we_are_first else (owed.their_signatures, ours)
        announcement = dataclasses.replace(
            owed.announcement,
            node_signature_1=first[0],
            node_signature_2=second[0],
            bitcoin_signature_1=first[1],
            bitcoin_signature_2=second[1],
        )
        effects.append(AnnounceChannel(announcement))
    return effects


def _after_secret_check(
    state: AnyChannel, owed: OweSecretCheck, answer: SecretChecked, effects: list[Effect], rows: list[Row]
) -> AnyChannel:
    """The verdict of data loss (B2.65): proven, we must never publish again; bluffed, the peer is told so."""
    if not isinstance(state, Channel):
        raise MisplacedAnswer("no data to lose before there is a channel")
    if not answer.is_ours:
        # DEVIATION: the BOLT would have the channel failed. A lie about our own past is no reason to publish: the link
        # goes away, and HTLC deadlines decide whether the chain is needed.
        reason = "channel_reestablish claims a revocation that never was"
        effects.append(Send(Error(channel_id=owed.channel_id, data=reason.encode())))
        effects.append(Disconnect(reason))
        return Channel(dataclasses.replace(state.record, stale=False), state.link)
    reason = "we lost data and ask you to publish your commitment transaction"
    effects.append(Send(Error(channel_id=owed.channel_id, data=reason.encode())))
    rows.append(
        PublicEvent("channel.data_lost", (("channel_id", str(owed.channel_id)), ("their_number", owed.number + 1)))
    )
    return Channel(dataclasses.replace(state.record, stale=True, error=reason), state.link)
