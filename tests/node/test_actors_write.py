"""What actors give to the journal: rows also when no record changed, and the replay log keyed by the HTLC (B4.03)."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from salama.base.ids import ChannelId, HtlcRef, PaymentHash, Preimage, ShortChannelId, Side
from salama.base.machine import CommandRefused, Transition
from salama.base.units import BlockHeight, CltvExpiry, Msat
from salama.bitcoin.networks import REGTEST
from salama.channel.events import (
    AddHtlc,
    Consumed,
    FailHtlc,
    FailMalformedHtlc,
    HandoffKey,
    HtlcCommitted,
    Origin,
    PreimageLearned,
    SettleHtlc,
)
from salama.crypto.hashes import sha256
from salama.crypto.secp256k1 import public_key
from salama.gossip.graph import Graph
from salama.invoices import bolt11
from salama.invoices.bolt11 import HintHop
from salama.node.channel_actor import ChannelActor
from salama.node.payments import Committed, PaymentsActor
from salama.node.switchboard import Switchboard
from salama.onion.sphinx import make_onion
from salama.payments.arrival import ONIONS_REMEMBERED
from salama.payments.events import HandoffArrived, Ticked
from salama.payments.origin import ForwardOrigin
from salama.payments.records import (
    ForwardStatus,
    Part,
    PartStatus,
    Payment,
    PaymentStatus,
    PutForward,
    PutPayment,
    RouteHop,
)
from salama.payments.views import ChannelView, RelayPolicy
from salama.routing.scoring import Scorer
from salama.signer.local import LocalSigner
from salama.storage import queries, tables
from salama.storage.journal import Journal
from salama.storage.ledger import LOST_RELAYS
from salama.storage.ledger_check import balance
from salama.storage.writes import PutChannel, PutRecord
from salama.testing.pair import Pair
from salama.wire import UpdateAddHtlc
from salama.wire.features import BASIC_MPP, PAYMENT_SECRET, VAR_ONION_OPTIN, Features
from salama.wire.onion import PaymentPayload

US = LocalSigner(b"the node under test" * 2)
NEXT = public_key(b"\x22" * 32)
UP, DOWN = ChannelId(b"\x01" * 32), ChannelId(b"\x02" * 32)
SCID = ShortChannelId.of(700_000, 1, 0)
HEIGHT = 800_000
HASH = PaymentHash(sha256(b"p" * 32))


# --- the channel's actor ---------------------------------------------------------------------------------------------


def test_a_channels_rows_are_written_with_and_without_a_changed_record(tmp_path: Path) -> None:
    pair = Pair.opened()
    actor = ChannelActor(SimpleNamespace(journal=None), pair.alice.channel, pair.bob.signer.node_id)  # type: ignore[arg-type]
    old = pair.alice.channel
    row = PreimageLearned(HandoffKey(old.channel_id, 0), Origin(b"origin"), Preimage(b"p" * 32))
    assert actor.writes(old, Transition(old, (), (row,))) == [row]
    pair.alice.adds(5_000_000)
    new = pair.alice.channel
    assert new.record is not old.record
    assert actor.writes(old, Transition(new, (), (row,))) == [PutChannel(old.record, new.record), row]
    assert actor.writes(new, Transition(new)) == []


# --- the payments' actor ---------------------------------------------------------------------------------------------


class Running:
    """A payments' actor on a journal, and what it gave to channels."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.sent: list[tuple[ChannelId, Any]] = []
        self.task: asyncio.Task[None] | None = None
        policy = RelayPolicy(0, 0, 40, Msat(1), Msat(10**9))
        views = {DOWN: ChannelView(DOWN, US.node_id, True, Msat(10**9), (SCID,), (policy,))}
        self.actor = PaymentsActor(
            journal,
            US,
            Graph(REGTEST.chain_hash),
            Scorer(),
            pending=journal.read_now(queries.unfinished_payments),
            origins={},
            height=lambda: BlockHeight(HEIGHT),
            channels=lambda: views,
            by_scid=lambda: {SCID: DOWN},
            to_channel=lambda channel_id, event: self.sent.append((channel_id, event)),
        )

    async def hears(self, *htlcs: HtlcCommitted) -> list[Any]:
        """What the channels are told when these HTLCs are committed."""
        self.sent.clear()
        if self.task is None:
            self.task = asyncio.create_task(self.actor.run())
        for htlc in htlcs:
            self.actor.tell(Committed(htlc))
        await asyncio.wait_for(self.actor.settled(), 5)
        return [event for _, event in self.sent]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path) as opened:
        yield opened


def committed(id: int, session: bytes = b"\x07" * 32, payment_hash: PaymentHash = HASH) -> HtlcCommitted:
    relay = PaymentPayload(amt_to_forward=Msat(1000), outgoing_cltv_value=HEIGHT + 100, short_channel_id=SCID)
    packet = make_onion([(bytes(US.node_id), relay.encode()), (NEXT, relay.encode())], session, payment_hash).packet
    ref = HtlcRef(UP, Side.INCOMING, id)
    return HtlcCommitted(ref, Msat(2000), payment_hash, CltvExpiry(HEIGHT + 200), packet)


def test_an_onion_works_once(journal: Journal) -> None:
    async def main() -> None:
        running = Running(journal)
        (first,) = await running.hears(committed(1))
        assert isinstance(first, AddHtlc)
        (second,) = await running.hears(committed(2))
        assert isinstance(second, FailHtlc)
        assert second.id == 2

    asyncio.run(main())


def test_an_onion_works_once_within_one_turn(journal: Journal) -> None:
    async def main() -> None:
        running = Running(journal)
        kinds = [type(event) for event in await running.hears(committed(1), committed(2))]
        assert kinds == [AddHtlc, FailHtlc]

    asyncio.run(main())


def test_an_onion_works_once_over_restarts_and_a_restart_is_no_replay(journal: Journal) -> None:
    async def main() -> None:
        await Running(journal).hears(committed(1))
        again = Running(journal)
        # The same HTLC, reported once more because nobody has decided about it: not signed downstream, so offered.
        (event,) = await again.hears(committed(1))
        assert isinstance(event, AddHtlc)
        # Another HTLC with the same onion: a replay, whoever was first.
        (event,) = await Running(journal).hears(committed(2))
        assert isinstance(event, FailHtlc)

    asyncio.run(main())


def test_other_onions_are_not_replays(journal: Journal) -> None:
    async def main() -> None:
        running = Running(journal)
        events = await running.hears(*(committed(n, bytes([n]) * 32) for n in range(1, 5)))
        assert [type(event) for event in events] == [AddHtlc] * 4

    asyncio.run(main())


LATE = PreimageLearned(HandoffKey(DOWN, 3), ForwardOrigin(HtlcRef(UP, Side.INCOMING, 1)).encode(), Preimage(b"p" * 32))


def test_a_late_preimage_is_told_again_while_its_handoff_is_on_disk(journal: Journal) -> None:
    async def main() -> None:
        running = Running(journal)
        await running.hears()
        journal.commit_now([LATE])
        running.actor.tell(HandoffArrived(LATE))
        for _ in range(3):
            await asyncio.wait_for(running.actor.settled(), 5)
            running.actor.tell(Ticked())
        await asyncio.wait_for(running.actor.settled(), 5)
        assert running.sent == [(UP, SettleHtlc(1, LATE.preimage, LATE.key))] * 4
        journal.commit_now([Consumed(LATE.key)])
        running.actor.tell(Ticked())
        await asyncio.wait_for(running.actor.settled(), 5)
        assert len(running.sent) == 4 and not running.actor.state.late

    asyncio.run(main())


@pytest.mark.parametrize("is_settled", [False, True])
def test_an_outcome_for_a_channel_that_is_over_leaves_the_disk(journal: Journal, is_settled: bool) -> None:
    async def main() -> None:
        running = Running(journal)
        board = Switchboard(None, lambda: 0.0)  # type: ignore[arg-type]
        board.join(SimpleNamespace(by_id={}), running.actor, None, None, None)  # type: ignore[arg-type]
        running.actor._to_channel = board.to_channel
        incoming = HtlcRef(UP, Side.INCOMING, 1)
        htlcs = [(bytes(UP), 0, 1, 1_010_000), (bytes(DOWN), 1, 3, 1_000_000)]
        row = (b"", 0, None, 0, 0, 0, 0, 0, None, None)
        journal.commit_now([LATE, *(PutRecord(tables.HTLCS, (*one, *row)) for one in htlcs)])
        if is_settled:
            done = PutForward(incoming, DOWN, 3, Msat(1_010_000), Msat(1_000_000), ForwardStatus.SETTLED, 5)
            journal.commit_now([done])
        await running.hears()
        running.actor.tell(HandoffArrived(LATE))
        for _ in range(3):
            await asyncio.wait_for(running.actor.settled(), 5)
            await asyncio.sleep(0)
        assert journal.read_now(queries.handoffs) == []
        (forward,) = journal.read_now(queries.forwards).rows
        lost = journal.read_now(lambda db: balance(db, LOST_RELAYS))
        assert (forward.status.value, lost) == (("settled", 0) if is_settled else ("lost", 1_000_000))

    asyncio.run(main())


def offered(htlc: HtlcCommitted) -> UpdateAddHtlc:
    """What the peer sent of it before it was committed."""
    return UpdateAddHtlc(
        channel_id=UP,
        id=htlc.ref.id,
        amount_msat=htlc.amount,
        payment_hash=htlc.payment_hash,
        cltv_expiry=htlc.cltv_expiry,
        onion_routing_packet=htlc.onion,
    )


def test_onions_opened_ahead_are_decided_as_ever_and_only_once_committed(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        running = Running(journal)
        bad = replace(committed(4), onion=b"\x01" + committed(4).onion[1:])
        htlcs = [committed(1), committed(2), committed(3, b"\x08" * 32), bad]
        running.actor.look_ahead([offered(htlc) for htlc in htlcs])
        await asyncio.sleep(0.01)
        assert running.sent == [] and journal.counters.rows == 0
        multiplied: list[bytes] = []
        monkeypatch.setattr(LocalSigner, "ecdh", lambda self, point: multiplied.append(point))
        kinds = [type(event) for event in await running.hears(htlcs[0], *htlcs[2:])]
        assert (kinds, multiplied) == ([AddHtlc, AddHtlc, FailMalformedHtlc], [])
        monkeypatch.undo()
        # The onion of the first once more: opened ahead or not, it works once.
        assert [type(event) for event in await running.hears(htlcs[1])] == [FailHtlc]

    asyncio.run(main())


def test_onions_opened_ahead_and_never_committed_do_not_pile_up(journal: Journal) -> None:
    actor = Running(journal).actor
    add = offered(committed(1))
    for n in range(20):
        onions = [n.to_bytes(2, "big") + i.to_bytes(2, "big") + bytes(1362) for i in range(200)]
        actor.look_ahead([replace(add, onion_routing_packet=onion) for onion in onions])
        assert len(actor._secrets_ahead) <= ONIONS_REMEMBERED


def test_an_onion_that_nobody_can_open_does_not_stop_the_payments(journal: Journal) -> None:
    """Any peer can send one; each is answered by its code, and the next HTLC is handled as ever."""

    async def main() -> None:
        running = Running(journal)
        good = committed(1)
        packets = {
            good.onion[:1] + bytes(33) + good.onion[34:]: 0xC006,
            b"\x01" + good.onion[1:]: 0xC004,
            bytes(1366): 0xC006,
            good.onion[:-1] + bytes([good.onion[-1] ^ 1]): 0xC005,
        }
        bad = [
            HtlcCommitted(HtlcRef(UP, Side.INCOMING, n), good.amount, HASH, good.cltv_expiry, packet)
            for n, packet in enumerate(packets, start=10)
        ]
        events = await running.hears(*bad)
        assert running.actor.frozen == ""
        assert [(type(e), e.failure_code) for e in events] == [(FailMalformedHtlc, c) for c in packets.values()]
        (event,) = await running.hears(committed(30, b"\x09" * 32))
        assert isinstance(event, AddHtlc)

    asyncio.run(main())


def test_a_payment_found_at_start_up_keeps_the_hints_of_its_invoice(journal: Journal) -> None:
    """Without them, and without parts, a part that never left could not be tried again."""
    hint = HintHop(NEXT, SCID, 1000, 100, 40)
    request = bolt11.sign(
        bolt11.Invoice(
            network=REGTEST,
            timestamp=1_700_000_000,
            payment_hash=HASH,
            payment_secret=bytes(32),
            payee=US.node_id,
            amount_msat=Msat(1000),
            description="",
            expiry=3600,
            min_final_cltv_expiry=18,
            route_hints=((hint,),),
            features=Features.of(mandatory=(PAYMENT_SECRET, VAR_ONION_OPTIN), optional=(BASIC_MPP,)),
        ),
        US.sign_recoverable,
    )
    one = Payment(
        payment_hash=HASH,
        payee=US.node_id,
        invoice=request,
        payment_secret=bytes(32),
        payment_metadata=None,
        amount=Msat(1000),
        max_fee=Msat(100),
        final_cltv_delta=18,
        created=1,
        deadline=2_000_000_000,
    )
    other = replace(one, payment_hash=PaymentHash(b"\x05" * 32), invoice="an invoice of another age")

    async def main() -> None:
        await journal.commit([PutPayment(one), PutPayment(other)])
        found = Running(journal).actor.state.payments
        assert (found[HASH].hints, found[HASH].multi_part) == (((hint,),), True)
        assert (found[other.payment_hash].hints, found[other.payment_hash].multi_part) == ((), False)

    asyncio.run(main())


def test_part_numbers_go_on_with_the_next_attempt_at_the_same_invoice(journal: Journal) -> None:
    def payment(**changes: Any) -> Payment:
        made: dict[str, Any] = {
            "payment_hash": HASH,
            "payee": US.node_id,
            "invoice": "lnbcrt1...",
            "payment_secret": bytes(32),
            "payment_metadata": None,
            "amount": Msat(1000),
            "max_fee": Msat(100),
            "final_cltv_delta": 18,
            "created": 1,
            "deadline": 2_000_000_000,
        }
        return Payment(**(made | changes))

    hop = RouteHop(US.node_id, SCID, Msat(1000), CltvExpiry(HEIGHT + 40))
    lost = Part(0, DOWN, (hop,), b"\x01" * 32, Msat(1000), PartStatus.FAILED)
    failed = payment(status=PaymentStatus.FAILED, finished=5, parts=(lost,), next_part=1)

    async def main() -> None:
        await journal.commit([PutPayment(failed)])
        running = Running(journal)
        task = asyncio.create_task(running.actor.run())
        # No way is known, so it fails at once; what counts is the record it leaves.
        result = await asyncio.wait_for(running.actor.pay(payment(), (), multi_part=False), 5)
        assert result.status is PaymentStatus.FAILED
        assert result.next_part == 1
        task.cancel()

    asyncio.run(main())


def test_an_invoice_is_not_paid_twice(journal: Journal) -> None:
    paid = Payment(
        payment_hash=HASH,
        payee=US.node_id,
        invoice="lnbcrt1...",
        payment_secret=bytes(32),
        payment_metadata=None,
        amount=Msat(1000),
        max_fee=Msat(100),
        final_cltv_delta=18,
        created=1,
        deadline=2,
        status=PaymentStatus.SUCCEEDED,
        preimage=Preimage(b"p" * 32),
        finished=3,
    )

    async def main() -> None:
        await journal.commit([PutPayment(paid)])
        running = Running(journal)
        with pytest.raises(CommandRefused) as refused:
            await asyncio.wait_for(running.actor.pay(paid, (), multi_part=False), 5)
        assert refused.value.code == "already_paid"

    asyncio.run(main())
