"""C18 HTLCs too small for an output become miners' money (CVE-2021-41591, CVE-2021-41592, CVE-2021-41593)

What failed: HTLCs below the trim limit were taken without bound, and a peer could raise that limit by its dust limit or
by the fee rate; when the channel was closed all of them went to the miner.

Defence: channel/limits.py:check_send_add and beyond_dust_exposure bound the sum in both commitments, the latter by
having what arrives beyond it failed before a preimage is given away (payments/machine.py, must_fail);
channel/opening_rules.py:their_dust_limit bounds the limit; with zero-fee HTLC transactions no fee rate moves it.

Also: an HTLC of exactly the dust limit has an output (Electrum 4.8.1 #10820).
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from salama.base.units import FeeratePerKw, Msat, Sat
from salama.channel.commitments import local_commitment_tx, remote_commitment_tx
from salama.channel.env import Feerates
from salama.channel.events import AddRefused
from salama.channel.limits import _trim_floors, exposure_of
from salama.channel.opening import accept_inbound
from salama.channel.opening_rules import objection_to_accept
from salama.channel.policy import DEFAULT_POLICY
from salama.channel.state import Opening, OpeningStage
from salama.testing.pair import FEATURES, End, Pair, default_env
from salama.wire.opening import OpenChannel

LIMIT = 1_000_000
TIGHT = replace(default_env(), policy=replace(DEFAULT_POLICY, max_dust_exposure=Msat(LIMIT)))


def burnt(end: End) -> int:
    """What miners would get from the worst commitment that may be published, in msat."""
    record = end.record
    specs = [record.funding.local.spec, record.funding.remote.spec, record.funding.latest_remote.spec]
    return max(exposure_of(record, spec).dust for spec in specs)


def test_what_we_offer_never_exceeds_the_limit() -> None:
    pair = Pair.opened(env=TIGHT)
    for _ in range(3):
        pair.alice.adds(*[353_000] * 5)
        pair.settle()
    assert 353_000 * 2 <= burnt(pair.alice) <= LIMIT
    refused = [e for e in pair.alice.effects if isinstance(e, AddRefused)]
    assert len(refused) == 13 and {r.code for r in refused} == {"too_much_dust"}


def test_what_a_peer_offers_beyond_it_must_fail() -> None:
    """The peer's own limit is looser: we cannot keep it from offering, but we reveal nothing for the excess."""
    pair = Pair.opened()
    pair.bob.env = replace(pair.bob.env, policy=TIGHT.policy)
    pair.alice.adds(*[353_000] * 2)
    pair.settle()
    assert [htlc.must_fail for htlc in pair.bob.pending.values()] == [False, False]
    pair.alice.adds(*[353_000] * 10)
    pair.settle()
    assert [htlc.must_fail for htlc in pair.bob.pending.values()] == [False] * 2 + [True] * 10


@pytest.mark.parametrize("rate", [253, 1000, 2500])
@pytest.mark.parametrize("high", ["alice", "bob"])
def test_a_high_dust_limit_on_either_side_burns_no_more(high: str, rate: int) -> None:
    """As high as any peer may choose: what has an output in one commitment has none in the other."""
    pair = Pair.of(env=replace(TIGHT, feerates=Feerates(FeeratePerKw(rate), FeeratePerKw(rate))))
    end: End = getattr(pair, high)
    dust = DEFAULT_POLICY.max_their_dust_limit
    end.env = replace(end.env, policy=replace(end.env.policy, dust_limit=dust, reserve_divisor=50))
    pair.opens(1_000_000, 400_000_000)
    pair.settle()
    pair.confirms()
    pair.settle()
    assert getattr(pair.alice.record.params, "ours" if high == "alice" else "theirs").dust_limit == dust
    for one in (pair.alice, pair.bob, pair.alice):
        one.adds(*[400_000, 9_999_000, 300_000, 200_000])
        pair.settle()
    for one in (pair.alice, pair.bob):
        kept = [h.amount for h in one.record.htlcs.values()]
        assert 0 < burnt(one) <= LIMIT and Msat(9_999_000) not in kept


def test_large_htlcs_are_not_counted() -> None:
    pair = Pair.opened(env=TIGHT)
    pair.alice.adds(*[30_000_000] * 5)
    pair.settle()
    assert burnt(pair.alice) == 0 and not pair.alice.refused


@pytest.mark.parametrize(("amount", "outputs"), [(353_999, 0), (354_000, 1), (354_001, 1)])
def test_the_edge(amount: int, outputs: int) -> None:
    """In both commitments: an HTLC equal to the dust limit has an output."""
    pair = Pair.opened()
    pair.alice.adds(amount)
    pair.settle()
    for end in (pair.alice, pair.bob):
        record, funding = end.record, end.record.funding
        assert len(local_commitment_tx(record, funding, funding.local).htlc_outputs) == outputs
        assert len(remote_commitment_tx(record, funding, funding.remote).htlc_outputs) == outputs
        assert burnt(end) == (0 if outputs else amount)


@pytest.mark.parametrize("owner_is_us", [True, False])
def test_no_fee_rate_moves_the_edge(owner_is_us: bool) -> None:
    record = Pair.opened().alice.record
    assert len({_trim_floors(record, owner_is_us, rate) for rate in (0, 253, 50_000, FeeratePerKw.MAX)}) == 1


@pytest.mark.parametrize("beyond", [0, 1])
@pytest.mark.parametrize("whose", ["opener", "accepter"])
def test_a_peer_cannot_choose_a_dust_limit_that_makes_everything_dust(whose: str, beyond: int) -> None:
    assert DEFAULT_POLICY.max_their_dust_limit <= Sat(10_000)
    dust = Sat(int(DEFAULT_POLICY.max_their_dust_limit) + beyond)
    pair = Pair.of()
    # Large enough for a reserve above it.
    pair.opens(10_000_000, 0)
    (offer,) = pair.alice.sent()
    assert isinstance(offer, OpenChannel)
    if whose == "opener":
        offer = replace(offer, dust_limit_satoshis=dust)
    done = accept_inbound(pair.inbound(offer), pair.bob.env)
    assert isinstance(done.state, Opening)
    if whose == "opener":
        assert (done.state.stage is OpeningStage.ABANDONED) == bool(beyond), done.state.reason
    else:
        assert done.state.accept is not None
        answer = replace(done.state.accept, dust_limit_satoshis=dust)
        assert bool(objection_to_accept(answer, offer, FEATURES, FEATURES, DEFAULT_POLICY)) == bool(beyond)
