"""``reduce``: what updates make of a commitment, against a plain model, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.base.ids import PaymentHash, Side
from salama.base.units import CltvExpiry, FeeratePerKw, Msat
from salama.channel.spec import (
    Add,
    BalanceExceeded,
    CommitmentSpec,
    DuplicateHtlc,
    Fail,
    Fee,
    Fulfil,
    ImpossibleUpdate,
    MisplacedAdd,
    SpecHtlc,
    UnknownHtlc,
    Update,
    reduce,
)

HASH = PaymentHash(bytes(32))
START = CommitmentSpec(True, FeeratePerKw(1000), Msat(700_000), Msat(300_000))


def add(side: Side, htlc_id: int, amount: int) -> Add:
    return Add(SpecHtlc(side, htlc_id, Msat(amount), HASH, CltvExpiry(500)))


def test_adds_come_out_of_the_balance_of_their_maker() -> None:
    spec = reduce(START, [add(Side.OUTGOING, 0, 10_000)], [add(Side.INCOMING, 0, 1_000)])
    assert (spec.to_local, spec.to_remote) == (Msat(690_000), Msat(299_000))
    assert [htlc.side for htlc in spec.htlcs.values()] == [Side.OUTGOING, Side.INCOMING]
    assert spec.find(Side.INCOMING, 0) == add(Side.INCOMING, 0, 1_000).htlc
    assert spec.find(Side.INCOMING, 1) is None
    assert [spec.is_offered(htlc) for htlc in spec.htlcs.values()] == [True, False]
    assert not START.htlcs


def test_a_fulfil_pays_its_maker_and_a_fail_pays_back() -> None:
    spec = reduce(
        START,
        [add(Side.OUTGOING, 0, 10_000), add(Side.OUTGOING, 1, 20_000)],
        [add(Side.INCOMING, 0, 1_000), add(Side.INCOMING, 1, 2_000)],
    )
    spec = reduce(spec, [Fulfil(0), Fail(1)], [Fulfil(1), Fail(0)])
    assert (spec.our_balance, spec.their_balance) == (Msat(700_000 - 20_000 + 1_000), Msat(300_000 + 20_000 - 1_000))
    assert not spec.htlcs and spec.total == START.total


def test_fee_rate() -> None:
    assert reduce(START, [Fee(FeeratePerKw(2000)), Fee(FeeratePerKw(3000))], []) == replace(
        START, feerate=FeeratePerKw(3000)
    )
    assert reduce(START, [], [Fee(FeeratePerKw(253))]).feerate == FeeratePerKw(253)


@dataclass(frozen=True, slots=True)
class AddWithOnion(Add):
    """As the machine may carry more in its updates."""

    onion: bytes


def test_updates_may_carry_more() -> None:
    plain = add(Side.OUTGOING, 0, 10_000)
    assert reduce(START, [AddWithOnion(plain.htlc, b"onion")], []) == reduce(START, [plain], [])


@pytest.mark.parametrize(
    ("ours", "theirs", "refusal"),
    [
        ([Fulfil(0)], [], UnknownHtlc(Side.INCOMING, 0)),
        ([], [Fail(3)], UnknownHtlc(Side.OUTGOING, 3)),
        ([add(Side.OUTGOING, 0, 1), Fulfil(0)], [], UnknownHtlc(Side.INCOMING, 0)),  # nobody settles its own
        ([add(Side.INCOMING, 0, 1)], [], MisplacedAdd(Side.INCOMING, 0)),
        ([], [add(Side.OUTGOING, 0, 1)], MisplacedAdd(Side.OUTGOING, 0)),
        ([add(Side.OUTGOING, 0, 1), add(Side.OUTGOING, 0, 2)], [], DuplicateHtlc(Side.OUTGOING, 0)),
        ([add(Side.OUTGOING, 0, 700_001)], [], BalanceExceeded(ours=True, missing=1)),
        ([], [add(Side.INCOMING, 0, 300_005)], BalanceExceeded(ours=False, missing=5)),
    ],
)
@pytest.mark.parametrize("owner_is_us", [True, False])
def test_impossible_updates(
    ours: list[Update], theirs: list[Update], refusal: ImpossibleUpdate, owner_is_us: bool
) -> None:
    start = START if owner_is_us else START.seen_by_other()
    with pytest.raises(type(refusal)) as caught:
        reduce(start, ours, theirs)
    assert vars(caught.value) == vars(refusal) and str(caught.value) == str(refusal)
    assert start.htlcs == {}


def test_a_whole_balance_may_be_offered() -> None:
    spec = reduce(START, [add(Side.OUTGOING, 0, 700_000)], [add(Side.INCOMING, 0, 300_000)])
    assert (spec.to_local, spec.to_remote) == (Msat(0), Msat(0))


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[list[Update], list[Update], dict[str, int]]]:
    """Rounds of valid updates with the balances that a plain model expects after each."""
    held: dict[tuple[Side, int], int] = {}
    balance = {"ours": 700_000, "theirs": 300_000}
    next_id = {Side.OUTGOING: 0, Side.INCOMING: 0}
    rounds = []
    for _ in range(draw(st.integers(1, 5))):
        updates: dict[str, list[Update]] = {"ours": [], "theirs": []}
        for _ in range(draw(st.integers(0, 6))):
            who = draw(st.sampled_from(["ours", "theirs"]))
            whom = "theirs" if who == "ours" else "ours"
            side = Side.OUTGOING if who == "ours" else Side.INCOMING
            settled = [key for key in held if key[0] is side.other]
            if settled and draw(st.booleans()):
                key = draw(st.sampled_from(sorted(settled, key=lambda key: key[1])))
                amount = held.pop(key)
                if draw(st.booleans()):
                    updates[who].append(Fulfil(key[1]))
                    balance[who] += amount
                else:
                    updates[who].append(Fail(key[1]))
                    balance[whom] += amount
            elif balance[who] > 0:
                amount = draw(st.integers(1, balance[who]))
                updates[who].append(add(side, next_id[side], amount))
                held[side, next_id[side]] = amount
                next_id[side] += 1
                balance[who] -= amount
        # An HTLC is never added and removed within one round: removals wait until it is committed.
        added = {(u.htlc.side, u.htlc.id) for both in updates.values() for u in both if isinstance(u, Add)}
        removed = {(Side.INCOMING, u.id) for u in updates["ours"] if isinstance(u, Fulfil | Fail)}
        removed |= {(Side.OUTGOING, u.id) for u in updates["theirs"] if isinstance(u, Fulfil | Fail)}
        if added & removed:
            return rounds
        rounds.append((updates["ours"], updates["theirs"], {**balance, "htlcs": len(held)}))
    return rounds


@settings(max_examples=150, deadline=None)
@given(histories())
def test_reduce_agrees_with_the_model(rounds: list[tuple[list[Update], list[Update], dict[str, int]]]) -> None:
    ours, theirs = START, START.seen_by_other()
    for our_updates, their_updates, expected in rounds:
        ours = reduce(ours, our_updates, their_updates)
        theirs = reduce(theirs, our_updates, their_updates)
        assert (int(ours.our_balance), int(ours.their_balance)) == (expected["ours"], expected["theirs"])
        assert len(ours.htlcs) == expected["htlcs"]
        assert ours.total == START.total
        assert theirs == ours.seen_by_other() and theirs.seen_by_other() == ours
        assert theirs.to_local == ours.their_balance
        for htlc in ours.htlcs.values():
            assert ours.is_offered(htlc) != theirs.is_offered(htlc)
