"""A9 channel types that are absent or contradict themselves (LDK 0.0.120 panicked, Core Lightning #9444)

What failed: a message without channel_type, or one with an alias type for a channel that is to be announced, met code
that took the record for granted.

Defence: channel/opening_rules.py:channel_type_of_offer and channel_type_of_acceptance.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.channel.opening import accept_inbound
from salama.channel.opening_rules import ANCHOR_ALIAS_TYPE, ANCHOR_TYPE
from salama.channel.state import Opening, OpeningStage
from salama.testing.pair import Pair
from salama.wire.features import Features
from salama.wire.opening import AcceptChannel, OpenChannel


def offered(**changes: object) -> Opening:
    pair = Pair.of()
    pair.opens(1_000_000, 0)
    (message,) = pair.alice.sent()
    assert isinstance(message, OpenChannel)
    done = accept_inbound(pair.inbound(replace(message, **changes)), pair.bob.env)  # type: ignore[arg-type]
    assert isinstance(done.state, Opening)
    return done.state


@pytest.mark.parametrize(
    ("type_", "script", "flags"), list(product([None, ANCHOR_TYPE, ANCHOR_ALIAS_TYPE], [None, b""], [0, 1, 0xFF]))
)
def test_each_optional_record_may_be_missing(type_: Features | None, script: bytes | None, flags: int) -> None:
    state = offered(channel_type=type_, upfront_shutdown_script=script, channel_flags=flags)
    is_refused = type_ is None or (type_ == ANCHOR_ALIAS_TYPE and flags & 1)
    assert (state.stage is OpeningStage.ABANDONED) == bool(is_refused), state.reason


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=12))
def test_any_other_type_is_refused_and_none_surprises(data: bytes) -> None:
    type_ = _features(data)
    state = offered(channel_type=type_)
    assert (state.stage is OpeningStage.SENT_ACCEPT) == (type_ in (ANCHOR_TYPE, ANCHOR_ALIAS_TYPE))


def _features(data: bytes) -> Features:
    from salama.wire.features import FEATURES_REST

    value, _ = FEATURES_REST.read(data, 0, len(data))
    return value


@pytest.mark.parametrize("type_", [None, ANCHOR_TYPE, Features.of()])
def test_an_answer_with_another_type_or_none_ends_the_opening(type_: Features | None) -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 0)
    pair.deliver(pair.alice)
    (answer,) = pair.bob.sent()
    assert isinstance(answer, AcceptChannel) and answer.channel_type == ANCHOR_ALIAS_TYPE
    pair.alice.hears(replace(answer, channel_type=type_))
    assert isinstance(pair.alice.state, Opening) and pair.alice.state.stage is OpeningStage.ABANDONED
