"""C20 the reserve for anchors underestimated (LDK 0.2.3 #4592, #4670)

What failed: channels were accepted while the wallet could not have paid for closing all of them in a dear market, so
that commitments and HTLC transactions, which pay no fee of their own, would have stayed unconfirmed.

Defence: wallet/reserve.py:required reckons with the worst case of every channel at a configured rate;
node/openings.py:Openings._lacks_reserve asks it before a channel is opened or accepted, node/spending.py:Spending
before coins are withdrawn, and the balance shows it apart. What an opening or a withdrawal under way will take is
promised (node/wallet.py:WalletActor.promise) and counts for nobody else. onchain/bump.py:plan pays with what it finds.

Not covered: a market dearer than the configured rate, and the channels of a small node, which are exempt up to a sum;
funding transactions of many strangers that confirm at the same time; a reserve in fewer coins than there are claims,
each of which takes one of its own, whose change serves the next only when it is confirmed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from immunity_world import FakePeer, Registry, Stranger, outpoint

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "onchain"))

from onchain_world import ACCOUNTS, World, open_chain

from salama.base.ids import BlockHash
from salama.base.machine import CommandRefused
from salama.base.units import BlockHeight, FeeratePerKw, Msat, Sat
from salama.bitcoin.block import Block, BlockHeader
from salama.bitcoin.chain_events import BlockConnected
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.channel.events import SettleHtlc
from salama.channel.policy import DEFAULT_POLICY, Policy
from salama.channel.state import Channel, Confirmation
from salama.node.channel_actor import purpose_of
from salama.node.joint_funding import JointFunding, Wanted
from salama.node.outside import Outside
from salama.node.reserve import exposure_of, exposure_of_new, terms_of
from salama.node.spending import Spending
from salama.onchain.identify import CloseKind
from salama.onchain.machine import close_of
from salama.testing.pair import START, preimage_of
from salama.wallet.coins import Coin
from salama.wallet.keys import KeyPath
from salama.wallet.reserve import required
from salama.wire import OpenChannel

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


SIZE = Sat(300_000)


def needed_for(channels: int, policy: Policy) -> int:
    return int(required([exposure_of_new(SIZE, policy)] * channels, terms_of(policy)))


def heard(peers: list[FakePeer]) -> list[FakePeer]:
    """Those whom we asked for a channel."""
    return [peer for peer in peers if peer.last(OpenChannel) is not None]


async def until(is_true: Callable[[], bool]) -> None:
    while not is_true():
        await asyncio.sleep(0.005)


async def with_coins(node: Registry, *amounts: int) -> None:
    """Each a confirmed coin of the wallet."""
    for number, amount in enumerate(amounts):
        script = await node.wallet.new_script()
        deposit = Tx(2, (TxIn(outpoint(900 + number)),), (TxOut(Sat(amount), script),), 0)
        header = BlockHeader(2, BlockHash(bytes(32)), bytes(32), number, 0x207FFFFF, number)
        node.wallet.tell(BlockConnected(BlockHeight(int(START) - 50 + number), header.hash, Block(header, (deposit,))))
    await node.wallet.settled()


def test_openings_under_way_do_not_count_on_the_same_coins(tmp_path: Path) -> None:
    """None of them has a coin of its own before its peer answers."""

    async def story(node: Registry) -> None:
        channels = node.channels
        channels.policy = policy = replace(DEFAULT_POLICY, unreserved_capacity=Sat(0))
        total = 2 * int(SIZE) + needed_for(2, policy) + 50_000
        await with_coins(node, total - 400_000, 400_000)
        strangers = [Stranger(number) for number in range(3)]
        peers = [node.meets(one) for one in strangers]
        begun = [
            asyncio.create_task(channels.open(one.node_id, SIZE, Msat(0), announce=False, feerate=None))
            for one in strangers
        ]
        await until(lambda: sum(one.done() for one in begun) + len(heard(peers)) == 3)
        asked = [one for one in begun if not one.done()]
        assert len(asked) == 2, "the third is one too many"
        (refused,) = set(begun).difference(asked)
        with pytest.raises(CommandRefused, match="sat/vbyte") as told:
            refused.result()
        assert told.value.code == "reserve_missing"

        # Nor does a withdrawal meanwhile; what the openings leave, it may take.
        spending = spending_of(node, channels.fee_reserve)
        for amount in (None, Sat(50_001)):
            with pytest.raises(CommandRefused) as told:
                await spending.withdraw(ACCOUNTS.script(KeyPath("wpkh", 0, 1)), amount, None)
            assert told.value.code == "reserve_missing" and "50,000 sat at most" in told.value.remedy

        # An opening that has its coins is not counted twice, and one that ends gives back what it was promised.
        actor = next(iter(channels._openings.values()))
        await channels._fund(actor, SIZE, ACCOUNTS.script(KeyPath("wpkh", 0, 1)), None)
        leased = sum(int(coin.value) for coin in node.wallet.state.coins.values()) - sum(
            int(coin.value) for coin in node.wallet.state.spendable(START, own_change=True)
        )
        assert leased > 0 and node.wallet.spendable() == total - leased - int(SIZE)
        node.wallet.release(purpose_of(actor))
        for stranger in strangers:
            node.leaves(stranger)
        await asyncio.wait(asked)
        await node.rests()
        assert node.wallet.spendable() == total and channels.fee_reserve() == 0

    Registry.run(tmp_path, story)


def test_the_coins_of_a_withdrawal_under_way_are_not_promised_to_an_opening(tmp_path: Path) -> None:
    async def story(node: Registry) -> None:
        channels = node.channels
        channels.policy = policy = replace(DEFAULT_POLICY, unreserved_capacity=Sat(0))
        await with_coins(node, 400_000, int(SIZE) + needed_for(1, policy) - 300_001)
        spending = spending_of(node, channels.fee_reserve)
        stranger = Stranger(1)
        node.meets(stranger)
        script = ACCOUNTS.script(KeyPath("wpkh", 0, 1))
        withdrawal = asyncio.create_task(spending.withdraw(script, Sat(100_000), None))
        await asyncio.sleep(0)
        assert node.wallet.spendable() == 400_000 + int(SIZE) + needed_for(1, policy) - 300_001 - 100_000
        with pytest.raises(CommandRefused) as told:
            await channels.open(stranger.node_id, SIZE, Msat(0), announce=False, feerate=None)
        assert told.value.code == "reserve_missing"
        await asyncio.wait([withdrawal])

    Registry.run(tmp_path, story)


def test_a_batch_is_promised_its_coins_once_and_counts_all_its_channels(tmp_path: Path) -> None:
    async def story(node: Registry) -> None:
        channels = node.channels
        channels.policy = policy = replace(DEFAULT_POLICY, unreserved_capacity=Sat(0))
        strangers = [Stranger(number) for number in range(3)]
        peers = [node.meets(one) for one in strangers]
        wanted = [Wanted(one.node_id, SIZE, Msat(0), announce=False) for one in strangers]
        joint = JointFunding(channels, node.wallet, None, Outside())  # type: ignore[arg-type]
        await with_coins(node, 3 * int(SIZE), needed_for(3, policy) - 1)
        with pytest.raises(CommandRefused) as told:
            await joint.open_batch(wanted, FeeratePerKw(1000))
        assert told.value.code == "reserve_missing", "the last of them is one too many"
        assert node.wallet.spendable() == 3 * int(SIZE) + needed_for(3, policy) - 1
        await with_coins(node, 3 * int(SIZE), needed_for(3, policy) - 1, 1)
        batch = asyncio.create_task(joint.open_batch(wanted, FeeratePerKw(1000)))
        await until(lambda: batch.done() or len(heard(peers)) == 3)
        assert not batch.done() and node.wallet.spendable() == needed_for(3, policy)
        for stranger in strangers:
            node.leaves(stranger)
        await asyncio.wait([batch])
        await node.rests()
        assert node.wallet.spendable() == 3 * int(SIZE) + needed_for(3, policy)

    Registry.run(tmp_path, story)


def spending_of(node: Registry, reserve: Callable[[], Sat]) -> Spending:
    broadcaster = node.channels.broadcaster
    return Spending(
        node.wallet,
        broadcaster._backend,
        broadcaster,
        lambda: FeeratePerKw(1000),
        lambda: START,
        Outside(),
        reserve,
    )


@pytest.mark.parametrize("amount", [None, Sat(1)])
def test_what_channels_need_is_not_withdrawn(tmp_path: Path, amount: Sat | None) -> None:
    async def story(node: Registry) -> None:
        spending = spending_of(node, lambda: Sat(1_000))
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
