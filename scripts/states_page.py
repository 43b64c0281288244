#!/usr/bin/env python3
"""Writes docs/channel-states.md: what a channel does with every message and event, and which phases follow which.

The tables are the dispatch table itself. The diagrams are drawn from two channel machines that are led through every
kind of life a channel can have; an arrow is a step that was really taken. With ``--check`` nothing is written and the
exit status says whether the page is up to date.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

from made_file import ROOT, write_or_check

from salama.base.ids import ShortChannelId
from salama.base.machine import Event, PeerViolation, Reaction
from salama.base.units import BlockHeight
from salama.bitcoin.script import p2wpkh
from salama.channel.commitments import local_commitment_tx
from salama.channel.dispatch import TABLE, Kind
from salama.channel.events import (
    CloseChannel,
    Disconnected,
    ForceClose,
    ForgetChannel,
    FundingConfirmed,
    FundingRefused,
    FundingSpent,
    MessageReceived,
    ResolvedOnChain,
)
from salama.channel.opening import STAGES
from salama.channel.reestablish import Desynchronised
from salama.channel.state import Channel, LinkState, Opening, OpeningStage, Phase
from salama.channel.step import open_channel
from salama.codec.message import Message
from salama.testing.pair import FEATURES, End, Pair
from salama.wire.features import OPTION_SIMPLE_CLOSE, OPTION_ZEROCONF, Features
from salama.wire.gossip import AnnouncementSignatures
from salama.wire.setup import Error
from salama.wire.updates import ChannelReestablish

PAGE = ROOT / "docs" / "channel-states.md"
SCRIPT = p2wpkh(b"\x02" + bytes(31) + b"\x0c")
SIMPLE = Features.of_bits({*FEATURES.bits(), OPTION_SIMPLE_CLOSE.odd})
ZERO = Features.of_bits({*FEATURES.bits(), OPTION_ZEROCONF.odd})

Steps = dict[tuple[str, str], set[str]]


# --- lives ------------------------------------------------------------------------------------------------------------


def _closes_together(features: Features) -> None:
    pair = Pair.opened(features=features)
    pair.alice.adds(5_000_000)
    pair.settle()
    pair.bob.does(CloseChannel(SCRIPT))
    pair.settle()
    pair.bob.settles_all()
    pair.settle()
    close = pair.alice.record.mutual_close
    assert close is not None
    for end in (pair.alice, pair.bob):
        end.does(FundingSpent(close.tx, end.env.height))
    pair.mines(100)


def _closes_before_it_is_open() -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 300_000_000)
    pair.settle()
    pair.alice.does(CloseChannel(SCRIPT))
    pair.settle()
    pair.cut()
    pair.mines(2017)


def _forced(prepare: Callable[[Pair], None]) -> None:
    for end_it in (_asks, _hears_error, _sees_commitment, _hears_reestablish):
        pair = Pair.of()
        pair.opens(1_000_000, 400_000_000)
        pair.settle()
        prepare(pair)
        end_it(pair)
        pair.alice.does(ResolvedOnChain())


def _asks(pair: Pair) -> None:
    pair.alice.does(ForceClose("a person asked"))


def _hears_error(pair: Pair) -> None:
    pair.alice.hears(Error(channel_id=pair.alice.record.channel_id, data=b"no"))


def _sees_commitment(pair: Pair) -> None:
    record = pair.bob.record
    tx = local_commitment_tx(record, record.funding, record.funding.local).tx
    pair.alice.does(FundingSpent(tx, pair.alice.env.height))


def _hears_reestablish(pair: Pair) -> None:
    pair.cut()
    pair.connect()
    record = pair.bob.record
    point = record.our_points.at(record.funding.local.number)
    assert point is not None
    pair.alice.hears(
        ChannelReestablish(
            channel_id=record.channel_id,
            next_commitment_number=0,
            next_revocation_number=0,
            your_last_per_commitment_secret=bytes(32),
            my_current_per_commitment_point=point,
        )
    )


def _nothing(pair: Pair) -> None:
    """It stays as it is."""


def _normal(pair: Pair) -> None:
    pair.confirms()
    pair.settle()


def _shutting_down(pair: Pair) -> None:
    _normal(pair)
    pair.alice.adds(5_000_000)
    pair.settle()
    pair.alice.does(CloseChannel(SCRIPT))
    pair.settle()


def _negotiating(pair: Pair) -> None:
    _normal(pair)
    pair.alice.does(CloseChannel(SCRIPT))
    pair.deliver(pair.alice)
    pair.deliver(pair.bob)
    pair.alice.outbox.clear()


def _misses_a_deadline() -> None:
    pair = Pair.opened()
    pair.alice.adds(5_000_000)
    pair.settle()
    pair.mines(502)


def _is_never_funded() -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 0)
    pair.settle()
    pair.mines(2017)


def _is_funded_otherwise() -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 0)
    pair.settle()
    tx = pair.funding_tx
    assert tx is not None
    fake = replace(tx, outputs=tx.outputs[:1])
    record = pair.bob.record
    pair.bob.state = Channel(replace(record, active=(replace(record.funding, outpoint=fake.outpoint(1)),)))
    pair.bob.does(FundingConfirmed(fake, BlockHeight(800_001), 1))


def _is_used_at_once() -> Pair:
    pair = Pair.of(features=ZERO)
    named = frozenset((str(pair.alice.signer.node_id),))
    pair.bob.env = replace(pair.bob.env, policy=replace(pair.bob.env.policy, zero_conf_peers=named))
    begun = open_channel(replace(pair.request(1_000_000, 0), zero_conf=True), pair.alice.env)
    pair.alice.state = begun.state
    pair.alice.performs(begun.effects)
    pair.settle()
    return pair


def _is_used_and_never_funded() -> None:
    pair = _is_used_at_once()
    pair.cut()
    pair.mines(2017)


def _is_failed_before_it_is_funded() -> None:
    for prepare in (_nothing, lambda pair: pair.bob.does(CloseChannel(SCRIPT)), _asks_bob):
        pair = Pair.of()
        pair.opens(1_000_000, 300_000_000)
        pair.settle()
        prepare(pair)
        pair.cut()
        pair.mines(2017)


def _asks_bob(pair: Pair) -> None:
    pair.bob.does(ForceClose("a person asked"))


def _is_forced_and_closes_together_all_the_same() -> None:
    """The closing transaction that was agreed on wins the race."""
    pair = Pair.opened()
    pair.alice.does(CloseChannel(SCRIPT))
    pair.settle()
    close = pair.alice.record.mutual_close
    assert close is not None
    pair.alice.does(ForceClose("a person asked"))
    pair.alice.does(FundingSpent(close.tx, pair.alice.env.height))


def _closes_together_unseen() -> None:
    """By a transaction that only the peer remembers."""
    pair = Pair.opened()
    kept = pair.alice.record
    pair.alice.does(CloseChannel(SCRIPT))
    pair.settle()
    close = pair.bob.record.mutual_close
    assert close is not None
    pair.alice.state = Channel(kept, None)
    pair.alice.does(FundingSpent(close.tx, pair.alice.env.height))


def _openings() -> None:
    ends: tuple[Event, ...] = (
        ForgetChannel("late"),
        Disconnected(),
        MessageReceived(Error(channel_id=Pair.opened().alice.record.channel_id, data=b"no")),
        MessageReceived(
            AnnouncementSignatures(
                channel_id=Pair.opened().alice.record.channel_id,
                short_channel_id=ShortChannelId(1),
                node_signature=bytes(64),
                bitcoin_signature=bytes(64),
            )
        ),
    )
    for event in ends:
        for deliveries in range(4):
            pair = Pair.of()
            pair.opens(1_000_000, 0)
            for _ in range(deliveries):
                pair.deliver(pair.alice)
                pair.deliver(pair.bob)
            for end in (pair.alice, pair.bob):
                if isinstance(end.state, Opening):
                    end.does(event)
    for event in (FundingRefused("insufficient_funds", "no coins"), *ends):
        pair = Pair.of()
        pair.opens(1_000_000, 0)
        assert isinstance(pair.alice.state, Opening)
        pair.alice.state = replace(pair.alice.state, stage=OpeningStage.AWAITING_WALLET)
        pair.alice.does(event)


LIVES: tuple[Callable[[], None], ...] = (
    lambda: _closes_together(FEATURES),
    lambda: _closes_together(SIMPLE),
    _closes_before_it_is_open,
    lambda: _forced(_nothing),
    lambda: _forced(_normal),
    lambda: _forced(_shutting_down),
    lambda: _forced(_negotiating),
    _misses_a_deadline,
    _is_never_funded,
    _is_funded_otherwise,
    _is_used_and_never_funded,
    _is_failed_before_it_is_funded,
    _is_forced_and_closes_together_all_the_same,
    _closes_together_unseen,
    _openings,
)


def steps_taken() -> Steps:
    """For each pair of places the names of what led from one to the other."""
    found: Steps = defaultdict(set)
    does = End.does

    def noted(end: End, *events: object) -> object:
        before = _place(end.state)
        effects = does(end, *events)  # type: ignore[arg-type]
        after = _place(end.state)
        if before and before != after:
            for event in events:
                found[before, after].add(_name(event, before))
        return effects

    End.does = noted  # type: ignore[method-assign, assignment]
    try:
        for life in LIVES:
            life()
    finally:
        End.does = does  # type: ignore[method-assign]
    return found


def _place(state: object) -> str:
    if isinstance(state, Opening):
        return state.stage.value
    return state.record.phase.value if isinstance(state, Channel) else ""


def _name(event: object, before: str) -> str:
    kind = type(event.message if isinstance(event, MessageReceived) else event)
    is_out_of_turn = kind is AnnouncementSignatures and before in {stage.value for stage in OpeningStage}
    return "any other message" if is_out_of_turn else kind.__name__


# --- the page ---------------------------------------------------------------------------------------------------------


def page() -> str:
    """The page as text."""
    steps = steps_taken()
    kinds = sorted({kind for _, _, kind in TABLE}, key=lambda kind: kind.__name__)
    messages = [kind for kind in kinds if issubclass(kind, Message)]
    events = [kind for kind in kinds if not issubclass(kind, Message)]
    stages = {stage.value for stage in OpeningStage}
    lines = [
        "# What a channel does, and when",
        "",
        "Made by `scripts/states_page.py`; do not edit. A channel has a phase, which is durable, and a link, which",
        "is not (`absent`, `syncing` until `channel_reestablish` has come, `ready`). An arrow is a step that two",
        "machines took when they were led through every kind of life; the tables are `channel/dispatch.py:TABLE` and",
        "`channel/opening.py:STAGES`.",
        "",
        "## Opening",
        "",
        *_diagram({k: v for k, v in steps.items() if k[0] in stages}),
        "",
        "## Phases",
        "",
        *_diagram({k: v for k, v in steps.items() if k[0] not in stages}),
        "",
        "## What a peer can do that sends a channel to the chain",
        "",
        "Beside its own commitment, an error, and an HTLC left past its deadline: these violations, and no other.",
        "",
        *_fatal(),
        "",
        "## Messages on a ready link",
        "",
        "A message that has no function where the channel stands is refused with a warning and the end of the",
        "connection; on a channel that only the chain can change (`on_chain`, `closed`) it is ignored, as is one on a",
        "link that is gone.",
        "",
        *_table(
            [k for k in messages if any((phase, LinkState.READY, k) in TABLE for phase in Phase)],
            lambda phase, kind: _function(phase, LinkState.READY, kind),
        ),
        "",
        "## Messages before `channel_reestablish` has come",
        "",
        *_table(
            [k for k in messages if any((phase, LinkState.SYNCING, k) in TABLE for phase in Phase)],
            lambda phase, kind: _function(phase, LinkState.SYNCING, kind),
        ),
        "",
        "`channel_ready` and `announcement_signatures` are ignored there, anything else is refused.",
        "",
        "## Events",
        "",
        "Where a link makes a difference the functions stand in the order absent, syncing, ready. What has no function",
        "is answered by `channel/step.py:_unregistered_event`: an HTLC is handed back, a command refused.",
        "",
        *_table(events, _on_every_link),
        "",
        "## Messages and events of an opening",
        "",
        *_stages(),
        "",
    ]
    return "\n".join(lines)


def fatal() -> list[type[PeerViolation]]:
    """Violations that close a channel, or may."""
    found, more = [], [PeerViolation]
    while more:
        kinds = more.pop().__subclasses__()
        more += kinds
        found += [k for k in kinds if k.reaction is Reaction.FAIL_CHANNEL and k.__module__.startswith("salama.channel")]
    return sorted([*found, Desynchronised], key=lambda kind: kind.__name__)


def _fatal() -> list[str]:
    lines = ["| violation | |", "|---|---|"]
    for kind in fatal():
        words = " ".join((kind.__doc__ or "").split())
        lines.append(f"| `{kind.__module__.removeprefix('salama.')}.{kind.__name__}` | {words} |")
    return lines


def _diagram(steps: Steps) -> list[str]:
    lines = ["```mermaid", "stateDiagram-v2"]
    for (before, after), names in sorted(steps.items()):
        lines.append(f"    {before} --> {after}: {', '.join(sorted(names))}")
    return [*lines, "```"]


def _function(phase: Phase, link: LinkState, kind: Kind) -> str:
    handler = TABLE.get((phase, link, kind))
    return "" if handler is None else f"`{handler.__name__}`"


def _on_every_link(phase: Phase, kind: Kind) -> str:
    found = [_function(phase, link, kind) for link in LinkState]
    return found[0] if len(set(found)) == 1 else ", ".join(one or "-" for one in found)


def _table(kinds: list[Kind], cell: Callable[[Phase, Kind], str]) -> list[str]:
    lines = ["| |" + "|".join(f" {phase.value} " for phase in Phase) + "|", "|---" * (len(Phase) + 1) + "|"]
    return lines + [f"| {k.__name__} | " + " | ".join(cell(phase, k) for phase in Phase) + " |" for k in kinds]


def _stages() -> list[str]:
    kinds = sorted({kind.__name__: kind for _, kind in STAGES}.items())
    lines = ["| |" + "|".join(f" {s.value} " for s in OpeningStage) + "|", "|---" * (len(OpeningStage) + 1) + "|"]
    for name, kind in kinds:
        handlers = [STAGES.get((stage, kind)) for stage in OpeningStage]
        lines.append(f"| {name} | " + " | ".join(f"`{h.__name__}`" if h else "" for h in handlers) + " |")
    return lines


if __name__ == "__main__":
    sys.exit(write_or_check(PAGE, page()))
