"""BOLT 4 failure codes in words that a person understands, and what a sender learns from each (B4.07)."""

from __future__ import annotations

from dataclasses import dataclass

BADONION, PERM, NODE, UPDATE = 0x8000, 0x4000, 0x2000, 0x1000


@dataclass(frozen=True, slots=True)
class Reason:
    """``code`` stable and snake_case (the BOLT's own name), ``text`` a sentence about the node that reported it."""

    code: str
    text: str


_REASONS: dict[int, Reason] = {
    0x2002: Reason("temporary_node_failure", "has a temporary problem"),
    0x6002: Reason("permanent_node_failure", "is not working"),
    0x6003: Reason("required_node_feature_missing", "asks for a feature that we do not have"),
    0xC004: Reason("invalid_onion_version", "did not understand the version of the onion"),
    0xC005: Reason("invalid_onion_hmac", "found the onion damaged"),
    0xC006: Reason("invalid_onion_key", "found an unusable key in the onion"),
    0x1007: Reason("temporary_channel_failure", "could not pass the amount on at the moment"),
    0x4008: Reason("permanent_channel_failure", "says that its next channel is closed"),
    0x4009: Reason("required_channel_feature_missing", "asks for a channel feature that we do not have"),
    0x400A: Reason("unknown_next_peer", "does not know the next node"),
    0x100B: Reason("amount_below_minimum", "does not relay so small an amount"),
    0x100C: Reason("fee_insufficient", "asks for a higher fee"),
    0x100D: Reason("incorrect_cltv_expiry", "asks for a longer time lock"),
    0x100E: Reason("expiry_too_soon", "found the time left too short"),
    0x400F: Reason(
        "incorrect_or_unknown_payment_details",
        "does not know this payment: the invoice is unknown, already paid or expired, or the amount is wrong",
    ),
    18: Reason("final_incorrect_cltv_expiry", "received another time lock than we meant"),
    19: Reason("final_incorrect_htlc_amount", "received another amount than we meant"),
    0x1014: Reason("channel_disabled", "has disabled the next channel"),
    21: Reason("expiry_too_far", "found the time lock too long"),
    0x4016: Reason("invalid_onion_payload", "could not read its instructions"),
    23: Reason("mpp_timeout", "did not receive all parts in time"),
    0xC018: Reason("invalid_onion_blinding", "could not follow the blinded path"),
}


def reason_of(code: int) -> Reason:
    """Words for a failure code, also for one that nobody has defined."""
    return _REASONS.get(code, Reason(f"unknown_failure_{code & 0xFFFF:04x}", "reported a failure that we do not know"))


def make(code: int, data: bytes = b"") -> bytes:
    """A failure message: two bytes of code, then its data."""
    return code.to_bytes(2, "big") + data
