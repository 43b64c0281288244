"""C8 outputs that are not claimed, or claimed for nothing but fees (LDK 0.0.116)

What failed: in channels with anchors some claims were never made, and others paid all of their value to the miner.

Defence: onchain/resolve.py:resolve gives every output of every kind of commitment its standing, and
onchain/bump.py:budget_of bounds what a claim may cost. The golden matrix: whose commitment, who offered the HTLC, how
it ends, dust or one or several alike. Each case runs on Bitcoin Core's consensus, with no transaction of ours refused
and every satoshi found again (B5.01, B5.02, B5.04, B5.05, B5.08, B5.10); IMPOSSIBLE has the cells that cannot be.

C9 a reorganisation that swaps commitments or parts batches (LDK 0.0.117 #2623, LDK 0.2.5 #4849)

What failed: after a reorganisation another commitment confirmed, or a claim had to be made again from its parts, and
the node still went by what it had seen first.

Defence: onchain/machine.py:_without_block takes facts back, block by block, and nothing but facts is kept; nothing is
final before it is ``irrevocable_depth`` deep. Pairs of case and step by default, all of them in the full counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product

import pytest
from onchain_relay import Chain, Side, World, kind_of, open_chain

from salama.base.ids import Side as Direction
from salama.channel.events import Origin, SettleHtlc
from salama.channel.spec import SpecHtlc
from salama.onchain.identify import CloseKind
from salama.onchain.machine import close_of
from salama.onchain.outputs import Role
from salama.testing.pair import hash_of, preimage_of

BLOCKS_OF_A_CHAIN = 10_000
"""Then another one is begun: mined faster than real ones, its blocks get ahead of the clock, by two hours at most."""


@dataclass
class Chains:
    """One chain for many cases, and the next when it is long."""

    stack: ExitStack
    now: Chain | None = None

    def current(self) -> Chain:
        if self.now is None or self.now.height > BLOCKS_OF_A_CHAIN:
            self.stack.close()
            self.now = self.stack.enter_context(open_chain())
        return self.now


@pytest.fixture(scope="module")
def chains() -> Iterator[Chains]:
    with ExitStack() as stack:
        yield Chains(stack)


@pytest.fixture
def chain(chains: Chains) -> Chain:
    return chains.current()


@dataclass(frozen=True)
class Case:
    kind: CloseKind
    offered: bool
    """By Alice, whose side is looked at."""
    how: str
    count: str
    restarts: bool = False
    reorg: tuple[int, int] | None = None
    """After how many blocks, and how deep."""

    def __str__(self) -> str:
        parts = [self.kind.name.lower(), "offered" if self.offered else "received", self.how, self.count]
        parts += ["restarts"] if self.restarts else []
        parts += [f"reorg-{self.reorg[0]}-{self.reorg[1]}"] if self.reorg else []
        return "-".join(parts)


KINDS = (CloseKind.LOCAL, CloseKind.REMOTE, CloseKind.REMOTE_NEXT, CloseKind.REVOKED)
COUNTS = ("dust", "one", "several")
IMPOSSIBLE = {
    (CloseKind.LOCAL, "revocation"): "ours, and not revoked: the signer publishes no other; nobody could punish it",
    (CloseKind.REMOTE, "revocation"): "its secret was not given away: there is nothing to punish it with",
    (CloseKind.REMOTE_NEXT, "revocation"): "newer than that one, so its secret was not given away either",
}
"""Cells that cannot be, and why; who offered the HTLC, and how many there were, makes no difference to that."""
CELLS = [*product(KINDS, (True, False), ("preimage", "timeout", "revocation"), COUNTS)]
CASES = [Case(*cell) for cell in CELLS if (cell[0], cell[2]) not in IMPOSSIBLE]
AMOUNTS = {"dust": [300_000], "one": [50_000_999], "several": [20_000_000] * 3}
PREIMAGE = preimage_of(7)


def add(world: World, adder: Side, amounts: list[int], expiry: int) -> None:
    """HTLCs of one hash: only their ids tell them apart."""
    end = adder.end
    events = [
        replace(end.add_event(7, amount, expiry), origin=Origin(f"{adder.name} {n}".encode()))
        for n, amount in enumerate(amounts)
    ]
    end.does(*events)
    world.pair.settle()


def is_settled_by(side: Side) -> None:
    """The payee, cut off from the payer, decides to be paid."""
    record = side.end.record
    ids = [h.id for h in record.htlcs.values() if h.side is Direction.INCOMING and h.payment_hash == hash_of_case()]
    side.does(*(SettleHtlc(one, PREIMAGE) for one in ids))


def hash_of_case() -> bytes:
    return hash_of(7)


def play(chain: Chain, case: Case) -> tuple[World, Side, Side]:
    world = World.open(chain)
    alice, bob = world.alice, world.bob
    cheats = case.kind is CloseKind.REVOKED
    expiry = chain.height + (4 if cheats and case.how == "timeout" else 12 if case.how == "timeout" else 40)
    adder, payee = (alice, bob) if case.offered else (bob, alice)
    add(world, adder, AMOUNTS[case.count], expiry)
    publisher = alice if case.kind is CloseKind.LOCAL else bob
    if cheats:
        publisher = world.twin(bob)
        add(world, alice, [1_000_000], chain.height + 200)
        bob.is_offline = True
    elif case.kind is CloseKind.REMOTE_NEXT:
        alice.end.adds(30_000_000, expiry=chain.height + 12)
        while world.pair.deliver(alice.end):
            pass
        assert alice.end.record.funding.next_remote is not None
    world.pair.cut()
    if case.how == "preimage":
        is_settled_by(publisher if cheats and case.offered else payee)
    tx = world.force_close(publisher)
    if cheats and case.how != "revocation":
        # The cheater gets its second stage confirmed before Alice looks.
        alice.is_offline = True
        for _ in range(5):
            world.chain.mine()
            publisher.follows()
        alice.is_offline = False
        world.follow()
    blocks = 0
    honest = [alice] if cheats else [alice, bob]
    while not all(side.is_over for side in honest):
        assert blocks < 80, [(s.name, s.state) for s in honest if not s.is_over]
        world.chain.mine()
        blocks += 1
        if case.reorg is not None and blocks == case.reorg[0]:
            world.follow()
            world.chain.reorganise(case.reorg[1])
        world.follow()
        if case.restarts:
            for side in honest:
                side.restarts()
    check(world, case, alice, tx.txid)
    return world, alice, publisher


def belongs_to_alice(case: Case, htlc: SpecHtlc) -> bool:
    if case.kind is CloseKind.REVOKED:
        return True
    if htlc.payment_hash != hash_of_case():
        return htlc.side is Direction.OUTGOING
    return (htlc.side is Direction.OUTGOING) == (case.how == "timeout")


def check(world: World, case: Case, alice: Side, txid: bytes) -> None:
    assert alice.state is not None
    close, closed_at = close_of(alice.state, alice.htlcs_at)
    assert close is not None and close.tx.txid == txid and closed_at > 0
    assert close.kind is case.kind
    assert len(close.outputs) == len(close.tx.outputs), "every output is recognised"
    mine = {Role.TO_LOCAL} if case.kind is CloseKind.LOCAL else {Role.TO_REMOTE}
    mine |= {Role.TO_LOCAL} if case.kind is CloseKind.REVOKED else set()
    entitled = 0
    for output in close.outputs:
        if output.role in mine or (output.htlc is not None and belongs_to_alice(case, output.htlc)):
            entitled += int(output.amount)
    swept = {
        one.outpoint for s in alice.state.record.confirmed for one in s.tx.inputs if bytes(s.tx.txid) in alice.sent
    }
    anchors = sum(int(o.amount) for o in close.outputs if o.role is Role.OUR_ANCHOR and o.outpoint in swept)
    net, fees = world.gained(alice)
    assert net + fees == entitled + anchors, "every satoshi is found again"
    assert fees <= entitled * 6 // 10 + 1
    # What was told upstream: paid if and only if the preimage was shown.
    offered = set(range(len(AMOUNTS[case.count]))) if case.offered else set()
    if case.how == "preimage" and case.count != "dust":
        assert offered <= alice.learned() and not offered & alice.failed()
    else:
        assert offered <= alice.failed() and not offered & alice.learned()


def test_c8_every_cell_is_played_or_cannot_be() -> None:
    assert len(CELLS) == 72 and len(CASES) == 54 == len(set(CASES))
    assert len(CELLS) - len(CASES) == len(IMPOSSIBLE) * 2 * len(COUNTS)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_c8_golden_matrix(chain: Chain, case: Case) -> None:
    play(chain, case)


STEPS = [(after, depth) for after in (1, 2, 3, 6, 9, 12, 14) for depth in range(1, 7) if depth <= after]
DISTURBED = [
    replace(case, restarts=restarts, reorg=step) for case in CASES for restarts in (True, False) for step in STEPS
]
# Each case with some step, each step with some case, half of them with restarts.
PAIRWISE = [
    replace(case, restarts=number % 2 == 0, reorg=STEPS[5 * number % len(STEPS)])
    for number, case in enumerate(CASES)
    if number % 2
]


@pytest.mark.parametrize("case", PAIRWISE, ids=str)
def test_c9_with_reorganisations_and_restarts(chain: Chain, case: Case) -> None:
    play(chain, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", DISTURBED, ids=str)
def test_c9_with_every_reorganisation(chain: Chain, case: Case) -> None:
    play(chain, case)


SOME_DEPTHS = [pytest.param(n, marks=() if n in (1, 6) else pytest.mark.slow) for n in range(1, 7)]


@pytest.mark.parametrize("depth", SOME_DEPTHS)
@pytest.mark.parametrize("first_ours", [True, False])
def test_c9_another_commitment_confirms_in_the_other_branch(chain: Chain, first_ours: bool, depth: int) -> None:
    """Ours, then theirs instead, or the other way round: HTLCs of both directions find their ends in the second."""
    world = World.open(chain)
    alice, bob = world.alice, world.bob
    alice.end.adds(20_000_000, expiry=chain.height + 30)
    add(world, bob, [30_000_000], chain.height + 30)
    world.pair.cut()
    is_settled_by(alice)
    ours = world.force_close(alice)
    world.strict = False
    chain.core.pool.clear()
    theirs = world.force_close(bob)
    world.strict = True
    chain.core.pool.clear()
    first, second = (ours, theirs) if first_ours else (theirs, ours)
    chain.core.submit_tx(first)
    world.mine(depth)
    assert kind_of(alice) is (CloseKind.LOCAL if first_ours else CloseKind.REMOTE)
    world.strict = False
    chain.reorganise(depth, [second])
    chain.core.pool.clear()
    world.follow()
    world.strict = True
    alice.restarts()
    assert kind_of(alice) is (CloseKind.REMOTE if first_ours else CloseKind.LOCAL)
    world.run_until_over(alice)
    assert bob.learned() == {0}, "paid by its preimage"
    assert alice.failed() == {0} and not alice.learned()
    net, fees = world.gained(alice)
    close, _ = close_of(alice.state, alice.htlcs_at) if alice.state else (None, 0)
    assert close is not None
    role = Role.TO_REMOTE if first_ours else Role.TO_LOCAL
    mine = sum(int(o.amount) for o in close.outputs if o.role in (role, Role.HTLC))
    assert net + fees in (mine, mine + 330)
