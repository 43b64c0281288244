"""C20 the reserve for anchors underestimated (LDK 0.2.3 #4592, #4670)

What failed: channels were accepted while the wallet could not have paid for closing all of them in a dear market, so
that commitments and HTLC transactions, which pay no fee of their own, would have stayed unconfirmed.

Defence: wallet/reserve.py:required reckons with the worst case of every channel at a configured rate;
node/openings.py:Openings._lacks_reserve asks it before a channel is opened or accepted, node/spending.py:Spending
before coins are withdrawn, and the balance shows it apart. onchain/bump.py:plan pays with what it finds.

Not covered: a market dearer than the configured rate, and the channels of a small node, which are exempt up to a sum;
funding transactions of many strangers that confirm at the same time; a reserve in fewer coins than there are claims,
each of which takes one of its own, whose change serves the next only when it is confirmed.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from immunity_world import Registry, Stranger, outpoint

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "onchain"))

from onchain_world import ACCOUNTS, World, open_chain

from salama.base.machine import CommandRefused
from salama.base.units import BlockHeight, FeeratePerKw, Msat, Sat
from salama.bitcoin.tx import TxOut
from salama.channel.events import SettleHtlc
from salama.channel.policy import DEFAULT_POLICY, Policy
from salama.channel.state import Channel, Confirmation
from salama.node.outside import Outside
from salama.node.reserve import exposure_of, terms_of
from salama.node.spending import Spending
from salama.onchain.identify import CloseKind
from salama.onchain.machine import close_of
from salama.testing.pair import START, preimage_of
from salama.wallet.coins import Coin
from salama.wallet.keys import KeyPath
from salama.wallet.reserve import required

DEAR = 125_000
"""500 sat/vbyte."""


def test_channels_are_accepted_until_the_wallet_could_not_close_them_all(tmp_path: Path) -> None:
    async def story(node: Registry) -> None:
        channels = node.channels
        channels.policy = Policy(unreserved_capacity=Sat(2_000_000))
        accepted = 0
        for number in range(6):
            at = outpoint(number)
            peer = await node.opened(Stranger(number), at)
            record = node.record_of(at)
            if record is None:
                assert peer.errors == ["we have too few coins for the fees of another channel"]
                break
            accepted += 1
            actor = channels.by_id[record.channel_id]
            funding = replace(record.funding, confirmation=Confirmation(START, number))
            assert isinstance(actor.state, Channel)
            actor.state = replace(actor.state, record=replace(record, active=(funding,)))
        assert accepted == 2, "what needs no reserve, and nothing more: the wallet has no coins"
        assert channels.fee_reserve() == 0
        stranger = Stranger("known")
        node.meets(stranger)
        with pytest.raises(CommandRefused, match="sat/vbyte") as refused:
            await channels.open(stranger.node_id, Sat(100_000), Msat(0), announce=False, feerate=None)
        assert refused.value.code == "reserve_missing" and "Deposit" in refused.value.remedy
        channels.policy = replace(channels.policy, unreserved_capacity=Sat(1_000_000))
        assert channels.fee_reserve() > 0

    Registry.run(tmp_path, story)


@pytest.mark.parametrize("amount", [None, Sat(1)])
def test_what_channels_need_is_not_withdrawn(tmp_path: Path, amount: Sat | None) -> None:
    async def story(node: Registry) -> None:
        spending = Spending(
            node.wallet,
            None,  # type: ignore[arg-type]
            node.channels.broadcaster,
            lambda: FeeratePerKw(1000),
            lambda: START,
            Outside(),
            lambda: Sat(1_000),
        )
        with pytest.raises(CommandRefused) as refused:
            await spending.withdraw(ACCOUNTS.script(KeyPath("wpkh", 0, 1)), amount, None)
        assert refused.value.code == "reserve_missing" and "1,000 sat" in refused.value.reason

    Registry.run(tmp_path, story)


def test_with_the_reserve_every_channel_is_closed_at_500_satoshis_a_vbyte() -> None:
    policy = replace(DEFAULT_POLICY, reserve_feerate=FeeratePerKw(DEAR), unreserved_capacity=Sat(0))
    with open_chain() as chain:
        worlds = [World.open(chain, capacity=4_000_000, push=1_000_000_000, coins=0) for _ in range(4)]
        for world in worlds:
            world.bob.end.adds(*[300_000_000] * 3, expiry=chain.height + 80)
            world.pair.settle()
            world.pair.cut()
            world.alice.does(*(SettleHtlc(n, preimage_of(n)) for n in range(3)))
        needed = required([exposure_of(world.alice.end.record, policy) for world in worlds], terms_of(policy))
        # All of the reserve in as many coins as there are commitments and claims, shared by all.
        keys = [KeyPath("wpkh", 0, 500 + n) for n in range(4 * len(worlds))]
        tx = chain.spend([TxOut(Sat(int(needed) // len(keys)), ACCOUNTS.script(key)) for key in keys])
        chain.mine()
        coins = [
            Coin(tx.outpoint(n), out.value, out.script, keys[n], BlockHeight(chain.height))
            for n, out in enumerate(tx.outputs[: len(keys)])
        ]
        leases: dict[str, tuple[Coin, ...]] = {}
        for world in worlds:
            world.follow()
            world.alice.coins, world.alice.leases, world.alice.feerate = coins, leases, DEAR
            world.bob.is_offline = True
        commitments = [world.force_close(world.alice) for world in worlds]
        pool = chain.core.pool.entries
        for commitment in commitments:
            (child,) = (e for e in pool.values() if any(i.outpoint.txid == commitment.txid for i in e.tx.inputs))
            parent = pool[commitment.txid]
            assert (child.fee + parent.fee) * 1000 / (child.weight + parent.weight) >= DEAR * 0.97
        chain.mine()
        for world in worlds:
            world.follow()
            assert world.alice.state is not None
            close, _ = close_of(world.alice.state, world.alice.htlcs_at)
            assert close is not None and close.kind is CloseKind.LOCAL
            htlcs = {output.outpoint for output in close.outputs if output.htlc is not None}
            claimed = {
                one for s in world.alice.state.record.sweeps if int(s.feerate) >= DEAR * 0.97 for one in s.claims
            }
            assert len(htlcs) == 3 and htlcs <= claimed, "and what is in them is claimed at that rate"
