"""What makes the terms of ``open_channel`` and ``accept_channel`` unacceptable: one small function a rule (B2.02 to
B2.04).

A rule returns what is wrong in a few words, or "" if nothing is. The tables at the end say which rules hold for which
message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from salama.base.ids import BlockHash
from salama.base.units import Sat
from salama.bitcoin.script import is_shutdown_script
from salama.channel.env import ChannelEnv
from salama.channel.formats import ANCHORS
from salama.channel.limits import acceptable_feerates, opener_cost
from salama.channel.policy import Policy
from salama.wire.features import (
    OPTION_ANCHORS,
    OPTION_DUAL_FUND,
    OPTION_SCID_ALIAS,
    OPTION_SHUTDOWN_ANYSEGWIT,
    OPTION_SIMPLE_CLOSE,
    OPTION_STATIC_REMOTEKEY,
    OPTION_SUPPORT_LARGE_CHANNEL,
    OPTION_UPFRONT_SHUTDOWN_SCRIPT,
    OPTION_ZEROCONF,
    Features,
    negotiated,
)
from salama.wire.opening import AcceptChannel, OpenChannel

MAX_ACCEPTED_HTLCS = 483
"""More could not be punished in one transaction, nor signed in one message."""
LEAST_DUST_LIMIT = Sat(354)
LARGE_CHANNEL = Sat(1 << 24)
"""From this amount on, both sides must support large channels."""
ANNOUNCE_CHANNEL = 1
"""The only defined bit of ``channel_flags``."""

ANCHOR_TYPE = Features.of(mandatory=(OPTION_STATIC_REMOTEKEY, OPTION_ANCHORS))
ANCHOR_ALIAS_TYPE = Features.of(mandatory=(OPTION_STATIC_REMOTEKEY, OPTION_ANCHORS, OPTION_SCID_ALIAS))
ANCHOR_ZERO_TYPE = Features.of(mandatory=(OPTION_STATIC_REMOTEKEY, OPTION_ANCHORS, OPTION_ZEROCONF))
ANCHOR_ALIAS_ZERO_TYPE = Features.of(
    mandatory=(OPTION_STATIC_REMOTEKEY, OPTION_ANCHORS, OPTION_SCID_ALIAS, OPTION_ZEROCONF)
)
TYPES = (ANCHOR_TYPE, ANCHOR_ALIAS_TYPE, ANCHOR_ZERO_TYPE, ANCHOR_ALIAS_ZERO_TYPE)
VARIATIONS = (OPTION_ANCHORS, OPTION_SCID_ALIAS, OPTION_ZEROCONF)
"""What a type may hold beside what every peer must know."""


# --- our own choices -------------------------------------------------------------------------------------------------


def to_self_delay(policy: Policy, funding: Sat) -> int:
    """Blocks that we make the peer wait: grows with what it could steal meanwhile."""
    span = policy.max_to_self_delay - policy.min_to_self_delay
    return policy.min_to_self_delay + min(span, span * int(funding) // int(LARGE_CHANNEL))


def minimum_depth(policy: Policy, funding: Sat, channel_type: Features | None) -> int:
    """Confirmations before use: none for a type that is used at once, else as many as the amount is worth."""
    is_at_once = channel_type is not None and channel_type.has(OPTION_ZEROCONF)
    return 0 if is_at_once else policy.minimum_depth(funding)


def type_for(*, alias: bool, zero_conf: bool) -> Features:
    """The type that we ask for (B2.02)."""
    if zero_conf:
        return ANCHOR_ALIAS_ZERO_TYPE if alias else ANCHOR_ZERO_TYPE
    return ANCHOR_ALIAS_TYPE if alias else ANCHOR_TYPE


def reserve(policy: Policy, funding: Sat, their_dust_limit: Sat) -> Sat:
    """What the peer shall keep; never below its dust limit, or its whole balance could be dust."""
    return max(Sat(int(funding) // policy.reserve_divisor), policy.dust_limit, their_dust_limit)


# --- open_channel ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Offer:
    """An ``open_channel`` with all that judging it takes."""

    message: OpenChannel
    chain_hash: BlockHash
    our_features: Features
    their_features: Features
    pending: int
    """Channels of this peer that wait for their funding."""
    env: ChannelEnv
    is_trusted: bool = False
    """Whether the peer is one of ``Policy.zero_conf_peers``."""

    @property
    def policy(self) -> Policy:
        return self.env.policy


def chain(offer: Offer) -> str:
    return "" if offer.message.chain_hash == offer.chain_hash else "unknown chain"


def dual_funding(offer: Offer) -> str:
    both = negotiated(offer.our_features, offer.their_features, OPTION_DUAL_FUND)
    return "open_channel where open_channel2 was negotiated" if both else ""


def too_many_pending(offer: Offer) -> str:
    return "too many channels wait for their funding" if offer.pending >= offer.policy.max_pending_per_peer else ""


def push(offer: Offer) -> str:
    return "push_msat exceeds the funding" if offer.message.push_msat > offer.message.funding_satoshis.msat else ""


def large_channel(offer: Offer) -> str:
    is_large = offer.message.funding_satoshis >= LARGE_CHANNEL
    return (
        "a channel of 2^24 sat or more needs option_support_large_channel"
        if is_large and not negotiated(offer.our_features, offer.their_features, OPTION_SUPPORT_LARGE_CHANNEL)
        else ""
    )


def funding_size(offer: Offer) -> str:
    funding, policy = offer.message.funding_satoshis, offer.policy
    if funding < policy.min_funding:
        return f"a channel of less than {policy.min_funding} sat"
    return f"a channel of more than {policy.max_funding} sat" if funding > policy.max_funding else ""


def feerate(offer: Offer) -> str:
    least, most = acceptable_feerates(offer.env)
    rate = offer.message.feerate_per_kw
    return "" if least <= int(rate) <= most else f"a feerate of {rate} is not within {least}..{most}"


def opener_pays_fee(offer: Offer) -> str:
    message = offer.message
    balance = int(message.funding_satoshis.msat) - int(message.push_msat)
    cost = opener_cost(ANCHORS, int(message.feerate_per_kw), 0)
    return "" if balance >= cost else "the opener cannot pay for the first commitment"


def reserve_met(offer: Offer) -> str:
    message = offer.message
    cost = opener_cost(ANCHORS, int(message.feerate_per_kw), 0)
    theirs = int(message.funding_satoshis.msat) - int(message.push_msat) - cost
    least = 1000 * int(message.channel_reserve_satoshis)
    return "" if theirs > least or int(message.push_msat) > least else "neither side would have more than the reserve"


def announcement(offer: Offer) -> str:
    is_announced = bool(offer.message.channel_flags & ANNOUNCE_CHANNEL)
    if is_announced and not offer.policy.accept_announced:
        return "we do not open announced channels"
    return "we do not open private channels" if not is_announced and not offer.policy.accept_private else ""


def channel_type_of_offer(offer: Offer) -> str:
    wanted = offer.message.channel_type
    if wanted is None:
        return "channel_type is missing"
    if wanted not in TYPES:
        return "this channel_type does not suit us"
    if wanted.has(OPTION_SCID_ALIAS) and offer.message.channel_flags & ANNOUNCE_CHANNEL:
        return "an announced channel cannot have the type option_scid_alias"
    both = (offer.our_features, offer.their_features)
    missing = [f.name for f in VARIATIONS if wanted.has(f) and not negotiated(*both, f)]
    return f"{missing[0]} was not negotiated" if missing else ""


def trust(offer: Offer) -> str:
    """A channel that is used before its funding confirms is as good as the word of its opener (immunity A12)."""
    wanted = offer.message.channel_type
    if wanted is None or not wanted.has(OPTION_ZEROCONF):
        return ""
    if not offer.is_trusted:
        return "we do not use a channel of yours before it confirms"
    if not negotiated(offer.our_features, offer.their_features, OPTION_SCID_ALIAS):
        return "a channel without confirmations needs option_scid_alias"
    if offer.pending:
        return "another channel of yours waits for its funding"
    return "push_msat exceeds our trust" if offer.message.push_msat > offer.policy.zero_conf_cap.msat else ""


# --- both messages ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Terms:
    """What either message demands, seen by its receiver."""

    message: OpenChannel | AcceptChannel
    funding: Sat
    our_features: Features
    their_features: Features
    policy: Policy


def htlc_slots(terms: Terms) -> str:
    slots = terms.message.max_accepted_htlcs
    if slots > MAX_ACCEPTED_HTLCS:
        return f"max_accepted_htlcs of more than {MAX_ACCEPTED_HTLCS}"
    return "max_accepted_htlcs is too small" if slots < terms.policy.min_their_accepted_htlcs else ""


def their_delay(terms: Terms) -> str:
    delay, most = terms.message.to_self_delay, terms.policy.max_their_to_self_delay
    return f"to_self_delay of more than {most} blocks" if delay > most else ""


def their_dust_limit(terms: Terms) -> str:
    dust = terms.message.dust_limit_satoshis
    if dust < LEAST_DUST_LIMIT:
        return f"dust_limit_satoshis of less than {LEAST_DUST_LIMIT}"
    return "dust_limit_satoshis is too large" if dust > terms.policy.max_their_dust_limit else ""


def their_reserve(terms: Terms) -> str:
    most = max(int(terms.funding) // terms.policy.max_their_reserve_divisor, int(LEAST_DUST_LIMIT))
    return "channel_reserve_satoshis is too large" if int(terms.message.channel_reserve_satoshis) > most else ""


def their_htlc_minimum(terms: Terms) -> str:
    return (
        "htlc_minimum_msat is too large"
        if terms.message.htlc_minimum_msat > terms.policy.max_their_htlc_minimum
        else ""
    )


def their_in_flight(terms: Terms) -> str:
    least = int(terms.funding.msat) // terms.policy.min_their_in_flight_divisor
    is_small = int(terms.message.max_htlc_value_in_flight_msat) < least
    return "max_htlc_value_in_flight_msat is too small" if is_small else ""


def their_upfront_script(terms: Terms) -> str:
    script = terms.message.upfront_shutdown_script
    if script is None:
        both = negotiated(terms.our_features, terms.their_features, OPTION_UPFRONT_SHUTDOWN_SCRIPT)
        return "upfront_shutdown_script is missing" if both else ""
    return (
        ""
        if not script or is_closing_script(script, terms.our_features, terms.their_features)
        else ("upfront_shutdown_script cannot be closed to")
    )


def is_closing_script(script: bytes, our_features: Features, their_features: Features) -> bool:
    """Whether ``shutdown`` may carry it on a connection with these features (B2.35)."""
    return is_shutdown_script(
        script,
        anysegwit=negotiated(our_features, their_features, OPTION_SHUTDOWN_ANYSEGWIT),
        op_return=negotiated(our_features, their_features, OPTION_SIMPLE_CLOSE),
    )


def dust_below_own_reserve(terms: Terms) -> str:
    """In ``open_channel``: its reserve must not be dust in its sender's commitment."""
    message = terms.message
    return (
        "dust_limit_satoshis is greater than channel_reserve_satoshis"
        if message.dust_limit_satoshis > message.channel_reserve_satoshis
        else ""
    )


# --- accept_channel --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Acceptance:
    """An ``accept_channel`` beside the ``open_channel`` that it answers."""

    message: AcceptChannel
    open: OpenChannel
    policy: Policy


def depth(acceptance: Acceptance) -> str:
    least, wanted = acceptance.message.minimum_depth, acceptance.open.channel_type
    if wanted is not None and wanted.has(OPTION_ZEROCONF) and least:
        return "minimum_depth is not zero although the channel_type has option_zeroconf"
    return "minimum_depth is too large" if least > acceptance.policy.max_minimum_depth else ""


def their_reserve_above_our_dust(acceptance: Acceptance) -> str:
    is_below = acceptance.message.channel_reserve_satoshis < acceptance.open.dust_limit_satoshis
    return "channel_reserve_satoshis is below our dust limit" if is_below else ""


def our_reserve_above_their_dust(acceptance: Acceptance) -> str:
    is_below = acceptance.open.channel_reserve_satoshis < acceptance.message.dust_limit_satoshis
    return "dust_limit_satoshis is above our channel reserve" if is_below else ""


def channel_type_of_acceptance(acceptance: Acceptance) -> str:
    if acceptance.message.channel_type is None:
        return "channel_type is missing"
    return "" if acceptance.message.channel_type == acceptance.open.channel_type else "another channel_type"


def reserve_met_by_opener(acceptance: Acceptance) -> str:
    """With the accepter's demand, too, one side must have something above its reserve."""
    cost = opener_cost(ANCHORS, int(acceptance.open.feerate_per_kw), 0)
    ours = int(acceptance.open.funding_satoshis.msat) - int(acceptance.open.push_msat) - cost
    least = 1000 * int(acceptance.message.channel_reserve_satoshis)
    return (
        ""
        if ours > least or int(acceptance.open.push_msat) > least
        else "neither side would have more than the reserve"
    )


# --- the tables ------------------------------------------------------------------------------------------------------

OFFER_RULES: tuple[Callable[[Offer], str], ...] = (
    chain,
    dual_funding,
    channel_type_of_offer,
    trust,
    too_many_pending,
    push,
    large_channel,
    funding_size,
    feerate,
    opener_pays_fee,
    reserve_met,
    announcement,
)
TERMS_RULES: tuple[Callable[[Terms], str], ...] = (
    htlc_slots,
    their_delay,
    their_dust_limit,
    their_reserve,
    their_htlc_minimum,
    their_in_flight,
    their_upfront_script,
)
OPEN_TERMS_RULES = (*TERMS_RULES, dust_below_own_reserve)
ACCEPTANCE_RULES: tuple[Callable[[Acceptance], str], ...] = (
    channel_type_of_acceptance,
    depth,
    their_reserve_above_our_dust,
    our_reserve_above_their_dust,
    reserve_met_by_opener,
)


def first_objection(words: Iterable[str]) -> str:
    """The first rule that objects, or ""."""
    return next((word for word in words if word), "")


def objection_to_open(offer: Offer) -> str:
    """Why ``open_channel`` cannot be accepted, or ""."""
    terms = Terms(offer.message, offer.message.funding_satoshis, offer.our_features, offer.their_features, offer.policy)
    return first_objection(rule(offer) for rule in OFFER_RULES) or first_objection(
        rule(terms) for rule in OPEN_TERMS_RULES
    )


def objection_to_accept(
    message: AcceptChannel, answered: OpenChannel, our_features: Features, their_features: Features, policy: Policy
) -> str:
    """Why ``accept_channel`` cannot be gone on with, or ""."""
    acceptance = Acceptance(message, answered, policy)
    terms = Terms(message, answered.funding_satoshis, our_features, their_features, policy)
    return first_objection(rule(acceptance) for rule in ACCEPTANCE_RULES) or first_objection(
        rule(terms) for rule in TERMS_RULES
    )
