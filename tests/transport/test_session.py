"""The conversation of one connection: init, pings, silence and what must end it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.base.ids import BlockHash, ChannelId
from salama.base.machine import Effect, Event
from salama.transport.session import (
    INIT_WITHIN,
    MAX_OUTSTANDING_PINGS,
    PING_AFTER,
    PONG_WITHIN,
    PONGS_AT_ONCE,
    Deliver,
    Disconnect,
    MessagesReceived,
    PeerReady,
    Ponged,
    Send,
    SendPing,
    Session,
    Terms,
    TimePassed,
    printable,
    start,
    step,
)
from salama.wire import (
    ALL_CHANNELS,
    BASIC_MPP,
    OPTION_SHUTDOWN_ANYSEGWIT,
    OPTION_SIMPLE_CLOSE,
    Error,
    Features,
    Init,
    Message,
    Ping,
    Pong,
    Stfu,
    UnknownMessage,
    Warning,
)

REGTEST, MAINNET = BlockHash(b"\x01" * 32), BlockHash(b"\x02" * 32)
OURS = Init(globalfeatures=Features(), features=Features.of(optional=[BASIC_MPP]), networks=(REGTEST,))
THEIRS = Init(globalfeatures=Features(), features=Features(), networks=None)
HELLO = Stfu(channel_id=ChannelId(b"\x05" * 32), initiator=1)


class Talk:
    """A session with everything it asked for."""

    def __init__(self, terms: Terms | None = None) -> None:
        self.now = 1000.0
        done = start(terms or Terms(OURS), self.now)
        self.session: Session = done.state
        self.effects: list[Effect] = list(done.effects)

    def tell(self, event: Event) -> list[Effect]:
        done = step(self.session, event, self.now)
        self.session = done.state
        self.effects += done.effects
        return list(done.effects)

    def hears(self, *messages: Message | bytes) -> list[Effect]:
        return self.tell(MessagesReceived(tuple(m if isinstance(m, bytes) else m.encode() for m in messages)))

    def waits(self, seconds: float) -> list[Effect]:
        self.now += seconds
        return self.tell(TimePassed())


def ready(terms: Terms | None = None) -> Talk:
    talk = Talk(terms)
    assert talk.hears(THEIRS) == [PeerReady(THEIRS)]
    return talk


def is_ended(talk: Talk, effects: list[Effect], reason: str, *, warned: bool = True) -> None:
    assert talk.session.is_closed
    assert talk.session.wake_at is None
    assert isinstance(effects[-1], Disconnect)
    assert reason in effects[-1].reason
    warnings = [e for e in effects if isinstance(e, Send) and isinstance(e.message, Warning)]
    assert len(warnings) == warned
    if warned:
        assert warnings[0].message == Warning(channel_id=ALL_CHANNELS, data=effects[-1].reason.encode())


def test_init_is_said_at_once_and_heard_before_anything_else() -> None:
    talk = Talk()
    assert talk.effects == [Send(OURS)]
    assert not talk.session.is_ready
    assert talk.hears(THEIRS, HELLO) == [PeerReady(THEIRS), Deliver(HELLO)]
    assert talk.session.is_ready
    assert talk.session.their_init == THEIRS


@pytest.mark.parametrize(
    "first",
    [HELLO, Ping(num_pong_bytes=1, ignored=b""), Pong(ignored=b""), UnknownMessage(99, b""), UnknownMessage(98, b"")],
)
def test_anything_else_first_ends_it_without_a_word(first: Message) -> None:
    talk = Talk()
    effects = talk.hears(first, THEIRS)
    is_ended(talk, effects, "before init", warned=False)
    assert len(effects) == 1


@pytest.mark.parametrize("message", [Error, Warning])
def test_a_refusal_instead_of_init_is_shown_safely(message: type[Error] | type[Warning]) -> None:
    talk = Talk()
    effects = talk.hears(message(channel_id=ALL_CHANNELS, data=b"no\x1b[31m" + b"x" * 500))
    is_ended(talk, effects, "refused by the peer: no.[31mxxx", warned=False)
    assert isinstance(effects[-1], Disconnect)
    assert len(effects[-1].reason) < 260


@pytest.mark.parametrize(
    ("features", "networks", "reason"),
    [
        (Features.of_bits([1000]), None, "unknown feature 1000"),
        (Features.of_bits([524200]), None, "unknown feature 524200"),
        (Features.of(optional=[OPTION_SIMPLE_CLOSE]), None, "option_simple_close without option_shutdown_anysegwit"),
        (Features(), (MAINNET,), "no chain in common"),
    ],
)
def test_inits_that_do_not_fit(features: Features, networks: tuple[BlockHash, ...] | None, reason: str) -> None:
    for where in ("features", "globalfeatures"):
        both = {"features": Features(), "globalfeatures": Features()} | {where: features}
        talk = Talk()
        effects = talk.hears(Init(**both, networks=networks))
        is_ended(talk, effects, reason, warned=False)
        assert not any(isinstance(e, PeerReady) for e in effects)


@pytest.mark.parametrize(
    ("features", "networks"),
    [
        (Features.of_bits([1001, 524201]), None),
        (Features.of(mandatory=[OPTION_SIMPLE_CLOSE, OPTION_SHUTDOWN_ANYSEGWIT]), (MAINNET, REGTEST)),
        (Features(), ()),
    ],
)
def test_inits_that_fit(features: Features, networks: tuple[BlockHash, ...] | None) -> None:
    talk = Talk()
    init = Init(globalfeatures=Features(), features=features, networks=networks)
    assert talk.hears(init) == [PeerReady(init)]


def test_dependencies_may_be_spread_over_both_fields() -> None:
    init = Init(
        globalfeatures=Features.of(optional=[OPTION_SHUTDOWN_ANYSEGWIT]),
        features=Features.of(optional=[OPTION_SIMPLE_CLOSE]),
    )
    assert Talk().hears(init) == [PeerReady(init)]


def test_a_second_init_ends_it() -> None:
    talk = ready()
    is_ended(talk, talk.hears(THEIRS), "second init")


def test_unknown_messages() -> None:
    talk = ready()
    assert talk.hears(UnknownMessage(32769, b"abc"), HELLO) == [Deliver(HELLO)]
    is_ended(talk, talk.hears(UnknownMessage(32768, b"abc")), "even type 32768")


def test_custom_types_are_delivered() -> None:
    talk = ready(Terms(OURS, frozenset({37913, 40000})))
    odd, even = UnknownMessage(37913, b"x"), UnknownMessage(40000, b"y")
    assert talk.hears(odd, even, UnknownMessage(37915, b"")) == [Deliver(odd), Deliver(even)]
    is_ended(talk, talk.hears(UnknownMessage(40002, b"")), "even type")


def test_errors_and_warnings_are_for_the_rooms_above() -> None:
    talk = ready()
    error, warning = Error(channel_id=ALL_CHANNELS, data=b"e"), Warning(channel_id=ALL_CHANNELS, data=b"w")
    assert talk.hears(error, warning) == [Deliver(error), Deliver(warning)]
    assert talk.session.is_ready


@pytest.mark.parametrize("data", [b"", b"\x00", HELLO.encode()[:-1], HELLO.encode() + b"\x02\x00", b"\x00\x12"])
def test_malformed_messages_end_it_after_the_good_ones(data: bytes) -> None:
    talk = ready()
    effects = talk.hears(HELLO, data, HELLO)
    assert effects[0] == Deliver(HELLO)
    is_ended(talk, effects, "malformed")
    assert sum(isinstance(e, Deliver) for e in effects) == 1


def test_pings_are_answered_with_zeros_of_the_length_asked_for() -> None:
    talk = ready()
    for size in (0, 1, 1000, 65531):
        assert talk.hears(Ping(num_pong_bytes=size, ignored=b"secret")) == [Send(Pong(ignored=bytes(size)))]
    pong = talk.effects[-1]
    assert isinstance(pong, Send)
    assert len(pong.message.encode()) == 65535
    for size in (65532, 65535):
        assert talk.hears(Ping(num_pong_bytes=size, ignored=b"")) == []


def test_floods_of_pings_end_it_but_padding_does_not() -> None:
    talk = ready()
    padding = Ping(num_pong_bytes=65535, ignored=bytes(100))
    assert talk.hears(*[padding] * 1000) == []
    wanting = Ping(num_pong_bytes=0, ignored=b"")
    assert len(talk.hears(*[wanting] * int(PONGS_AT_ONCE))) == PONGS_AT_ONCE
    talk.now += 10
    assert len(talk.hears(*[wanting] * 20)) == 20
    effects = talk.hears(wanting)
    is_ended(talk, effects, "too many pings")


def test_patience_with_pings_does_not_pile_up() -> None:
    talk = ready()
    talk.now += 100_000
    effects = talk.hears(*[Ping(num_pong_bytes=0, ignored=b"")] * (int(PONGS_AT_ONCE) + 1))
    is_ended(talk, effects, "too many pings")
    assert len(effects) == PONGS_AT_ONCE + 2


def test_one_ping_a_second_is_welcome_forever() -> None:
    talk = ready()
    for _ in range(1000):
        talk.now += 1
        assert talk.hears(Ping(num_pong_bytes=3, ignored=b"")) == [Send(Pong(ignored=bytes(3)))]


def test_silence_is_asked_about_and_then_ends_it() -> None:
    talk = ready()
    assert talk.session.wake_at == talk.now + PING_AFTER
    assert talk.waits(PING_AFTER - 1) == []
    assert talk.waits(1) == [Send(Ping(num_pong_bytes=0, ignored=b""))]
    assert talk.session.wake_at == talk.now + PONG_WITHIN
    assert talk.waits(PONG_WITHIN - 1) == []
    is_ended(talk, talk.waits(1), "no pong")


def test_a_pong_keeps_it_alive() -> None:
    talk = ready()
    for _ in range(3):
        talk.waits(PING_AFTER)
        talk.now += 2.5
        assert talk.hears(Pong(ignored=b"")) == [Ponged(2.5)]
        assert talk.session.wake_at == talk.now + PING_AFTER
    assert not talk.session.pings


def test_any_message_shows_that_the_peer_is_there() -> None:
    talk = ready()
    talk.waits(PING_AFTER)
    talk.now += PONG_WITHIN - 1
    talk.hears(HELLO)
    assert talk.waits(PONG_WITHIN - 1) == []
    assert talk.session.is_ready
    is_ended(talk, talk.waits(1), "no pong")


def test_no_init_in_time() -> None:
    talk = Talk()
    assert talk.session.wake_at == talk.now + INIT_WITHIN
    assert talk.waits(INIT_WITHIN - 1) == []
    is_ended(talk, talk.waits(1), "no init", warned=False)


def test_nothing_is_sent_before_their_init() -> None:
    talk = Talk()
    assert talk.tell(SendPing(5)) == []
    assert talk.effects == [Send(OURS)]


def test_pings_of_our_own() -> None:
    talk = ready()
    assert talk.tell(SendPing(7)) == [Send(Ping(num_pong_bytes=7, ignored=b""))]
    talk.now += 1
    assert talk.tell(SendPing(100_000)) == [Send(Ping(num_pong_bytes=65531, ignored=b""))]
    assert talk.hears(Pong(ignored=bytes(65531))) == [Ponged(0.0)]
    assert talk.hears(Pong(ignored=bytes(7))) == [Ponged(1.0)]
    is_ended(talk, talk.hears(Pong(ignored=bytes(7))), "pong of 7 bytes that no ping asked for")


def test_unanswered_pings_are_bounded() -> None:
    talk = ready()
    sent = [effect for _ in range(100) for effect in talk.tell(SendPing())]
    assert len(sent) == len(talk.session.pings) == MAX_OUTSTANDING_PINGS


def test_a_closed_session_stays_silent() -> None:
    talk = ready()
    talk.hears(b"\x00")
    for event in (MessagesReceived((HELLO.encode(),)), TimePassed(), SendPing()):
        assert talk.tell(event) == []
    with pytest.raises(TypeError):
        step(ready().session, Event(), 0.0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=10), st.booleans())
def test_garbage_never_surprises(batch: list[bytes], after_init: bool) -> None:
    talk = ready() if after_init else Talk()
    effects = talk.hears(*batch)
    assert talk.session.is_closed == any(isinstance(e, Disconnect) for e in effects)
    for effect in effects:
        assert isinstance(effect, Send | Deliver | Disconnect | PeerReady)


def test_printable() -> None:
    assert printable(b"plain text") == "plain text"
    assert printable(bytes(range(256)), 256).isprintable()
    assert printable(b"\n\r\x7f\xff") == "...."
    assert printable(b"a" * 300) == "a" * 200 + "..."
