"""The plan of claims: fees that never fall, company that cannot harm, one bad input that frees the rest.

Immunity C6, C12, C13; B5.08 to B5.11.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

from hypothesis import example, given, settings
from hypothesis import strategies as st

from salama.base.ids import OutPoint, PaymentHash, Preimage, Side, Txid
from salama.base.units import BlockHeight, CltvExpiry, FeeratePerKw, Msat, Sat
from salama.bitcoin.script import dust_limit, p2wpkh, p2wsh
from salama.bitcoin.tx import TxOut
from salama.channel.formats import ANCHORS
from salama.channel.scripts import to_local_script
from salama.channel.spec import SpecHtlc
from salama.onchain.bump import (
    BUDGET_PERCENT,
    LOWEST,
    PENALTY_BUDGET_PERCENT,
    URGENT,
    Parent,
    World,
    budget_of,
    floors_after,
    outpoints_of,
    plan,
    scheduled_feerate,
)
from salama.onchain.claims import Claim, Way
from salama.onchain.coins import choose_coins
from salama.onchain.state import Sweep
from salama.wallet.coins import Coin
from salama.wallet.keys import KeyPath

KEY = b"\x02" + bytes(31) + b"\x01"
SCRIPT = to_local_script(KEY, KEY, 144)
OURS = p2wpkh(KEY)
HEIGHT = 1000


def outpoint(number: int) -> OutPoint:
    return OutPoint(Txid(sha256(b"output %d" % number).digest()), number % 5)


def coin(number: int, value: int) -> Coin:
    return Coin(outpoint(10_000 + number), Sat(value), OURS, KeyPath("wpkh", 0, number), BlockHeight(1))


def claim(number: int, way: Way, amount: int, deadline: int | None, expiry: int = 2000) -> Claim:
    htlc = SpecHtlc(Side.INCOMING, number, Msat(amount * 1000), PaymentHash(bytes(32)), CltvExpiry(expiry))
    is_second = way in (Way.TIMEOUT_TX, Way.SUCCESS_TX)
    return Claim(
        outpoint(number),
        Sat(amount),
        SCRIPT,
        way,
        0,
        deadline,
        locktime=expiry if way is Way.TIMEOUT_TX else 0,
        htlc=htlc if way not in (Way.DELAYED, Way.PAYMENT, Way.ANCHOR) else None,
        preimage=Preimage(bytes(32)),
        their_signature=bytes(31) + b"\x01" + bytes(31) + b"\x01",
        second_stage=TxOut(Sat(amount), p2wsh(SCRIPT)) if is_second else None,
        revocation_pubkey=KEY if way is Way.PENALTY and number % 2 else b"",
        format=ANCHORS,
    )


def world(height: int = HEIGHT, feerate: int = 1000, **more: object) -> World:
    return replace(World(BlockHeight(height), FeeratePerKw(feerate), OURS), **more)  # type: ignore[arg-type]


class Wallet:
    """Gives whatever a plan asks for, and remembers it by purpose."""

    def __init__(self, count: int = 60, value: int = 100_000) -> None:
        self.coins = [coin(n, value) for n in range(count)]
        self.leases: dict[str, tuple[Coin, ...]] = {}
        self.floors: dict[OutPoint, int] = {}

    def plan(self, claims: list[Claim], sweeps: tuple[Sweep, ...], now: World) -> tuple[Sweep, ...]:
        """The sweeps in flight after this block."""
        offered: dict[str, tuple[Coin, ...]] = {}
        for _ in range(2):
            made = plan("channel", claims, sweeps, replace(now, offered=offered, floors=self.floors))
            self.floors = floors_after(self.floors, claims, (*sweeps, *(draft.sweep for draft in made.drafts)))
            if not made.wanted:
                break
            sweeps = (*made.kept, *(draft.sweep for draft in made.drafts))
            for one in made.wanted:
                held = {c.outpoint for c in self.leases.get(one.purpose, ())}
                taken = {c.outpoint for coins in self.leases.values() for c in coins}
                chosen = choose_coins(
                    [c for c in self.coins if c.outpoint not in taken - held], one.amount, one.feerate
                )
                self.leases[one.purpose] = offered[one.purpose] = tuple(chosen)
        return (*made.kept, *(draft.sweep for draft in made.drafts))


WAYS = st.sampled_from([way for way in Way if way is not Way.ANCHOR])
CLAIMS = st.lists(
    st.tuples(WAYS, st.integers(400, 2_000_000), st.integers(-5, 200), st.sampled_from([990, 995])), max_size=12
)


def claims_of(raw: list[tuple[Way, int, int, int]]) -> list[Claim]:
    patient = (Way.DELAYED, Way.PAYMENT)
    return [
        claim(n, way, amount, None if way in patient else HEIGHT + left, expiry)
        for n, (way, amount, left, expiry) in enumerate(raw)
    ]


def fee_of(sweep: Sweep, claims: list[Claim]) -> int:
    values = {one.outpoint: int(one.amount) for one in claims} | {c.outpoint: int(c.value) for c in sweep.coins}
    return sum(values[i.outpoint] for i in sweep.tx.inputs) - sum(int(o.value) for o in sweep.tx.outputs)


@settings(max_examples=150, deadline=None)
@given(CLAIMS, st.integers(253, 60_000))
def test_a_plan_is_sound(raw: list[tuple[Way, int, int, int]], feerate: int) -> None:
    """Every output is claimed at most once, in company that fits, within its budget, and nothing becomes dust."""
    claims = claims_of(raw)
    by = {one.outpoint: one for one in claims}
    sweeps = Wallet().plan(claims, (), world(feerate=feerate))
    claimed = [o for sweep in sweeps for o in sweep.claims]
    assert len(claimed) == len(set(claimed))
    for sweep in sweeps:
        group = [by[o] for o in sweep.claims]
        assert [i.outpoint for i in sweep.tx.inputs][: len(group)] == list(sweep.claims)
        assert fee_of(sweep, claims) == sweep.fee >= 0
        assert all(int(o.value) >= int(dust_limit(o.script)) for o in sweep.tx.outputs)
        for index, one in enumerate(group):
            if one.second_stage is not None:
                assert sweep.tx.outputs[index] == one.second_stage, "input i beside output i"
        assert len({one.way for one in group} - {Way.DELAYED, Way.PAYMENT, Way.ANCHOR}) <= 1
        assert len({one.is_pinnable for one in group}) == 1, "what the peer can spend never travels with what it cannot"
        if Way.TIMEOUT_TX in {one.way for one in group}:
            assert {one.locktime for one in group} == {sweep.tx.locktime}
        if len(group) > 1:
            assert all(one.deadline is None or one.deadline - HEIGHT >= URGENT for one in group)
        share = PENALTY_BUDGET_PERCENT if group[0].way is Way.PENALTY else BUDGET_PERCENT
        value = sum(int(one.amount) for one in group)
        cheapest = int(LOWEST) * (sweep.tx.weight + 300 * len(sweep.tx.inputs)) // 1000 + 400
        assert int(sweep.fee) <= max(value * share // 100 + 400, cheapest)


LEFT_BEHIND = (
    [(Way.DELAYED, 400, 0, 990)] * 7
    + [
        (Way.DELAYED, 615, 0, 990),
        (Way.DELAYED, 11_909, 2, 995),
        (Way.PAYMENT, 721, 1, 995),
        (Way.PAYMENT, 627, 1, 990),
    ],
    [(254, {0, 2}), (1260, {0, 2}), (1943, set[int]()), (253, set[int]())],
)
"""A market so dear that a replacement leaves the small outputs behind, then a calm one."""


def most_of(group: list[Claim], now: World) -> int:
    """Satoshis that may be spent on fees for ``group``."""
    budget = budget_of(group, now)
    if group[0].second_stage is None:
        budget = min(budget, sum(int(one.amount) for one in group) - int(dust_limit(now.script)))
    return budget


@settings(max_examples=60, deadline=None)
@example(*LEFT_BEHIND)
@given(CLAIMS, st.lists(st.tuples(st.integers(253, 40_000), st.sets(st.integers(0, 11), max_size=2)), max_size=25))
def test_the_rate_of_an_output_never_falls(
    raw: list[tuple[Way, int, int, int]], blocks: list[tuple[int, set[int]]]
) -> None:
    """Whatever the market does, and whichever outputs the peer takes away in between (C12).

    Whose company left may have lost the budget for the old rate, not the will: it pays all that it may. What is ours
    for ever and was left behind by a replacement, too dear for its worth, begins again: nobody is racing.
    """
    claims = claims_of(raw)
    by = {one.outpoint: one for one in claims}
    wallet, sweeps = Wallet(), tuple[Sweep, ...]()
    best: dict[OutPoint, int] = {}
    for passed, (feerate, gone) in enumerate(blocks):
        claims = [one for n, one in enumerate(claims) if n not in gone]
        before = sweeps
        now = world(HEIGHT + passed, feerate)
        sweeps = wallet.plan(claims, sweeps, now)
        flying = outpoints_of(before)
        for one in claims:
            if one.deadline is None and one.outpoint not in flying:
                best.pop(one.outpoint, None)
        for sweep in sweeps:
            group = [by[at] for at in sweep.claims]
            rounding = int(sweep.fee) // int(sweep.feerate) + 2
            for at in sweep.claims:
                if int(sweep.feerate) < best.get(at, 0) - 1:
                    assert int(sweep.fee) >= most_of(group, now) - rounding
                best[at] = int(sweep.feerate)
        here = {one.outpoint for one in claims}
        for old in before:
            if set(old.claims) <= here and all(old.tx.txid != s.tx.txid for s in sweeps):
                # Whoever is published first takes its place, and the others find it empty.
                first = next((s for s in sweeps if set(old.claims) & set(s.claims)), None)
                if first is not None and not first.coins:
                    assert int(first.fee) > int(old.fee), "what replaces must pay more"


def test_a_poor_wallet_never_replaces_a_claim_by_a_worse_one() -> None:
    """C12: the coins that are left would raise the fee and lower the rate."""
    one = claim(0, Way.TIMEOUT_TX, 599_230, HEIGHT, 990)
    wallet = Wallet(count=60, value=100_000)
    (first,) = wallet.plan([one], (), world(feerate=253))
    (second,) = wallet.plan([one], (first,), world(HEIGHT + 1, 253))
    assert second.feerate >= first.feerate


@given(st.integers(253, 100_000), st.integers(253, 1_000_000), st.integers(0, 300))
def test_the_schedule_rises_with_height(market: int, most: int, left: int) -> None:
    rates = [scheduled_feerate(market, most, 1000, 1000 - n) for n in range(left, -3, -1)]
    assert rates == sorted(rates)
    assert rates[-1] == (most if most > market else min(market, most))
    assert scheduled_feerate(market, most, None, 5) == min(market, most)


def test_one_bad_input_is_ejected_at_once() -> None:
    """C13, C6: together until one is taken away; the others go on in the same block, at no lower rate."""
    claims = [claim(2 * n + 1, Way.PENALTY, 50_000, HEIGHT + 100) for n in range(5)]
    (together,) = Wallet().plan(claims, (), world())
    assert len(together.claims) == 5
    left = claims[1:]
    (rest,) = Wallet().plan(left, (together,), world(HEIGHT + 1, 500))
    assert set(rest.claims) == {one.outpoint for one in left} and rest.feerate >= together.feerate
    alone = world(HEIGHT + 1, alone=frozenset(one.outpoint for one in claims))
    assert sorted(len(s.claims) for s in Wallet().plan(claims, (together,), alone)) == [1] * 5


def test_penalties_part_before_the_deadline() -> None:
    """B5.08: together while there is time, each on its own from ``security_delay`` on."""
    claims = [claim(n, Way.PENALTY, 50_000, HEIGHT + 30) for n in range(6)]
    early = Wallet().plan(claims, (), world())
    assert sorted(len(s.claims) for s in early) == [3, 3], "those that the cheater can pin, and those that it cannot"
    assert Wallet().plan(claims, early, world(HEIGHT + 12)) == early
    late = Wallet().plan(claims, early, world(HEIGHT + 13))
    assert sorted(len(s.claims) for s in late) == [1] * 6
    assert all(int(s.fee) > max(int(e.fee) for e in early) for s in late), "each outbids the one that it was in"


def test_who_parts_pays_once_for_the_place_of_the_whole() -> None:
    """B5.08: as soon as one has replaced what they were in together, nothing is in the way of the others."""
    claims = [claim(2 * n, Way.PREIMAGE, 20_000 + 9 * n, HEIGHT + 20) for n in range(40)]
    (together,) = Wallet().plan(claims, (), world(feerate=1000))
    singles = Wallet().plan(claims, (together,), world(HEIGHT + 3, 1000))
    assert sorted(len(s.claims) for s in singles) == [1] * 40
    assert int(singles[0].fee) > int(together.fee) + 40, "published first"
    assert singles[0].claims == (claims[-1].outpoint,), "who has the most to win"
    assert all(int(s.fee) < 2_000 and s.feerate >= together.feerate for s in singles[1:])


def test_claims_too_small_to_part_stay_together() -> None:
    """None of them alone could replace what they are in: it stays in flight, and pays more as time runs out."""
    claims = [claim(2 * n, Way.PREIMAGE, 2_000, HEIGHT + 20) for n in range(40)]
    (together,) = Wallet().plan(claims, (), world(feerate=1000))
    flying = (together,)
    for passed in range(3, 20):
        flying = Wallet().plan(claims, flying, world(HEIGHT + passed, 1000))
        assert outpoints_of(flying) == {one.outpoint for one in claims} and len(flying) == 1
    assert flying[0].feerate > 2 * together.feerate
    contested = replace(together, refused="txn-mempool-conflict")
    singles = Wallet().plan(claims, (contested,), world(HEIGHT + 3, 1000))
    assert sorted(len(s.claims) for s in singles) == [1] * 40, "what nobody has is not in the way"
    assert all(int(s.fee) <= 1_000 for s in singles)


def test_without_coins_for_each_they_stay_together() -> None:
    claims = [claim(2 * n, Way.TIMEOUT_TX, 50_000, HEIGHT + 20, 990) for n in range(5)]
    wallet = Wallet(count=3)
    (together,) = wallet.plan(claims, (), world())
    assert sorted(len(s.claims) for s in Wallet().plan(claims, (together,), world(HEIGHT + 3))) == [1] * 5
    for passed in range(3, 20):
        (flying,) = wallet.plan(claims, (together,), world(HEIGHT + passed))
        assert flying.claims == together.claims and flying.feerate >= together.feerate
        together = flying


def test_a_rate_is_remembered_while_the_wallet_is_asked_for_coins() -> None:
    """C12: the peer takes one of them, the market has fallen, and the rest goes on at what it was offered for."""
    claims = [claim(2 * n, Way.TIMEOUT_TX, 50_000, HEIGHT + 100, 990) for n in range(5)]
    wallet = Wallet()
    (together,) = wallet.plan(claims, (), world(feerate=5000))
    claims.sort(key=lambda one: one.outpoint)
    for gone in range(1, 5):
        (left,) = wallet.plan(claims[gone:], (together,), world(HEIGHT + gone, 300))
        assert left.claims == together.claims[1:] and left.feerate >= together.feerate - 1
        together = left


def test_what_is_in_flight_is_left_alone_when_more_becomes_claimable() -> None:
    first = [claim(1, Way.DELAYED, 500_000, None)]
    (flying,) = Wallet().plan(first, (), world())
    sweeps = Wallet().plan([*first, claim(2, Way.DELAYED, 400_000, None)], (flying,), world(HEIGHT + 3))
    assert flying in sweeps and len(sweeps) == 2


def test_a_dear_market_is_waited_out_by_who_has_time() -> None:
    claims = [claim(1, Way.DELAYED, 20_000, None)]
    made = plan("c", claims, (), world(feerate=50_000))
    assert not made.drafts and made.uneconomic == tuple(claims)
    assert Wallet().plan(claims, (), world(feerate=1000))


def test_a_child_pays_for_its_parent_once_and_no_more_than_half_of_what_is_at_stake() -> None:
    anchor = claim(1, Way.ANCHOR, 330, HEIGHT + 40)
    parent = Parent(Txid(bytes(32)), 1000, Sat(253))
    now = world(feerate=20_000, parent=parent, stake=1_000_000)
    (child,) = Wallet().plan([anchor], (), now)
    assert child.parent == parent.txid
    weight = child.tx.weight + 300
    assert (int(child.fee) + 253) * 1000 >= 20_000 * (weight - 300 + 1000)
    assert Wallet().plan([anchor], (child,), now) == (child,)
    poor = replace(now, stake=400)
    assert not Wallet().plan([anchor], (), poor)
    assert not Wallet().plan([anchor], (child,), replace(now, parent=None)), (
        "an anchor alone is not worth a transaction"
    )


def test_coins_are_chosen_sparingly() -> None:
    coins = [coin(n, value) for n, value in enumerate((500, 3_000, 9_000, 40_000))]
    assert choose_coins(coins, Sat(2_000), FeeratePerKw(1000)) == (coins[1],)
    assert choose_coins(coins, Sat(45_000), FeeratePerKw(1000)) == (coins[3], coins[2])
    assert choose_coins(coins, Sat(60_000), FeeratePerKw(1000)) == (coins[3], coins[2], coins[1]), "what there is"
    assert choose_coins([], Sat(0), FeeratePerKw(1000)) == ()
