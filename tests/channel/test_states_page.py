"""docs/channel-states.md is what the machine does; each message of BOLT 2 is handled in the phases that it names."""

from __future__ import annotations

from pathlib import Path

import pytest
import states_page

from salama.channel.dispatch import OPEN_PHASES, TABLE, UPDATE_PHASES
from salama.channel.opening import STAGES
from salama.channel.state import LinkState, OpeningStage, Phase
from salama.codec.message import Message
from salama.wire import closing, opening, updates
from salama.wire.gossip import AnnouncementSignatures
from salama.wire.setup import Error, Warning

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_up_to_date() -> None:
    assert states_page.PAGE.read_text(encoding="utf-8") == states_page.page(), "run scripts/states_page.py"


def test_every_phase_is_reached_and_every_one_has_a_way_out() -> None:
    steps = states_page.steps_taken()
    reached, left = {after for _, after in steps}, {before for before, _ in steps}
    assert {phase.value for phase in Phase} <= reached
    assert {phase.value for phase in Phase} - left == {"closed"}
    assert {stage.value for stage in OpeningStage} - left == {"abandoned"}


def test_few_violations_close_a_channel() -> None:
    """A new one is a decision: the page and this list change with it."""
    names = {kind.__name__ for kind in states_page.fatal()}
    assert names == {"ClosingDust", "Desynchronised", "FeeNotAgreed", "InvalidRevocation"}
    rooms = {path.name for path in (ROOT / "src/salama/channel").glob("*.py") if ".FAIL_CHANNEL" in path.read_text()}
    assert rooms == {"closing.py", "failing.py", "normal.py", "reestablish.py"}, "an exception may carry it, too"


HANDLED: dict[type[Message], frozenset[Phase]] = {
    # When the BOLT lets the peer send each message, on a link that has been taken up again.
    opening.ChannelReady: OPEN_PHASES,
    updates.UpdateAddHtlc: UPDATE_PHASES,
    updates.UpdateFulfillHtlc: UPDATE_PHASES,
    updates.UpdateFailHtlc: UPDATE_PHASES,
    updates.UpdateFailMalformedHtlc: UPDATE_PHASES,
    updates.UpdateFee: UPDATE_PHASES,
    updates.CommitmentSigned: UPDATE_PHASES,
    updates.RevokeAndAck: UPDATE_PHASES,
    closing.Shutdown: OPEN_PHASES,
    closing.ClosingSigned: frozenset((Phase.SHUTTING_DOWN, Phase.NEGOTIATING)),
    closing.ClosingComplete: frozenset((Phase.SHUTTING_DOWN, Phase.NEGOTIATING)),
    closing.ClosingSig: frozenset((Phase.NEGOTIATING,)),
    AnnouncementSignatures: OPEN_PHASES,
    Error: frozenset(Phase),
    Warning: frozenset(Phase),
}
OF_AN_OPENING: dict[type[Message], OpeningStage] = {
    opening.AcceptChannel: OpeningStage.SENT_OPEN,
    opening.FundingCreated: OpeningStage.SENT_ACCEPT,
    opening.FundingSigned: OpeningStage.SENT_CREATED,
}
ELSEWHERE = {opening.OpenChannel, updates.ChannelReestablish}
"""The first is given to ``accept_inbound``; the second comes before a link is ready."""
NOT_SPOKEN = {
    # Dual funding, quiescence and splicing are not offered: a peer that sends these is refused.
    "AcceptChannel2",
    "OpenChannel2",
    "SpliceAck",
    "SpliceInit",
    "SpliceLocked",
    "StartBatch",
    "Stfu",
}


def test_every_message_of_bolt_2_has_its_row() -> None:
    declared = {
        kind
        for room in (closing, opening, updates)
        for kind in vars(room).values()
        if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message
        if kind.__module__ == room.__name__
    }
    known = HANDLED.keys() | OF_AN_OPENING.keys() | ELSEWHERE
    assert {kind.__name__ for kind in declared - known} <= NOT_SPOKEN
    assert NOT_SPOKEN & {kind.__name__ for _, _, kind in TABLE} == set()


@pytest.mark.parametrize("kind", HANDLED, ids=lambda kind: kind.__name__)
def test_a_message_is_handled_where_it_may_come_and_nowhere_else(kind: type[Message]) -> None:
    assert {phase for phase in Phase if (phase, LinkState.READY, kind) in TABLE} == HANDLED[kind]
    before = {phase for phase in Phase if (phase, LinkState.SYNCING, kind) in TABLE}
    assert before == (set(Phase) if kind in (Error, Warning) else set())
    assert not any((phase, LinkState.ABSENT, kind) in TABLE for phase in Phase)


def test_the_exchange_begins_with_reestablish_wherever_the_channel_can_go_on() -> None:
    for link in LinkState:
        found = {phase for phase in Phase if (phase, link, updates.ChannelReestablish) in TABLE}
        assert found == (OPEN_PHASES if link is LinkState.SYNCING else set())


@pytest.mark.parametrize("kind", OF_AN_OPENING, ids=lambda kind: kind.__name__)
def test_a_message_of_an_opening_has_one_place(kind: type[Message]) -> None:
    assert {stage for stage in OpeningStage if (stage, kind) in STAGES} == {OF_AN_OPENING[kind]}
