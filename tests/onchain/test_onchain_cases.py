"""What has gone wrong elsewhere, one by one (immunity C1 to C7, C10, C11, C14, C15; B5.03, B5.06, B5.07, B5.12)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from onchain_world import IRREVOCABLE, Chain, Side, World, children, events_of, kind_of, open_chain

from salama.base.units import BlockHeight, Sat
from salama.bitcoin.script import p2wsh
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.channel.events import HtlcFailed
from salama.channel.scripts import funding_script, to_remote_script
from salama.onchain.events import BlockSeen, OutputsLeft, SpendSeen
from salama.onchain.identify import CloseKind, identify
from salama.onchain.machine import PATIENCE, close_of, new_state
from salama.onchain.outputs import Role
from salama.onchain.resolve import Facts, Status, resolve
from salama.onchain.signing import ClaimKey, InputOfClaim
from salama.signer.claims import ForeignScript, sign_claim
from salama.testing.pair import preimage_of


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with open_chain() as one:
        yield one


# --- late, early, never -----------------------------------------------------------------------------------------------


def test_dust_in_every_commitment_is_failed_at_once(chain: Chain) -> None:
    world = World.open(chain)
    alice = world.alice
    alice.end.adds(300_000, 50_000_000, expiry=chain.height + 60)
    world.pair.settle()
    world.pair.cut()
    world.force_close(alice)
    world.mine(1)
    assert alice.failed() == {0}


def test_an_htlc_that_only_their_next_commitment_has_waits_for_depth(chain: Chain) -> None:
    world = World.open(chain)
    alice = world.alice
    alice.end.adds(50_000_000, expiry=chain.height + 60)
    while world.pair.deliver(alice.end):
        pass
    world.pair.cut()
    world.force_close(alice)
    world.mine(5)
    assert not alice.failed(), "their commitment with it could still confirm after a reorganisation"
    world.mine(1)
    assert alice.failed() == {0}


def test_the_upstream_channel_is_not_lost_for_an_htlc_that_is_stuck(chain: Chain) -> None:
    """Early fail-back: the upstream expiry comes first."""
    world = World.open(chain)
    alice = world.alice
    alice.end.adds(50_000_000, expiry=chain.height + 60)
    world.pair.settle()
    alice.upstream[b"alice 0"] = chain.height + 20
    world.pair.cut()
    world.force_close(alice)
    world.mine(16)
    assert not alice.failed()
    world.mine(1)
    assert alice.failed() == {0}
    world.mine(5)
    assert len([row for row in alice.rows if isinstance(row, HtlcFailed)]) == 1


# --- closes of other kinds --------------------------------------------------------------------------------------------


def test_lost_data_publishes_nothing_and_finds_its_balance(chain: Chain) -> None:
    """B5.12."""
    world = World.open(chain)
    alice, bob = world.alice, world.bob
    old = world.twin(alice)
    bob.end.adds(30_000_000, expiry=chain.height + 60)
    world.pair.settle()
    alice.end.settles_all()
    world.pair.settle()
    bob.end.adds(1_000_000, expiry=chain.height + 60)
    world.pair.settle()
    alice.is_offline = True
    old.end.state = replace(old.end.channel, record=replace(old.end.record, stale=True), link=None)
    old.seen = chain.height
    world.force_close(bob)
    for _ in range(14):
        chain.mine()
        world.follow()
        old.follows()
    assert kind_of(old) is CloseKind.FUTURE
    assert not old.end.broadcasts
    net, fees = world.gained(old)
    assert net + fees == 600_000 + 30_000 - 1124 - 2 * 330 - 172 * 1, "the opener paid for the commitment and its HTLC"
    assert events_of(old, "closed")[0]["alarm"] is True


def test_a_spend_that_nobody_should_have_made_is_alarming(chain: Chain) -> None:
    world = World.open(chain)
    alice = world.alice
    ours = p2wsh(to_remote_script(alice.end.record.params.ours.basepoints.payment))
    outpoint = alice.end.record.funding.outpoint
    rogue = Tx(2, (TxIn(outpoint, 0x80000000),), (TxOut(Sat(5000), ours), TxOut(Sat(9), b"\x51")), 0x20000000)
    other = Tx(2, (TxIn(outpoint),), (TxOut(Sat(9), b"\x51"),), 0)
    for tx, outputs in ((rogue, 1), (other, 0)):
        close = identify(alice.end.record, tx, alice.htlcs_at)
        assert close is not None and close.kind in (CloseKind.UNKNOWN, CloseKind.FUTURE)
        assert len(close.outputs) == outputs
    alice.state = new_state(alice.end.record)
    alice.run(BlockSeen(BlockHeight(chain.height), (other,)))
    assert events_of(alice, "closed")[0]["alarm"] is True


# --- fees -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("market", [5_000, 25_000, 125_000])
def test_a_commitment_that_pays_too_little_gets_a_child(chain: Chain, market: int) -> None:
    """B5.03, C20: up to 500 sat/vbyte."""
    world = World.open(chain, capacity=5_000_000, coins=12)
    alice = world.alice
    alice.feerate = market
    world.pair.cut()
    tx = world.force_close(alice)
    pool = chain.core.pool.entries
    (child,) = children(pool, tx)
    parent = pool[tx.txid]
    rate = (child.fee + parent.fee) * 1000 / (child.weight + parent.weight)
    assert rate >= market * 0.97
    world.mine(1)
    assert kind_of(alice) is CloseKind.LOCAL


@pytest.mark.parametrize("upstream", [None, 80, 12])
def test_a_child_in_a_hurry_pays_no_more_than_half_of_what_time_can_take(chain: Chain, upstream: int | None) -> None:
    """C12: our balance waits; only the HTLCs are in a hurry, and only as far as something upstream runs out."""
    world = World.open(chain)
    alice = world.alice
    expiry = chain.height + 20
    (number,) = alice.end.adds(20_000_000, expiry=expiry)
    if upstream is not None:
        alice.upstream[f"{alice.end.name} {number}".encode()] = expiry + upstream
    world.pair.settle()
    world.pair.cut()
    alice.feerate = 2_000
    world.strict = False
    world.mine(expiry + 2 - chain.height)
    tx = world.force_close(alice)
    (child,) = children(chain.core.pool.entries, tx)
    rate = (child.fee + chain.core.pool.entries[tx.txid].fee) * 1000 / (child.weight + tx.weight)
    assert child.fee <= 20_000 // 2
    is_in_a_hurry = rate > 2_000 * 1.1
    assert is_in_a_hurry == (upstream == 12), rate


def test_a_node_without_coins_says_so_and_goes_on(chain: Chain) -> None:
    world = World.open(chain, coins=0)
    alice = world.alice
    alice.end.adds(50_000_000, expiry=chain.height + 10)
    world.pair.settle()
    world.pair.cut()
    world.bob.is_offline = True
    world.force_close(alice)
    world.mine(14)
    assert events_of(alice, "no_coins"), "an HTLC transaction needs a fee from the wallet"
    world.give_coins(4)
    world.mine(10)
    assert alice.failed() == {0}
    world.run_until_over(alice)


# --- the signer -------------------------------------------------------------------------------------------------------


def test_the_signer_signs_no_script_that_does_not_name_its_key(chain: Chain) -> None:
    world = World.open(chain)
    alice = world.alice
    signer = alice.end.signer
    secrets = signer._secrets(1)
    keys = {name: getattr(secrets, name) for name in ("funding", "revocation", "payment", "delayed_payment", "htlc")}
    tx = Tx(2, (TxIn(alice.end.record.funding.outpoint),), (TxOut(Sat(1), b""),), 0)

    class Asking:
        """An OweClaim that asks for something it should not."""

        def __init__(self, one: InputOfClaim) -> None:
            self.tx, self.inputs = tx, (one,)

    funding = alice.end.record.funding
    two_of_two = funding_script(funding.our_funding_pubkey, funding.their_funding_pubkey)
    point = alice.end.record.our_points.points[-1]
    for key in ClaimKey:
        one = InputOfClaim(0, key, two_of_two, Sat(1_000_000), point, bytes(31) + b"\x05")
        with pytest.raises(ForeignScript):
            sign_claim(Asking(one), **keys)  # type: ignore[arg-type]


# --- what is not worth its fee ----------------------------------------------------------------------------------------


def stuck(chain: Chain, amount: int, *, by_bob: bool) -> World:
    """An HTLC of Alice's that nobody claims, in a commitment on the chain."""
    world = World.open(chain)
    alice = world.alice
    alice.end.adds(amount, expiry=chain.height + 8)
    world.pair.settle()
    world.pair.cut()
    world.force_close(world.bob if by_bob else alice)
    return world


@pytest.mark.parametrize("by_bob", [True, False])
def test_an_htlc_that_is_not_worth_claiming_comes_back_all_the_same(chain: Chain, by_bob: bool) -> None:
    world = stuck(chain, 375_000, by_bob=by_bob)
    alice, expiry = world.alice, chain.height + 8
    world.mine(1)
    assert [int(s.output.amount) for s in htlcs_of(alice)] == [375]
    world.mine(expiry + 4 - chain.height)
    assert not alice.failed(), "the peer may still claim it"
    world.mine(1)
    assert alice.failed() == {0}
    world.run_until_over(alice)
    assert events_of(alice, "uneconomic")
    # The anchor is no loss of this day: who opened the channel paid for it then.
    (htlc,) = htlcs_of(alice)
    assert [row for row in alice.rows if isinstance(row, OutputsLeft)] == [
        OutputsLeft(alice.end.record.channel_id, htlc.output.amount)
    ]


def test_what_is_dear_only_today_is_claimed_for_half_of_it(chain: Chain) -> None:
    """Not given up: a peer that thinks otherwise could take more than dust."""
    world = stuck(chain, 1_500_000, by_bob=True)
    alice = world.alice
    alice.feerate = 20_000
    world.mine(8)
    assert alice.state is not None and not alice.failed()
    (sweep,) = (s for s in alice.state.record.sweeps if s.deadline is not None)
    assert 253 <= int(sweep.feerate) < 20_000 and int(sweep.fee) <= 750
    world.run_until_over(alice)
    assert alice.failed() == {0}
    assert {bytes(s.spent_by.tx.txid) for s in htlcs_of(alice) if s.spent_by} <= set(alice.sent)


def test_a_claim_waits_for_a_cheaper_market_but_not_for_ever(chain: Chain) -> None:
    """Its second stage is ours, and worth a claim on a cheaper day."""
    world = stuck(chain, 1_200_000, by_bob=False)
    alice = world.alice
    world.mine(20)
    assert alice.failed() == {0}
    alice.feerate = 20_000
    world.mine(PATIENCE * IRREVOCABLE - 20)
    assert not alice.is_over
    world.run_until_over(alice)


def test_a_preimage_for_what_was_given_up_is_still_handed_over(chain: Chain) -> None:
    """Upstream may be open yet, and then the money is not lost after all."""
    world = stuck(chain, 375_000, by_bob=False)
    alice = world.alice
    world.mine(15)
    assert alice.failed() == {0} and not alice.is_over
    outpoint = htlcs_of(alice)[0].output.outpoint
    alice.run(SpendSeen(Tx(2, (TxIn(outpoint, witness=(bytes(preimage_of(0)),)),), (TxOut(Sat(1), b""),), 0)))
    assert alice.learned() == {0}


def htlcs_of(side: Side) -> list[Status]:
    assert side.state is not None
    close, closed_at = close_of(side.state, side.htlcs_at)
    facts = Facts(BlockHeight(side.seen), close, closed_at, side.state.record.confirmed)
    return [s for s in resolve(side.state.channel, facts).statuses if s.output.role is Role.HTLC]
