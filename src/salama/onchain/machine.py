"""The machine of a channel on the chain: facts in, claims and outcomes out (BOLT 5).

    turn(state, events, env)            facts change, then everything is worked out again
    complete(done, answers, secret_of)  signatures put in place

It runs beside the channel's own machine: that one keeps deciding HTLCs, this one reads its record and hands over what
becomes of those that we offered. Every event may come twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from salama.base.ids import OutPoint, Side, Txid
from salama.base.machine import Effect, Event, Owed, Row, Transition
from salama.base.units import BlockHeight, FeeratePerKw, Sat
from salama.base.values import replace
from salama.bitcoin.tx import Tx
from salama.channel.events import Broadcast, HandoffKey, HtlcFailed, PreimageLearned
from salama.channel.failing import owed_local_commitment
from salama.channel.signing import MisplacedAnswer, OwePublication, Signature
from salama.channel.state import ChannelRecord, Fulfilment, Htlc, Phase
from salama.channel.witnesses import funding_witness
from salama.onchain import account
from salama.onchain.bump import URGENT, Parent, Plan, World, floors_after, is_about_fees, is_worthless, plan
from salama.onchain.claims import Claim, claim_anchor
from salama.onchain.events import (
    BlockSeen,
    BlockUndone,
    ClaimRefused,
    CoinsLeased,
    CoinsMissing,
    DropClaim,
    LeaseCoins,
    OutputsLeft,
    RecordChanged,
    ReleaseCoins,
    Resolved,
    SpendSeen,
    Woken,
)
from salama.onchain.identify import Close, CloseKind, HtlcsAt, identify
from salama.onchain.outputs import Output, Role
from salama.onchain.resolve import (
    FAIL_BACK_DEPTH,
    Facts,
    Lost,
    Paid,
    Resolution,
    Standing,
    Upstream,
    outgoing_htlcs,
    preimages_in,
    resolve,
)
from salama.onchain.signing import OweClaim, PublishClaim, place
from salama.onchain.state import Confirmed, OnchainRecord, OnchainState, Rival
from salama.onchain.stress import commitment_to_confirm, stake_of
from salama.wallet.keys import KeyPath
from salama.wallet.selection import fee_for

PATIENCE: Final = 10
"""Times the irrevocable depth that a claim may wait for a cheaper market before the channel is forgotten without it."""


@dataclass(frozen=True, slots=True)
class OnchainEnv:
    """The world at the moment of a turn."""

    height: BlockHeight
    feerate: FeeratePerKw
    htlcs_at: HtlcsAt
    upstream: Upstream = lambda origin: None
    irrevocable_depth: int = 100
    fail_back_depth: int = FAIL_BACK_DEPTH


def new_state(channel: ChannelRecord, record: OnchainRecord | None = None) -> OnchainState:
    """A channel that goes, or went, to the chain; ``record`` as it was written, if it was."""
    return OnchainState(channel, record or OnchainRecord(channel.channel_id))


def turn(state: OnchainState, events: Sequence[Event], env: OnchainEnv) -> Transition[OnchainState]:
    """Apply ``events``, then work everything out again. Nothing that a block holds makes it raise."""
    old = state
    rows: list[Row] = []
    for event in events:
        match event:
            case RecordChanged(record):
                state = replace(state, channel=record)
            case BlockSeen(height, txs):
                state = replace(state, record=_with_block(state.record, height, txs))
            case BlockUndone(height):
                state = replace(state, record=_without_block(state.record, height))
            case SpendSeen(tx):
                state = _with_rival(_with_preimages(state, tx, rows), tx, env.height)
            case CoinsLeased(purpose, coins):
                state = replace(state, asked=state.asked - {purpose}, offered={**state.offered, purpose: coins})
            case ClaimRefused(txid, reason):
                state = replace(state, record=_with_refusal(state.record, txid, reason))
            case CoinsMissing(purpose, reason):
                state = replace(state, asked=state.asked - {purpose})
                state = account.note(state, rows, f"no coins {purpose}", account.no_coins(state, purpose, reason))
            case Woken():
                pass
            case _:
                raise TypeError(f"onchain does not know {type(event).__name__}")
    if state.is_over:
        late = tuple(ReleaseCoins(purpose) for purpose in sorted(state.offered))
        return Transition(replace(state, offered={}), late, tuple(rows))
    if all(isinstance(event, ClaimRefused) for event in events) and state.record.alone == old.record.alone:
        # Offered again at the next block: asking at once would be answered alike.
        return Transition(state, (), tuple(rows))
    again = any(isinstance(event, BlockSeen | BlockUndone | Woken) for event in events)
    done = _settle(state, rows, env, again)
    if all(isinstance(event, CoinsLeased | CoinsMissing) for event in events):
        # The wallet has just been asked: it is asked again when something else has happened.
        return replace(done, effects=tuple(e for e in done.effects if not isinstance(e, LeaseCoins)))
    asked = done.state.asked | {effect.purpose for effect in done.effects if isinstance(effect, LeaseCoins)}
    return done if asked == done.state.asked else replace(done, state=replace(done.state, asked=asked))


# --- facts -----------------------------------------------------------------------------------------------------------


def _with_block(record: OnchainRecord, height: BlockHeight, txs: Sequence[Tx]) -> OnchainRecord:
    new = [Confirmed(tx, height) for tx in txs]
    if not new:
        return record
    known = {one.tx.txid for one in new}
    spent = {i.outpoint for one in new for i in one.tx.inputs}
    # A block contradicts what we took for confirmed only after a reorganisation that nobody told us of.
    kept = [
        one
        for one in record.confirmed
        if one.tx.txid not in known and not any(i.outpoint in spent for i in one.tx.inputs)
    ]
    confirmed = (*kept, *new)
    return record if confirmed == record.confirmed else replace(record, confirmed=confirmed)


def _without_block(record: OnchainRecord, height: BlockHeight) -> OnchainRecord:
    kept = tuple(one for one in record.confirmed if one.height < height)
    return record if len(kept) == len(record.confirmed) else replace(record, confirmed=kept)


def _with_refusal(record: OnchainRecord, txid: Txid, reason: str) -> OnchainRecord:
    """One input that is not ours to spend any more spoils all: from now on each travels alone (immunity C13)."""
    refused = next((one for one in record.sweeps if one.tx.txid == txid), None)
    if refused is None:
        return record
    told = reason[:200]
    sweeps = tuple(replace(one, refused=told) if one is refused else one for one in record.sweeps)
    alone = record.alone
    if len(refused.claims) > 1 and not is_about_fees(told):
        alone = (*alone, *(outpoint for outpoint in refused.claims if outpoint not in alone))
    return replace(record, sweeps=sweeps, alone=alone)


def _with_preimages(state: OnchainState, tx: Tx, rows: list[Row]) -> OnchainState:
    """What an unconfirmed transaction gives away is known for good, whatever becomes of it."""
    living = [h for h in outgoing_htlcs(state.channel) if not isinstance(h.removal, Fulfilment)]
    known = preimages_in((tx,), (htlc.payment_hash for htlc in living))
    for htlc in living:
        if htlc.payment_hash in known:
            state = _hand_over(state, Paid(htlc, known[htlc.payment_hash]), rows)
    return state


def _with_rival(state: OnchainState, tx: Tx, height: BlockHeight) -> OnchainState:
    fundings = {funding.outpoint for funding in state.channel.active}
    if not any(one.outpoint in fundings for one in tx.inputs):
        return state
    return replace(state, rival=Rival(tx, height))


def close_of(state: OnchainState, htlcs_at: HtlcsAt) -> tuple[Close | None, int]:
    """What spent the funding, and the height of its block; (None, 0) while nothing did."""
    for one in state.record.confirmed:
        close = identify(state.channel, one.tx, htlcs_at)
        if close is not None:
            return close, int(one.height)
    return None, 0


def watched(state: OnchainState) -> frozenset[OutPoint]:
    """Outputs whose spending matters: all of the closing transaction, and those beside each input that spends one."""
    found: set[OutPoint] = {funding.outpoint for funding in (*state.channel.active, *state.channel.inactive)}
    for one in state.record.confirmed:
        found.update(follow(one.tx, found, {f.outpoint for f in (*state.channel.active, *state.channel.inactive)}))
    return frozenset(found)


def awaited(state: OnchainState) -> frozenset[OutPoint]:
    """Outputs whose *unconfirmed* spending matters: of the funding while our commitment waits for its block, and of the
    close while somebody waits for a preimage (immunity C14)."""
    if state.is_over:
        return frozenset()
    if not state.record.confirmed:
        is_waiting = state.channel.phase is Phase.ON_CHAIN
        return frozenset(funding.outpoint for funding in state.channel.active) if is_waiting else frozenset()
    if all(h.id in state.record.settled for h in outgoing_htlcs(state.channel)):
        return frozenset()
    return watched(state) - {i.outpoint for one in state.record.confirmed for i in one.tx.inputs}


def follow(tx: Tx, watched_outpoints: set[OutPoint], fundings: set[OutPoint]) -> set[OutPoint]:
    """Outputs of ``tx`` to watch: all if it spends a funding, else the one beside each input that is watched."""
    if any(one.outpoint in fundings for one in tx.inputs):
        return {tx.outpoint(index) for index in range(len(tx.outputs))}
    count = len(tx.outputs)
    return {tx.outpoint(i) for i, one in enumerate(tx.inputs) if i < count and one.outpoint in watched_outpoints}


# --- working everything out ------------------------------------------------------------------------------------------


def _settle(state: OnchainState, rows: list[Row], env: OnchainEnv, again: bool) -> Transition[OnchainState]:
    close, closed_at = close_of(state, env.htlcs_at)
    facts = Facts(
        env.height, close, closed_at, state.record.confirmed, env.upstream, fail_back_depth=env.fail_back_depth
    )
    found = resolve(state.channel, facts)
    effects: list[Effect] = []
    if close is not None:
        state = account.note_close(state, rows, close, closed_at, found)
        state = account.note_spends(state, rows, close, found)
        state = account.note_locked(state, rows, found)
    for outcome in found.outcomes:
        state = _hand_over(state, outcome, rows)
    state, too_dear = _claim(state, rows, effects, found, close, env, again)
    if close is not None and _is_over(state, found, facts, env.irrevocable_depth, too_dear):
        state = replace(state, is_over=True)
        rows.append(account.over(state, close))
        left = [s.output.amount for s in found.statuses if s.is_left and s.output.role is not Role.OUR_ANCHOR]
        if left and close.kind is not CloseKind.REVOKED:
            rows.append(OutputsLeft(state.channel.channel_id, Sat.total(left)))
        effects += [ReleaseCoins(sweep.purpose) for sweep in state.record.sweeps if sweep.coins]
        effects.append(Resolved())
    return Transition(state, tuple(effects), tuple(rows))


def _hand_over(state: OnchainState, outcome: Paid | Lost, rows: list[Row]) -> OnchainState:
    """Write what becomes of an outgoing HTLC, once; a preimage also after a failure, in case it still helps."""
    record, htlc = state.record, outcome.htlc
    key = HandoffKey(record.channel_id, htlc.id)
    if htlc.id in record.settled or htlc.origin is None:
        return state
    if isinstance(outcome, Paid):
        if not isinstance(htlc.removal, Fulfilment):
            # Else the channel has handed it over when it came.
            rows.append(PreimageLearned(key, htlc.origin, outcome.preimage))
        return replace(state, record=replace(record, settled=(*record.settled, htlc.id)))
    if htlc.id in record.failed:
        return state
    rows.append(HtlcFailed(key, htlc.origin, outcome.reason))
    return replace(state, record=replace(record, failed=(*record.failed, htlc.id)))


def _claim(
    state: OnchainState,
    rows: list[Row],
    effects: list[Effect],
    found: Resolution,
    close: Close | None,
    env: OnchainEnv,
    again: bool,
) -> tuple[OnchainState, frozenset[OutPoint]]:
    """Everything that may be in the next block is offered to the network; and what is not worth it today."""
    channel = state.channel
    claims = [s.claim for s in found.statuses if s.standing is Standing.CLAIMABLE and s.claim is not None]
    parent, stake, at_risk = None, 0, 0
    if close is None:
        if channel.phase is not Phase.ON_CHAIN or channel.stale or channel.spend is not None:
            # The channel knows of a spend already: the block that holds it is on its way here.
            claims = []
        else:
            if again:
                effects.append(owed_local_commitment(channel, channel.error or "force close"))
            claims, parent, stake, at_risk = _child(channel, *_to_confirm(state, env), env)
    world = World(
        env.height,
        env.feerate,
        channel.params.closing_script,
        state.offered,
        parent,
        stake,
        at_risk,
        frozenset(state.record.alone),
        state.floors,
    )
    confirmed = {one.tx.txid for one in state.record.confirmed}
    done = tuple(sweep for sweep in state.record.sweeps if sweep.tx.txid in confirmed)
    flying = tuple(sweep for sweep in state.record.sweeps if sweep.tx.txid not in confirmed)
    made = plan(channel.channel_id.hex()[:16], claims, flying, world)
    _carry_out(state, rows, effects, made, again)
    used = {draft.sweep.purpose for draft in made.drafts}
    offered = {purpose: coins for purpose, coins in state.offered.items() if state.asked and purpose not in used}
    state = state if offered == state.offered else replace(state, offered=offered)
    floors = floors_after(state.floors, claims, (*flying, *(draft.sweep for draft in made.drafts)))
    state = state if floors == state.floors else replace(state, floors=floors)
    for claim in made.uneconomic:
        state = account.note(state, rows, f"uneconomic {claim.outpoint}", account.uneconomic(state, claim))
    # What is confirmed stays on record: a reorganisation may put it back in flight.
    sweeps = (*done, *made.kept, *(draft.sweep for draft in made.drafts))
    if sweeps != state.record.sweeps:
        state = replace(state, record=replace(state.record, sweeps=sweeps))
    return state, frozenset(claim.outpoint for claim in made.uneconomic)


def _to_confirm(state: OnchainState, env: OnchainEnv) -> tuple[tuple[Output, ...], Role, Parent]:
    """The commitment that is to be in a block soon, signed: the peer's if the mempool has it, which also needs no delay
    for our balance, else ours; and which output has our balance. Rivals are forgotten a block after they were last
    seen."""
    channel, rival = state.channel, state.rival
    if rival is not None and int(env.height) - int(rival.height) <= 1:
        close = identify(channel, rival.tx, env.htlcs_at)
        if close is not None and close.kind in (CloseKind.REMOTE, CloseKind.REMOTE_NEXT):
            fee = int(close.funding.capacity) - int(Sat.total(out.value for out in rival.tx.outputs))
            return close.outputs, Role.TO_REMOTE, Parent(rival.tx.txid, rival.tx.weight, Sat(fee))
    outputs, parent = commitment_to_confirm(channel)
    return outputs, Role.TO_LOCAL, parent


def _child(
    channel: ChannelRecord, outputs: Sequence[Output], balance: Role, parent: Parent, env: OnchainEnv
) -> tuple[list[Claim], Parent | None, int, int]:
    """Our anchor, if the commitment should pay more than it does (B5.03); what depends on it, and what of that is lost
    if it confirms too late."""
    anchor = next((o for o in outputs if o.role is Role.OUR_ANCHOR), None)
    at_stake = stake_of(outputs, balance)
    deadlines = {key: d for key, htlc in channel.htlcs.items() if (d := _deadline_of(htlc, env)) is not None}
    at_risk = sum(int(o.amount) for o in outputs if o.htlc is not None and o.htlc.key in deadlines)
    deadline = min(deadlines.values(), default=None)
    is_enough = int(parent.fee) >= fee_for(env.feerate, parent.weight)
    if anchor is None or at_stake == 0 or (is_enough and (deadline is None or deadline - int(env.height) > 6)):
        return [], None, 0, 0
    return [claim_anchor(anchor, deadline)], parent, at_stake, at_risk


def _deadline_of(htlc: Htlc, env: OnchainEnv) -> int | None:
    """The block in which our commitment should be at last for this HTLC's sake (B2.49), its claim still to come.

    One that we offered and that relays nothing loses nothing by waiting.
    """
    expiry = int(htlc.cltv_expiry)
    if htlc.side is Side.INCOMING:
        return expiry - FAIL_BACK_DEPTH if isinstance(htlc.removal, Fulfilment) else None
    upstream = env.upstream(htlc.origin) if htlc.origin is not None else None
    return None if upstream is None else max(expiry + 1, upstream - FAIL_BACK_DEPTH - URGENT)


def _carry_out(state: OnchainState, rows: list[Row], effects: list[Effect], made: Plan, again: bool) -> None:
    """The plan as effects; coins of what is given up are freed unless the plan uses them again, and coins that were
    offered for nothing as soon as the wallet has answered everything (immunity C24)."""
    purposes = {s.purpose for s in made.kept} | {d.sweep.purpose for d in made.drafts}
    if not state.asked:
        effects += [ReleaseCoins(purpose) for purpose in sorted(set(state.offered) - purposes)]
    purposes |= {w.purpose for w in made.wanted}
    replaced = {i.outpoint for d in made.drafts for i in d.sweep.tx.inputs}
    for sweep in made.dropped:
        # A replacement conflicts with it, which tells the wallet all there is to tell.
        if not replaced.intersection(i.outpoint for i in sweep.tx.inputs):
            effects.append(DropClaim(sweep))
        if sweep.coins and sweep.purpose not in purposes:
            effects.append(ReleaseCoins(sweep.purpose))
    effects += [LeaseCoins(w.purpose, w.amount, w.feerate) for w in made.wanted]
    if again:
        effects += [PublishClaim(sweep, "again") for sweep in made.kept]
    key_index = state.channel.params.key_index
    effects += [OweClaim(key_index, d.sweep, d.claims, account.why(d)) for d in made.drafts]
    rows += [account.published(state, draft) for draft in made.drafts]


def _is_over(state: OnchainState, found: Resolution, facts: Facts, depth: int, too_dear: frozenset[OutPoint]) -> bool:
    """Whether every output that matters is spent for good, and every HTLC has its outcome (B5.02).

    What costs more than it brings at any rate is left behind; what does so today, if that has been so for long enough.
    """
    if facts.depth(facts.closed_at) < depth or found.undecided:
        return False
    for status in found.statuses:
        if status.spent_by is not None:
            if facts.depth(int(status.spent_by.height)) < depth:
                return False
        elif status.may_change:
            return False
        elif status.claim is not None and status.output.role is not Role.OUR_ANCHOR:
            claim = status.claim
            waited = facts.depth(max(claim.ready_at, facts.closed_at))
            is_left = claim.outpoint in too_dear and waited >= PATIENCE * depth
            if not is_left and not is_worthless(claim, state.channel.params.closing_script):
                return False
    return True


# --- signatures ------------------------------------------------------------------------------------------------------


def complete(
    done: Transition[OnchainState], answers: Sequence[object], secret_of: Callable[[KeyPath], bytes]
) -> Transition[OnchainState]:
    """``done`` with every owed effect made whole. ``answers`` stand in the order of ``done.owed``.

    Raises MisplacedAnswer.
    """
    waiting = iter(answers)
    effects: list[Effect] = []
    sweeps = list(done.state.record.sweeps)
    for effect in done.effects:
        if not isinstance(effect, Owed):
            effects.append(effect)
            continue
        answer = next(waiting, None)
        if isinstance(effect, OwePublication) and isinstance(answer, Signature):
            witness = funding_witness(
                effect.our_funding_pubkey, answer.signature, effect.their_funding_pubkey, effect.their_signature
            )
            effects.append(Broadcast(effect.tx.with_witness(0, witness), effect.why))
        elif isinstance(effect, OweClaim):
            signed = place(effect, answer, secret_of)
            sweeps = [signed if one.tx.txid == signed.tx.txid else one for one in sweeps]
            effects.append(PublishClaim(signed, effect.why))
        else:
            raise MisplacedAnswer(f"{type(answer).__name__} to {type(effect).__name__}")
    record = done.state.record
    if tuple(sweeps) != record.sweeps:
        record = replace(record, sweeps=tuple(sweeps))
    return Transition(replace(done.state, record=record), tuple(effects), done.rows)
