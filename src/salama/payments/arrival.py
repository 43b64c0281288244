"""Reading an incoming HTLC: peel its onion and decide what kind of instruction it carries (BOLT 4: B4.02-B4.05)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from salama.base.ids import PaymentHash, ShortChannelId
from salama.crypto.hashes import sha256
from salama.onion.sphinx import OnionRefused, ephemeral_key, peel_with_secret
from salama.payments.events import HtlcArrived
from salama.payments.reasons import BADONION, make
from salama.wire import Malformed
from salama.wire.onion import PaymentPayload

INVALID_ONION_KEY = 0xC006
INVALID_ONION_BLINDING = 0xC018
INVALID_ONION_PAYLOAD = 0x4016
ONIONS_REMEMBERED: Final = 966
"""Both sides of a full channel."""


@dataclass(frozen=True, slots=True)
class ToRelay:
    """Pass ``amount`` msat on over ``short_channel_id``, to expire at ``cltv_expiry``."""

    amount: int
    cltv_expiry: int
    short_channel_id: ShortChannelId
    next_onion: bytes


@dataclass(frozen=True, slots=True)
class ToUs:
    """We are the last hop."""

    payload: PaymentPayload


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The onion itself is bad: reported with ``update_fail_malformed_htlc`` since no secret is shared."""

    code: int
    sha256_of_onion: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """We share a secret with the sender and tell it this failure message."""

    failure: bytes


def read_htlc(htlc: HtlcArrived) -> ToRelay | ToUs | Unreadable | Refused:
    """What the sender wants us to do with ``htlc``; never raises, whatever the bytes."""
    if htlc.path_key is not None:
        # We announce no route blinding, so nobody has a reason to send this; inner nodes answer so (B4.13).
        return Unreadable(INVALID_ONION_BLINDING, sha256(htlc.onion))
    if htlc.shared_secret is None:
        return Unreadable(_why_without_secret(htlc.onion), sha256(htlc.onion))
    return read_onion(htlc.onion, htlc.shared_secret, htlc.payment_hash)


@lru_cache(maxsize=ONIONS_REMEMBERED)
def read_onion(onion: bytes, shared_secret: bytes, payment_hash: PaymentHash) -> ToRelay | ToUs | Unreadable | Refused:
    """What is in an ``onion`` that can be opened. Remembered, so that it may be read before its HTLC is committed."""
    try:
        peeled = peel_with_secret(onion, shared_secret, payment_hash)
    except OnionRefused as refusal:
        if refusal.code & BADONION:
            return Unreadable(refusal.code, sha256(onion))
        return Refused(make(INVALID_ONION_PAYLOAD, b"\x00\x00\x00"))
    try:
        payload = PaymentPayload.decode(peeled.payload)
    except Malformed:
        return Refused(_invalid_payload(0))
    missing = _first_missing(payload, final=peeled.next_packet is None)
    if missing is not None:
        return Refused(_invalid_payload(missing))
    if peeled.next_packet is None:
        return ToUs(payload)
    assert payload.amt_to_forward is not None and payload.outgoing_cltv_value is not None
    assert payload.short_channel_id is not None
    return ToRelay(
        int(payload.amt_to_forward), payload.outgoing_cltv_value, payload.short_channel_id, peeled.next_packet
    )


def _why_without_secret(onion: bytes) -> int:
    """Version and key are judged before any secret can be shared; the former first (B4.02)."""
    try:
        ephemeral_key(onion)
    except OnionRefused as refusal:
        return refusal.code
    return INVALID_ONION_KEY


def _first_missing(payload: PaymentPayload, *, final: bool) -> int | None:
    """Type number of the first record that the payload lacks or must not have (annex B of the inventory)."""
    if payload.amt_to_forward is None:
        return 2
    if payload.outgoing_cltv_value is None:
        return 4
    if final == (payload.short_channel_id is not None):
        return 6
    if final == (payload.payment_data is None):
        return 8
    if payload.encrypted_recipient_data is not None:
        return 10
    if payload.current_path_key is not None:
        return 12
    return None


def _invalid_payload(record: int) -> bytes:
    """``invalid_onion_payload`` naming the record (one-byte bigsize) at offset 0."""
    return make(INVALID_ONION_PAYLOAD, bytes([record, 0, 0]))
