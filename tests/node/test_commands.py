"""Each command has its own answer, whatever else is said in the same turn, and none waits for ever."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from salama.base.ids import NodeId
from salama.base.machine import CommandRefused, Event
from salama.channel.events import CloseChannel, CommandAnswered, FailHtlc, ForceClose, ForgetChannel
from salama.channel.reestablish import our_reestablish
from salama.channel.step import turn
from salama.node.channel_actor import ChannelActor
from salama.node.channels import Channels
from salama.testing.pair import FEATURES, Pair
from salama.wire import Error

SCRIPT = b"\x00\x14" + b"\x07" * 20


def actor_of(pair: Pair) -> ChannelActor:
    channels = SimpleNamespace(journal=None, peers=SimpleNamespace(connected={}))
    return ChannelActor(channels, pair.alice.channel, NodeId(pair.bob.record.params.our_node_id))  # type: ignore[arg-type]


def test_every_answer_names_its_command() -> None:
    pair = Pair.opened()
    pair.bob.adds(5_000_000)
    pair.settle()
    said: list[Event] = [
        FailHtlc(0, bytes(40_000)),
        CloseChannel(SCRIPT),
        CloseChannel(SCRIPT),
        ForgetChannel("for a try"),
    ]
    done = turn(pair.alice.channel, said, pair.alice.env)
    answers = [e for e in done.effects if isinstance(e, CommandAnswered)]
    assert [answer.code for answer in answers] == ["reason_too_long", "", "closing_already", "funding_signed"]
    assert all(answer.command is event for answer, event in zip(answers, said, strict=True))


def test_what_refuses_one_command_does_not_answer_another() -> None:
    async def main() -> None:
        pair = Pair.opened()
        actor = actor_of(pair)
        first, second = CloseChannel(SCRIPT), CloseChannel(SCRIPT)
        assert first == second, "equal, and yet two"
        waiting, other = actor.asked(first), actor.asked(second)
        refused = FailHtlc(0, b"")
        actor.answer(CommandAnswered("wrong", "of a payment's command", refused))
        assert not waiting.done() and not other.done()
        actor.answer(CommandAnswered("closing_already", "no", second))
        assert other.result().code == "closing_already" and not waiting.done()
        actor.answer(CommandAnswered("", "closing", first))
        assert waiting.result().code == "" and actor.answers == []

    asyncio.run(main())


def test_a_command_to_an_opening_does_not_end_who_waits_for_it() -> None:
    async def main() -> None:
        pair = Pair.of()
        pair.opens(1_000_000, 0)
        opening = pair.alice.state
        assert opening is not None
        actor = actor_of(Pair.opened())
        waiting = actor.asked(None)
        asked = ForceClose("too early")
        for effect in turn(opening, [asked], pair.alice.env).effects:
            assert isinstance(effect, CommandAnswered)
            actor.answer(effect)
        assert not waiting.done()
        (ended,) = [
            e for e in turn(opening, [ForgetChannel("late")], pair.alice.env).effects if isinstance(e, CommandAnswered)
        ]
        actor.answer(ended)
        assert waiting.result().code == "forgotten"

    asyncio.run(main())


def test_nobody_waits_for_a_channel_that_is_frozen_or_gone() -> None:
    async def main() -> None:
        actor = actor_of(Pair.opened())
        waiting = actor.asked(CloseChannel(SCRIPT))
        actor.on_fault(RuntimeError("a test"))
        assert waiting.result().code == "channel_frozen"
        for mark in ("frozen", "is_retired"):
            actor = actor_of(Pair.opened())
            setattr(actor, mark, "yes")
            with pytest.raises(CommandRefused):
                async with asyncio.timeout(1):
                    await Channels.command(None, actor, CloseChannel(SCRIPT))  # type: ignore[arg-type]

    asyncio.run(main())


def test_no_late_message_reaches_the_next_connection() -> None:
    """The peer must hear our ``channel_reestablish`` first: an error before it would make one with old data publish."""
    pair = Pair.opened()
    actor = actor_of(pair)
    connected = actor.registry.peers.connected
    first, second = (SimpleNamespace(ready=SimpleNamespace(is_set=lambda: True)) for _ in range(2))
    hello = our_reestablish(pair.alice.record)
    late = Error(channel_id=pair.alice.record.channel_id, data=b"what the turn before had to say")

    connected[actor.peer] = first  # type: ignore[assignment]
    actor.connections.append(first)  # type: ignore[arg-type]
    assert actor.hears(late) is None
    assert actor.hears(hello) is first and actor.hears(late) is first
    connected[actor.peer] = second  # type: ignore[assignment]
    actor.connections.append(second)  # type: ignore[arg-type]
    assert actor.hears(late) is None
    assert actor.hears(hello) is second and actor.hears(late) is second


def test_a_frozen_channel_keeps_nothing_of_connections_that_come_and_go() -> None:
    """It says nothing on any of them, and its peer may come back as often as it likes."""
    actor = actor_of(Pair.opened())
    actor.frozen = "a test"
    peers = SimpleNamespace(connected={actor.peer: object()})
    channels = SimpleNamespace(peers=peers, _of=lambda node_id: [actor], our_features=FEATURES)
    for _ in range(3):
        Channels.peer_ready(channels, actor.peer, FEATURES)  # type: ignore[arg-type]
    assert not actor.connections
