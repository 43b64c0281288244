"""Taking a channel up again on a new connection (BOLT 2 message retransmission, B2.60 to B2.66).

``compare`` is the decision table and nothing else: numbers in, verdict out. What it resends comes from the record, in
the order in which it was first sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from salama.base.machine import Effect, PeerViolation, Reaction, Transition
from salama.base.values import replace
from salama.channel.confirming import ready_if_due
from salama.channel.dispatch import ALL_PHASES, OPEN_PHASES, on
from salama.channel.env import ChannelEnv
from salama.channel.events import Connected, Disconnected, FeeratesChanged, Send
from salama.channel.failing import dropped_adds
from salama.channel.normal import (
    adjust_feerate,
    linked,
    owed_commitment_signed,
    owed_revocation,
    undelivered_removals,
    update_messages,
)
from salama.channel.signing import OweSecretCheck
from salama.channel.state import Channel, ChannelRecord, Link, LinkState, Phase
from salama.crypto.secp256k1 import InvalidKey, public_key
from salama.crypto.shachain import FIRST_INDEX
from salama.wire.interactive_tx import TxAbort
from salama.wire.setup import Error
from salama.wire.updates import ChannelReestablish

MAX_NUMBER = (1 << 48) - 1


class Desynchronised(PeerViolation):
    """What the peer remembers does not fit what we remember; where it is certainly wrong, the channel is closed."""


class Course(Enum):
    """Where the comparison of both memories leads."""

    CONTINUE = "continue"
    FAIL = "fail the channel"
    """We hold the truth, or the peer asks for it: publish."""
    REFUSE = "send an error, publish nothing"
    """One of us is wrong and it might be us."""
    PROVE = "check the secret that the peer claims to have from us"
    """The peer says that we have revoked more than we remember."""


@dataclass(frozen=True, slots=True)
class Ours:
    """What the record knows, as numbers."""

    local: int
    """Our latest commitment; all before are revoked."""
    remote: int
    """The peer's latest that we signed."""
    is_remote_unacknowledged: bool
    sent_after_local: int


@dataclass(frozen=True, slots=True)
class Verdict:
    course: Course
    reason: str = ""
    resend_revocation: bool = False
    resend_commitment: bool = False
    commitment_first: bool = False
    resend_ready: bool = False


def compare(ours: Ours, next_commitment_number: int, next_revocation_number: int) -> Verdict:
    """The table of B2.60 to B2.66, but for the secret, which the caller checks on CONTINUE."""
    if next_commitment_number == 0:
        return Verdict(Course.FAIL, "the peer asks us to close")
    if next_revocation_number > ours.local:
        if next_revocation_number - 1 > MAX_NUMBER:
            return Verdict(Course.REFUSE, "next_revocation_number is out of range")
        return Verdict(Course.PROVE)
    if next_commitment_number > ours.remote + 1:
        # DEVIATION: the BOLT would have the channel failed. A peer that holds a commitment of which we know nothing may
        # be proof enough that we lost data, so nothing is published on its word.
        return Verdict(Course.REFUSE, "the peer expects a commitment that we do not know")
    if next_revocation_number < ours.local - 1:
        return Verdict(Course.FAIL, "the peer has forgotten revocations of ours")
    lost_commitment = ours.is_remote_unacknowledged and next_commitment_number == ours.remote
    if next_commitment_number != ours.remote + 1 and not lost_commitment:
        return Verdict(Course.FAIL, "the peer has forgotten commitments that it acknowledged")
    return Verdict(
        Course.CONTINUE,
        resend_revocation=next_revocation_number == ours.local - 1,
        resend_commitment=lost_commitment,
        commitment_first=ours.sent_after_local != ours.local,
        resend_ready=next_commitment_number == 1 and ours.local == 0,
    )


# --- connections -----------------------------------------------------------------------------------------------------


def our_reestablish(record: ChannelRecord) -> ChannelReestablish:
    funding = record.funding
    if record.restored:
        # Zero asks the peer to publish, also where no update would prove that we are behind (B2.66).
        return ChannelReestablish(
            channel_id=record.channel_id,
            next_commitment_number=0,
            next_revocation_number=0,
            your_last_per_commitment_secret=bytes(32),
            my_current_per_commitment_point=record.our_points.points[0],
        )
    acknowledged = funding.remote.number
    secret = bytes(32)
    if acknowledged > 0:
        last = record.their_secrets.secret_at(FIRST_INDEX - (acknowledged - 1))
        assert last is not None, "every revocation was stored"
        secret = last
    point = record.our_points.at(funding.local.number)
    assert point is not None
    return ChannelReestablish(
        channel_id=record.channel_id,
        next_commitment_number=funding.local.number + 1,
        next_revocation_number=acknowledged,
        your_last_per_commitment_secret=secret,
        my_current_per_commitment_point=point,
    )


@on(Connected, phases=OPEN_PHASES)
def connect(channel: Channel, event: Connected, env: ChannelEnv) -> Transition[Channel]:
    """Say what we remember, and wait for the same. A link that is still there was not known to be gone."""
    record = channel.record
    effects: list[Effect] = [*dropped_adds(channel.link), Send(our_reestablish(record))]
    if record.stale:
        effects.append(Send(Error(channel_id=record.channel_id, data=record.error.encode())))
    link = Link(LinkState.SYNCING, event.our_features, event.their_features)
    return Transition(Channel(record, link), tuple(effects))


@on(Connected, phases=(Phase.ON_CHAIN, Phase.CLOSED))
def connect_closed(channel: Channel, event: Connected, env: ChannelEnv) -> Transition[Channel]:
    """Nothing to take up: repeat why, after what proves to a peer that lost data that it must not publish (B2.65)."""
    record = channel.record
    reason = record.error or "the channel is closed"
    told = Send(our_reestablish(record)), Send(Error(channel_id=record.channel_id, data=reason.encode()))
    return Transition(channel, told)


@on(Disconnected, phases=ALL_PHASES)
def disconnect(channel: Channel, event: Disconnected, env: ChannelEnv) -> Transition[Channel]:
    """Forget the link: the peer's unsigned updates never were, ours wait for the next one or are handed back."""
    return Transition(Channel(channel.record, None), dropped_adds(channel.link))


@on(ChannelReestablish, phases=OPEN_PHASES, links=(LinkState.SYNCING,))
def receive_reestablish(channel: Channel, message: ChannelReestablish, env: ChannelEnv) -> Transition[Channel]:
    record, link = channel.record, linked(channel)
    funding = record.funding
    if record.stale:
        return Transition(channel)
    ours = Ours(
        local=funding.local.number,
        remote=funding.latest_remote.number,
        is_remote_unacknowledged=record.is_awaiting_revocation,
        sent_after_local=record.sent_after_local_number,
    )
    verdict = compare(ours, message.next_commitment_number, message.next_revocation_number)
    if verdict.course is Course.FAIL:
        raise Desynchronised(verdict.reason, Reaction.FAIL_CHANNEL)
    if verdict.course is Course.REFUSE:
        raise Desynchronised(verdict.reason, Reaction.ERROR)
    if verdict.course is Course.PROVE:
        claim = OweSecretCheck(
            record.params.key_index,
            record.channel_id,
            message.next_revocation_number - 1,
            message.your_last_per_commitment_secret,
        )
        # Stale until the signer says that it is a bluff: whatever comes in the same turn, an error above all, must not
        # publish what may be revoked.
        return Transition(Channel(replace(record, stale=True), link), (claim,))
    if not _is_secret_right(record, message):
        raise Desynchronised("your_last_per_commitment_secret is not ours", Reaction.FAIL_CHANNEL)
    link = replace(
        link,
        state=LinkState.READY,
        queued_removals=undelivered_removals(record),
        is_ready_sent=record.our_ready and not verdict.resend_ready,
    )
    effects: list[Effect] = []
    if message.next_funding is not None:
        # We have no interactive transaction: the peer may forget its own (B2.62).
        effects.append(Send(TxAbort(channel_id=record.channel_id, data=b"unknown funding transaction")))
    channel = Channel(record, link)
    if record.our_ready and (repeated := ready_if_due(channel, env)) is not None:
        # Before any signature: a peer that missed it takes none yet.
        channel, effects = repeated.state, [*effects, *repeated.effects]
        link = linked(channel)
    resent: list[list[Effect]] = []
    if verdict.resend_revocation:
        resent.append([owed_revocation(record)])
    if verdict.resend_commitment:
        resent.append([*map(Send, update_messages(record)), *owed_commitment_signed(record, link)])
    if verdict.commitment_first:
        resent.reverse()
    effects += [effect for group in resent for effect in group]
    if record.phase in (Phase.NORMAL, Phase.SHUTTING_DOWN):
        channel = adjust_feerate(channel, FeeratesChanged(), env).state
    return Transition(channel, tuple(effects))


def _is_secret_right(record: ChannelRecord, message: ChannelReestablish) -> bool:
    """Whether the secret is the one of ours that the peer's next_revocation_number says it has."""
    secret = message.your_last_per_commitment_secret
    if message.next_revocation_number == 0:
        return secret == bytes(32)
    point = record.our_points.at(message.next_revocation_number - 1)
    try:
        return point is not None and public_key(secret) == point
    except InvalidKey:
        return False
