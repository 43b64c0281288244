"""What becomes of every output, and of every HTLC that we offered (BOLT 5, B5.02, B5.04 to B5.08).

    resolve(record, close, confirmed, height) -> Resolution

A function of facts alone, worked out again at every block. Preimages are believed only if they hash to the payment
hash, wherever they are seen, and always beat a loss (immunity C1, C3, C11). An incoming HTLC is claimed only with the
preimage that was decided for that very HTLC (immunity D1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from typing import Final

from salama.base.ids import OutPoint, PaymentHash, Preimage, Side
from salama.base.units import BlockHeight
from salama.bitcoin.script import p2wsh
from salama.bitcoin.tx import Tx
from salama.channel.commitments import format_of
from salama.channel.deadlines import EARLY_FAIL_BACK
from salama.channel.events import Origin
from salama.channel.state import ChannelRecord, Failure, Fulfilment, Htlc
from salama.onchain.bump import is_worthless
from salama.onchain.claims import (
    Claim,
    claim_anchor,
    claim_delayed,
    claim_htlc,
    claim_payment,
    claim_penalty,
)
from salama.onchain.identify import Close, CloseKind
from salama.onchain.outputs import Output, Role
from salama.onchain.state import Confirmed

FAIL_BACK_DEPTH: Final = 6
"""Confirmations of a loss before the HTLC is failed upstream: no reorganisation so deep is expected."""
TIMEOUT_GRACE: Final = 40
"""Blocks after the expiry of an HTLC of ours within which our claim should confirm, if nothing upstream says so."""


class Standing(Enum):
    """Where one output stands."""

    THEIRS = "theirs"
    """Nothing for us to do, or nothing yet: it may become ours if a preimage is learned."""
    LOCKED = "locked"
    """Ours after a delay or an expiry."""
    CLAIMABLE = "claimable"
    SPENT = "spent"


@dataclass(frozen=True, slots=True)
class Status:
    """One output at this height."""

    output: Output
    standing: Standing
    claim: Claim | None = None
    spent_by: Confirmed | None = field(default=None, repr=False)
    may_change: bool = False
    """Not spent and not ours, but could become ours yet."""

    @property
    def is_left(self) -> bool:
        """Whether it is ours to take and nobody has."""
        return self.spent_by is None and self.claim is not None


@dataclass(frozen=True, slots=True)
class Paid:
    """An outgoing HTLC whose preimage is known: upstream is to be paid at once."""

    htlc: Htlc
    preimage: Preimage


@dataclass(frozen=True, slots=True)
class Lost:
    """An outgoing HTLC that nobody can collect any more, as far as we are concerned."""

    htlc: Htlc
    reason: bytes = field(repr=False)
    """What the peer had answered already, or empty."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """Everything there is to know at one height."""

    statuses: tuple[Status, ...]
    outcomes: tuple[Paid | Lost, ...]
    undecided: int
    """Outgoing HTLCs without an outcome yet."""


Upstream = Callable[[Origin], int | None]
"""Expiry of the incoming HTLC that an outgoing one relays; None if it is a payment of our own, or gone."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the chain says. ``height`` is the tip's."""

    height: BlockHeight
    close: Close | None
    closed_at: int
    """Height of the block with ``close``; 0 if there is none."""
    confirmed: Sequence[Confirmed] = ()
    upstream: Upstream = lambda origin: None
    fail_back_depth: int = FAIL_BACK_DEPTH
    delta: int = TIMEOUT_GRACE

    def depth(self, height: int) -> int:
        return int(self.height) - height + 1


def resolve(record: ChannelRecord, facts: Facts) -> Resolution:
    """The standing of every output and the outcome of every outgoing HTLC that still lives in ``record``."""
    spends = {one.outpoint: done for done in facts.confirmed for one in done.tx.inputs}
    statuses: list[Status] = []
    close = facts.close
    if close is not None and facts.closed_at:
        for output in close.outputs:
            statuses += _statuses(record, facts, close, output, facts.closed_at, spends)
    outcomes, undecided = _outcomes(record, facts, statuses)
    return Resolution(tuple(statuses), tuple(outcomes), undecided)


# --- outputs ---------------------------------------------------------------------------------------------------------


def _statuses(
    record: ChannelRecord,
    facts: Facts,
    close: Close,
    output: Output,
    confirmed_at: int,
    spends: Mapping[OutPoint, Confirmed],
) -> Iterable[Status]:
    """Of ``output``, and of the second stage that follows it."""
    spender = spends.get(output.outpoint)
    if spender is None:
        claim = _claim(record, facts, close, output, confirmed_at)
        if claim is None:
            yield Status(output, Standing.THEIRS, may_change=_may_change(record, facts, close, output))
        else:
            is_ready = int(facts.height) + 1 >= claim.ready_at
            yield Status(output, Standing.CLAIMABLE if is_ready else Standing.LOCKED, claim)
        return
    yield Status(output, Standing.SPENT, spent_by=spender)
    if output.role is Role.HTLC:
        following = _second_stage(close, output, spender.tx)
        if following is not None:
            yield from _statuses(record, facts, close, following, int(spender.height), spends)


def _second_stage(close: Close, output: Output, tx: Tx) -> Output | None:
    """What an HTLC transaction of the commitment's owner made of ``output``: the output beside that input."""
    index = next(i for i, one in enumerate(tx.inputs) if one.outpoint == output.outpoint)
    if not close.second_stage_script or index >= len(tx.outputs):
        return None
    made = tx.outputs[index]
    if made.script != p2wsh(close.second_stage_script):
        return None
    return Output(
        tx.outpoint(index), made.value, close.second_stage_script, Role.SECOND_STAGE, output.htlc, output.offered
    )


def _claim(record: ChannelRecord, facts: Facts, close: Close, output: Output, confirmed_at: int) -> Claim | None:
    """How the unspent ``output`` is ours, now or later."""
    role = output.role
    if role is Role.OUR_ANCHOR:
        return claim_anchor(output)
    if role is Role.TO_REMOTE:
        return None if close.owner_is_us else claim_payment(output, confirmed_at)
    if close.kind is CloseKind.REVOKED:
        return _penalty(close, output, confirmed_at)
    if role in (Role.TO_LOCAL, Role.SECOND_STAGE):
        return claim_delayed(close, output, confirmed_at) if close.owner_is_us else None
    if role is not Role.HTLC:
        return None
    assert output.htlc is not None
    htlc = record.htlcs.get(output.htlc.key)
    format = format_of(record)
    if output.htlc.side is Side.OUTGOING:
        return claim_htlc(close, output, format, confirmed_at, None, _timeout_deadline(facts, htlc, output))
    preimage = _decided_preimage(record, htlc)
    if preimage is None:
        return None
    return claim_htlc(close, output, format, confirmed_at, preimage, int(output.htlc.cltv_expiry))


def _penalty(close: Close, output: Output, confirmed_at: int) -> Claim | None:
    free_at = confirmed_at + close.owner_delay
    if output.role in (Role.TO_LOCAL, Role.SECOND_STAGE):
        return claim_penalty(close, output, free_at, is_htlc=False)
    if output.role is not Role.HTLC:
        return None
    assert output.htlc is not None
    # Once the cheater can spend it by its second stage, that is punished instead; better not to let it come to that.
    deadline = min(free_at, int(output.htlc.cltv_expiry)) if output.offered else free_at
    return claim_penalty(close, output, deadline, is_htlc=True)


def _timeout_deadline(facts: Facts, htlc: Htlc | None, output: Output) -> int:
    """From its expiry on we race with the peer's preimage; upstream we must have failed or fulfilled in time."""
    assert output.htlc is not None
    expiry = int(output.htlc.cltv_expiry)
    upstream = facts.upstream(htlc.origin) if htlc is not None and htlc.origin is not None else None
    if upstream is None:
        return expiry + facts.delta
    return max(expiry + 1, min(expiry + facts.delta, upstream - facts.fail_back_depth))


def _decided_preimage(record: ChannelRecord, htlc: Htlc | None) -> Preimage | None:
    """The preimage for this very HTLC, if we decided to be paid and the peer is bound to it (B5.07)."""
    if htlc is None or not isinstance(htlc.removal, Fulfilment) or not record.is_added_irrevocably(htlc):
        return None
    return htlc.removal.preimage


def _may_change(record: ChannelRecord, facts: Facts, close: Close, output: Output) -> bool:
    """Whether an output that is not ours could become so: an incoming HTLC that nobody has decided about."""
    if output.role is not Role.HTLC or output.htlc is None or output.htlc.side is Side.OUTGOING:
        return False
    htlc = record.htlcs.get(output.htlc.key)
    is_open = htlc is not None and htlc.removal is None
    return is_open and int(facts.height) < int(output.htlc.cltv_expiry)


# --- HTLCs that we offered -------------------------------------------------------------------------------------------


def preimages_in(txs: Iterable[Tx], hashes: Iterable[PaymentHash]) -> dict[PaymentHash, Preimage]:
    """The preimages of ``hashes`` that the witnesses of ``txs`` show, each checked."""
    wanted = {bytes(one): one for one in hashes}
    found: dict[PaymentHash, Preimage] = {}
    for tx in txs:
        for one in tx.inputs:
            for item in one.witness:
                if len(item) == 32 and (payment_hash := wanted.get(sha256(item).digest())) is not None:
                    found[payment_hash] = Preimage(item)
    return found


def outgoing_htlcs(record: ChannelRecord) -> list[Htlc]:
    """The outgoing HTLCs whose outcome somebody waits for."""
    return [h for h in record.htlcs.values() if h.side is Side.OUTGOING and h.origin is not None]


def _outcomes(record: ChannelRecord, facts: Facts, statuses: Sequence[Status]) -> tuple[list[Paid | Lost], int]:
    living = outgoing_htlcs(record)
    if not living:
        return [], 0
    known = preimages_in((done.tx for done in facts.confirmed), (htlc.payment_hash for htlc in living))
    by_key = {s.output.htlc.key: s for s in statuses if s.output.htlc is not None and s.output.role is Role.HTLC}
    outcomes: list[Paid | Lost] = []
    for htlc in living:
        if isinstance(htlc.removal, Fulfilment):
            outcomes.append(Paid(htlc, htlc.removal.preimage))
        elif htlc.payment_hash in known:
            outcomes.append(Paid(htlc, known[htlc.payment_hash]))
        elif _is_lost(record, facts, htlc, by_key.get(htlc.key)):
            reason = htlc.removal.reason if isinstance(htlc.removal, Failure) else b""
            outcomes.append(Lost(htlc, reason))
    return outcomes, len(living) - len(outcomes)


def _is_lost(record: ChannelRecord, facts: Facts, htlc: Htlc, status: Status | None) -> bool:
    """Whether an HTLC without a known preimage is to be given up upstream (B5.04, B5.06).

    An output that is not worth its claim at any price never finds a spender. It is given up when both the commitment
    and its expiry are ``fail_back_depth`` deep. The peer may still claim it then, at a loss: it would have paid more in
    fees than it takes from us, we would have lost what was not worth claiming, and its preimage is handed over all the
    same, since upstream may be open yet. What is dear only at today's rates is not given up, because a peer that thinks
    otherwise could take more than dust: its claim offers half of it, and waits for a miner until the upstream deadline
    nears.
    """
    upstream = facts.upstream(htlc.origin) if htlc.origin is not None else None
    if upstream is not None and int(facts.height) >= upstream - EARLY_FAIL_BACK:
        return True
    close = facts.close
    if close is None or not facts.closed_at:
        return False
    if status is not None:
        if status.spent_by is not None:
            return facts.depth(int(status.spent_by.height)) >= facts.fail_back_depth
        since = max(facts.closed_at, int(htlc.cltv_expiry))
        is_left = status.claim is not None and is_worthless(status.claim, record.params.closing_script)
        return is_left and facts.depth(since) >= facts.fail_back_depth
    if close.kind in (CloseKind.FUTURE, CloseKind.UNKNOWN):
        # We do not know its outputs: only time tells.
        return facts.depth(facts.closed_at) >= 100 and int(facts.height) >= int(htlc.cltv_expiry)
    return facts.depth(facts.closed_at) >= facts.fail_back_depth or not has_output_anywhere(record, htlc)


def has_output_anywhere(record: ChannelRecord, htlc: Htlc) -> bool:
    """Whether any commitment that could still confirm has an output for ``htlc``."""
    format, params = format_of(record), record.params
    for funding in (*record.active, *record.inactive):
        sides = (
            (funding.local.spec, params.ours.dust_limit),
            (funding.remote.spec, params.theirs.dust_limit),
            (funding.next_remote.spec if funding.next_remote is not None else None, params.theirs.dust_limit),
        )
        for spec, dust in sides:
            if spec is not None and htlc.key in spec.htlcs:
                if not format.is_trimmed(spec.feerate, dust, htlc.amount, offered=spec.is_offered(htlc.terms)):
                    return True
    return False
