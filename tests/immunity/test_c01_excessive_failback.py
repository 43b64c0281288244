"""C1 an HTLC whose preimage is known is failed upstream all the same (lnd 0.17.5, excessive failback)

What failed: the payee fulfilled an HTLC and then closed with a commitment that lacks it; after a restart the relaying
node took "not in the confirmed commitment" for "nobody was paid", and gave the payer its money back.

Defence: onchain/resolve.py:_outcomes asks for a preimage first, in the channel's record and in every transaction
that is confirmed, and only then whether the HTLC is lost; onchain/machine.py:_hand_over writes no failure after a
preimage, and the channel upstream keeps its first decision (channel/normal.py).

C2 the same when our own commitment confirms (lnd 0.18.5, excessive failback again)

What failed: the fix looked at the peer's commitments alone; an error message made the node publish its own.

Defence: onchain/resolve.py:_outcomes does not ask whose commitment it was.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from onchain_relay import Chain, Relay, World, kind_of, open_chain

from salama.channel.events import SettleHtlc
from salama.onchain.identify import CloseKind
from salama.onchain.resolve import FAIL_BACK_DEPTH
from salama.testing.pair import preimage_of

AMOUNT = 50_000_000


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with open_chain() as one:
        yield one


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("comes_back", [True, False])
def test_c1_payer_and_payee_are_one(chain: Chain, comes_back: bool, restarts: bool) -> None:
    """The script of the disclosure: the payer does not answer, the payee closes without the HTLC, the node restarts."""
    relay = Relay.between(chain)
    (up,), down = relay.ups, relay.down
    before = up.alice.end.balance
    relay.passes_on(0, 3, AMOUNT, chain.height + 40)
    down.bob.end.settles_all()
    down.pair.deliver(down.bob.end)  # update_fulfill_htlc: the relay knows the preimage
    relay.silent.add(0)
    relay.carry()  # which the payer ignores
    for _ in range(4):
        down.pair.deliver(down.bob.end)
        down.pair.deliver(down.alice.end)
    assert not down.bob.end.record.htlcs, "gone from both commitments"
    down.pair.cut()
    down.force_close(down.bob)
    up.pair.cut()
    up.alice.restarts()
    relay.mine(12, restarts=restarts)
    assert {kind for _, _, kind in relay.told} == {"PreimageLearned"}
    if comes_back:
        relay.silent.clear()
        relay.restarts()
        relay.mine(2)
        assert up.alice.end.balance == before + AMOUNT
        return
    # The payer never comes back: the relay closes while there is time, and claims on the chain.
    up.bob.is_offline = True
    relay.mine(80, restarts=restarts)
    assert kind_of(up.alice) is CloseKind.LOCAL
    net, fees = up.gained(up.alice)
    assert net + fees >= (before + AMOUNT) // 1000 - 2_000, "but for the fee of the commitment, which its opener pays"


@pytest.mark.parametrize("restarts", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("publisher", ["we", "the peer", "the peer, its commitment before"])
@pytest.mark.parametrize("delivered", range(6))
def test_c2_whoever_publishes_whichever_commitment(
    chain: Chain, delivered: int, publisher: str, restarts: bool
) -> None:
    """However far the removal of the HTLC had come, a preimage is never followed by a failure."""
    relay = Relay.between(chain)
    down = relay.down
    relay.passes_on(0, 3, AMOUNT, chain.height + 40)
    before = down.twin(down.bob)
    down.bob.end.settles_all()
    for _ in range(delivered):
        down.pair.deliver(down.bob.end if down.bob.end.outbox else down.alice.end)
    relay.carry()
    down.pair.cut()
    if publisher == "we":
        down.force_close(down.alice)
    elif publisher == "the peer":
        down.force_close(down.bob)
    else:
        down.bob.is_offline = True
        if down.alice.end.record.funding.remote.number == before.end.record.funding.local.number:
            before.does(SettleHtlc(0, preimage_of(3)))
        down.force_close(before)
    for _ in range(16):
        relay.mine(restarts=restarts)
        if publisher == "the peer, its commitment before":
            before.follows()
    assert {kind for _, _, kind in relay.told} == {"PreimageLearned"}


@pytest.mark.parametrize("by_us", [True, False])
def test_c2_who_knows_nothing_fails_only_in_depth(chain: Chain, by_us: bool) -> None:
    """The other way round: without a preimage anywhere the payer gets its money back, exactly once."""
    world = World.open(chain)
    alice = world.alice
    expiry = chain.height + 10
    alice.end.adds(AMOUNT, expiry=expiry)
    world.pair.settle()
    world.pair.cut()
    world.force_close(alice if by_us else world.bob)
    while not alice.failed():
        assert chain.height < expiry + 20
        world.mine()
        alice.restarts()
    assert alice.state is not None
    (lost,) = [
        done
        for done in alice.state.record.confirmed
        for one in done.tx.inputs
        for close in alice.state.record.confirmed
        if one.outpoint.txid == close.tx.txid and int(close.tx.outputs[one.outpoint.vout].value) == AMOUNT // 1000
    ]
    assert chain.height - int(lost.height) + 1 == FAIL_BACK_DEPTH, "a reorganisation could still have brought it back"
    world.mine(3)
    assert alice.failed() == {0} and not alice.learned()
