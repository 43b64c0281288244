"""Every event is handled or refused in every phase with every state of the link, and no message crashes a channel."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salama.base.ids import ChannelId, Preimage
from salama.base.machine import CommandRefused, Event, PeerViolation, Transition
from salama.base.units import BlockHeight
from salama.channel import events
from salama.channel.dispatch import TABLE
from salama.channel.events import MessageReceived
from salama.channel.state import Channel, LinkState, Opening, OpeningStage, Phase
from salama.channel.step import step, turn
from salama.codec.message import Message
from salama.testing.messages import instances
from salama.testing.pair import FEATURES, Pair, wallet_tx
from salama.wire import closing, gossip, interactive_tx, opening, setup, updates

ROOMS = (closing, opening, updates)
MESSAGES: list[type[Message]] = [
    kind
    for room in ROOMS
    for kind in vars(room).values()
    if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message and kind.__module__ == room.__name__
] + [setup.Error, setup.Warning, gossip.AnnouncementSignatures, interactive_tx.TxAbort, interactive_tx.TxComplete]


def sample_events(pair: Pair) -> list[Event]:
    tx, vout = wallet_tx(pair.alice.record.funding.capacity, b"\x51")
    return [
        events.Connected(FEATURES, FEATURES),
        events.Disconnected(),
        events.BlockArrived(),
        events.FundingConfirmed(pair.funding_tx or tx, BlockHeight(800_000), 1),
        events.FundingUnconfirmed(),
        events.FundingSpent(tx, BlockHeight(800_001)),
        events.FundingUnspent(),
        events.ResolvedOnChain(),
        events.FeeratesChanged(),
        events.FundingMade(tx, vout),
        events.FundingRefused("no", "no"),
        events.PublishFunding(tx),
        pair.alice.add_event(1, 1000),
        events.SettleHtlc(0, Preimage(bytes(32))),
        events.FailHtlc(0, b""),
        events.FailMalformedHtlc(0, bytes(32), 0xC000),
        events.CloseChannel(b"\x00\x14" + bytes(20)),
        events.ForceClose("test"),
        events.ForgetChannel("test"),
    ]


def channel_in(pair: Pair, phase: Phase, state: LinkState) -> Channel:
    link = None if state is LinkState.ABSENT else replace(pair.alice.link, state=state, is_ready_sent=True)
    script = b"\x00\x14" + bytes(20)
    record = replace(pair.alice.record, phase=phase)
    if phase in (Phase.SHUTTING_DOWN, Phase.NEGOTIATING):
        record = replace(record, our_shutdown=script, their_shutdown=script)
    if phase is Phase.AWAITING_FUNDING:
        record = replace(record, our_ready=False, their_ready=False, their_next_point=None)
    return Channel(record, link)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair.opened()


PLACES = list(product(Phase, LinkState))


def test_the_samples_name_every_event(pair: Pair) -> None:
    declared = {
        kind
        for kind in vars(events).values()
        if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
    }
    assert {type(event) for event in sample_events(pair)} | {MessageReceived} == declared


@pytest.mark.parametrize(("phase", "state"), PLACES)
def test_every_event_has_an_answer_everywhere(pair: Pair, phase: Phase, state: LinkState) -> None:
    channel = channel_in(pair, phase, state)
    for event in sample_events(pair):
        try:
            done = step(channel, event, pair.alice.env)
        except CommandRefused as refusal:
            assert refusal.code and refusal.reason
        else:
            assert isinstance(done, Transition) and isinstance(done.state, Channel)
        assert isinstance(turn(channel, [event], pair.alice.env).state, Channel)


@pytest.mark.parametrize(("phase", "state"), PLACES)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_every_message_has_an_answer_everywhere(
    pair: Pair, phase: Phase, state: LinkState, data: st.DataObject
) -> None:
    channel = channel_in(pair, phase, state)
    kind = data.draw(st.sampled_from(MESSAGES))
    message = data.draw(instances(kind))
    try:
        done = step(channel, MessageReceived(message), pair.alice.env)
    except PeerViolation as violation:
        assert violation.reason and state is not LinkState.ABSENT
    else:
        if state is LinkState.ABSENT:
            assert done.state == channel and not done.effects
    before = channel.record
    done = turn(channel, [MessageReceived(message)], pair.alice.env)
    assert isinstance(done.state, Channel)
    assert channel.record is before


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), stage=st.sampled_from(list(OpeningStage)))
def test_every_message_has_an_answer_in_every_stage_of_an_opening(data: st.DataObject, stage: OpeningStage) -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 0)
    deliveries = {OpeningStage.SENT_OPEN: 0, OpeningStage.SENT_ACCEPT: 1, OpeningStage.SENT_CREATED: 2}
    for end in (pair.alice, pair.bob)[: deliveries.get(stage, 0)]:
        pair.deliver(end)
    state = pair.bob.state if stage is OpeningStage.SENT_ACCEPT else pair.alice.state
    assert isinstance(state, Opening)
    if stage in (OpeningStage.ABANDONED, OpeningStage.AWAITING_WALLET):
        state = replace(state, stage=stage)
    assert state.stage is stage
    message = data.draw(instances(data.draw(st.sampled_from(MESSAGES))))
    done = turn(state, [MessageReceived(message)], pair.alice.env)
    assert isinstance(done.state, Opening) or message.TYPE in (34, 35)
    for event in sample_events(Pair.opened()) if stage is OpeningStage.SENT_OPEN else []:
        assert isinstance(turn(state, [event], pair.alice.env).state, Opening)


def test_only_a_ready_link_takes_updates() -> None:
    for phase, state, kind in TABLE:
        if kind in (updates.UpdateAddHtlc, updates.CommitmentSigned, updates.RevokeAndAck, updates.UpdateFee):
            assert state is LinkState.READY and phase in (Phase.NORMAL, Phase.SHUTTING_DOWN)


def test_a_message_for_a_gone_connection_is_ignored(pair: Pair) -> None:
    channel = channel_in(pair, Phase.NORMAL, LinkState.ABSENT)
    message = updates.UpdateFailHtlc(channel_id=ChannelId(bytes(32)), id=0, reason=b"")
    assert step(channel, MessageReceived(message), pair.alice.env) == Transition(channel)


def test_an_unknown_event_is_a_mistake_of_ours(pair: Pair) -> None:
    with pytest.raises(TypeError):
        step(channel_in(pair, Phase.NORMAL, LinkState.READY), Event(), pair.alice.env)
