"""One plan for everything that is claimable: what goes together, at which fee, with whose coins (BOLT 5, B5.08 to
B5.11).

    plan(claims, sweeps, world) -> Plan     from what is claimable, the height, the fee rate and what is in flight

What protects the money:

- a fee rate is a function of deadline, budget and height, and for an output it never falls (immunity C12);
- claims that are urgent travel alone, if each can pay its way, and what the peer can spend first never travels with
  what it cannot (C13, C15);
- a transaction in flight is kept as long as all its inputs are ours to take; one bad input frees the others at once
  (C6, C13);
- the plan is worked out again at every block and all of it is offered to the network again (C14);
- nobody pays more than a part of what there is to win; what is not worth its fee waits for a cheaper time, and is
  named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from salama.base.ids import OutPoint, Txid
from salama.base.units import BlockHeight, FeeratePerKw, Sat
from salama.base.values import replace
from salama.bitcoin.script import dust_limit
from salama.bitcoin.tx import RBF_SEQUENCE, Tx, TxIn, TxOut
from salama.onchain.claims import SECOND_STAGE, Claim, Way
from salama.onchain.state import Sweep
from salama.wallet.coins import Coin
from salama.wallet.funding import overhead_weight
from salama.wallet.selection import INPUT_WEIGHT, fee_for, output_weight

URGENT: Final = 18
"""Blocks before a deadline from which on a claim travels alone and pays ever more (``security_delay``, B5.08)."""
BUDGET_PERCENT: Final = 50
"""Of the value of what has a deadline: at the end a high fee beats losing it, but no miner shall be the winner."""
PENALTY_BUDGET_PERCENT: Final = 80
"""The cheater's money: better to the miners than back to the cheater."""
PATIENT_BUDGET_PERCENT: Final = 20
"""Of what is ours for ever: it can wait for a cheaper time."""
BUMP_PERCENT: Final = 25
"""A replacement pays at least this much more, or it is not worth a signature."""
INCREMENTAL: Final = 250
"""Satoshis per 1000 weight units by which a replacement must outbid what it replaces (1 sat/vbyte, BIP 125)."""
MAX_INPUTS: Final = 100
"""Claims in one transaction: far below what relays take, and a signature each time that the fee moves."""
CLAIM: Final = "claim "
"""Begins the name of every lease for a claim."""
LOWEST: Final = FeeratePerKw(253)
HEAVIEST_COIN: Final = max(INPUT_WEIGHT.values())


@dataclass(frozen=True, slots=True)
class Parent:
    """Our commitment transaction while it is unconfirmed."""

    txid: Txid
    weight: int
    fee: Sat


@dataclass(frozen=True, slots=True)
class World:
    """What a plan depends on besides claims and sweeps."""

    height: BlockHeight
    feerate: FeeratePerKw
    """Of the market, for confirmation within some blocks."""
    script: bytes
    """Of the wallet: where the money goes."""
    offered: Mapping[str, tuple[Coin, ...]] = field(default_factory=dict)
    """Coins leased for a purpose that was asked for."""
    parent: Parent | None = None
    stake: int = 0
    """Satoshis that depend on the parent's confirmation."""
    at_risk: int = 0
    """Those among them that are lost if it comes too late."""
    alone: frozenset[OutPoint] = frozenset()
    """Outputs that were refused in company."""
    floors: Mapping[OutPoint, int] = field(default_factory=dict)
    """Rates below which outputs are not claimed again, see ``floors_after``."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A transaction to be signed."""

    sweep: Sweep
    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class CoinsWanted:
    """A claim pays no fee of its own: ``amount`` satoshis of confirmed coins are needed, their input weights on top."""

    purpose: str
    amount: Sat
    feerate: FeeratePerKw


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now."""

    kept: tuple[Sweep, ...] = ()
    drafts: tuple[Draft, ...] = ()
    wanted: tuple[CoinsWanted, ...] = ()
    dropped: tuple[Sweep, ...] = ()
    """In flight until now, and no longer: replaced, or their inputs are gone."""
    uneconomic: tuple[Claim, ...] = ()


@dataclass(slots=True)
class _Making:
    kept: list[Sweep] = field(default_factory=list)
    drafts: list[Draft] = field(default_factory=list)
    wanted: list[CoinsWanted] = field(default_factory=list)
    uneconomic: list[Claim] = field(default_factory=list)


def plan(channel_name: str, claims: Sequence[Claim], sweeps: Sequence[Sweep], world: World) -> Plan:
    """The plan for ``claims`` that may be in the next block. ``channel_name`` makes the names of leases unique."""
    ready = {one.outpoint: one for one in claims}
    making = _Making()
    free = dict(ready)
    for sweep in sweeps:
        mine = [ready[o] for o in sweep.claims if o in ready]
        if len(mine) < len(sweep.claims) or not _parent_fits(sweep, world):
            continue
        if len(mine) > 1 and any(one.outpoint in world.alone for one in mine):
            continue
        for one in mine:
            free.pop(one.outpoint, None)
        is_split, wanted = _split(making, channel_name, sweep, mine, world)
        if not is_split:
            # First what the one in flight needs, then what would part it.
            _keep_or_bump(making, sweep, mine, world)
            making.wanted += wanted
    for group in _groups(free.values(), world, outpoints_of(sweeps)):
        best = (int(s.feerate) for s in sweeps if any(one.outpoint in s.claims for one in group))
        floor = max((*best, *(world.floors.get(one.outpoint, 0) for one in group)), default=0)
        _make(making, _purpose(channel_name, group), group, (), floor, world)
    kept = {s.tx.txid for s in making.kept}
    dropped = tuple(s for s in sweeps if s.tx.txid not in kept)
    return Plan(tuple(making.kept), tuple(making.drafts), tuple(making.wanted), dropped, tuple(making.uneconomic))


def floors_after(
    floors: Mapping[OutPoint, int], claims: Sequence[Claim], sweeps: Iterable[Sweep]
) -> dict[OutPoint, int]:
    """The best rate that was ever offered for each of ``claims`` that has a deadline, ``sweeps`` included.

    A plan that has to wait for coins has given up what they are for already: this is what remains of it (C12).
    """
    racing = {one.outpoint for one in claims if one.deadline is not None}
    best = {outpoint: rate for outpoint, rate in floors.items() if outpoint in racing}
    for sweep in sweeps:
        for outpoint in racing.intersection(sweep.claims):
            best[outpoint] = max(best.get(outpoint, 0), int(sweep.feerate))
    return best


def _purpose(channel_name: str, group: Sequence[Claim]) -> str:
    first = group[0].outpoint
    return f"{CLAIM}{channel_name} {str(first.txid)[:16]}:{first.vout}"


def _parent_fits(sweep: Sweep, world: World) -> bool:
    return sweep.parent is None or (world.parent is not None and world.parent.txid == sweep.parent)


def is_urgent(claim: Claim, height: int) -> bool:
    """Whether ``claim`` must be on its own from now on."""
    return claim.deadline is not None and claim.deadline - height < URGENT


def _split(
    making: _Making, channel_name: str, sweep: Sweep, claims: Sequence[Claim], world: World
) -> tuple[bool, list[CoinsWanted]]:
    """Put a transaction for each urgent claim in the place of the one that holds them together; False if not, and which
    coins are missing for it.

    All of them or none: while coins for some are missing, the one in flight is better than nothing. Only the piece with
    the most to win outbids the whole: when relays have taken it, nothing is in the way of the others. If it cannot, or
    at the cost of their common budget, the claims stay together and their fee rises for all of them. What relays do not
    have needs no outbidding.
    """
    if len(claims) < 2 or not any(is_urgent(one, int(world.height)) for one in claims):
        return False, []
    pieces = sorted(_groups(claims, world), key=lambda group: -budget_of(group, world))
    trial = _Making()
    for number, group in enumerate(pieces):
        rivals = [sweep] if number == 0 and not sweep.refused else []
        # A lease of its own: the one of the whole holds until its transaction is replaced.
        _make(trial, f"{_purpose(channel_name, group)} alone", group, rivals, int(sweep.feerate), world)
    drafted = sum(len(draft.claims) for draft in trial.drafts)
    is_first_made = bool(trial.drafts) and set(trial.drafts[0].claims) <= set(pieces[0])
    if drafted + len(trial.uneconomic) < len(claims) or not is_first_made:
        return False, trial.wanted
    if sum(int(draft.sweep.fee) for draft in trial.drafts) > budget_of(claims, world):
        return False, []
    making.drafts += trial.drafts
    making.uneconomic += trial.uneconomic
    return True, []


def is_about_fees(reason: str) -> bool:
    """Whether a back-end refused a transaction for its price alone."""
    return "fee" in reason


def _groups(claims: Iterable[Claim], world: World, flying: frozenset[OutPoint] = frozenset()) -> list[list[Claim]]:
    """Claims that travel together; those of one group share the fate of the slowest, hence the care. An anchor of
    ``flying``, whose child is under way for nothing now, is left to that child.
    """
    together: dict[tuple[object, ...], list[Claim]] = {}
    anchors: list[Claim] = []
    for one in sorted(claims, key=lambda c: c.outpoint):
        if one.way is Way.ANCHOR:
            if world.parent is None:
                anchors += [one] if one.outpoint not in flying else []
            else:
                together[("anchor", one.outpoint)] = [one]
        elif is_urgent(one, int(world.height)) or one.outpoint in world.alone:
            together[(one.outpoint,)] = [one]
        else:
            together.setdefault(_kind(one), []).append(one)
    groups = [
        members[at : at + MAX_INPUTS] for members in together.values() for at in range(0, len(members), MAX_INPUTS)
    ]
    # An anchor is not worth a transaction, but may ride along where nobody can get in the way.
    patient = next((group for group in groups if group[0].way in (Way.DELAYED, Way.PAYMENT)), None)
    if patient is not None:
        patient += [one for one in anchors if int(one.amount) > 2 * fee_for(world.feerate, one.weight)]
    return groups


def _kind(claim: Claim) -> tuple[object, ...]:
    if claim.way in (Way.DELAYED, Way.PAYMENT):
        return ("patient",)
    if claim.way is Way.PENALTY:
        return ("penalty", claim.is_pinnable)
    if claim.way is Way.TIMEOUT_TX:
        # The peer signed the locktime: only those of the same expiry fit into one transaction (B5.10).
        return (claim.way, claim.locktime)
    return (claim.way,)


# --- fees ------------------------------------------------------------------------------------------------------------


def budget_of(claims: Sequence[Claim], world: World) -> int:
    """Satoshis that may be spent on fees for ``claims``."""
    value = sum(int(one.amount) for one in claims)
    way = claims[0].way
    if way is Way.ANCHOR:
        return world.stake * BUDGET_PERCENT // 100
    if way is Way.PENALTY:
        return value * PENALTY_BUDGET_PERCENT // 100
    if way in (Way.DELAYED, Way.PAYMENT):
        return value * PATIENT_BUDGET_PERCENT // 100
    return value * BUDGET_PERCENT // 100


def scheduled_feerate(market: int, most: int, deadline: int | None, height: int) -> int:
    """The market's rate until ``URGENT`` blocks before the deadline, from there on a straight line up to ``most``.

    Sat per 1000 weight units; rises with height, never falls with it.
    """
    if deadline is None or most <= market:
        return min(market, most)
    left = max(0, min(URGENT, deadline - height))
    return market + (most - market) * (URGENT - left) // URGENT


def _deadline(claims: Sequence[Claim]) -> int | None:
    return min((one.deadline for one in claims if one.deadline is not None), default=None)


def is_worthless(claim: Claim, script: bytes) -> bool:
    """Whether ``claim``, paid out to ``script``, costs more than it may even alone, with all the time in the world and
    at the lowest rate that relays take.
    """
    calm = World(BlockHeight(0), LOWEST, script)
    deadline = None if claim.deadline is None else URGENT
    return bool(plan("", [replace(claim, deadline=deadline)], (), calm).uneconomic)


def _rate(claims: Sequence[Claim], weight: int, world: World) -> tuple[int, int]:
    """The rate that the schedule asks for, and the highest that the budget allows."""
    budget = budget_of(claims, world)
    if not _needs_coins(claims):
        # However dear the last blocks are, something that can be spent must be left.
        budget = min(budget, sum(int(one.amount) for one in claims) - int(dust_limit(world.script)))
    most = max(0, budget) * 1000 // weight
    hurried = most
    if claims[0].way is Way.ANCHOR:
        # What can wait may pay the market's rate, and no more than that.
        market = min(int(world.feerate), most)
        hurried = max(market, min(most, world.at_risk * BUDGET_PERCENT // 100 * 1000 // weight))
    return scheduled_feerate(int(world.feerate), hurried, _deadline(claims), int(world.height)), most


# --- transactions ----------------------------------------------------------------------------------------------------


def _weight(claims: Sequence[Claim], coins: Sequence[Coin], world: World) -> int:
    """Of a transaction with these inputs and one output of ours (change or the sum), second stages included."""
    stages = [one.second_stage for one in claims if one.second_stage is not None]
    return (
        overhead_weight(len(claims) + len(coins), len(stages) + 1)
        + sum(one.weight for one in claims)
        + sum(INPUT_WEIGHT[coin.key.kind] for coin in coins)
        + sum(output_weight(stage.script) for stage in stages)
        + output_weight(world.script)
    )


def _needs_coins(claims: Sequence[Claim]) -> bool:
    return claims[0].way in SECOND_STAGE or claims[0].way is Way.ANCHOR


def _keep_or_bump(making: _Making, sweep: Sweep, claims: Sequence[Claim], world: World) -> None:
    """Leave a transaction in flight alone unless its time asks for a quarter more, or a coin of it may be gone."""
    offered = world.offered.get(sweep.purpose, ())
    is_doubtful = bool(sweep.coins and sweep.refused) and not is_about_fees(sweep.refused)
    if is_doubtful and offered and set(offered) != set(sweep.coins):
        if _remade(making, sweep, claims, (), int(sweep.feerate), world, offered):
            return
    extra = world.parent.weight if sweep.parent is not None and world.parent is not None else 0
    asked, most = _rate(claims, sweep.tx.weight + extra, world)
    least = int(sweep.feerate) * (100 + BUMP_PERCENT) // 100
    if is_about_fees(sweep.refused):
        # Somebody outbids us, or the floor has risen above what we know: do not wait for the schedule.
        asked = max(asked, least)
    if least <= min(asked, most) and _remade(making, sweep, claims, [sweep], asked, world, sweep.coins):
        return
    making.kept.append(sweep)
    if is_doubtful and not offered and all(one.purpose != sweep.purpose for one in making.wanted):
        # Which input was the bad one is not said: whatever the wallet has still may do.
        need = int(sweep.fee) + int(dust_limit(world.script))
        making.wanted.append(CoinsWanted(sweep.purpose, Sat(need), sweep.feerate))


def _remade(
    making: _Making,
    sweep: Sweep,
    claims: Sequence[Claim],
    rivals: Sequence[Sweep],
    floor: int,
    world: World,
    coins: tuple[Coin, ...],
) -> bool:
    """Draft another transaction for the same claims; False if that could not be."""
    before = len(making.drafts)
    _make(making, sweep.purpose, claims, rivals, floor, world, coins=coins)
    return len(making.drafts) > before


def _make(
    making: _Making,
    purpose: str,
    claims: Sequence[Claim],
    rivals: Sequence[Sweep],
    floor: int,
    world: World,
    *,
    coins: tuple[Coin, ...] = (),
) -> None:
    """Draft a transaction for ``claims`` that pays ``floor`` at least and outbids its ``rivals``."""
    if _needs_coins(claims):
        _make_with_coins(making, purpose, claims, rivals, floor, world, world.offered.get(purpose) or coins)
    else:
        _make_alone(making, purpose, claims, rivals, floor, world)


def _outbid(weight: int, rate: int, rivals: Sequence[Sweep]) -> int:
    """The fee at ``rate``, or what replaces ``rivals`` by the rules of relays."""
    fee = fee_for(FeeratePerKw(rate), weight)
    if not rivals:
        return fee
    return max(fee, sum(int(s.fee) for s in rivals) + fee_for(FeeratePerKw(INCREMENTAL), weight))


def _make_alone(
    making: _Making, purpose: str, claims: Sequence[Claim], rivals: Sequence[Sweep], floor: int, world: World
) -> None:
    """Claims that pay for themselves, into one output of the wallet."""
    group = list(claims)
    while group:
        weight = _weight(group, (), world)
        asked, most = _rate(group, weight, world)
        rate = max(asked, min(floor, most), int(LOWEST))
        dear = [one for one in group if int(one.amount) <= fee_for(FeeratePerKw(rate), one.weight)]
        if not dear:
            break
        making.uneconomic += dear
        group = [one for one in group if one not in dear]
    if not group:
        return
    fee = _outbid(weight, rate, rivals)
    left = sum(int(one.amount) for one in group) - fee
    # A patient claim whose fee is beyond its budget waits for a cheaper time.
    is_dear = _deadline(group) is None and int(world.feerate) > most and not rivals
    if left < int(dust_limit(world.script)) or is_dear:
        making.uneconomic += group
        return
    tx = Tx(
        2,
        tuple(one.input for one in group),
        (TxOut(Sat(left), world.script),),
        max(one.locktime for one in group),
    )
    making.drafts.append(_draft(group, (), tx, fee, weight, purpose, world, None))


def _make_with_coins(
    making: _Making,
    purpose: str,
    claims: Sequence[Claim],
    rivals: Sequence[Sweep],
    floor: int,
    world: World,
    coins: tuple[Coin, ...],
) -> None:
    """Zero-fee HTLC transactions, input i beside output i, or the child of our commitment; fee and change follow."""
    is_child = claims[0].way is Way.ANCHOR
    parent = world.parent if is_child else None
    weight = _weight(claims, coins, world)
    both = weight + (parent.weight if parent else 0)
    asked, most = _rate(claims, both, world)
    if budget_of(claims, world) < fee_for(LOWEST, both + (0 if coins else HEAVIEST_COIN)):
        making.uneconomic += claims
        return
    rate = max(asked, min(floor, most), int(LOWEST))
    paid_already = int(parent.fee) if parent else 0
    fee = max(_outbid(both, rate, ()) - paid_already, _outbid(weight, int(LOWEST), rivals))
    stages = [one.second_stage for one in claims if one.second_stage is not None]
    change = sum(int(c.value) for c in coins) + sum(int(c.amount) for c in claims)
    change -= sum(int(s.value) for s in stages) + fee
    least = int(dust_limit(world.script))
    if change < (least if not stages else 0) or not coins:
        if purpose not in world.offered:
            need = fee + least - (int(claims[0].amount) if is_child else 0)
            making.wanted.append(CoinsWanted(purpose, Sat(max(need, least)), FeeratePerKw(rate)))
            return
        # The wallet gave what it has: pay that, if a relay would take it at all.
        fee += change - (least if not stages else 0)
        lowest = fee_for(LOWEST, both) - paid_already
        if not coins or fee < max(lowest, _outbid(weight, int(LOWEST), rivals)):
            return
        rate = (fee + paid_already) * 1000 // both
        change = 0 if stages else least
    if any(int(s.feerate) > rate and len(s.claims) == len(claims) for s in rivals):
        # More coins would make it heavier than their fee is worth: what is in flight pays the better rate.
        return
    outputs = [*stages, TxOut(Sat(change), world.script)] if change >= least else list(stages)
    if change < least:
        fee += change
    inputs = [one.input for one in claims] + [TxIn(coin.outpoint, RBF_SEQUENCE) for coin in coins]
    tx = Tx(2, tuple(inputs), tuple(outputs), max(one.locktime for one in claims))
    making.drafts.append(_draft(claims, coins, tx, fee, weight, purpose, world, parent, rate))


def _draft(
    claims: Sequence[Claim],
    coins: tuple[Coin, ...],
    tx: Tx,
    fee: int,
    weight: int,
    purpose: str,
    world: World,
    parent: Parent | None,
    rate: int | None = None,
) -> Draft:
    sweep = Sweep(
        claims=tuple(one.outpoint for one in claims),
        coins=coins,
        tx=tx,
        feerate=FeeratePerKw(rate if rate is not None else fee * 1000 // weight),
        fee=Sat(fee),
        made_at=world.height,
        purpose=purpose,
        parent=parent.txid if parent else None,
        deadline=_deadline(claims),
    )
    return Draft(sweep, tuple(claims))


def outpoints_of(sweeps: Iterable[Sweep]) -> frozenset[OutPoint]:
    """Everything that ``sweeps`` claim."""
    return frozenset(o for one in sweeps for o in one.claims)
