"""Relaying for others: the checks before, and the way back of a preimage or a failure (B4.04, B2.47, B2.48)."""

from __future__ import annotations

from salama.base.ids import ChannelId, HtlcRef
from salama.base.units import CltvExpiry, Msat
from salama.channel.deadlines import EARLY_FAIL_BACK
from salama.channel.events import AddHtlc, Consumed, FailHtlc, HtlcFailed, LatePreimage, PreimageLearned, SettleHtlc
from salama.onion.failures import make_failure, wrap_failure
from salama.payments.arrival import ToRelay
from salama.payments.events import HtlcArrived, ToChannel
from salama.payments.origin import ForwardOrigin, decode_origin
from salama.payments.reasons import make
from salama.payments.records import ForwardStatus, PutForward
from salama.payments.resolving import fail, fail_with, settle
from salama.payments.state import Relay, Turn
from salama.payments.views import ChannelView, RelayPolicy

UNKNOWN_NEXT_PEER = 0x400A
TEMPORARY_NODE_FAILURE = 0x2002
TEMPORARY_CHANNEL_FAILURE = 0x1007
PERMANENT_CHANNEL_FAILURE = 0x4008
AMOUNT_BELOW_MINIMUM = 0x100B
FEE_INSUFFICIENT = 0x100C
INCORRECT_CLTV_EXPIRY = 0x100D
EXPIRY_TOO_SOON = 0x100E
EXPIRY_TOO_FAR = 21

NO_UPDATE = b"\x00\x00"
"""Length of the optional ``channel_update``: sending none is preferred, it could deanonymise a payer (B4.07)."""


def relay(work: Turn, htlc: HtlcArrived, order: ToRelay) -> None:
    """Check ``order`` against our policy and offer it on, or fail it with the code that BOLT 4 names."""
    if work.env.chain_is_stale:
        # Deadlines may pass without our seeing it: whoever pays should go another way round (immunity G3).
        return fail(work, htlc, make(TEMPORARY_NODE_FAILURE))
    requested = work.env.by_scid.get(order.short_channel_id)
    view = work.env.channels.get(requested) if requested is not None else None
    if view is None:
        return fail(work, htlc, make(UNKNOWN_NEXT_PEER))
    refusal = _check(work, htlc, order, view)
    if refusal is not None:
        return fail(work, htlc, refusal)
    chosen = _choose(work, order, view)
    if chosen is None:
        return fail(work, htlc, make(TEMPORARY_CHANNEL_FAILURE, NO_UPDATE))
    assert htlc.shared_secret is not None
    origin = ForwardOrigin(htlc.ref).encode()
    amount = Msat(order.amount)
    work.relays[htlc.ref] = Relay(chosen, htlc.amount, amount, htlc.cltv_expiry, htlc.shared_secret)
    work.origins[origin] = chosen
    work.reserved[chosen] = work.reserved.get(chosen, 0) + order.amount
    add = AddHtlc(origin, amount, htlc.payment_hash, CltvExpiry(order.cltv_expiry), order.next_onion)
    work.effects.append(ToChannel(chosen, add))
    return None


def _check(work: Turn, htlc: HtlcArrived, order: ToRelay, view: ChannelView) -> bytes | None:
    """The failure message, or None if some policy that we must honour accepts the order."""
    height = work.env.height
    if order.cltv_expiry >= 500_000_000 or order.cltv_expiry > height + work.env.max_cltv_ahead:
        return make(EXPIRY_TOO_FAR)
    refusals = [_against(policy, htlc, order) for policy in view.policies]
    if None not in refusals:
        return refusals[0]
    # We must still be able to claim upstream after the downstream deadline (B2.49).
    if order.cltv_expiry <= height + work.env.relay_margin:
        return make(EXPIRY_TOO_SOON, NO_UPDATE)
    return None


def _against(policy: RelayPolicy, htlc: HtlcArrived, order: ToRelay) -> bytes | None:
    if order.amount < policy.htlc_minimum:
        return make(AMOUNT_BELOW_MINIMUM, order.amount.to_bytes(8, "big") + NO_UPDATE)
    if htlc.amount < order.amount + policy.fee(Msat(order.amount)):
        return make(FEE_INSUFFICIENT, int(htlc.amount).to_bytes(8, "big") + NO_UPDATE)
    if htlc.cltv_expiry < order.cltv_expiry + policy.cltv_expiry_delta:
        return make(INCORRECT_CLTV_EXPIRY, int(htlc.cltv_expiry).to_bytes(4, "big") + NO_UPDATE)
    if order.amount > policy.htlc_maximum:
        return make(TEMPORARY_CHANNEL_FAILURE, NO_UPDATE)
    return None


def _choose(work: Turn, order: ToRelay, requested: ChannelView) -> ChannelId | None:
    """The requested channel if it can carry the amount, else the fittest other one to the same peer (non-strict)."""
    siblings = [v for v in work.env.channels.values() if v.peer == requested.peer and v is not requested]
    for view in [requested, *sorted(siblings, key=lambda v: (-v.spendable, v.channel_id))]:
        if view.ready and int(view.spendable) - work.reserved.get(view.channel_id, 0) >= order.amount:
            return view.channel_id
    return None


def adopt(work: Turn, htlc: HtlcArrived, order: ToRelay) -> None:
    """After a restart: the HTLC was offered on before; remember only how to answer it."""
    assert htlc.shared_secret is not None
    channel = work.origins[ForwardOrigin(htlc.ref).encode()]
    work.relays[htlc.ref] = Relay(channel, htlc.amount, Msat(order.amount), htlc.cltv_expiry, htlc.shared_secret)


def settle_back(work: Turn, origin: ForwardOrigin, learned: PreimageLearned) -> None:
    """A preimage goes upstream at once, whatever else is known (B2.48)."""
    relay_ = work.relays.pop(origin.incoming, None)
    if relay_ is not None:
        _record(work, origin, relay_, learned.key.htlc_id, ForwardStatus.SETTLED)
    else:
        # Failed upstream already, or settled: only that channel knows which, and whether it is of use there still.
        work.late[learned.key] = learned
    settle(work, origin.incoming, learned.preimage, learned.key)


def fail_back(work: Turn, origin: ForwardOrigin, failed: HtlcFailed) -> None:
    """The downstream removal is irrevocable: pass the failure on, wrapped once more; make our own of a malformed
    report.
    """
    relay_ = work.relays.pop(origin.incoming, None)
    if relay_ is None:
        # The upstream HTLC is resolved already (a second delivery after a restart): consume the handoff.
        fail_with(work, origin.incoming, b"", failed.key)
        return
    _record(work, origin, relay_, failed.key.htlc_id, ForwardStatus.FAILED)
    if failed.malformed_code is not None:
        reason = make_failure(relay_.shared_secret, make(failed.malformed_code, failed.sha256_of_onion))
    elif failed.reason:
        reason = wrap_failure(relay_.shared_secret, failed.reason)
    else:
        # Lost on the chain: there is no peer's word to pass on.
        reason = make_failure(relay_.shared_secret, make(PERMANENT_CHANNEL_FAILURE))
    fail_with(work, origin.incoming, reason, failed.key)


def refused(work: Turn, origin: ForwardOrigin) -> None:
    """The downstream channel did not take the HTLC, and never will: the payer may try another way."""
    relay_ = work.relays.pop(origin.incoming, None)
    if relay_ is not None:
        message = make(TEMPORARY_CHANNEL_FAILURE, NO_UPDATE)
        fail_with(work, origin.incoming, make_failure(relay_.shared_secret, message))


def expire_relays(work: Turn) -> None:
    """Fail what is still undecided downstream when its upstream deadline nears (B2.49).

    Upstream would close its channel for an HTLC that we could not answer any more. Until then every block is a chance
    that the other side decides; later, a preimage is of use only if upstream has not taken the failure yet, and its
    channel says what became of the relay (``LatePreimage``). The origin stays known, so that the HTLC is not offered a
    second time.
    """
    for ref, relay_ in list(work.relays.items()):
        if work.env.height >= int(relay_.cltv_expiry) - EARLY_FAIL_BACK:
            del work.relays[ref]
            fail_with(work, ref, make_failure(relay_.shared_secret, make(PERMANENT_CHANNEL_FAILURE)))


def tell_again(work: Turn) -> None:
    """A preimage that came after the failure waits while the peer has not taken that: it may be of use on the chain."""
    for key, learned in work.was_late.items():
        if work.late.get(key) is not learned:
            continue
        if work.env.is_waiting(key):
            origin = decode_origin(learned.origin)
            assert isinstance(origin, ForwardOrigin)
            settle(work, origin.incoming, learned.preimage, key)
        else:
            del work.late[key]


def too_late(work: Turn, incoming: HtlcRef, answer: SettleHtlc | FailHtlc) -> None:
    """The upstream channel is over: nobody else would ever consume the handoff, nor say that the amount is lost."""
    if answer.consumes is not None:
        work.rows.append(Consumed(answer.consumes))
        if isinstance(answer, SettleHtlc):
            work.rows.append(LatePreimage(incoming, answer.consumes, is_used=False))


def _record(work: Turn, origin: ForwardOrigin, relay_: Relay, outgoing_id: int, status: ForwardStatus) -> None:
    work.rows.append(
        PutForward(
            incoming=origin.incoming,
            outgoing_channel=relay_.outgoing_channel,
            outgoing_id=outgoing_id,
            amount_in=relay_.amount_in,
            amount_out=relay_.amount_out,
            status=status,
            at=work.env.now,
        )
    )
