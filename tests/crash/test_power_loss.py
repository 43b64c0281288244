"""Power cuts under two-hop load: nothing lost, nothing paid twice, no channel closed; without syncs it would be.

The last test ruins the line that all of them share.
"""

import random
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest
from moments import order_of
from power_cuts import Line, PowerCuts, line_of_three
from system_calls import can_trace, moments_in, traced

from salama.testing import sqlite_vfs
from salama.testing.network import LocalNode

pytestmark = pytest.mark.skipif(not sqlite_vfs.is_reachable(), reason="this Python keeps its SQLite to itself")

MESSAGES = ("commitment_signed", "revoke_and_ack")


def check(line: Line, count: int, seed: int) -> None:
    found = PowerCuts(line, random.Random(seed)).run(count)
    print(found)
    assert found.wrong == []
    assert found.cuts == count
    # The power did fail while something was on its way to the disk.
    assert found.changes_lost > 0
    assert found.moments.keys() - {"idle", "at any time"}


def pay_thirty(line: Line) -> None:
    alice, bob, carol = line.nodes
    line.network.usable(alice, bob)
    line.network.usable(bob, carol)
    invoices = [carol.invoice("10000sat") for _ in range(30)]
    with ThreadPoolExecutor(10) as pool:
        paid = list(pool.map(lambda request: alice.call("pay", request=request)["status"], invoices))
    assert paid.count("succeeded") == 30


def assert_in_order(node: LocalNode, moments: Iterable[str]) -> None:
    order = order_of(moments)
    assert order.early == [], node.name
    assert all(order.sent.get(kind, 0) >= 5 for kind in MESSAGES), (node.name, order.sent)


def test_commitments_and_revocations_are_sent_after_their_sync(line: Line) -> None:
    notes = {node.name: line.network.directory / f"{node.name}.moments" for node in line.nodes}
    for node in line.nodes:
        line.restart(node, "--moments", str(notes[node.name]))
    pay_thirty(line)
    for node in line.nodes:
        assert_in_order(node, notes[node.name].read_text().splitlines())


@pytest.mark.slow
@pytest.mark.skipif(not can_trace(), reason="needs strace and the right to trace processes")
def test_the_kernel_saw_the_same_order() -> None:
    with line_of_three() as line:
        bob = line.nodes[1]
        calls = line.network.directory / "bob.calls"
        line.network.stop(bob)
        line.network.processes.program = traced(calls, line.network.directory / "bob.moments")
        line.network.start("bob")
        pay_thirty(line)
        line.network.stop(bob)
        assert_in_order(bob, moments_in(calls.read_text()))


def test_ten_power_cuts(line: Line) -> None:
    check(line, 10, seed=1)


@pytest.mark.slow
def test_two_hundred_power_cuts() -> None:
    with line_of_three() as line:
        check(line, 200, seed=2)


def test_nodes_that_do_not_sync_are_found_out(line: Line) -> None:
    found = PowerCuts(line, random.Random(3), synchronous="OFF").run(20)
    print(found)
    assert found.wrong != []
