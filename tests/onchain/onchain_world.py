"""Two channel machines, two on-chain machines, and Bitcoin Core's consensus between them.

A ``Side`` does what a node would: it sees blocks, runs its machine, signs, and offers what comes out to the mempool. It
asserts that no transaction of its own is ever refused unless the other side was faster. Every record goes through its
codec at each turn, so that each test is also a test of a restart; ``Side.restarts`` forgets everything else.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from salama.base.ids import OutPoint, Txid
from salama.base.machine import Effect, Event, Row
from salama.base.units import BlockHeight, FeeratePerKw, Sat
from salama.bitcoin import sighash
from salama.bitcoin.networks import REGTEST
from salama.bitcoin.script import p2wpkh
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.chain.devnet import miner
from salama.chain.devnet.mempool import Entry
from salama.chain.devnet.policy import Rejected
from salama.chain.devnet.regtest import Regtest
from salama.channel.env import ChannelEnv, Feerates
from salama.channel.events import (
    BlockArrived,
    Broadcast,
    ForceClose,
    FundingConfirmed,
    FundingMade,
    FundingSpent,
    HtlcFailed,
    PreimageLearned,
    PublicEvent,
    RequestFunding,
)
from salama.channel.policy import Policy
from salama.channel.spec import SpecHtlc
from salama.channel.state import ChannelRecord, Htlc, Opening
from salama.crypto import secp256k1
from salama.crypto.hashes import hash160
from salama.crypto.seeds import ExtendedKey
from salama.onchain.bump import CLAIM
from salama.onchain.coins import choose_coins
from salama.onchain.events import (
    BlockSeen,
    BlockUndone,
    ClaimRefused,
    CoinsLeased,
    CoinsMissing,
    DropClaim,
    LeaseCoins,
    RecordChanged,
    ReleaseCoins,
    Resolved,
    SpendSeen,
    Woken,
)
from salama.onchain.identify import CloseKind
from salama.onchain.machine import OnchainEnv, awaited, close_of, complete, follow, new_state, turn, watched
from salama.onchain.signing import OweClaim, PublishClaim
from salama.onchain.state import OnchainState
from salama.storage.writes import ONCHAIN
from salama.testing.pair import End, Pair, through_disk
from salama.wallet.coins import Coin
from salama.wallet.keys import Accounts, KeyPath, full_path

SECRET = bytes(31) + b"\x07"
MINER = p2wpkh(secp256k1.public_key(SECRET))
NOBODY = p2wpkh(b"\x02" + bytes(31) + b"\x63")
COIN = 50_000
DELAY = 8
IRREVOCABLE = 10
"""Instead of 100, so that tests see the end of a close in few blocks."""
POLICY = Policy(min_to_self_delay=DELAY, max_to_self_delay=DELAY, irrevocable_depth=100)
MASTER = ExtendedKey.of_seed(bytes(range(32)))
ACCOUNTS = Accounts.of_master(MASTER, REGTEST)


def secret_of(key: KeyPath) -> bytes:
    secret = MASTER.derive(full_path(key, REGTEST)).secret
    assert secret is not None
    return secret


@dataclass(eq=False)
class Chain:
    """One chain for many tests: each takes a coin and goes on from the tip."""

    core: Regtest
    coins: list[tuple[OutPoint, TxOut]] = field(default_factory=list)

    @property
    def height(self) -> int:
        return self.core.chain.height

    def mine(self, count: int = 1) -> None:
        for _ in range(count):
            self.core.generate(NOBODY)

    def txs_at(self, height: int) -> Sequence[Tx]:
        return self.core.block(self.core.chain.blocks[self.core.chain.active[height]]).txs

    def spend(self, outputs: Sequence[TxOut]) -> Tx:
        """A transaction of the miner's that pays ``outputs`` and keeps the rest."""
        outpoint, out = self.coins.pop()
        left = int(out.value) - sum(int(o.value) for o in outputs) - 2000
        tx = Tx(2, (TxIn(outpoint),), (*outputs, TxOut(Sat(left), MINER)), 0)
        code = sighash.p2wpkh_script_code(hash160(secp256k1.public_key(SECRET)))
        digest = sighash.segwit_v0(tx, 0, code, out.value)
        signature = secp256k1.to_der(secp256k1.sign(SECRET, digest)) + b"\x01"
        tx = tx.with_witness(0, (signature, secp256k1.public_key(SECRET)))
        self.core.submit_tx(tx)
        self.coins.append((tx.outpoint(len(outputs)), tx.outputs[-1]))
        return tx

    def reorganise(self, depth: int, txs: Sequence[Tx] = ()) -> None:
        """Replace the last ``depth`` blocks by one more, empty but for ``txs`` in the first."""
        chain = self.core.chain
        base = chain.height - depth
        previous = chain.active[base]
        # As early as the rules allow: thousands of reorganisations must not take the chain's clock hours ahead of ours.
        time = chain.median_time(base)
        for n in range(depth + 1):
            time += 1
            inside = list(txs) if n == 0 else []
            block = miner.mine(previous, base + n + 1, time, NOBODY, inside, 0)
            self.core.submit_block(block.encode())
            previous = block.hash
        assert chain.height == base + depth + 1


@contextmanager
def open_chain() -> Iterator[Chain]:
    with tempfile.TemporaryDirectory() as directory:
        core = Regtest(Path(directory))
        try:
            chain = Chain(core)
            core.generate(MINER)
            block = core.block(core.chain.tip)
            chain.coins.append((block.txs[0].outpoint(0), block.txs[0].outputs[0]))
            chain.mine(100)
            yield chain
        finally:
            core.close()


@dataclass(eq=False)
class Side:
    """One owner of the channel with everything a node has."""

    name: str
    world: World
    end: End
    state: OnchainState | None = None
    seen: int = 0
    history: dict[int, Htlc] = field(default_factory=dict)
    """Every HTLC there ever was: what the rows of a database keep."""
    coins: list[Coin] = field(default_factory=list)
    leases: dict[str, tuple[Coin, ...]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    sent: dict[bytes, Tx] = field(default_factory=dict)
    fees: dict[bytes, int] = field(default_factory=dict)
    is_over: bool = False
    is_offline: bool = False
    upstream: dict[bytes, int] = field(default_factory=dict)
    feerate: int = 1000
    refusals: list[str] = field(default_factory=list)

    @property
    def script(self) -> bytes:
        return self.end.record.params.closing_script

    def keep(self, record: ChannelRecord) -> ChannelRecord:
        self.history.update(record.htlcs)
        return through_disk(record)

    def htlcs_at(self, number: int) -> list[SpecHtlc]:
        return [htlc.terms for htlc in self.history.values() if htlc.is_in_remote(number)]

    def env(self) -> OnchainEnv:
        return OnchainEnv(
            BlockHeight(self.seen),
            FeeratePerKw(self.feerate),
            self.htlcs_at,
            lambda origin: self.upstream.get(bytes(origin)),
            irrevocable_depth=IRREVOCABLE,
        )

    # --- the loop of a node ---

    def follows(self) -> None:
        """See every block up to the tip, in order, undone ones first."""
        chain = self.world.chain
        if self.is_offline:
            return
        while self.seen > chain.height or self.world.hashes.get((self.name, self.seen)) not in (
            None,
            chain.core.chain.active[self.seen],
        ):
            self.undo()
        while self.seen < chain.height:
            self.sees(self.seen + 1)

    def undo(self) -> None:
        height = self.seen
        self.seen = height - 1
        if self.state is not None:
            self.run(BlockUndone(BlockHeight(height)))
        spend = self.end.record.spend
        if spend is not None and spend.height >= height:
            state = self.end.channel
            self.end.state = replace(state, record=replace(state.record, spend=None))

    def sees(self, height: int) -> None:
        self.seen = height
        self.world.hashes[self.name, height] = self.world.chain.core.chain.active[height]
        self.end.env = replace(self.end.env, height=BlockHeight(height))
        txs = self.world.chain.txs_at(height)
        fundings = {funding.outpoint for funding in self.end.record.active}
        outpoints = set(fundings) if self.state is None else set(watched(self.state))
        found = []
        for tx in txs:
            if any(one.outpoint in outpoints for one in tx.inputs):
                found.append(tx)
                outpoints |= follow(tx, outpoints, fundings)
                if any(one.outpoint in fundings for one in tx.inputs):
                    self.does(FundingSpent(tx, BlockHeight(height)))
        self.does(BlockArrived())
        if found and self.state is None:
            self.state = new_state(self.end.record)
        if self.state is not None:
            self.run(BlockSeen(BlockHeight(height), tuple(found)))

    def does(self, *events: Event) -> list[Effect]:
        """Something happens to the channel; its transactions go out and the chain's machine hears of it."""
        effects = self.end.does(*events)
        for effect in effects:
            if isinstance(effect, Broadcast):
                self.offer(effect.tx)
        if self.end.record.phase.value == "on_chain" and self.state is None:
            self.state = new_state(self.end.record)
            self.run(Woken())
        if self.state is not None and self.state.channel is not self.end.record:
            self.run(RecordChanged(self.end.record))
        return effects

    def run(self, *events: Event) -> None:
        assert self.state is not None
        state = replace(self.state, record=ONCHAIN.decode(ONCHAIN.encode(self.state.record)))
        assert state.record == self.state.record, "the record does not survive the disk"
        done = turn(state, events, self.env())
        answers = [
            self.end.signer.sign_claim(one) if isinstance(one, OweClaim) else self.end.signer.answer((one,))[0]
            for one in done.owed
        ]
        done = complete(done, answers, secret_of)
        self.state = done.state
        self.rows += done.rows
        more: list[Event] = []
        for effect in done.effects:
            if isinstance(effect, PublishClaim):
                self.fees[bytes(effect.sweep.tx.txid)] = int(effect.sweep.fee)
                reason = self.offer(effect.sweep.tx, effect.sweep.parent)
                if reason:
                    more.append(ClaimRefused(effect.sweep.tx.txid, reason))
            elif isinstance(effect, Broadcast):
                self.offer(effect.tx)
            elif isinstance(effect, LeaseCoins):
                more.append(self.lease(effect))
            elif isinstance(effect, ReleaseCoins):
                self.leases.pop(effect.purpose, None)
            elif isinstance(effect, Resolved):
                self.is_over = True
            else:
                assert isinstance(effect, DropClaim)
        for event in more:
            # As in a node: what is asked for is answered by itself, one after the other.
            self.run(event)
        if self.state.asked:
            return
        using = {sweep.purpose for sweep in self.state.record.sweeps if sweep.coins}
        # Several channels may share a wallet.
        own = f"{CLAIM}{self.state.record.channel_id.hex()[:16]} "
        mine = {purpose for purpose in self.leases if purpose.startswith(own)}
        assert mine <= using, "coins are set aside for nothing (immunity C24)"

    def peeks(self) -> None:
        """Hear of every unconfirmed transaction that spends what is awaited."""
        assert self.state is not None
        for entry in list(self.world.chain.core.pool.entries.values()):
            if any(one.outpoint in awaited(self.state) for one in entry.tx.inputs):
                self.run(SpendSeen(entry.tx))

    def lease(self, wanted: LeaseCoins) -> Event:
        mine = self.leases.get(wanted.purpose, ())
        taken = {c.outpoint for name, coins in self.leases.items() if name != wanted.purpose for c in coins}
        utxos = self.world.chain.core.chain.coins
        free = [c for c in (*mine, *self.coins) if c.outpoint not in taken and c.outpoint in utxos]
        chosen = choose_coins(list(dict.fromkeys(free)), wanted.amount, wanted.feerate)
        if not chosen:
            return CoinsMissing(wanted.purpose, "no coins")
        self.leases[wanted.purpose] = chosen
        return CoinsLeased(wanted.purpose, chosen)

    def offer(self, tx: Tx, parent: object = None) -> str:
        core = self.world.chain.core
        self.sent[bytes(tx.txid)] = tx
        if core.transaction(tx.txid) is not None:
            return ""
        try:
            core.submit_tx(tx)
        except Rejected as rejected:
            reason = str(rejected)
            self.refusals.append(reason)
            self.world.check_refusal(self, tx, reason)
            return reason
        return ""

    def restarts(self) -> None:
        """Nothing is left but what the disk has."""
        self.end.state = replace(self.end.channel, record=through_disk(self.end.record), link=None)
        if self.state is not None:
            record = ONCHAIN.decode(ONCHAIN.encode(self.state.record))
            self.state = new_state(self.end.record, record)
            self.run(Woken())

    # --- what came of it ---

    def learned(self) -> set[int]:
        return {row.key.htlc_id for row in (*self.rows, *self.end.rows) if isinstance(row, PreimageLearned)}

    def failed(self) -> set[int]:
        return {row.key.htlc_id for row in self.rows if isinstance(row, HtlcFailed)}


class ChainPair(Pair):
    """A pair whose funding is real money."""

    chain: Chain

    def _funds(self) -> None:
        alice = self.alice
        if isinstance(alice.state, Opening) and alice.effects and isinstance(alice.effects[-1], RequestFunding):
            wanted = alice.effects[-1]
            self.funding_tx = self.chain.spend([TxOut(wanted.amount, wanted.script)])
            alice.does(FundingMade(self.funding_tx, 0))


@dataclass(eq=False)
class World:
    """Alice and Bob with a channel that is confirmed on the chain."""

    chain: Chain
    pair: ChainPair
    alice: Side = field(init=False)
    bob: Side = field(init=False)
    hashes: dict[tuple[str, int], bytes] = field(default_factory=dict)
    strict: bool = True

    @classmethod
    def open(
        cls, chain: Chain, *, capacity: int = 1_000_000, push: int = 400_000_000, coins: int = 8, slots: int = 30
    ) -> World:
        height = BlockHeight(chain.height)
        rates = Feerates(FeeratePerKw(1000), FeeratePerKw(1000))
        policy = replace(POLICY, max_accepted_htlcs=slots)
        env = ChannelEnv(now=1_700_000_000, height=height, feerates=rates, policy=policy)
        made = ChainPair.of(env)
        pair = ChainPair(made.alice, made.bob)
        pair.chain = chain
        world = cls(chain, pair)
        world.alice, world.bob = Side("alice", world, pair.alice), Side("bob", world, pair.bob)
        for side in (world.alice, world.bob):
            side.end.keeps = side.keep
            side.seen = chain.height
        pair.opens(capacity, push)
        pair.settle()
        world.give_coins(coins)
        chain.mine()
        assert pair.funding_tx is not None
        for side in (world.alice, world.bob):
            side.end.env = replace(side.end.env, height=BlockHeight(chain.height))
            side.end.does(FundingConfirmed(pair.funding_tx, BlockHeight(chain.height), 1))
        chain.mine(3)
        world.follow()
        pair.settle()
        return world

    def give_coins(self, count: int) -> None:
        keys = [KeyPath("wpkh" if n % 2 else "tr", 0, n) for n in range(2 * count)]
        tx = self.chain.spend([TxOut(Sat(COIN), ACCOUNTS.script(key)) for key in keys])
        for n, key in enumerate(keys):
            side = self.alice if n < count else self.bob
            side.coins.append(Coin(tx.outpoint(n), Sat(COIN), tx.outputs[n].script, key, BlockHeight(1)))

    def other(self, side: Side) -> Side:
        return self.bob if side is self.alice else self.alice

    def mine(self, count: int = 1) -> None:
        for _ in range(count):
            self.chain.mine()
            self.follow()

    def follow(self) -> None:
        for side in (self.alice, self.bob):
            side.follows()

    def check_refusal(self, side: Side, tx: Tx, reason: str) -> None:
        """A refusal is a fault of ours unless something of the other side stands in the way."""
        if not self.strict or side.seen < self.chain.height:
            # Who catches up claims what may be gone in a later block.
            return
        core = self.chain.core
        mine = {bytes(one) for one in side.sent}
        for one in tx.inputs:
            if one.outpoint not in core.chain.coins:
                continue
            rivals = [
                e.tx.txid for e in core.pool.entries.values() if one.outpoint in {i.outpoint for i in e.tx.inputs}
            ]
            if any(bytes(txid) not in mine for txid in rivals):
                return
        raise AssertionError(f"{side.name}: {reason} for {tx}")

    def run_until_over(self, *sides: Side, most: int = 80) -> None:
        """Mine until every one of ``sides`` has nothing left to do."""
        for _ in range(most):
            if all(side.is_over for side in sides):
                return
            self.mine()
        raise AssertionError([(side.name, side.state and side.state.record) for side in sides if not side.is_over])

    def twin(self, side: Side) -> Side:
        """``side`` as it is now, to cheat with later: it has the keys, but not what comes after."""
        end = side.end
        signer = type(end.signer)(b"alice" * 5 if side is self.alice else b"bobby" * 5)
        old = End(end.name, signer, end.env, end.state)
        made = Side("cheater", self, old, seen=side.seen, history=dict(side.history), coins=list(side.coins))
        old.keeps = made.keep
        return made

    def gained(self, side: Side) -> tuple[int, int]:
        """What the confirmed claims of ``side`` brought to its wallet, net of coins, and what they paid in fees."""
        core = self.chain.core
        net = fees = 0
        coins = {coin.outpoint: int(coin.value) for coin in side.coins}
        for tx in side.sent.values():
            place = core.transaction(tx.txid)
            if place is None or place[1] is None or tx.inputs[0].outpoint == side.end.record.funding.outpoint:
                continue
            spent = [self.output(one.outpoint) for one in tx.inputs]
            fees += sum(int(out.value) for out in spent) - sum(int(out.value) for out in tx.outputs)
            net += sum(int(out.value) for out in tx.outputs if out.script == side.script)
            net -= sum(coins.get(one.outpoint, 0) for one in tx.inputs)
        return net, fees

    def output(self, outpoint: OutPoint) -> TxOut:
        found = self.chain.core.transaction(outpoint.txid)
        assert found is not None
        return found[0].outputs[outpoint.vout]

    def force_close(self, side: Side) -> Tx:
        side.does(ForceClose("test"))
        return side.end.broadcasts[-1]


def events_of(side: Side, name: str) -> list[dict[str, object]]:
    """The lines ``onchain.NAME`` of the account."""
    return [dict(row.fields) for row in side.rows if isinstance(row, PublicEvent) and row.name == f"onchain.{name}"]


def kind_of(side: Side) -> CloseKind:
    """What spent the funding, as ``side`` sees it."""
    assert side.state is not None
    close, _ = close_of(side.state, side.htlcs_at)
    assert close is not None
    return close.kind


def children(pool: Mapping[Txid, Entry], parent: Tx) -> list[Entry]:
    """Entries of the mempool that spend ``parent``."""
    return [e for e in pool.values() if any(i.outpoint.txid == parent.txid for i in e.tx.inputs)]
