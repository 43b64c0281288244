"""A disk that takes no more: the node says nothing that is not written, stops with one sentence, and loses nothing.

The disk is full for one process: the kernel refuses to let its files grow (RLIMIT_FSIZE).
"""

import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from salama.base.machine import CommandRefused
from salama.storage.database import DATABASE_NAME
from salama.testing.network import LocalNetwork, LocalNode, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")

CAPACITY = 1_000_000_000


@pytest.fixture(scope="module")
def pair(network: LocalNetwork) -> tuple[LocalNode, LocalNode]:
    alice, bob = network.start("alice"), network.start("bob")
    network.fund(alice)
    network.open(alice, bob, "1000000sat", push="500000sat")
    return alice, bob


def fill_the_disk(node: LocalNode) -> None:
    """From now on no file of the node may grow beyond what its write-ahead log has."""
    size = (node.directory / f"{DATABASE_NAME}-wal").stat().st_size
    resource.prlimit(node.child.pid, resource.RLIMIT_FSIZE, (size, size))


def shares(node: LocalNode, peer: LocalNode) -> tuple[int, int]:
    one = node.channel(peer)
    return one["ours_msat"], one["theirs_msat"]


def status_of(node: LocalNode, payment_hash: str) -> str:
    """Of a payment; one of which nothing was written never happened."""
    lines = node.call("payments", limit=1000)["payments"]
    return str(next((one["status"] for one in lines if one["payment_hash"] == payment_hash), "unknown"))


def ended_well(network: LocalNetwork, node: LocalNode) -> None:
    """It ended by itself, with one sentence for a person and a failure for whoever started it."""
    assert network.ended(node) == 1
    (line,) = node.complaints().splitlines()
    assert line.startswith("salama: The database cannot be written any more: ")
    node.child.log.write_text("")


@pytest.mark.parametrize("payer_is_full", [False, True], ids=["payee", "payer"])
def test_the_disk_is_full_in_the_middle_of_a_payment(
    network: LocalNetwork, pair: tuple[LocalNode, LocalNode], payer_is_full: bool
) -> None:
    alice, bob = pair
    full, other = pair if payer_is_full else pair[::-1]
    before = shares(alice, bob)
    made = bob.call("invoice", amount="1000sat")
    fill_the_disk(full)

    def pay() -> dict[str, Any] | None:
        with suppress(CommandRefused):
            paid: dict[str, Any] = alice.call("pay", request=made["invoice"], timeout=20)
            return paid
        return None

    with ThreadPoolExecutor(1) as pool:
        paying = pool.submit(pay)
        ended_well(network, full)
        # what it had not written down, it did not say
        until(f"{other.name} notices", lambda: not other.channel(full)["connected"])
        assert shares(alice if other is alice else bob, bob if other is alice else alice) in (before, before[::-1])
        network.start(full.name)
        network.usable(alice, bob)
    paid = paying.result()
    until("the result is known", lambda: status_of(alice, made["payment_hash"]) != "pending")
    network.at_rest()
    status = status_of(alice, made["payment_hash"])
    if paid is not None:
        assert paid["status"] == status
    moved = 1_000_000 if status == "succeeded" else 0
    assert shares(alice, bob) == (before[0] - moved, before[1] + moved)
    assert shares(bob, alice) == shares(alice, bob)[::-1]
    line = bob.call("invoices", limit=1)["invoices"][0]
    assert (line["status"] == "paid") == (status == "succeeded")
    assert alice.pays(bob, "1sat")["status"] == "succeeded"


def test_the_disk_is_full_when_nothing_is_said(network: LocalNetwork, pair: tuple[LocalNode, LocalNode]) -> None:
    """A command that must write is not answered as if it had; afterwards there is no trace of it."""
    _, bob = pair
    known = len(bob.call("invoices", limit=1000)["invoices"])
    fill_the_disk(bob)
    with pytest.raises(CommandRefused) as refused:
        while True:
            bob.invoice("1sat", description="x" * 500)
            known += 1  # the log had room for it
    assert refused.value.code in ("internal_error", "no_answer", "storage_failed", "not_running")
    ended_well(network, bob)
    network.start("bob")
    assert len(bob.call("invoices", limit=1000)["invoices"]) == known


def test_a_full_disk_does_not_let_a_node_start(network: LocalNetwork, pair: tuple[LocalNode, LocalNode]) -> None:
    _, bob = pair
    network.stop(bob)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, before[1]))
    try:
        arguments = network.arguments("bob", bob.listen)
        said = network.refused("bob-full", arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(said.splitlines()) == 1
    assert said.startswith("salama: ")
    network.start("bob")
    network.usable(*pair)
    assert pair[0].pays(bob, "1sat")["status"] == "succeeded"
