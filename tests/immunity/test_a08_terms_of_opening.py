"""A8 terms that must not be accepted (Core Lightning #9403, eclair #3350 and #3383, lnd on channel_type)

What failed: rules of BOLT 2 on dust limit, reserve and the opener's fee were missing one by one, so that a peer could
have nothing at stake or make a channel whose commitment is not relayed.

Defence: channel/opening_rules.py has one function for each rule and two tables of them (OFFER_RULES, TERMS_RULES,
ACCEPTANCE_RULES); channel/opening.py:accept_inbound and receive_accept ask them all.

The rules are written down here a second time, as one predicate, and compared over terms near every edge.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salama.base.units import FeeratePerKw, Msat, Sat
from salama.channel.opening import accept_inbound
from salama.channel.opening_rules import objection_to_accept
from salama.channel.policy import DEFAULT_POLICY
from salama.channel.state import Opening, OpeningStage
from salama.testing.pair import CHAIN, FEATURES, Pair
from salama.wire.opening import AcceptChannel, OpenChannel

BASE_WEIGHT, ANCHORS = 1124, 660


def must_fail(m: Any, funding: int, push: int, feerate: int, *, other_dust: int, other_reserve: int) -> bool:
    """What BOLT 2 forbids in the terms of either side, apart from what each node decides for itself."""
    fee = feerate * BASE_WEIGHT // 1000 + ANCHORS
    opener = funding * 1000 - push - fee * 1000
    return (
        m.max_accepted_htlcs > 483
        or int(m.dust_limit_satoshis) < 354
        or push > funding * 1000
        or opener < 0
        or max(opener, push) <= int(m.channel_reserve_satoshis) * 1000
        or int(m.channel_reserve_satoshis) < other_dust
        or int(m.dust_limit_satoshis) > other_reserve
    )


around = st.sampled_from
OFFERS = st.fixed_dictionaries(
    {},
    optional={
        "funding_satoshis": around([20_000, 21_000, 100_000, 1_000_000]).map(Sat),
        "push_msat": around([0, 1, 18_000_000, 19_000_000, 20_000_000, 20_000_001, 999_000_000]).map(Msat),
        "dust_limit_satoshis": around([0, 1, 353, 354, 355, 546, 1000, 10_000]).map(Sat),
        "channel_reserve_satoshis": around([0, 353, 354, 1000, 10_000, 50_000]).map(Sat),
        "max_accepted_htlcs": around([0, 5, 30, 483, 484, 0xFFFF]),
        "feerate_per_kw": around([253, 1000, 10_000]).map(FeeratePerKw),
        "htlc_minimum_msat": around([0, 1, 1000, 100_000]).map(Msat),
    },
)


def offer_of(pair: Pair) -> OpenChannel:
    pair.opens(1_000_000, 0)
    (message,) = pair.alice.sent()
    assert isinstance(message, OpenChannel)
    return message


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(OFFERS)
def test_no_offer_is_accepted_that_must_not_be(changes: dict[str, Any]) -> None:
    pair = Pair.of()
    message = replace(offer_of(pair), **changes)
    done = accept_inbound(pair.inbound(message), pair.bob.env)
    assert isinstance(done.state, Opening)
    if done.state.stage is OpeningStage.ABANDONED:
        return
    funding, push, rate = int(message.funding_satoshis), int(message.push_msat), int(message.feerate_per_kw)
    answer = done.state.accept
    assert answer is not None
    dust, reserve = int(answer.dust_limit_satoshis), int(answer.channel_reserve_satoshis)
    assert not must_fail(message, funding, push, rate, other_dust=dust, other_reserve=10**9), message
    # An opener who is as strict as the BOLT accepts our answer, apart from reserves that it chose itself.
    assert answer.max_accepted_htlcs <= 483 and dust >= 354
    assert reserve >= int(message.dust_limit_satoshis)
    assert answer.channel_type == message.channel_type


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(OFFERS, st.sampled_from([0, 1, 18_000_000, 500_000_000, 989_000_000]))
def test_no_answer_is_gone_on_with_that_must_not_be(changes: dict[str, Any], push: int) -> None:
    pair = Pair.of()
    pair.opens(1_000_000, push)
    (offer,) = pair.alice.sent()
    assert isinstance(offer, OpenChannel)
    done = accept_inbound(pair.inbound(offer), pair.bob.env)
    assert isinstance(done.state, Opening) and done.state.accept is not None
    kept = {k: v for k, v in changes.items() if k not in ("funding_satoshis", "push_msat", "feerate_per_kw")}
    answer: AcceptChannel = replace(done.state.accept, **kept)
    dust, reserve = int(offer.dust_limit_satoshis), int(offer.channel_reserve_satoshis)
    forbidden = must_fail(answer, 1_000_000, push, int(offer.feerate_per_kw), other_dust=dust, other_reserve=reserve)
    refused = objection_to_accept(answer, offer, FEATURES, FEATURES, DEFAULT_POLICY)
    assert refused or not forbidden, answer
    assert offer.chain_hash == CHAIN
