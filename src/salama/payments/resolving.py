"""How an incoming HTLC is answered: the one place that makes commands for the upstream channel."""

from __future__ import annotations

from salama.base.ids import HtlcRef, Preimage
from salama.base.units import Msat
from salama.channel.events import FailHtlc, FailMalformedHtlc, HandoffKey, SettleHtlc
from salama.onion.failures import make_failure
from salama.payments.events import HtlcArrived, ToChannel
from salama.payments.reasons import make
from salama.payments.state import Turn

INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS = 0x400F


def settle(work: Turn, ref: HtlcRef, preimage: Preimage, consumes: HandoffKey | None = None) -> None:
    work.effects.append(ToChannel(ref.channel_id, SettleHtlc(ref.id, preimage, consumes)))


def fail(work: Turn, htlc: HtlcArrived, message: bytes) -> None:
    """Fail with ``message`` of our own, encrypted to the sender."""
    assert htlc.shared_secret is not None
    fail_with(work, htlc.ref, make_failure(htlc.shared_secret, message))


def fail_with(work: Turn, ref: HtlcRef, reason: bytes, consumes: HandoffKey | None = None) -> None:
    """Fail with an encrypted packet as it goes over the wire."""
    work.effects.append(ToChannel(ref.channel_id, FailHtlc(ref.id, reason, consumes)))


def fail_malformed(work: Turn, ref: HtlcRef, code: int, sha256_of_onion: bytes) -> None:
    work.effects.append(ToChannel(ref.channel_id, FailMalformedHtlc(ref.id, sha256_of_onion, code)))


def unknown_details(amount: Msat, height: int) -> bytes:
    """The one answer for every reason that a payee may have: it tells a prober nothing (immunity D5)."""
    data = int(amount).to_bytes(8, "big") + height.to_bytes(4, "big")
    return make(INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS, data)


def fail_unknown_details(work: Turn, htlc: HtlcArrived) -> None:
    fail(work, htlc, unknown_details(htlc.amount, work.env.height))
