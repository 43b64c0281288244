"""One channel's actor: it runs the channel's machine, writes what it decides, and answers for it (BOLT 2)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from salama.base.ids import ChannelId, NodeId, OutPoint
from salama.base.machine import Effect, Event, Row, Transition
from salama.bitcoin.tx import TxOut
from salama.channel.commitments import derive_next_keys
from salama.channel.dispatch import UPDATE_PHASES
from salama.channel.events import (
    AddDropped,
    AddHtlc,
    AddRefused,
    BlockArrived,
    CommandAnswered,
    Disconnected,
    FailHtlc,
    FailMalformedHtlc,
    ForceClose,
    ForgetChannel,
    FundingConfirmed,
    FundingMade,
    FundingSpent,
    FundingUnconfirmed,
    FundingUnspent,
    HtlcCommitted,
    HtlcFailed,
    MessageReceived,
    PreimageLearned,
    ResolvedOnChain,
    SettleHtlc,
)
from salama.channel.opening_rules import MAX_ACCEPTED_HTLCS
from salama.channel.signing import complete
from salama.channel.state import AnyChannel, Channel, ChannelRecord, LinkState, Opening, Phase
from salama.channel.step import turn
from salama.crypto.secp256k1 import InvalidPoint
from salama.node.actor import Actor
from salama.node.peers import Peer
from salama.storage.writes import AnyWrite, PutChannel
from salama.wire import ChannelReestablish, FundingCreated, Message, UpdateAddHtlc

if TYPE_CHECKING:
    from salama.node.channels import Channels

SIGN_IN_THREAD = 8
"""Signatures in one request from which on they are made off the event loop."""


class Surroundings(Protocol):
    """What channels report to."""

    def htlc_committed(self, htlc: HtlcCommitted) -> None: ...
    def offer_ended(self, effect: AddRefused | AddDropped) -> None: ...
    def handed_over(self, handoff: PreimageLearned | HtlcFailed) -> None: ...
    def htlcs_offered(self, offered: Sequence[UpdateAddHtlc]) -> None: ...
    def announce(self, announcement: Message) -> None: ...
    def channel_changed(self, channel: Channel, old: ChannelRecord | None) -> None: ...


ROUNDS_BEFORE_PREPARING = 4
"""Turns of the event loop in which messages and answers of a channel's turn go out."""
ONIONS_AT_ONCE = 8
"""Opened ahead in one turn of the event loop: less than a millisecond."""


class ChannelActor(Actor[AnyChannel]):
    """One channel, from the first message of its opening to its end."""

    INSIDE = (HtlcCommitted, AddRefused, AddDropped, PreimageLearned, HtlcFailed)
    GOES_ON = True
    ENDURED = (
        *(BlockArrived, FundingConfirmed, FundingUnconfirmed, FundingSpent, FundingUnspent, ResolvedOnChain),
        *(SettleHtlc, FailHtlc, FailMalformedHtlc, AddHtlc, ForceClose, Disconnected),
    )
    """The chain does not wait until somebody has mended a channel, and what is decided about its HTLCs must be known
    there; who offers one is refused. None of these says anything to the peer of a channel without a link."""

    def __init__(self, registry: Channels, state: AnyChannel, peer: NodeId) -> None:
        super().__init__(f"channel {state.channel_id.hex()[:8]}", state, registry.journal)
        self.registry, self.peer = registry, peer
        self.answers: list[tuple[Event | None, asyncio.Future[CommandAnswered]]] = []
        """Who waits for what becomes of a command; None is the command to open."""
        self.connections: deque[Peer] = deque()
        """Told of to the channel, which has said nothing on them yet."""
        self.speaks_to: Peer | None = None
        """The connection for which its messages are: one that is late must not reach the next connection, where the
        peer must hear our ``channel_reestablish`` first."""
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.is_retired = False
        self.timer: asyncio.TimerHandle | None = None
        """Ends an opening that takes too long."""
        self.funder: Callable[[TxOut], Awaitable[FundingMade]] | None = None
        """Who makes the funding, if it is not our wallet."""
        self.leased: Callable[[], object] = lambda: None
        """Tells the wallet that what it promised to an opening has its coins, or needs none any more."""
        self.claimed: ChannelId | None = None
        """The id that an opening will have as a channel, reserved for it."""
        self._prepares = False
        self._offered: deque[UpdateAddHtlc] = deque(maxlen=MAX_ACCEPTED_HTLCS)
        """What the peer has offered since the last pause."""

    def asked(self, command: Event | None) -> asyncio.Future[CommandAnswered]:
        """What will be answered to ``command``."""
        answer: asyncio.Future[CommandAnswered] = asyncio.get_running_loop().create_future()
        self.answers.append((command, answer))
        return answer

    def answer(self, answered: CommandAnswered) -> None:
        """Tell whoever gave the command, and nobody else: several may wait, and equal commands are not the same one."""
        for command, waiting in self.answers:
            if command is answered.command and not waiting.done():
                waiting.set_result(answered)
        self.answers = [(command, waiting) for command, waiting in self.answers if not waiting.done()]

    def answer_all(self, code: str, reason: str) -> None:
        """Nothing more will be done here: nobody may wait for ever."""
        waiting, self.answers = self.answers, []
        for _, one in waiting:
            if not one.done():
                one.set_result(CommandAnswered(code, reason))

    @property
    def record(self) -> ChannelRecord | None:
        return self.state.record

    @property
    def link_state(self) -> LinkState:
        return self.state.link_state if isinstance(self.state, Channel) else LinkState.ABSENT

    async def prepare(self, events: Sequence[Event]) -> Sequence[Event]:
        """An opening learns its channel's id from the funding; one that is taken ends it (immunity A3)."""
        if not isinstance(self.state, Opening) or self.claimed is not None:
            return events
        funding = next(((at, named) for at, one in enumerate(events) if (named := funding_of(one)) is not None), None)
        if funding is None:
            return events
        at, named = funding
        if self.registry.claim(self, ChannelId.v1(named)):
            return events
        return (*events[:at], ForgetChannel("this funding belongs to another channel"), *events[at + 1 :])

    def turn(self, state: AnyChannel, events: Sequence[Event]) -> Transition[AnyChannel]:
        if self.frozen and self.link_state is not LinkState.ABSENT:
            # Whatever the link holds is not to be gone on with.
            events = (Disconnected(), *events)
        messages = [event.message for event in events if isinstance(event, MessageReceived)]
        self._offered += [message for message in messages if isinstance(message, UpdateAddHtlc)]
        return turn(state, events, self.registry.env())

    async def complete(self, done: Transition[AnyChannel]) -> Transition[AnyChannel]:
        owed = done.owed
        signatures = sum(1 + len(getattr(o, "htlc_digests", ())) for o in owed)
        signer = self.registry.signer
        if signatures >= SIGN_IN_THREAD:
            answers = await asyncio.to_thread(signer.answer, owed)
        else:
            answers = signer.answer(owed)
        return complete(done, answers)

    def writes(self, old: AnyChannel, done: Transition[AnyChannel]) -> list[AnyWrite]:
        new = done.state.record
        changed: list[AnyWrite] = [] if new is None or new is old.record else [PutChannel(old.record, new)]
        return [*changed, *done.rows]

    def installed(self, old: AnyChannel, done: Transition[AnyChannel]) -> None:
        self.registry.installed(self, old, done)
        if done.state.record is not old.record:
            self._prepare_soon()
        self.changed.set()
        self.changed = asyncio.Event()

    async def secured(self, old: AnyChannel, done: Transition[AnyChannel]) -> None:
        """A channel that is new, or over, is in the backup before anybody hears of it (immunity J2)."""
        was, now = old.record, done.state.record
        if now is not None and (was is None or (now.phase is Phase.CLOSED and was.phase is not Phase.CLOSED)):
            await self.registry.secure()

    def perform(self, effect: Effect) -> None:
        self.registry.perform(self, effect)

    def hears(self, message: Message) -> Peer | None:
        """The connection that ``message`` is for; None if it is gone."""
        current = self.registry.peers.connected.get(self.peer)
        if isinstance(message, ChannelReestablish):
            # One for each connection, and the first words on it.
            self.speaks_to = self.connections.popleft() if self.connections else current
        return current if current is not None and current is self.speaks_to and current.ready.is_set() else None

    def hand_over(self, told: Effect | Row) -> None:
        around = self.registry.around
        match told:
            case HtlcCommitted():
                around.htlc_committed(told)
            case AddRefused() | AddDropped():
                around.offer_ended(told)
            case PreimageLearned() | HtlcFailed():
                around.handed_over(told)

    def finished(self) -> None:
        self.registry.after_effects(self)

    def _prepare_soon(self) -> None:
        """Do what the next commitment needs while the peer is at work: once all of this turn is out."""
        if not self._prepares:
            self._prepares = True
            asyncio.get_running_loop().call_soon(self._prepare, ROUNDS_BEFORE_PREPARING)

    def _prepare(self, rounds: int) -> None:
        if rounds and not self.waiting:
            asyncio.get_running_loop().call_soon(self._prepare, rounds - 1)
            return
        self._prepares = False
        record = self.record
        if record is not None and record.phase in UPDATE_PHASES and not self.waiting:
            with suppress(InvalidPoint):  # the turn that needs it will find it, too
                derive_next_keys(record)
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Have the onions of offered HTLCs opened, a few in each round of the loop, until more comes."""
        if self._offered and not self.waiting:
            at_once = min(len(self._offered), ONIONS_AT_ONCE)
            self.registry.around.htlcs_offered([self._offered.popleft() for _ in range(at_once)])
            asyncio.get_running_loop().call_soon(self._look_ahead)
        else:
            self._offered.clear()

    def on_fault(self, error: Exception) -> None:
        """Freeze: the peer is disconnected, deadlines alone may close the channel, a person must look."""
        self.answer_all("channel_frozen", f"The channel failed: {error}. Look into the log.")
        peer = self.registry.peers.connected.get(self.peer)
        if peer is not None:
            peer.disconnect("internal error")
        self.tell(Disconnected())


def funding_of(event: Event) -> OutPoint | None:
    """The funding output that an event brings to an opening."""
    if isinstance(event, FundingMade):
        return OutPoint(event.tx.txid, event.vout)
    if isinstance(event, MessageReceived) and isinstance(event.message, FundingCreated):
        return OutPoint(event.message.funding_txid, event.message.funding_output_index)
    return None


def purpose_of(actor: ChannelActor) -> str:
    """Name of the wallet's lease for an opening."""
    state = actor.state
    return f"open {state.channel_id}" if isinstance(state, Opening) else f"channel {state.channel_id}"
