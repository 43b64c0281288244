"""C13 one bad input poisons a batch, anchors wait in company, fees wait for a far deadline (lnd before 0.18)

What failed: anchors were bumped together, or not at all while the first deadline was far; a batch with one input that
somebody else had spent was refused as a whole, again and again.

Defence: onchain/machine.py:_with_refusal notes every input of a batch that is refused for another reason than its fee,
and each travels alone from then on; onchain/bump.py:_groups gives every anchor a child of its own, and
onchain/bump.py:scheduled_feerate raises fees from the deadline backwards.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from adversaries import PAYS_TO, mine_only
from onchain_relay import Chain, Side, World, children, open_chain
from onchain_world import ACCOUNTS, secret_of

from salama.base.units import BlockHeight, Sat
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.channel.events import SettleHtlc
from salama.onchain.events import BlockSeen
from salama.onchain.machine import watched
from salama.testing.pair import preimage_of
from salama.wallet.coins import Coin
from salama.wallet.keys import KeyPath
from salama.wallet.signing import sign_inputs


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with open_chain() as one:
        yield one


def batch(chain: Chain, count: int) -> tuple[World, Side]:
    """Alice may claim ``count`` HTLCs of Bob's commitment with their preimages, in the next block."""
    world = World.open(chain, capacity=2_000_000, push=1_000_000_000)
    alice, bob = world.alice, world.bob
    bob.end.adds(*(30_000_000 + 1000 * n for n in range(count)), expiry=chain.height + 60)
    world.pair.settle()
    world.pair.cut()
    alice.does(*(SettleHtlc(n, preimage_of(n)) for n in range(count)))
    world.force_close(bob)
    bob.is_offline = True
    return world, alice


def sizes(side: Side) -> list[int]:
    """How many HTLCs each transaction in flight claims."""
    assert side.state is not None
    return sorted(len(s.claims) for s in side.state.record.sweeps if s.deadline is not None)


def refuse_batches(side: Side, reason: str) -> list[Tx]:
    """A back-end that takes none with several inputs; what it refused."""
    offer, refused = side.offer, list[Tx]()

    def picky(tx: Tx, parent: object = None) -> str:
        if len(tx.inputs) > 1:
            refused.append(tx)
            return reason
        return offer(tx, parent)

    side.offer = picky  # type: ignore[method-assign]
    return refused


@pytest.mark.parametrize("reason", ["bad-txns-inputs-missingorspent", "txn-mempool-conflict", "a word of tomorrow"])
def test_a_refused_batch_stays_split(chain: Chain, reason: str) -> None:
    """At once, in the same block; over blocks, and over restarts."""
    world, alice = batch(chain, 5)
    refused = refuse_batches(alice, reason)
    world.mine(1)
    assert len(refused) == 1 and sizes(alice) == [1] * 5
    assert len([e for e in chain.core.pool.entries.values() if bytes(e.tx.txid) in alice.sent]) >= 5
    chain.core.pool.clear()
    for _ in range(3):
        alice.restarts()
        alice.run(BlockSeen(BlockHeight(alice.seen)))
        assert sizes(alice) == [1] * 5
    assert len(refused) == 1, "no batch was ever offered again"
    world.run_until_over(alice)


def test_a_refused_fee_is_raised_and_splits_nothing(chain: Chain) -> None:
    """ "insufficient fee" says nothing against any input."""
    world, alice = batch(chain, 5)
    refused = refuse_batches(alice, "insufficient fee, rejecting replacement")
    world.mine(1)
    for _ in range(3):
        alice.run(BlockSeen(BlockHeight(alice.seen)))
    assert sizes(alice) == [5]
    del alice.offer
    rates = [int(s.feerate) for s in alice.state.record.sweeps if s.deadline is not None] if alice.state else []
    assert rates[0] >= 1.9 * 1000, "a quarter more each time"
    assert len({tx.txid for tx in refused}) >= 3
    world.run_until_over(alice)


@pytest.mark.parametrize("bad", range(5))
def test_one_bad_input_is_ejected_at_once(chain: Chain, bad: int) -> None:
    """Spent by another in this block: the four others are in flight again before the next."""
    world, alice = batch(chain, 5)
    world.mine(1)
    assert sizes(alice) == [5] and alice.state is not None
    (together,) = (s for s in alice.state.record.sweeps if s.deadline is not None)
    taken = together.claims[bad]
    spender = Tx(2, (together.tx.inputs[bad],), together.tx.outputs, 0)
    assert taken in watched(alice.state)
    world.strict = False
    alice.run(BlockSeen(BlockHeight(alice.seen), (spender,)))
    assert sizes(alice) == [4]
    (rest,) = (s for s in alice.state.record.sweeps if s.deadline is not None)
    assert set(rest.claims) == set(together.claims) - {taken} and rest.feerate >= together.feerate
    chain.core.pool.clear()


def test_an_anchor_has_a_child_of_its_own_however_far_the_deadline(chain: Chain) -> None:
    """Two channels, one wallet: each commitment gets its child at once, and each child has one anchor."""
    worlds = [World.open(chain) for _ in range(2)]
    for world in worlds:
        world.follow()
        world.alice.end.adds(50_000_000, expiry=chain.height + 2000)
        world.pair.settle()
        world.pair.cut()
        world.alice.feerate = 5_000
        world.bob.is_offline = True
    commitments = [world.force_close(world.alice) for world in worlds]
    for commitment in commitments:
        (child,) = children(chain.core.pool.entries, commitment)
        parents = {one.outpoint.txid for one in child.tx.inputs} & {one.txid for one in commitments}
        assert parents == {commitment.txid}
    chain.mine()
    for world in worlds:
        world.follow()
        assert world.alice.state is not None and world.alice.state.record.confirmed


def test_a_coin_that_somebody_else_has_spent_is_replaced(chain: Chain) -> None:
    """The fee's input is the bad one (a seed in use elsewhere, a reorganisation): another one pays instead."""
    world = World.open(chain, coins=0)
    alice = world.alice
    for number in range(2):
        key = KeyPath("wpkh", 0, 910 + number)
        tx = chain.spend([TxOut(Sat(20_000 + 1_000 * number), ACCOUNTS.script(key))])
        coin = Coin(tx.outpoint(0), tx.outputs[0].value, tx.outputs[0].script, key, BlockHeight(chain.height))
        alice.coins.append(coin)
    chain.mine()
    world.follow()
    alice.end.adds(50_000_000, expiry=chain.height + 4)
    world.pair.settle()
    world.pair.cut()
    world.bob.is_offline = True
    world.force_close(alice)
    world.mine(4)
    assert alice.state is not None
    (claim,) = (s for s in alice.state.record.sweeps if s.deadline is not None)
    (coin,) = claim.coins
    chain.core.pool.clear()
    elsewhere = Tx(2, (TxIn(coin.outpoint),), (TxOut(Sat(int(coin.value) - 1_000), PAYS_TO),), 0)
    mine_only(chain, sign_inputs(elsewhere, [TxOut(coin.value, coin.script)], {0: coin.key}, secret_of))
    world.strict = False
    world.follow()
    world.mine(2)
    assert claim.claims[0] in chain.core.chain.spenders, "claimed, and with the other coin"
    world.mine(5)
    assert alice.failed() == {0}
