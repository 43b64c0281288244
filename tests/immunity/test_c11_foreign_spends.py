"""C11 a foreign spend taken for our own, a preimage not hashed (lnd 0.20.4 #10869, lnd b9a3f844e)

What failed: whatever spent an HTLC output with a witness of the shape of success was taken for a claim, ours or with
the preimage; 32 bytes in the right place were passed on as the preimage without being hashed.

Defence: onchain/resolve.py:preimages_in hashes every item of 32 bytes of a witness and believes nothing else;
onchain/account.py:note_spends calls a spend ours if its txid is, or if it pays us. Only a preimage settles an HTLC.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from onchain_relay import Chain, World, events_of, open_chain

from salama.base.units import BlockHeight, Sat
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.channel.events import PreimageLearned, SettleHtlc
from salama.onchain.events import BlockSeen, SpendSeen
from salama.onchain.machine import close_of
from salama.onchain.outputs import Role
from salama.testing.pair import preimage_of


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with open_chain() as one:
        yield one


def test_a_mempool_preimage_counts_at_once_and_a_wrong_one_never(chain: Chain) -> None:
    """C14, C11."""
    world = World.open(chain)
    alice = world.alice
    alice.end.adds(50_000_000, expiry=chain.height + 40)
    world.pair.settle()
    world.pair.cut()
    world.force_close(alice)
    world.mine()
    outpoint = world.alice.end.record.funding.outpoint
    shows = Tx(2, (TxIn(outpoint, witness=(b"sig", bytes(32), b"script")),), (TxOut(Sat(1), b""),), 0)
    alice.run(SpendSeen(shows))
    assert not alice.learned()
    shows = shows.with_witness(0, (b"sig", bytes(preimage_of(0)), b"script"))
    alice.run(SpendSeen(shows))
    alice.run(SpendSeen(shows))
    assert [r.preimage for r in alice.rows if isinstance(r, PreimageLearned)] == [preimage_of(0)]


@pytest.mark.parametrize("by_bob", [True, False])
@pytest.mark.parametrize("shown", [bytes(32), bytes(31), bytes(33), bytes(preimage_of(1)), b""])
def test_the_shape_of_success_is_not_success(chain: Chain, shown: bytes, by_bob: bool) -> None:
    """A confirmed witness like that of a success, with anything but the preimage: the HTLC is lost, not paid."""
    world = World.open(chain)
    alice = world.alice
    alice.end.adds(50_000_000, expiry=chain.height + 40)
    world.pair.settle()
    world.pair.cut()
    world.force_close(world.bob if by_bob else alice)
    world.mine()
    assert alice.state is not None
    close, _ = close_of(alice.state, alice.htlcs_at)
    assert close is not None
    (output,) = (o for o in close.outputs if o.role is Role.HTLC)
    witness = (b"", b"signature", b"signature", shown, output.script)
    alien = Tx(2, (TxIn(output.outpoint, 1, witness=witness),), (TxOut(output.amount, b"\x00\x14" + bytes(20)),), 0)
    alice.run(BlockSeen(BlockHeight(alice.seen), (alien,)))
    assert not alice.learned() and not alice.failed(), "not deep enough to be called lost"
    for _ in range(5):
        alice.seen += 1
        alice.run(BlockSeen(BlockHeight(alice.seen)))
    assert alice.failed() == {0} and not alice.learned()
    (spent,) = (one for one in events_of(alice, "output_spent") if one["what"] == "HTLC")
    assert spent["by_us"] is False
    chain.core.pool.clear()


def test_an_earlier_claim_of_ours_is_ours(chain: Chain) -> None:
    """A miner takes the claim that a dearer one has replaced: the account says that it was we."""
    world = World.open(chain)
    alice, bob = world.alice, world.bob
    bob.end.adds(50_000_000, expiry=chain.height + 40)
    world.pair.settle()
    world.pair.cut()
    alice.does(SettleHtlc(0, preimage_of(0)))
    world.force_close(bob)
    bob.is_offline = True
    world.mine(1)
    assert alice.state is not None
    (first,) = (s for s in alice.state.record.sweeps if s.deadline is not None)
    alice.feerate = 3_000
    alice.run(BlockSeen(BlockHeight(alice.seen)))
    (second,) = (s for s in alice.state.record.sweeps if s.deadline is not None)
    assert second.tx.txid != first.tx.txid
    chain.core.pool.clear()
    chain.core.submit_tx(first.tx)
    world.mine(1)
    (spent,) = (one for one in events_of(alice, "output_spent") if one["what"] == "HTLC")
    assert spent["by_us"] is True and spent["txid"] == str(first.tx.txid)
