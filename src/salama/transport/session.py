"""One connection after its handshake: ``init`` first, then messages, pings and silence (BOLT 1: B1.02, B1.05, B1.09).

A pure machine for each connection. It is fed decrypted messages in batches, and gives the application only what is
decoded and allowed: never ``init`` again, never pings, never unknown messages that nobody asked for. ``error`` and
``warning`` are delivered, because what they fail or mean is not known here. A violation closes the connection and never
a channel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from salama.base.ids import BlockHash
from salama.base.machine import Effect, Event, Transition
from salama.wire import (
    ALL_CHANNELS,
    MAX_PONG,
    Error,
    Init,
    Malformed,
    Message,
    Ping,
    Pong,
    UnknownMessage,
    Warning,
    decode_message,
)

INIT_WITHIN: Final = 30.0
"""Seconds that a peer has for its ``init``."""
PING_AFTER: Final = 60.0
"""Seconds of silence after which we ask whether the peer is still there."""
PONG_WITHIN: Final = 30.0
"""Seconds that it then has to show it is."""
PONGS_AT_ONCE: Final = 60.0
PONGS_PER_SECOND: Final = 2.0
"""How many pings we answer: at once, and in the long run. Pings that want no answer are padding and not counted."""
MAX_OUTSTANDING_PINGS: Final = 8


# --- what happens to a connection


@dataclass(frozen=True, slots=True)
class MessagesReceived(Event):
    """Decrypted messages, in order, as they came out of one read."""

    messages: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class TimePassed(Event):
    """``Session.wake_at`` has come; harmless at any other time."""


@dataclass(frozen=True, slots=True)
class SendPing(Event):
    """Measure the peer now: answered by ``Ponged`` or, after PONG_WITHIN of silence, by ``Disconnect``."""

    num_pong_bytes: int = 0


# --- what is asked of the shell


@dataclass(frozen=True, slots=True)
class Send(Effect):
    """Encode, encrypt and write."""

    message: Message


@dataclass(frozen=True, slots=True)
class PeerReady(Effect):
    """The peer's ``init`` was accepted: from now on other messages may be sent."""

    their_init: Init


@dataclass(frozen=True, slots=True)
class Deliver(Effect):
    """A message for the rooms above, an UnknownMessage only if its type is among ``Terms.custom_types``."""

    message: Message


@dataclass(frozen=True, slots=True)
class Ponged(Effect):
    """The peer answered a ping."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Disconnect(Effect):
    """Close the connection once what was to be sent is written. No channel fails because of it."""

    reason: str


# --- the machine


@dataclass(frozen=True, slots=True)
class Terms:
    """What we bring to a connection."""

    init: Init
    """Ours; its ``networks`` are the chains that we accept."""
    custom_types: frozenset[int] = frozenset()
    """Types without a declaration that the application wants delivered, even or odd (B1.11)."""
    decode: Callable[[bytes], Message] = decode_message


@dataclass(frozen=True, slots=True)
class Session:
    """State of one connection. Times are seconds on any clock that never goes back."""

    terms: Terms
    opened_at: float
    heard_at: float
    """When the last batch came."""
    their_init: Init | None = None
    pings: tuple[tuple[float, int], ...] = ()
    """Unanswered: when sent, and the ``num_pong_bytes`` asked for."""
    allowance: float = PONGS_AT_ONCE
    """Pongs that we may still send, as of ``allowance_at``."""
    allowance_at: float = 0.0
    is_closed: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether messages may be sent and received."""
        return self.their_init is not None and not self.is_closed

    @property
    def wake_at(self) -> float | None:
        """When ``TimePassed`` is due, None once closed."""
        if self.is_closed:
            return None
        if self.their_init is None:
            return self.opened_at + INIT_WITHIN
        if self.pings:
            return max(self.heard_at, self.pings[0][0]) + PONG_WITHIN
        return self.heard_at + PING_AFTER


def start(terms: Terms, now: float) -> Transition[Session]:
    """A connection whose handshake is done: sends our ``init``."""
    return Transition(Session(terms, now, now, allowance_at=now), (Send(terms.init),))


def step(session: Session, event: Event, now: float) -> Transition[Session]:
    """Any event in any state; nothing happens any more once the session is closed."""
    if session.is_closed:
        return Transition(session)
    match event:
        case MessagesReceived(messages):
            return _receive(session, messages, now)
        case TimePassed():
            return _mind_the_time(session, now)
        case SendPing(num_pong_bytes):
            return _ping(session, num_pong_bytes, now)
    raise TypeError(f"no event of a session: {event!r}")


class _Violation(Exception):
    """The peer broke a rule of the connection."""


def _receive(session: Session, messages: tuple[bytes, ...], now: float) -> Transition[Session]:
    session = replace(session, heard_at=now)
    effects: list[Effect] = []
    try:
        for data in messages:
            session = _receive_one(session, data, now, effects)
    except _Violation as violation:
        return _close(session, str(violation), effects)
    return Transition(session, tuple(effects))


def _receive_one(session: Session, data: bytes, now: float, effects: list[Effect]) -> Session:
    try:
        message = session.terms.decode(data)
    except Malformed as error:
        raise _Violation(f"malformed message of type {int.from_bytes(data[:2], 'big')}: {error.reason}") from None
    if session.their_init is None:
        return _receive_init(session, message, effects)
    match message:
        case Ping():
            return _answer(session, message, now, effects)
        case Pong():
            return _match_pong(session, message, now, effects)
        case Init():
            raise _Violation("a second init")
        case UnknownMessage() if message.type not in session.terms.custom_types:
            if not message.is_odd:
                raise _Violation(f"unknown message of even type {message.type}")
        case _:
            effects.append(Deliver(message))
    return session


def _receive_init(session: Session, message: Message, effects: list[Effect]) -> Session:
    if isinstance(message, Error | Warning):
        # Some peers say why they will not talk to us before they hang up.
        raise _Violation(f"refused by the peer: {printable(message.data)}")
    if not isinstance(message, Init):
        raise _Violation(f"{message.NAME} before init")
    features = message.all_features
    if unknown := features.unknown_even():
        raise _Violation(f"requires the unknown feature {unknown[0]}")
    for feature, needed in features.missing_dependencies():
        raise _Violation(f"offers {feature.name} without {needed.name}")
    if not _common_chain(session.terms.init.networks, message.networks):
        raise _Violation("no chain in common")
    effects.append(PeerReady(message))
    return replace(session, their_init=message)


def _common_chain(ours: tuple[BlockHash, ...] | None, theirs: tuple[BlockHash, ...] | None) -> bool:
    """Whoever names no chain may be on any."""
    return not ours or not theirs or not set(ours).isdisjoint(theirs)


def _answer(session: Session, ping: Ping, now: float, effects: list[Effect]) -> Session:
    if ping.num_pong_bytes >= MAX_PONG:
        return session
    earned = (now - session.allowance_at) * PONGS_PER_SECOND
    allowance = min(PONGS_AT_ONCE, session.allowance + earned)
    if allowance < 1:
        raise _Violation("too many pings")
    effects.append(Send(Pong(ignored=bytes(ping.num_pong_bytes))))
    return replace(session, allowance=allowance - 1, allowance_at=now)


def _match_pong(session: Session, pong: Pong, now: float, effects: list[Effect]) -> Session:
    for position, (sent_at, num_pong_bytes) in enumerate(session.pings):
        if num_pong_bytes == len(pong.ignored):
            effects.append(Ponged(now - sent_at))
            return replace(session, pings=session.pings[:position] + session.pings[position + 1 :])
    raise _Violation(f"a pong of {len(pong.ignored)} bytes that no ping asked for")


def _mind_the_time(session: Session, now: float) -> Transition[Session]:
    due = session.wake_at
    if due is None or now < due:
        return Transition(session)
    if session.their_init is None:
        return _close(session, "no init in time", [])
    if session.pings:
        return _close(session, "no pong in time", [])
    return _ping(session, 0, now)


def _ping(session: Session, num_pong_bytes: int, now: float) -> Transition[Session]:
    """Sends a ping that wants an answer; not before both have said ``init``, nor when many are unanswered already."""
    if not session.is_ready or len(session.pings) >= MAX_OUTSTANDING_PINGS:
        return Transition(session)
    size = min(max(0, num_pong_bytes), MAX_PONG - 1)
    message = Ping(num_pong_bytes=size, ignored=b"")
    return Transition(replace(session, pings=(*session.pings, (now, size))), (Send(message),))


def _close(session: Session, reason: str, effects: list[Effect]) -> Transition[Session]:
    if session.their_init is not None:
        # Before their init we may say nothing at all.
        effects.append(Send(Warning(channel_id=ALL_CHANNELS, data=reason.encode("ascii", "replace"))))
    effects.append(Disconnect(reason))
    return Transition(replace(session, is_closed=True), tuple(effects))


def printable(data: bytes, limit: int = 200) -> str:
    """Text of a peer's ``error`` or ``warning`` that is safe in a log: printable ASCII, the rest as dots, cut short."""
    text = "".join(chr(byte) if 32 <= byte <= 126 else "." for byte in data[:limit])
    return text + "..." if len(data) > limit else text
