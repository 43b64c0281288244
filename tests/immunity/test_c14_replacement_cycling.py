"""C14 a timeout replaced by a preimage that vanishes again (CVE-2023-40231 to 40234, Riard)

What failed: the peer replaced our timeout in the mempool by a claim with the preimage, and that by something else, so
that neither confirmed and the preimage was never seen in a block, until the deadline upstream had passed.

Defence: onchain/machine.py:_carry_out offers everything again at every block, onchain/bump.py:scheduled_feerate raises
the fee to half of the value as the deadline nears, so that each round costs the thief more, and
onchain/machine.py:_with_preimages takes preimages from the mempool (node/mempool.py) as from a block.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from adversaries import Thief, account, offer_htlcs, pays_itself
from onchain_relay import Chain, World, open_chain

from salama.onchain.bump import BUDGET_PERCENT

DELTA = 80
"""Blocks between the deadline downstream and the one upstream."""


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with open_chain() as one:
        yield one


def cycle(world: World, thief: Thief, rounds: int, *, peeks: bool) -> None:
    """Each block, what Alice has in the mempool is replaced by a claim with the preimage, and that by nothing."""
    chain = world.chain
    coin = chain.coins.pop()
    (claim,) = thief.claims
    for _ in range(rounds):
        if claim.outpoint in chain.core.pool.spends:
            shown = thief.claim(claim, thief.outbids(claim.outpoint), coin)
            chain.core.submit_tx(shown)
            if peeks:
                world.alice.peeks()
            fee = thief.outbids(coin[0]) + 200
            hidden = pays_itself(coin, fee)
            chain.core.submit_tx(hidden)
            thief.paid += fee
            coin = (hidden.outpoint(0), hidden.outputs[0])
            assert claim.outpoint not in chain.core.pool.spends
        world.mine()
    chain.coins.append(coin)


@pytest.mark.parametrize("peeks", [True, False])
def test_replacement_cycling_over_eighty_blocks(chain: Chain, peeks: bool) -> None:
    """C14: who sees the mempool is paid upstream at once; who does not makes the thief pay more than it can win."""
    world = World.open(chain)
    amounts = {0: 300_000}
    expiry = chain.height + 20
    offer_htlcs(world, amounts, expiry, DELTA)
    thief = Thief(world, amounts)
    world.force_close(world.alice)
    world.mine(20)
    cycle(world, thief, 1, peeks=peeks)
    assert thief.paid > 0, "the preimage was shown"
    assert world.alice.learned() == ({0} if peeks else set()), "and that round was enough"
    cycle(world, thief, 79, peeks=peeks)
    if peeks:
        assert world.alice.learned() == {0} and not world.alice.failed()
    else:
        assert thief.paid > sum(amounts.values())
    world.mine(15)
    outcome = account(world, world.alice, amounts)
    eyes = "with" if peeks else "without"
    outcome.told(f"replacement cycling for 80 blocks, {eyes} a view of the mempool", f"the thief paid {thief.paid:,}")
    assert outcome.is_within(lost=0, fee_percent=BUDGET_PERCENT), outcome
    assert outcome.fees > 0, "the claim confirmed as soon as the thief let it"
