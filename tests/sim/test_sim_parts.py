"""The bottle itself: order and time of a loop, a fuse that burns line by line, a disk that tears, links that break."""

import asyncio
from collections import Counter
from dataclasses import replace
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from salama.base.ids import ChannelId, NodeId, PaymentHash, Preimage
from salama.base.units import CltvExpiry, Msat
from salama.bitcoin.tx import Tx
from salama.net.tcp import PeerAddress
from salama.node.channels import Channels
from salama.node.node import Node
from salama.sim import crashes, invariants
from salama.sim.crashes import Fuse, PowerCut
from salama.sim.director import Size, Story
from salama.sim.disk import LOG_HEADER, PAGE, torn
from salama.sim.faults import KINDS
from salama.sim.links import told
from salama.sim.loop import NodeLoop
from salama.sim.run import Result, main, run_seed
from salama.sim.shrinking import shrink, story_of
from salama.sim.traffic import Tried
from salama.sim.words import FAIL, FULFIL, Words
from salama.sim.world import World
from salama.storage import queries
from salama.storage.errors import JournalFailed
from salama.storage.writes import PutKeyValue
from salama.transport.noise import StaticKey
from salama.wire import UpdateAddHtlc, UpdateFulfillHtlc, Warning

CALM = Size(nodes=(2, 2), payments=3, seconds=2.0, faults=0.0)


@pytest.fixture
def world(tmp_path):
    return World(5, tmp_path)


def test_a_loop_keeps_order_and_the_world_keeps_time(world):
    seen = []

    async def story():
        loop = asyncio.get_running_loop()
        loop.call_later(10, seen.append, ("late", 10))
        loop.call_soon(seen.append, "first")
        loop.call_soon(seen.append, "second")
        await asyncio.sleep(7)
        seen.append(loop.time())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await loop.create_future()
        seen.append(loop.time())
        seen.append(await asyncio.to_thread(lambda: "thread"))

    world.run(story())
    assert seen == ["first", "second", 7.0, ("late", 10), 12.0, "thread"]


def test_an_error_that_nobody_catches_is_a_problem(world):
    async def story():
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)
        await asyncio.sleep(1)

    world.run(story())
    assert len(world.problems) == 1
    assert "ZeroDivisionError" in world.problems[0]


def test_a_story_that_waits_for_nothing_is_a_problem(world):
    async def story():
        await asyncio.get_running_loop().create_future()

    world.run(story())
    assert "nobody has anything to do" in world.problems[0]


def test_what_unwinds_after_a_crash_never_returns(world):
    loop = NodeLoop(world, "alone")
    trace = []

    async def stubborn():
        try:
            await asyncio.sleep(100)
        finally:
            trace.append("unwound")

    task = loop.create_task(stubborn())
    loop.step()
    loop.unwind()
    assert trace == ["unwound"]
    assert task.cancelled()
    assert not loop.ready


def test_a_fuse_cuts_before_the_line_it_counted_to(monkeypatch):
    monkeypatch.setattr(crashes, "_known", {__file__: True})
    monkeypatch.setattr(crashes, "_ROOT", crashes.Path(__file__).parent)
    done, cut = [], []

    def work():
        done.append(1)
        done.append(2)
        done.append(3)

    with pytest.raises(PowerCut):
        Fuse(3, cut.append).run(work)
    assert done == [1, 2]
    assert len(cut) == 1
    assert cut[0].endswith("work+3")


@pytest.mark.parametrize("seed", range(4))
def test_a_power_cut_in_a_write_leaves_all_of_it_or_nothing(tmp_path, seed):
    world = World(seed, tmp_path)
    machine = world.add_machine()
    found = []

    async def story():
        machine.boot()
        while not machine.is_up:
            await asyncio.sleep(0.1)
        await machine.ask(lambda node: node.journal.commit([PutKeyValue("kept", b"1")]))
        lost = machine.ask(lambda node: node.journal.commit([PutKeyValue("a", b"1"), PutKeyValue("b", b"1")]))
        while not machine.journal._connection.in_transaction:
            await asyncio.sleep(0.0001)
        world.later(world.time, lambda: world.pull_the_plug(machine))
        found.append(type((await asyncio.gather(lost, return_exceptions=True))[0]).__name__)
        while not machine.is_up:
            await asyncio.sleep(0.1)
        found.extend(machine.journal.read_now(lambda db: [queries.key_value(db, k) for k in ("kept", "a", "b")]))

    world.run(story())
    assert world.problems == []
    was_lucky = world.counts["write that nobody heard of"] == 1
    assert found[:2] == ["MachineDown", b"1"]
    assert found[2:] == ([b"1", b"1"] if was_lucky else [None, None])
    assert machine.lives == 2


def test_what_a_power_cut_leaves_of_a_log():
    dice = Random(3)
    before = bytes(LOG_HEADER) + b"a" * PAGE * 3
    after = b"h" * LOG_HEADER + b"b" * PAGE * 3 + b"c" * PAGE
    kinds: Counter[str] = Counter()
    for _ in range(200):
        found, kind = torn(before, after, dice)
        kinds[kind] += 1
        assert found.startswith(b"h" * LOG_HEADER), "the head of the log is synced before its pages"
        assert (found == after) == (kind == "write that nobody heard of")
    assert kinds.keys() == {"write lost", "torn write", "write that nobody heard of"}


async def _connected(world):
    """Both ends of a connection between two machines without nodes."""
    one, other = world.add_machine(), world.add_machine()
    taken = []
    one.loop = other.loop = asyncio.get_running_loop()
    other.listener = SimpleNamespace(our_key=StaticKey.of(bytes(31) + b"\x02"), take=taken.append)
    called = NodeId(other.listener.our_key.point)
    our_key = StaticKey.of(bytes(31) + b"\x03")
    near = await world.network.connect(one, PeerAddress(other.name, 9735), called, our_key)
    return near, taken[0]


async def _all_received(connection):
    messages = []
    while batch := await connection.receive():
        messages += batch
    return messages


def test_a_connection_cut_in_a_frame_brings_what_was_before_it(world):
    messages = [bytes([0, 18]) + bytes([n]) * 50 for n in range(20)]
    frame = 50 + 2 + 34
    told = []

    async def story():
        near, far = await _connected(world)
        near.cut_at_byte = 5 * frame + 40
        near.send(messages)
        told.append(await _all_received(far))
        assert near.over and far.over
        assert await near.receive() == []

    world.run(story())
    assert told == [messages[:5]]
    assert world.counts["cut at a byte"] == 1


def test_a_wrong_bit_ends_the_connection(world):
    messages = [bytes([0, 18]) + bytes([n]) * 50 for n in range(20)]
    told = []

    async def story():
        near, far = await _connected(world)
        near.alter_after = 3
        near.send(messages)
        told.append(await _all_received(far))

    world.run(story())
    assert told == [messages[:3]]
    assert world.counts["bit altered"] == 1


def test_a_clock_that_drifts_goes_on_from_where_it_was(world):
    machine = world.add_machine()
    start = machine.skew
    machine.drift(0.5)
    world.time = 10.0
    assert machine.skew_now == start + 5
    machine.drift(0.0)
    world.time = 20.0
    assert machine.skew_now == start + 5


def test_a_message_is_told_so_that_its_payment_can_be_followed():
    channel, payment_hash = ChannelId(b"\xcc" * 32), PaymentHash(b"\xaa" * 32)
    add = UpdateAddHtlc(
        channel_id=channel,
        id=7,
        amount_msat=Msat(5_000),
        payment_hash=payment_hash,
        cltv_expiry=CltvExpiry(209),
        onion_routing_packet=bytes(1366),
    )
    fulfil = UpdateFulfillHtlc(channel_id=channel, id=7, payment_preimage=Preimage(bytes(32)))
    assert told(add.encode()).startswith("update_add_htlc cccccccc #7 5000 msat to aaaaaaaaaaaa until 209 (")
    assert told(fulfil.encode()).startswith("update_fulfill_htlc cccccccc #7 (")
    complaint = told(Warning(channel_id=channel, data=b"no\x1b[31m\n").encode())
    assert complaint.startswith("warning cccccccc 'no\\x1b[31m\\n' (")
    assert told(b"\x80\x85\x01").startswith("unknown type 32901 01 (")
    assert told(add.encode()[:20]).startswith("update_add_htlc cccccccc #")


def test_who_fulfils_and_fails_the_same_htlc_is_told_of(world):
    words, (one, other) = Words(world), (world.add_machine(), world.add_machine())
    connection = SimpleNamespace(owner=one, peer=other)
    about = bytes(32) + (7).to_bytes(8, "big")
    words.said(connection, FULFIL + about + bytes(32))
    words.said(connection, FULFIL + about + bytes(32))
    assert world.problems == []
    words.said(connection, FAIL + about + bytes(2))
    assert "both fulfils and fails HTLC 7" in world.problems[0]


def test_a_liar_may_cost_what_has_no_output_and_nothing_more(world):
    one, other, liar = world.add_machine(), world.add_machine(), world.add_machine()
    ended = SimpleNamespace(in_flight=())
    little = Tried(one, other, invariants.WORTH_CLAIMING - 1, PaymentHash(bytes(32)))
    much = replace(little, amount=invariants.WORTH_CLAIMING)
    assert not invariants._excused(world, little, ended)
    liar.is_hostile = True
    assert invariants._excused(world, little, ended)
    assert not invariants._excused(world, much, ended)


@pytest.mark.parametrize("fault", ["write", "commit"])
def test_a_node_whose_disk_fails_says_so_once_and_stops(world, fault):
    machine = world.add_machine()
    raised = []

    async def watched(node, ready):
        try:
            await original(node, ready)
        except BaseException as error:
            raised.append(error)
            raise

    async def story():
        machine.boot()
        while not machine.is_up:
            await asyncio.sleep(0.1)
        machine.disk_fault = fault
        written = machine.ask(lambda node: node.journal.commit([PutKeyValue("lost", b"1")]))
        await asyncio.gather(written, return_exceptions=True)
        while machine.is_up:
            await asyncio.sleep(0.1)

    original, Node.run = Node.run, watched
    try:
        world.run(story())
    finally:
        Node.run = original
    assert [type(error) for error in raised[:1]] == [JournalFailed]
    assert world.problems == []
    assert world.counts[f"disk {fault} failed"] == 1


def test_a_chain_that_reorganises_keeps_every_coin(world):
    chain = world.chain
    chain.give([])
    for _ in range(5):
        chain.mine()
    before, tip = chain.state.total, chain.state.active[-1]
    chain.reorganise(3)
    assert chain.height == 7
    assert chain.state.active[-1] != tip
    assert chain.state.total == before + 50 * 100_000_000
    assert len(chain.state.active) == len(set(chain.state.active))


def test_a_transaction_from_nowhere_is_refused(world):
    result = world.chain.offer("n0", Tx(2, (), (), 0))
    assert not result.accepted
    assert world.chain.refused[0][0] == "n0"


def test_liars_cannot_freeze_or_crash_anyone():
    size = Size(nodes=(4, 5), payments=30, seconds=12.0, faults=0.2, lies=0.06)
    counts: Counter[str] = Counter()
    for seed in range(1, 4):
        result = run_seed(seed, size)
        assert result.problems == []
        counts += result.counts
    assert sum(number for kind, number in counts.items() if kind.startswith("hostile")) >= 5


def test_shrinking_finds_the_smallest_world_that_fails():
    def run(seed, size, **_):
        bad = "cut" in (size.only or KINDS) and size.faults > 0 and size.payments >= 10
        return Result(seed, "", ["bad"] if bad else [], Counter(), Counter(), 0, 0.0)

    said = []
    small = shrink(1, Size(nodes=(5, 8), payments=64, faults=1.0, lies=0.1), run, said.append)
    assert small.only == {"cut"}
    assert small.lies == 0.0
    assert 10 <= small.payments < 20
    assert small.nodes == (2, 2)
    assert said[0] == "without faults: does not fail"
    assert "without plug: fails, too" in said


def test_the_story_of_a_failure_is_about_what_failed():
    def run(seed, size, *, tell, **_):
        tell("[1] 0.1 n1: boots (1)")
        tell("[2] 0.2 n2: boots (1)")
        tell("[3] 0.3 n2>n1 update_add_htlc b8844d51 #1")
        tell("[4] 0.4 n2>n1 update_add_htlc 11111111 #1")
        for at in range(200):
            tell(f"[{at}] block {at}")
        return Result(seed, "", ["[5] 0.5 n2 b8844d510ca5 never came to rest"], Counter(), Counter(), 0, 0.0)

    first, *told = story_of(1, CALM, run)
    assert "(202 lines left out" in first
    assert told == ["[2] 0.2 n2: boots (1)", "[3] 0.3 n2>n1 update_add_htlc b8844d51 #1"]


def test_the_command_tells_a_line_for_each_seed(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["3..4", "--nodes", "2..3", "--payments", "4", "--seconds", "2", "--faults", "0"], standalone_mode=False)
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[:2]] == [["seed", "3", "ok"], ["seed", "4", "ok"]]
    assert "hash=" in lines[0]


def test_the_story_can_be_told_to_any_step(tmp_path):
    world = World(3, tmp_path, max_steps=700)
    world.run(Story(world, CALM).play())
    assert world.steps == 700


def test_a_node_looks_at_the_channels_of_a_peer_in_the_order_of_their_beginning() -> None:
    """Were it the order of their addresses in memory, no seed could be played again line by line."""

    class Begun:
        peer, task = NodeId(b"\x02" + bytes(31) + b"\x01"), True

    channels: Any = Channels.__new__(Channels)
    channels.by_peer = {}
    actors: list[Any] = [Begun() for _ in range(100)]
    for actor in actors:
        channels._start(actor)
    assert list(channels.by_peer[Begun.peer]) == actors
