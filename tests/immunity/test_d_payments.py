"""D1 a preimage pulled out of the payee (CVE-2020-26896, lnd)

What failed: an HTLC that was to be passed on, with the hash of an invoice of the relaying node, was settled with that
invoice's preimage.

Defence: payments/forwarding.py:relay knows no invoices; only payments/incoming.py:receive, which a final onion with
the payment secret leads to, claims one.

The same on the chain: onchain/resolve.py, tested in tests/onchain.

D5 probing for balances and recipients (known to everybody; BOLT 4 on final errors)

What failed: the payee's error told an unknown hash from a wrong secret or amount.

Defence: payments/resolving.py:unknown_details is the one answer for all of them.

Not covered: differences in time, and what a relay's temporary_channel_failure tells of a balance.

D9 failure packets that crash their reader (eclair #3346, Core Lightning 25.09)

What failed: a failure that cannot be decrypted, or claims to come from beyond the route, raised.

Defence: onion/failures.py:read_failure and onion/attribution.py:read_attribution answer None for garbage and go through
as many hops as can be whatever they find.

D10 traps in routing hints (Core Lightning 26.06, LDK 0.2.3)

What failed: hints in a circle, hints that name the payer, or fees near the largest number made the search loop or
overflow.

Defence: routing/pathfinding.py:_Search._lay_hints takes at most MAX_HINT_HOPS of them, none through ourselves; fees and
amounts are bounded before they are added.
"""

from __future__ import annotations

import random
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "payments"))

from payment_world import HASH, HEIGHT, NOW, SECRET, World, code_of, data_of, invoice

from salama.base.ids import NodeId, ShortChannelId
from salama.base.units import BlockHeight, Msat
from salama.invoices.bolt11 import HintHop
from salama.onion.attribution import read_attribution
from salama.onion.failures import read_failure
from salama.routing.pathfinding import OurChannel, find_route
from salama.routing.routes import Route
from salama.testing.graphs import random_graph, unsigned_node_id


@pytest.mark.parametrize("open_", [True, False])
def test_d1_our_own_invoices_hash_is_passed_on_like_any_other(open_: bool) -> None:
    world = World()
    if open_:
        world.invoices[HASH] = invoice(100_000)
    htlc = world.to_relay(100_000)
    world.does(htlc)
    assert len(world.adds) == 1 and not world.settles and not world.fails


def test_d1_nor_while_a_part_of_it_is_held() -> None:
    world = World()
    world.invoices[HASH] = invoice(100_000)
    world.does(world.to_us(50_000, 100_000))
    world.does(world.to_relay(50_000))
    assert len(world.adds) == 1 and not world.settles


def test_d5_every_reason_of_the_payee_sounds_alike() -> None:
    answers = set()
    for case in ("unknown", "secret", "little", "much", "expired", "paid", "soon"):
        world = World()
        if case != "unknown":
            world.invoices[HASH] = invoice(100_000, expires=NOW - 1 if case == "expired" else NOW + 3600)
        if case == "paid":
            world.does(world.to_us(100_000, 100_000))
            world.forgets()
        if case == "soon":
            world.height = BlockHeight(int(HEIGHT) + 30)
        total = {"little": 50_000, "much": 250_000}.get(case, 100_000)
        htlc = world.to_us(100_000, total, secret=b"\x01" * 32 if case == "secret" else SECRET)
        world.does(htlc)
        (fail,) = world.fails
        height = int(world.height).to_bytes(4, "big")
        data = data_of(fail, htlc)
        assert data.endswith(height)
        answers.add((code_of(fail, htlc), data.removesuffix(height), len(fail.reason)))
    assert len(answers) == 1


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=600), st.integers(0, 27), st.binary(max_size=1000), st.booleans())
def test_d9_any_blob_is_just_unreadable(packet: bytes, hops: int, block: bytes, whole: bool) -> None:
    secrets = [bytes([n + 1]) * 32 for n in range(hops)]
    assert read_failure(secrets, packet) is None
    read_attribution(secrets, (block * 920)[:920] if whole and block else block, packet)


GRAPH = random_graph(1, 40, 100)
US, PAYEE = unsigned_node_id(1 << 32 | 0), unsigned_node_id(999_999)
OURS = [
    OurChannel(scid, GRAPH.nodes_of(scid)[1 - GRAPH.nodes_of(scid).index(US)], Msat(10**9))  # type: ignore[index,union-attr]
    for scid in GRAPH.scids()
    if US in (GRAPH.nodes_of(scid) or ())
]


def search(hints: list[list[HintHop]]) -> Route | object:
    return find_route(
        GRAPH,
        US,
        PAYEE,
        Msat(1_000_000),
        final_cltv_delta=18,
        max_fee=Msat(100_000),
        height=HEIGHT,
        our_channels=OURS,
        hints=hints,
    )


def hint(node: NodeId, number: int, fee: int = 0, millionths: int = 0, delta: int = 40) -> HintHop:
    return HintHop(node, ShortChannelId.of(900_000, number, 0), fee, millionths, delta)


@pytest.mark.parametrize("seed", range(30))
def test_d10_any_hints_lead_to_an_answer(seed: int) -> None:
    """Circles, ourselves, the payee, the same hop many times, fees of all sizes."""
    dice = random.Random(seed)
    nodes = [US, PAYEE, *(unsigned_node_id(1 << 32 | n) for n in range(1, 6)), unsigned_node_id(777)]
    hints = [
        [
            hint(
                dice.choice(nodes),
                dice.randrange(4),
                dice.choice([0, 1, 0xFFFFFFFF]),
                dice.choice([0, 100, 0xFFFFFFFF]),
                dice.choice([0, 40, 0xFFFF]),
            )
            for _ in range(dice.randrange(1, 30))
        ]
        for _ in range(dice.randrange(1, 30))
    ]
    found = search(hints)
    if isinstance(found, Route):
        assert found.hops[-1].node_id == PAYEE
        through = [hop.node_id for hop in found.hops]
        assert US not in through and len(set(through)) == len(through)
        assert all(one.amount >= other.amount for one, other in pairwise(found.hops))
        assert int(found.hops[0].amount) <= 1_100_000


def test_d10_a_good_hint_among_bad_ones_is_found() -> None:
    good = hint(unsigned_node_id(1 << 32 | 3), 1, 1000, 100)
    assert isinstance(search([[hint(US, 2)], [hint(PAYEE, 3)] * 5, [good]]), Route)
