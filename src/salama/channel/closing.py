"""Closing together: ``shutdown`` and the negotiation of a fee with ``closing_signed`` (BOLT 2, B2.35, B2.36, B2.39);
peers that can do better go on in ``simple_close``.

The opener pays, so the opener begins; both name the range of fees they accept and meet in two or three messages. A
peer without ranges is met half-way, strictly between what was said before. The negotiation belongs to the connection
and begins anew with the next one; what is kept is the agreed transaction.
"""

from __future__ import annotations

from salama.base.machine import CommandRefused, Effect, PeerViolation, Reaction, Row, Transition
from salama.base.units import Sat
from salama.base.values import replace
from salama.bitcoin.script import dust_limit, is_shutdown_script
from salama.channel.closing_txs import ClosingImpossible, ClosingTx, make_closing_tx
from salama.channel.commitments import acknowledged_of_ours
from salama.channel.dispatch import OPEN_PHASES, READY, on
from salama.channel.env import ChannelEnv
from salama.channel.events import CloseChannel, CommandAnswered, PublicEvent, Send
from salama.channel.normal import linked
from salama.channel.opening_rules import is_closing_script
from salama.channel.scripts import funding_script
from salama.channel.signing import OweClosingSigned, OwePublication
from salama.channel.state import Channel, ChannelRecord, ClosingFees, Link, LinkState, MutualClose, Phase
from salama.channel.transactions import funding_sighash
from salama.wire.closing import ClosingSigned, Shutdown
from salama.wire.features import OPTION_SHUTDOWN_ANYSEGWIT, OPTION_SIMPLE_CLOSE, negotiated
from salama.wire.setup import Warning

CLOSING_WITNESS_WEIGHT = 2 + 2 + 73 + 73 + 72
"""Segwit marker, the count and the dummy, two signatures of the longest kind, the funding script."""

BEFORE_NEGOTIATION = (Phase.AWAITING_FUNDING, Phase.NORMAL, Phase.SHUTTING_DOWN)


class InvalidShutdown(PeerViolation):
    """A ``shutdown`` to a script that is not allowed, or not the one promised."""


class InvalidClosing(PeerViolation):
    """A ``closing_signed`` that does not sign a closing transaction of ours, or proposes no fee it may propose."""


class ClosingDust(PeerViolation):
    """A closing transaction that would never be relayed: only the commitments can close this channel (B2.39)."""

    reaction = Reaction.FAIL_CHANNEL


class FeeNotAgreed(PeerViolation):
    """A fee outside the ranges on which both sides had to agree (B2.39)."""

    reaction = Reaction.FAIL_CHANNEL


# --- shutdown --------------------------------------------------------------------------------------------------------


@on(CloseChannel, phases=BEFORE_NEGOTIATION)
def close_channel(channel: Channel, event: CloseChannel, env: ChannelEnv) -> Transition[Channel]:
    """Begin to close; without a connection, as soon as there is one."""
    record, link = channel.record, channel.link
    check_feerate(event, env)
    if record.our_shutdown is not None:
        return _asked_again(channel, event)
    if record.stale:
        raise CommandRefused("data_lost", "our data is old: only the peer can close this channel")
    promised = record.params.ours.upfront_shutdown_script
    if promised is not None and event.script != promised:
        raise CommandRefused(
            "script_promised", "the channel can only be closed to the script promised when it was opened"
        )
    if link is None:
        is_allowed = is_shutdown_script(event.script, anysegwit=True, op_return=False)
    else:
        is_allowed = is_closing_script(event.script, link.our_features, link.their_features)
    if not is_allowed:
        raise CommandRefused("script_unsuitable", "a channel can only be closed to a segwit script")
    record = replace(
        record,
        phase=Phase.SHUTTING_DOWN,
        our_shutdown=event.script,
        wants_close=True,
        closing_feerate=event.feerate,
    )
    return Transition(
        Channel(record, link), (CommandAnswered("", "closing"),), (closing_row("channel.closing", record),)
    )


def check_feerate(event: CloseChannel, env: ChannelEnv) -> None:
    """Raises CommandRefused."""
    most = env.policy.max_closing_feerate
    if event.feerate is not None and event.feerate > most:
        raise CommandRefused("feerate_absurd", f"a closing pays at most {most} sat per 1000 weight", "name a lower one")


def _asked_again(channel: Channel, event: CloseChannel) -> Transition[Channel]:
    """While HTLCs hold the closing up: the script stays, the fee may change, and what the peer began becomes ours."""
    record = channel.record
    if record.wants_close and event.feerate == record.closing_feerate:
        raise CommandRefused("closing_already", "the channel is already closing")
    record = replace(record, wants_close=True, closing_feerate=event.feerate)
    return Transition(Channel(record, channel.link), (CommandAnswered("", "closing"),))


@on(Shutdown, phases=OPEN_PHASES, links=READY)
def receive_shutdown(channel: Channel, message: Shutdown, env: ChannelEnv) -> Transition[Channel]:
    """The peer closes, or answers: agree, and take nothing new."""
    record, link = channel.record, linked(channel)
    script, promised = message.scriptpubkey, record.params.theirs.upfront_shutdown_script
    if promised is not None and script != promised:
        raise InvalidShutdown("shutdown to another script than was promised")
    if not is_closing_script(script, link.our_features, link.their_features):
        raise InvalidShutdown("shutdown to a script that is not allowed")
    # With a simple close each connection may begin with another script; it is the repetition that is not allowed.
    may_change = is_simple(link) and not link.is_shutdown_received
    if record.their_shutdown is not None and record.their_shutdown != script and not may_change:
        raise InvalidShutdown("shutdown to another script than before")
    rows: tuple[Row, ...] = ()
    if record.their_shutdown is None:
        ours = record.our_shutdown or record.params.ours.upfront_shutdown_script or record.params.closing_script
        record = replace(
            record,
            phase=Phase.SHUTTING_DOWN if record.phase in BEFORE_NEGOTIATION else record.phase,
            their_shutdown=script,
            our_shutdown=ours,
        )
        rows = (closing_row("channel.closing", record),)
    elif record.their_shutdown != script:
        record = replace(record, their_shutdown=script)
    return Transition(Channel(record, replace(link, is_shutdown_received=True)), (), rows)


def shutdown_if_due(channel: Channel, env: ChannelEnv) -> Transition[Channel] | None:
    """Send ``shutdown`` once on each connection. Ours never go out unsigned, so none of them is ever pending."""
    record, link = channel.record, channel.link
    if link is None or link.state is not LinkState.READY or record.our_shutdown is None or link.is_shutdown_sent:
        return None
    message = Shutdown(channel_id=record.channel_id, scriptpubkey=record.our_shutdown)
    return Transition(Channel(record, replace(link, is_shutdown_sent=True)), (Send(message),))


def is_clean(record: ChannelRecord, link: Link) -> bool:
    """Nothing is pending on either commitment and no revocation is owed (B2.36)."""
    return not (
        record.htlcs
        or record.is_awaiting_revocation
        or record.owes_signature
        or link.their_adds
        or link.their_removals
        or link.their_fee is not None
        or acknowledged_of_ours(record)
    )


def is_simple(link: Link) -> bool:
    """Whether this connection closes with ``closing_complete`` (B2.37)."""
    ours, theirs = link.our_features, link.their_features
    return negotiated(ours, theirs, OPTION_SIMPLE_CLOSE) and negotiated(ours, theirs, OPTION_SHUTDOWN_ANYSEGWIT)


def entered(channel: Channel) -> Channel:
    """The channel in its negotiation, if nothing keeps it from there: the peer may say so in the same breath as what
    made the channel clean."""
    record, link = channel.record, channel.link
    if (
        link is None
        or record.phase is not Phase.SHUTTING_DOWN
        or not (link.is_shutdown_sent and link.is_shutdown_received)
        or not is_clean(record, link)
    ):
        return channel
    return Channel(replace(record, phase=Phase.NEGOTIATING), link)


# --- fees ------------------------------------------------------------------------------------------------------------


def negotiation_if_due(channel: Channel, env: ChannelEnv) -> Transition[Channel] | None:
    """Enter the negotiation when nothing is pending any more; the opener makes the first proposal of each
    connection."""
    record, link = channel.record, channel.link
    if (
        link is None
        or link.state is not LinkState.READY
        or record.phase not in (Phase.SHUTTING_DOWN, Phase.NEGOTIATING)
        or not (link.is_shutdown_sent and link.is_shutdown_received)
    ):
        return None
    changed = entered(channel)
    record = changed.record
    if record.phase is Phase.SHUTTING_DOWN:
        return None
    if is_simple(link) or not record.params.is_opener or link.closing is not None:
        return None if changed is channel else Transition(changed)
    fees = our_fees(record, env)
    link = replace(link, closing=fees)
    return Transition(Channel(record, link), (_owed_closing_signed(record, fees.our_fee, fees.our_range),))


def our_fees(record: ChannelRecord, env: ChannelEnv) -> ClosingFees:
    """What we propose and what we would accept. The opener pays and therefore has a limit; the other only has a
    floor."""
    policy = env.policy
    weight = _closing_weight(record)
    feerate = max(record.closing_feerate or env.feerates.closing, policy.min_feerate)
    wanted, least = int(feerate.fee(weight)), int(policy.min_feerate.fee(weight))
    spec, params = record.funding.local.spec, record.params
    opener, accepter = (
        (spec.our_balance, spec.their_balance) if params.is_opener else (spec.their_balance, spec.our_balance)
    )
    # Some output must be left: if the accepter has none, the opener cannot spend all of its own on the fee.
    dust = max(params.ours.dust_limit, params.theirs.dust_limit)
    available = int(opener.sat) - (int(dust) if accepter.sat < dust else 0)
    available = min(available, int(policy.max_closing_feerate.fee(weight)))
    most = min(available, max(wanted, least) * policy.closing_max_fee_factor) if params.is_opener else available
    wanted = min(wanted, most)
    return ClosingFees(Sat(wanted), (Sat(min(least, most)), Sat(most)))


def _closing_weight(record: ChannelRecord) -> int:
    return _closing_tx(record, Sat(0), signer_dust=Sat(0)).tx.weight + CLOSING_WITNESS_WEIGHT


def _closing_tx(
    record: ChannelRecord, fee: Sat, *, signer_dust: Sat, with_ours: bool = True, with_theirs: bool = True
) -> ClosingTx:
    funding, params = record.funding, record.params
    assert record.our_shutdown is not None and record.their_shutdown is not None
    spec = funding.local.spec
    return make_closing_tx(
        funding=funding.outpoint,
        capacity=funding.capacity,
        funding_script=funding_script(funding.our_funding_pubkey, funding.their_funding_pubkey),
        our_balance=spec.our_balance,
        their_balance=spec.their_balance,
        our_script=record.our_shutdown,
        their_script=record.their_shutdown,
        fee=fee,
        dust_limit=signer_dust,
        we_are_opener=params.is_opener,
        with_ours=with_ours,
        with_theirs=with_theirs,
    )


def closing_digest(closing: ClosingTx) -> bytes:
    return funding_sighash(closing.tx, closing.funding_script, closing.capacity)


def _owed_closing_signed(record: ChannelRecord, fee: Sat, fee_range: tuple[Sat, Sat]) -> OweClosingSigned:
    closing = _closing_tx(record, fee, signer_dust=record.params.ours.dust_limit)
    return OweClosingSigned(record.params.key_index, closing_digest(closing), record.channel_id, fee, fee_range)


def owed_close(record: ChannelRecord, close: MutualClose) -> OwePublication:
    """What publishes a closing transaction that the peer has signed."""
    funding = record.funding
    script = funding_script(funding.our_funding_pubkey, funding.their_funding_pubkey)
    return OwePublication(
        key_index=record.params.key_index,
        digest=funding_sighash(close.tx, script, funding.capacity),
        tx=close.tx,
        commitment_number=None,
        our_funding_pubkey=funding.our_funding_pubkey,
        their_funding_pubkey=funding.their_funding_pubkey,
        their_signature=close.their_signature,
        why="mutual close",
    )


def owed_closes(record: ChannelRecord, env: ChannelEnv) -> tuple[OwePublication, ...]:
    """What publishes every closing transaction whose time has come, the best first."""
    return tuple([owed_close(record, close) for close in record.closes if close.tx.locktime <= int(env.height) + 1])


# --- closing_signed --------------------------------------------------------------------------------------------------


@on(ClosingSigned, phases=(Phase.SHUTTING_DOWN, Phase.NEGOTIATING), links=READY)
def receive_closing_signed(channel: Channel, message: ClosingSigned, env: ChannelEnv) -> Transition[Channel]:
    """Check what the peer signed, then agree with its fee or answer with one of ours."""
    channel = entered(channel)
    record, link = channel.record, linked(channel)
    if record.phase is not Phase.NEGOTIATING or is_simple(link):
        raise InvalidClosing("closing_signed where no fee is negotiated")
    signed = _signed_variant(record, message, env)
    mine = link.closing or our_fees(record, env)
    has_proposed = link.closing is not None
    fee, theirs = message.fee_satoshis, message.fee_range
    if has_proposed and fee == mine.our_fee:
        return _agree(channel, signed, message, None)
    least, most = mine.our_range
    if theirs is not None:
        low, high = max(least, theirs.min_fee_satoshis), min(most, theirs.max_fee_satoshis)
        if low > high:
            return _no_overlap(channel, mine)
        if has_proposed and not record.params.is_opener:
            raise FeeNotAgreed(f"a closing fee of {fee} sat after {mine.our_fee} was the answer to its range")
        if low <= fee <= high:
            return _agree(channel, signed, message, mine)
        if record.params.is_opener:
            raise FeeNotAgreed(f"a closing fee of {fee} sat is not within both ranges")
        return _propose(channel, min(max(mine.our_fee, low), high), mine, fee)
    if least <= fee <= most:
        return _agree(channel, signed, message, mine)
    previous = mine.their_fee
    if has_proposed and previous is not None:
        low, high = sorted((mine.our_fee, previous))
        if not low < fee < high:
            raise InvalidClosing(f"a closing fee of {fee} sat is not between {low} and {high}")
    return _propose(channel, _between(mine.our_fee, fee), mine, fee)


def _between(ours: Sat, theirs: Sat) -> Sat:
    """Half-way, or ours again if nothing lies between."""
    return Sat((int(ours) + int(theirs)) // 2)


def _signed_variant(record: ChannelRecord, message: ClosingSigned, env: ChannelEnv) -> ClosingTx:
    """The closing transaction that the peer's signature is for: with all outputs, or without its own (B3.08)."""
    key = record.funding.their_funding_pubkey
    variants: list[ClosingTx] = []
    for with_theirs in (True, False):
        try:
            closing = _closing_tx(
                record,
                message.fee_satoshis,
                signer_dust=record.params.theirs.dust_limit,
                with_theirs=with_theirs,
            )
        except ClosingImpossible:
            continue
        if env.verify([(key, closing_digest(closing), message.signature)]):
            variants.append(closing)
            break
    if not variants:
        raise InvalidClosing("the signature of closing_signed is valid for no closing transaction")
    closing = variants[0]
    for output in closing.tx.outputs:
        if output.value < dust_limit(output.script):
            raise ClosingDust("an output of the closing transaction is dust")
    return closing


def _agree(
    channel: Channel, signed: ClosingTx, message: ClosingSigned, answer: ClosingFees | None
) -> Transition[Channel]:
    """Keep and publish the transaction; ``answer`` tells the peer that we agree, unless it knows."""
    record, link = channel.record, linked(channel)
    effects: list[Effect] = []
    fee = message.fee_satoshis
    if answer is not None:
        link = replace(link, closing=replace(answer, our_fee=fee, their_fee=fee))
        effects.append(
            OweClosingSigned(
                record.params.key_index,
                closing_digest(signed),
                record.channel_id,
                fee,
                _covering(answer.our_range, fee),
            )
        )
    agreed = MutualClose(signed.tx, message.signature)
    record = replace(record, mutual_close=agreed)
    effects.append(owed_close(record, agreed))
    row = closing_row("channel.close_agreed", record, ("txid", str(signed.tx.txid)), ("fee_sat", int(fee)))
    return Transition(Channel(record, link), tuple(effects), (row,))


def _covering(fee_range: tuple[Sat, Sat], fee: Sat) -> tuple[Sat, Sat]:
    return min(fee_range[0], fee), max(fee_range[1], fee)


def _propose(channel: Channel, fee: Sat, mine: ClosingFees, theirs: Sat) -> Transition[Channel]:
    record, link = channel.record, linked(channel)
    try:
        owed = _owed_closing_signed(record, fee, mine.our_range)
    except ClosingImpossible as problem:
        raise InvalidClosing(str(problem)) from None
    link = replace(link, closing=replace(mine, our_fee=fee, their_fee=theirs))
    return Transition(Channel(record, link), (owed,))


def _no_overlap(channel: Channel, mine: ClosingFees) -> Transition[Channel]:
    """The ranges do not meet: say so and wait; the user may close by force."""
    low, high = mine.our_range
    reason = f"we accept a closing fee from {low} to {high} sat, which your range does not meet"
    return Transition(channel, (Send(Warning(channel_id=channel.record.channel_id, data=reason.encode())),))


def closing_row(name: str, record: ChannelRecord, *more: tuple[str, str | int | bool]) -> Row:
    return PublicEvent(name, (("channel_id", str(record.channel_id)), *more))
