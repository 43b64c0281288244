"""Whatever both sides do and wherever the connection breaks, money is conserved and both agree in the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from salama.base.units import FeeratePerKw
from salama.channel.env import Feerates
from salama.channel.events import FailHtlc, FeeratesChanged, SettleHtlc
from salama.channel.limits import count_exposures
from salama.channel.state import LinkState, Phase
from salama.testing.pair import End, Pair, preimage_of

ACTIONS = st.one_of(
    st.tuples(st.just("add"), st.booleans(), st.integers(1, 120_000_000)),
    st.tuples(st.just("add"), st.booleans(), st.integers(1, 1_000_000)),
    st.tuples(st.just("cross"), st.booleans(), st.integers(1, 1_000_000)),
    st.tuples(st.just("deliver"), st.booleans(), st.integers(1, 5)),
    st.tuples(st.just("deliver"), st.booleans(), st.integers(1, 5)),
    st.tuples(st.just("deliver"), st.booleans(), st.integers(1, 5)),
    st.tuples(st.just("settle"), st.booleans(), st.integers(0, 50)),
    st.tuples(st.just("fail"), st.booleans(), st.integers(0, 50)),
    st.tuples(st.just("reconnect"), st.booleans(), st.just(0)),
    st.tuples(st.just("restart"), st.booleans(), st.just(0)),
    st.tuples(st.just("fee"), st.just(True), st.integers(253, 3000)),
)


def decide(end: End, choice: int, *, paid: bool) -> None:
    if not end.pending:
        return
    ids = sorted(end.pending)
    htlc = end.pending.pop(ids[choice % len(ids)])
    number = next(n for n in range(500) if preimage_hash(n) == bytes(htlc.payment_hash))
    end.does(SettleHtlc(htlc.ref.id, preimage_of(number)) if paid else FailHtlc(htlc.ref.id, b"no"))


def preimage_hash(number: int) -> bytes:
    from hashlib import sha256

    return sha256(preimage_of(number)).digest()


def check_exposures(end: End) -> None:
    """The running totals equal a count from nothing."""
    link = end.channel.link
    if link is not None and link.exposures is not None:
        assert link.exposures == count_exposures(end.record, link)


def reconnect(pair: Pair) -> None:
    pair.cut()
    pair.connect()


HISTORIES = st.lists(ACTIONS, min_size=5, max_size=60)
CROSSED_SHARE = 0.2
"""Of all scenarios, at least so many in which both sides waited for a revocation when the connection broke."""
SOAK, SHARES = 10_000, 20


def scenario(actions: list[tuple[str, bool, int]], is_opener_poor: bool) -> Counter[str]:
    """Play one history to its end, and count what it came through."""
    pair = Pair.opened(push=900_000_000 if is_opener_poor else 400_000_000)
    seen: set[str] = set()
    for kind, is_alice, number in actions:
        end = pair.alice if is_alice else pair.bob
        unacked = sum(one.record.is_awaiting_revocation for one in (pair.alice, pair.bob))
        if kind == "add":
            end.adds(number)
        elif kind == "cross":
            for one in (end, pair.other(end)):
                one.adds(number)
        elif kind == "deliver":
            pair.deliver(end, number)
        elif kind in ("settle", "fail"):
            decide(end, number, paid=kind == "settle")
        elif kind == "reconnect":
            reconnect(pair)
        elif kind == "restart":
            pair.cut()
            pair.restarts(end)
            pair.connect()
        else:
            end.env = replace(end.env, feerates=Feerates(FeeratePerKw(number), FeeratePerKw(number)))
            end.does(FeeratesChanged())
        if kind in ("reconnect", "restart"):
            seen |= {"disconnect", f"{unacked} unacked commitments and a disconnect"}
        seen.add(f"{unacked} unacked commitments")
        pair.check()
        check_exposures(pair.alice)
        check_exposures(pair.bob)
    finish(pair)
    return Counter({"scenarios": 1, **dict.fromkeys(seen, 1)})


def scenarios(count: int, number: int) -> Counter[str]:
    """``count`` scenarios of the stream ``number``; what they came through."""
    total: Counter[str] = Counter()

    @seed(number)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(HISTORIES, st.booleans())
    def any_history_ends_in_agreement(actions: list[tuple[str, bool, int]], is_opener_poor: bool) -> None:
        total.update(scenario(actions, is_opener_poor))

    any_history_ends_in_agreement()
    return total


def check_crossed(total: Counter[str], count: int) -> None:
    assert total["scenarios"] >= count
    assert total["2 unacked commitments and a disconnect"] >= CROSSED_SHARE * total["scenarios"], total


def test_any_history_ends_in_agreement() -> None:
    check_crossed(scenarios(300, 0), 300)


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_ten_thousand_histories_end_in_agreement(share: int, capsys: pytest.CaptureFixture[str]) -> None:
    total = scenarios(SOAK // SHARES, 1 + share)
    with capsys.disabled():
        print(f"\nshare {share}: {dict(sorted(total.items()))}")
    check_crossed(total, SOAK // SHARES)


def finish(pair: Pair) -> None:
    """Everything is delivered, then everything resolved: the channel is empty and every HTLC had one outcome."""
    pair.settle(3)
    for end in (pair.alice, pair.bob):
        end.settles_all()
    pair.settle()
    pair.check()
    for end, other in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        assert end.record.phase is Phase.NORMAL
        assert end.link.state is LinkState.READY
        assert end.record.htlcs == {}
        assert not end.record.is_awaiting_revocation and not end.record.owes_signature
        assert end.record.next_outgoing_id == other.record.next_incoming_id
        learned = {row.key.htlc_id for row in end.learned}
        failed = [row.key.htlc_id for row in end.failed]
        assert len(failed) == len(set(failed)), "an HTLC failed twice"
        assert learned.isdisjoint(failed)
        assert learned | set(failed) == set(range(end.record.next_outgoing_id))
    paid = balance_paid(pair.alice) - balance_paid(pair.bob)
    capacity = int(pair.alice.record.funding.capacity.msat)
    assert pair.alice.balance + pair.bob.balance == capacity
    assert pair.alice.balance == starting_balance(pair) - paid


def starting_balance(pair: Pair) -> int:
    opened = next(effect for effect in pair.alice.effects)
    message = opened.message  # type: ignore[attr-defined]
    return int(message.funding_satoshis.msat) - int(message.push_msat)


def balance_paid(end: End) -> int:
    """What the other side was paid of ``end``'s HTLCs, as its messages said when they were first sent."""
    from salama.channel.events import Send
    from salama.wire.updates import UpdateAddHtlc

    amounts = {
        effect.message.id: int(effect.message.amount_msat)
        for effect in end.effects
        if isinstance(effect, Send) and isinstance(effect.message, UpdateAddHtlc)
    }
    return sum(amounts[key] for key in {row.key.htlc_id for row in end.learned})
