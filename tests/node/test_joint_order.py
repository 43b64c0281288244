"""In which order fundings come about: no signature before the last peer has signed, no network before the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from salama.base.ids import ChannelId, NodeId, OutPoint, Txid
from salama.base.machine import CommandRefused
from salama.base.units import BlockHeight, FeeratePerKw, Msat, Sat
from salama.bitcoin.networks import REGTEST
from salama.bitcoin.script import p2wsh
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.chain.backend import BackendUnavailable, BroadcastResult
from salama.channel.events import ForgetChannel, PublishFunding
from salama.channel.state import Phase
from salama.crypto.secp256k1 import public_key
from salama.node.chain import Broadcaster
from salama.node.joint_funding import MAX_EXTERNAL, JointFunding, Wanted
from salama.node.outside import Outside
from salama.node.psbts import Psbts
from salama.node.spending import Spending
from salama.node.wallet import WalletActor
from salama.signer.wallet import WalletKeys
from salama.storage import queries
from salama.storage.journal import Journal
from salama.wallet.coins import new_wallet

KEYS = WalletKeys(bytes(range(32)), REGTEST)
RATE = FeeratePerKw(1000)
HEIGHT = BlockHeight(100)


class Backend:
    """What the network says, and what was on disk when it was asked."""

    def __init__(self, journal: Journal, answer: BroadcastResult | Exception) -> None:
        self.journal, self.answer = journal, answer
        self.on_disk: list[bool] = []

    async def broadcast(self, tx: Tx) -> BroadcastResult:
        state = await self.journal.read(queries.wallet)
        self.on_disk.append(state is not None and tx.txid in state.recent)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def block_hash(self, height: int) -> None:
        """Pruned."""


def with_wallet(directory: Path, answer: BroadcastResult | Exception, test: Callable[..., Any]) -> None:
    """A real wallet of two confirmed coins on a real disk, and a network that gives one answer."""

    async def run() -> None:
        with Journal.open(directory) as journal:
            wallet = WalletActor(new_wallet(KEYS.accounts), journal, KEYS, lambda: HEIGHT)
            running = asyncio.create_task(wallet.run())
            backend = Backend(journal, answer)
            broadcaster = Broadcaster(backend)  # type: ignore[arg-type]
            spending = Spending(wallet, backend, broadcaster, lambda: RATE, lambda: HEIGHT, Outside())  # type: ignore[arg-type]
            for n in (1, 2):
                script = await wallet.new_script()
                deposit = Tx(2, (TxIn(OutPoint(Txid(bytes((n,)) * 32), 0)),), (TxOut(Sat(400_000), script),), 0)
                wallet.tell(_block(deposit, 50 + n))
            await wallet.settled()
            try:
                await test(wallet, backend, spending)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                await broadcaster.stop()

    asyncio.run(run())


def _block(tx: Tx, height: int) -> Any:
    from salama.base.ids import BlockHash
    from salama.bitcoin.block import Block, BlockHeader
    from salama.bitcoin.chain_events import BlockConnected

    header = BlockHeader(2, BlockHash(bytes(32)), bytes(32), height, 0x207FFFFF, height)
    return BlockConnected(BlockHeight(height), header.hash, Block(header, (tx,)))


STRANGER = p2wsh(b"\x51")
PEER = NodeId(public_key(bytes(31) + b"\x01"))


def test_what_is_spent_is_on_disk_before_the_network_hears_of_it(tmp_path: Path) -> None:
    async def work(wallet: WalletActor, backend: Backend, spending: Spending) -> None:
        spent = await spending.withdraw(STRANGER, Sat(100_000), None)
        bumped = await spending.bump(spent.tx.txid, FeeratePerKw(3000))
        assert backend.on_disk and all(backend.on_disk)
        await wallet.settled()
        assert not wallet.state.leases and set(wallet.state.recent) >= {bumped.tx.txid}

    with_wallet(tmp_path, BroadcastResult(True), work)


def test_what_the_network_refuses_leaves_no_trace(tmp_path: Path) -> None:
    async def work(wallet: WalletActor, backend: Backend, spending: Spending) -> None:
        before = wallet.state.balance(HEIGHT)
        with pytest.raises(CommandRefused) as refused:
            await spending.withdraw(STRANGER, Sat(100_000), None)
        assert refused.value.code == "refused_by_network"
        await wallet.settled()
        assert wallet.state.balance(HEIGHT) == before and not wallet.state.leases

    with_wallet(tmp_path, BroadcastResult(False, code=-26, reason="dust"), work)


def test_a_refused_replacement_leaves_the_first_as_it_was(tmp_path: Path) -> None:
    async def work(wallet: WalletActor, backend: Backend, spending: Spending) -> None:
        spent = await spending.withdraw(STRANGER, Sat(100_000), None)
        await wallet.settled()
        before = wallet.state.balance(HEIGHT)
        backend.answer = BroadcastResult(False, code=-26, reason="insufficient fee")
        with pytest.raises(CommandRefused):
            await spending.bump(spent.tx.txid, FeeratePerKw(3000))
        await wallet.settled()
        assert spent.tx.txid in wallet.state.recent and wallet.state.balance(HEIGHT) == before
        assert not wallet.state.leases

    with_wallet(tmp_path, BroadcastResult(True), work)


def test_without_an_answer_it_stays_on_record(tmp_path: Path) -> None:
    """It may have arrived: its coins are not free."""

    async def work(wallet: WalletActor, backend: Backend, spending: Spending) -> None:
        with pytest.raises(CommandRefused) as refused:
            await spending.withdraw(STRANGER, Sat(100_000), None)
        assert refused.value.code == "not_published"
        assert len(wallet.state.unconfirmed()) == 1

    with_wallet(tmp_path, BackendUnavailable("gone"), work)


def test_the_fee_of_a_withdrawal_does_not_come_from_the_reserve(tmp_path: Path) -> None:
    async def work(wallet: WalletActor, backend: Backend, spending: Spending) -> None:
        spending._reserve = lambda: Sat(299_900)
        with pytest.raises(CommandRefused) as refused:
            await spending.withdraw(STRANGER, Sat(500_000), None)
        assert refused.value.code == "reserve_missing"
        await wallet.settled()
        assert backend.on_disk == [] and not wallet.state.leases
        assert (await spending.withdraw(STRANGER, Sat(499_000), None)).tx

    with_wallet(tmp_path, BroadcastResult(True), work)


def test_withdrawals_at_the_same_time_leave_the_reserve_together(tmp_path: Path) -> None:
    async def work(wallet: WalletActor, backend: Backend, spending: Spending) -> None:
        spending._reserve = lambda: Sat(300_000)
        both = await asyncio.gather(
            *(spending.withdraw(STRANGER, Sat(300_000), None) for _ in range(2)), return_exceptions=True
        )
        assert [one.code for one in both if isinstance(one, CommandRefused)] == ["reserve_missing"]
        await wallet.settled()
        assert wallet.spendable() >= 300_000 and not wallet.state.leases

    with_wallet(tmp_path, BroadcastResult(True), work)


def test_a_psbt_takes_no_coin_that_is_set_aside_for_something_else(tmp_path: Path) -> None:
    """It was made while the coin was free, and is signed when a channel waits for it."""

    async def work(wallet: WalletActor, backend: Backend, spending: Spending) -> None:
        psbts = Psbts(wallet, backend, spending, None, REGTEST, Outside())  # type: ignore[arg-type]
        coin = min(wallet.state.coins)
        psbt, _ = await psbts.fund((TxOut(Sat(9_000), STRANGER),), RATE, HEIGHT, everything=False, coins=(coin,))
        assert psbts.release(psbt) == 1
        await wallet.lease((coin,), "open a channel")
        with pytest.raises(CommandRefused) as refused:
            await psbts.sign(psbt, HEIGHT)
        assert refused.value.code == "coin_leased"
        wallet.release("open a channel")
        await wallet.freeze((coin,), True)
        with pytest.raises(CommandRefused) as refused:
            await psbts.sign(psbt, HEIGHT)
        assert refused.value.code == "coin_frozen"
        await wallet.freeze((coin,), False)
        assert (await psbts.sign(psbt, HEIGHT)).inputs == 1

    with_wallet(tmp_path, BroadcastResult(True), work)


# --- joint fundings ---


def held_record(channel_id: ChannelId, outpoint: OutPoint) -> Any:
    funding = SimpleNamespace(outpoint=outpoint, tx=None, confirmation=None)
    params = SimpleNamespace(is_opener=True)
    return SimpleNamespace(
        channel_id=channel_id, funding=funding, active=(funding,), params=params, restored=False, spend=None,
        phase=Phase.AWAITING_FUNDING,
    )  # fmt: skip


class Channels:
    """The registry of channels, as far as a batch can see it: each opening asks, is given its funding, and ends."""

    def __init__(self, said: list[str], fails: str) -> None:
        self.said, self.fails, self.funders = said, fails, {}
        self.by_id: dict[ChannelId, Any] = {}
        self.broadcaster = self

    async def attempted(self, txid: Txid) -> None: ...

    async def open(self, node_id: NodeId, amount: Sat, push: Msat, *, funder: Any, **_: Any) -> Any:
        name = "first" if int(amount) == 100_000 else "second"
        self.funders[funder] = self.Actor(self, name)
        if name == "second" and self.fails == "before":
            raise CommandRefused("opening_failed", "the peer refused")
        made = await funder(TxOut(amount, p2wsh(name.encode())))
        assert not made.publish and not any(one.witness for one in made.tx.inputs)
        await asyncio.sleep(0.01 if name == "first" else 0.05)
        if name == "second" and self.fails == "after":
            raise CommandRefused("opening_failed", "its signature is not valid")
        self.said.append(f"{name} peer signed")
        actor = self.funders[funder]
        actor.record = held_record(ChannelId(name.encode().ljust(32, b"\0")), OutPoint(made.tx.txid, made.vout))
        self.by_id[actor.record.channel_id] = actor
        return actor.record.channel_id, actor.record.funding.outpoint

    class Actor:
        def __init__(self, registry: Channels, name: str) -> None:
            self.registry, self.name = registry, name
            self.record: Any = None

        def tell(self, event: object) -> None:
            assert isinstance(event, ForgetChannel)
            self.registry.said.append(f"{self.name} forgotten")

    def records(self) -> list[Any]:
        return [actor.record for actor in self.by_id.values()]

    def funded_by(self, funder: object) -> Any:
        return self.funders.get(funder)

    async def command(self, actor: Any, event: PublishFunding) -> None:
        assert all(one.witness for one in event.tx.inputs)
        if self.fails == "power":
            raise CommandRefused("power", "failed")
        actor.record.funding.tx = event.tx
        self.said.append(f"{actor.name} published")


def batch(directory: Path, fails: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    sign = WalletActor.sign

    def telling(self: WalletActor, *arguments: Any) -> Tx:
        said.append("we signed")
        return sign(self, *arguments)

    monkeypatch.setattr(WalletActor, "sign", telling)

    async def work(wallet: WalletActor, backend: Backend, spending: Spending) -> None:
        joint = JointFunding(Channels(said, fails), wallet, backend, Outside())  # type: ignore[arg-type]
        wanted = [Wanted(PEER, Sat(amount), Msat(0), True) for amount in (100_000, 200_000)]
        if fails:
            with pytest.raises(CommandRefused):
                await joint.open_batch(wanted, RATE)
            await wallet.settled()
            assert not wallet.state.leases
        else:
            assert len(await joint.open_batch(wanted, RATE)) == 2
            assert len(wallet.state.leases) >= 1, "nobody may replace the funding of a channel"
        assert backend.on_disk == []

    with_wallet(directory, BroadcastResult(True), work)
    return said


def test_a_batch_is_signed_when_the_last_peer_has_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = batch(tmp_path, "", monkeypatch)
    assert said == ["first peer signed", "second peer signed", "we signed", "first published", "second published"]


@pytest.mark.parametrize("fails", ["before", "after"])
def test_a_batch_that_fails_is_never_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    said = batch(tmp_path, fails, monkeypatch)
    assert "we signed" not in said and "first forgotten" in said


def test_a_channel_whose_batch_has_ended_is_waiting_and_one_whose_batch_goes_on_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transaction reached no channel, as if the power had failed: only a person can tell what becomes of it."""
    during: list[list[ChannelId]] = []
    sign = WalletActor.sign

    async def work(wallet: WalletActor, backend: Backend, spending: Spending) -> None:
        channels = Channels([], "power")
        joint = JointFunding(channels, wallet, backend, Outside())  # type: ignore[arg-type]

        def looking(self: WalletActor, *arguments: Any) -> Tx:
            during.append(joint.waiting())
            return sign(self, *arguments)

        monkeypatch.setattr(WalletActor, "sign", looking)
        wanted = [Wanted(PEER, Sat(amount), Msat(0), True) for amount in (100_000, 200_000)]
        with pytest.raises(CommandRefused):
            await joint.open_batch(wanted, RATE)
        assert during == [[]] and len(channels.by_id) == 2
        assert sorted(joint.waiting()) == sorted(channels.by_id)

    with_wallet(tmp_path, BroadcastResult(True), work)


def test_another_wallet_pays_two_channels_at_once_when_both_peers_have_signed(tmp_path: Path) -> None:
    """Finished for the first alone it would pay the second, whose peer could then keep the money."""
    said: list[str] = []

    async def work(wallet: WalletActor, backend: Backend, spending: Spending) -> None:
        joint = JointFunding(Channels(said, ""), wallet, backend, Outside())  # type: ignore[arg-type]
        psbts = Psbts(wallet, backend, spending, joint, REGTEST, Outside())  # type: ignore[arg-type]
        begun = [await joint.begin(Wanted(PEER, Sat(amount), Msat(0), True)) for amount in (100_000, 200_000)]
        until = BlockHeight(int(HEIGHT) + 10)
        psbt, _ = await psbts.fund(tuple(output for _, output in begun), RATE, until, everything=False)
        channel, _ = await joint.verify(begun[0][0], psbt)
        signed = (await psbts.sign(psbt, until)).psbt
        with pytest.raises(CommandRefused) as refused:
            await joint.finish(channel, signed)
        assert refused.value.code == "funding_unsafe" and said == ["first peer signed"]
        await joint.verify(begun[1][0], psbt)
        await joint.finish(channel, signed)
        assert said[1:] == ["second peer signed", "first published", "second published"]

    with_wallet(tmp_path, BroadcastResult(True), work)


def test_the_address_of_an_opening_that_was_given_up_is_not_paid_any_more(tmp_path: Path) -> None:
    async def work(wallet: WalletActor, backend: Backend, spending: Spending) -> None:
        joint = JointFunding(Channels([], ""), wallet, backend, Outside())  # type: ignore[arg-type]
        psbts = Psbts(wallet, backend, spending, joint, REGTEST, Outside())  # type: ignore[arg-type]
        name, output = await joint.begin(Wanted(PEER, Sat(100_000), Msat(0), True))
        until = BlockHeight(int(HEIGHT) + 10)
        psbt, _ = await psbts.fund((output,), RATE, until, everything=False)
        signed = (await psbts.sign(psbt, until)).psbt
        assert await joint.abort(name, "changed my mind")
        with pytest.raises(CommandRefused) as refused:
            await psbts.publish(signed)
        assert refused.value.code == "funding_unsafe" and backend.on_disk == []

    with_wallet(tmp_path, BroadcastResult(True), work)


def test_openings_that_begin_at_the_same_time_are_bounded_too(tmp_path: Path) -> None:
    async def work(wallet: WalletActor, backend: Backend, spending: Spending) -> None:
        joint = JointFunding(Channels([], ""), wallet, backend, Outside())  # type: ignore[arg-type]
        wanted = Wanted(PEER, Sat(100_000), Msat(0), True)
        begun = await asyncio.gather(*(joint.begin(wanted) for _ in range(MAX_EXTERNAL + 3)), return_exceptions=True)
        refused = [one.code for one in begun if isinstance(one, CommandRefused)]
        assert refused == ["too_many_openings"] * 3
        names = [one[0] for one in begun if not isinstance(one, BaseException)]
        assert len(set(names)) == MAX_EXTERNAL
        assert all(await asyncio.gather(*(joint.abort(name, "enough") for name in names)))
        assert await joint.begin(wanted)

    with_wallet(tmp_path, BroadcastResult(True), work)


def test_an_opening_whose_caller_goes_away_before_the_peer_answers_ends(tmp_path: Path) -> None:
    """Nobody knows its name."""

    async def work(wallet: WalletActor, backend: Backend, spending: Spending) -> None:
        ended: list[str] = []
        answers = asyncio.Event()

        class Slow(Channels):
            async def open(self, *arguments: Any, **named: Any) -> Any:
                await answers.wait()
                try:
                    return await super().open(*arguments, **named)
                except CommandRefused as refused:
                    ended.append(refused.code)
                    raise

        joint = JointFunding(Slow([], ""), wallet, backend, Outside())  # type: ignore[arg-type]
        asking = asyncio.create_task(joint.begin(Wanted(PEER, Sat(100_000), Msat(0), True)))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        answers.set()
        await asyncio.sleep(0.01)
        assert ended == ["aborted"]

    with_wallet(tmp_path, BroadcastResult(True), work)
