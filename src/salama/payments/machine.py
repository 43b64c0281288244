"""The payment machine: one entrance, ``turn``, over the events of a tick (architecture, "Rows" and "The only loop").

After a restart the shell gives it the pending payments, the origins of all live outgoing HTLCs, then every unresolved
incoming HTLC, then the handoffs that nobody has consumed; from these it stands where it stood.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from salama.base.ids import ChannelId
from salama.base.machine import Event, Transition
from salama.channel.events import HtlcFailed, Origin, PreimageLearned
from salama.payments import forwarding, incoming, outgoing
from salama.payments.arrival import Refused, ToRelay, ToUs, Unreadable, read_htlc
from salama.payments.events import ChannelGone, HandoffArrived, HtlcArrived, OfferRefused, Pay, Ticked
from salama.payments.origin import ForwardOrigin, decode_origin
from salama.payments.reasons import make
from salama.payments.resolving import fail, fail_malformed, fail_unknown_details
from salama.payments.state import Outgoing, PaymentsState, Turn
from salama.payments.views import PaymentsEnv


def turn(state: PaymentsState, events: Sequence[Event], env: PaymentsEnv) -> Transition[PaymentsState]:
    """Apply ``events`` in order. Nothing that a peer, a payee or a payer does makes it raise."""
    work = Turn(state, env)
    for event in events:
        _HANDLERS[type(event)](work, event)
    return work.finish()


def resume(pending: Collection[Outgoing], origins: Mapping[Origin, ChannelId]) -> PaymentsState:
    """State at start-up: the journal's pending payments, and ``origins`` of live HTLCs and of unconsumed handoffs.

    A part on record that no channel knows was never signed: the first ``Ticked`` fails it and tries again.
    """
    return PaymentsState(payments={o.payment.payment_hash: o for o in pending}, origins=dict(origins))


def _htlc_arrived(work: Turn, htlc: HtlcArrived) -> None:
    origin = ForwardOrigin(htlc.ref).encode()
    if htlc.ref in work.relays or incoming.is_held(work, htlc):
        return
    reading = read_htlc(htlc)
    match reading:
        case Unreadable(code, digest):
            fail_malformed(work, htlc.ref, code, digest)
        case Refused(message):
            fail(work, htlc, message)
        case ToRelay() if origin in work.origins:
            # Under way: only its outcome decides, whatever the channel thinks of its dust or the replay log says.
            forwarding.adopt(work, htlc, reading)
        case ToUs() | ToRelay() if htlc.must_fail and not incoming.is_claimed(work, htlc):
            fail(work, htlc, make(forwarding.TEMPORARY_CHANNEL_FAILURE, forwarding.NO_UPDATE))
        case ToUs(payload):
            # A restart repeats HTLCs that were claimed already: those are settled before any replay check.
            if incoming.settle_if_claimed(work, htlc):
                return
            if htlc.replay_of is not None:
                fail_unknown_details(work, htlc)
                return
            incoming.receive(work, htlc, payload)
        case ToRelay():
            if htlc.replay_of is not None:
                fail_unknown_details(work, htlc)
            else:
                forwarding.relay(work, htlc, reading)


def _handoff_arrived(work: Turn, event: HandoffArrived) -> None:
    handoff = event.handoff
    origin = decode_origin(handoff.origin)
    if isinstance(origin, ForwardOrigin):
        if isinstance(handoff, PreimageLearned):
            forwarding.settle_back(work, origin, handoff)
        else:
            forwarding.fail_back(work, origin, handoff)
    elif isinstance(handoff, PreimageLearned):
        outgoing.settled(work, origin, handoff)
    else:
        assert isinstance(handoff, HtlcFailed)
        outgoing.failed(work, origin, handoff)
    work.origins.pop(handoff.origin, None)


def _offer_refused(work: Turn, event: OfferRefused) -> None:
    work.origins.pop(event.origin, None)
    origin = decode_origin(event.origin)
    if isinstance(origin, ForwardOrigin):
        forwarding.refused(work, origin)
    else:
        outgoing.refused(work, origin, event)


def _channel_gone(work: Turn, event: ChannelGone) -> None:
    forwarding.too_late(work, event.incoming, event.answer)


def _ticked(work: Turn, _: Ticked) -> None:
    incoming.expire_sets(work)
    forwarding.expire_relays(work)
    forwarding.tell_again(work)
    outgoing.tick(work)


_HANDLERS: dict[type[Event], Callable[[Turn, Any], None]] = {
    HtlcArrived: _htlc_arrived,
    HandoffArrived: _handoff_arrived,
    OfferRefused: _offer_refused,
    ChannelGone: _channel_gone,
    Pay: outgoing.pay,
    Ticked: _ticked,
}
