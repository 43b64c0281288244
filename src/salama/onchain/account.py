"""The account that a close gives of itself: who, why, which HTLCs, each transaction with its cost and outcome.

Lines of the event feed under ``onchain.``; each fact is told once (``OnchainRecord.noted``), however often a block or a
restart brings it again.
"""

from __future__ import annotations

from salama.base.machine import Row
from salama.base.units import Sat
from salama.base.values import replace
from salama.bitcoin.script import p2wsh
from salama.channel.events import PublicEvent
from salama.onchain.bump import Draft
from salama.onchain.claims import Claim
from salama.onchain.identify import Close, CloseKind
from salama.onchain.outputs import Role
from salama.onchain.resolve import Resolution, Standing
from salama.onchain.state import OnchainState

_ALARMING = frozenset((CloseKind.UNKNOWN, CloseKind.FUTURE, CloseKind.REVOKED))


def note(state: OnchainState, rows: list[Row], name: str, row: Row) -> OnchainState:
    """Tell ``row`` unless ``name`` was noted before."""
    if name in state.record.noted:
        return state
    rows.append(row)
    return replace(state, record=replace(state.record, noted=(*state.record.noted, name)))


def _event(state: OnchainState, name: str, *fields: tuple[str, str | int | bool]) -> PublicEvent:
    return PublicEvent(f"onchain.{name}", (("channel_id", str(state.channel.channel_id)), *fields))


def note_close(state: OnchainState, rows: list[Row], close: Close, closed_at: int, found: Resolution) -> OnchainState:
    """What spent the funding, and what that leaves to do."""
    htlcs = [s.output for s in found.statuses if s.output.role is Role.HTLC]
    recognised = sum(int(s.output.amount) for s in found.statuses if s.output.role is not Role.SECOND_STAGE)
    total = Sat.total(out.value for out in close.tx.outputs)
    row = _event(
        state,
        "closed",
        ("txid", str(close.tx.txid)),
        ("height", closed_at),
        ("what", close.kind.value),
        ("alarm", close.kind in _ALARMING),
        ("by_us", close.owner_is_us),
        ("reason", state.channel.error),
        ("fee_sat", int(close.funding.capacity) - int(total)),
        ("htlcs", len(htlcs)),
        ("unknown_sat", 0 if close.kind is CloseKind.MUTUAL else int(total) - recognised),
    )
    return note(state, rows, f"close {close.tx.txid} {closed_at}", row)


def note_spends(state: OnchainState, rows: list[Row], close: Close, found: Resolution) -> OnchainState:
    """Every output that found its end, and whether it came to us: a miner may take a claim that we had replaced."""
    to_us = {state.channel.params.closing_script}
    if close.owner_is_us and close.second_stage_script:
        to_us.add(p2wsh(close.second_stage_script))
    ours = {sweep.tx.txid: sweep for sweep in state.record.sweeps}
    for status in found.statuses:
        if status.standing is not Standing.SPENT or status.spent_by is None:
            continue
        spender, output = status.spent_by, status.output
        sweep = ours.get(spender.tx.txid)
        fields: list[tuple[str, str | int | bool]] = [
            ("output", str(output.outpoint)),
            ("what", output.role.value),
            ("amount_sat", int(output.amount)),
            ("txid", str(spender.tx.txid)),
            ("height", int(spender.height)),
            ("by_us", sweep is not None or any(out.script in to_us for out in spender.tx.outputs)),
        ]
        if output.htlc is not None:
            fields.append(("htlc", f"{output.htlc.side.value}/{output.htlc.id}"))
        if sweep is not None:
            fields.append(("fee_sat", int(sweep.fee)))
        state = note(state, rows, f"spent {output.outpoint} {spender.tx.txid}", _event(state, "output_spent", *fields))
    return state


def note_locked(state: OnchainState, rows: list[Row], found: Resolution) -> OnchainState:
    """What is ours, but not yet: since when it can be claimed."""
    for status in found.statuses:
        if status.standing is Standing.LOCKED and status.claim is not None:
            claim = status.claim
            row = _event(
                state,
                "locked",
                ("output", str(claim.outpoint)),
                ("what", claim.way.value),
                ("amount_sat", int(claim.amount)),
                ("ready_at", claim.ready_at),
            )
            state = note(state, rows, f"locked {claim.outpoint} {claim.ready_at}", row)
    return state


def why(draft: Draft) -> str:
    """Words for the log."""
    first = draft.claims[0]
    more = f" and {len(draft.claims) - 1} more" if len(draft.claims) > 1 else ""
    return f"{first.way.value}{more}"


def published(state: OnchainState, draft: Draft) -> Row:
    sweep = draft.sweep
    return _event(
        state,
        "claim",
        ("txid", str(sweep.tx.txid)),
        ("what", why(draft)),
        ("amount_sat", sum(int(one.amount) for one in draft.claims)),
        ("fee_sat", int(sweep.fee)),
        ("feerate_per_kw", int(sweep.feerate)),
        ("deadline", sweep.deadline if sweep.deadline is not None else 0),
    )


def uneconomic(state: OnchainState, claim: Claim) -> Row:
    return _event(
        state,
        "uneconomic",
        ("output", str(claim.outpoint)),
        ("what", claim.way.value),
        ("amount_sat", int(claim.amount)),
    )


def no_coins(state: OnchainState, purpose: str, reason: str) -> Row:
    return _event(state, "no_coins", ("purpose", purpose), ("reason", reason))


def over(state: OnchainState, close: Close) -> Row:
    return _event(state, "resolved", ("txid", str(close.tx.txid)), ("what", close.kind.value))
