"""What an adversary of a channel on the chain can do: choose what is mined, take the mempool away, lose our words.

``account`` says what it cost: what was lost of the HTLCs, and what was paid in fees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from onchain_relay import Chain, Side, World
from onchain_world import NOBODY, SECRET

from salama.base.ids import OutPoint
from salama.base.units import BlockHeight, FeeratePerKw, Sat
from salama.base.values import replace
from salama.bitcoin import sighash
from salama.bitcoin.script import p2wpkh, p2wsh
from salama.bitcoin.tx import RBF_SEQUENCE, Tx, TxIn, TxOut
from salama.chain.devnet import miner
from salama.chain.devnet.mempool import Entry
from salama.channel.events import SettleHtlc
from salama.channel.scripts import anchor_script
from salama.channel.witnesses import anchor_witness
from salama.crypto import secp256k1
from salama.crypto.hashes import hash160
from salama.onchain.claims import Claim
from salama.onchain.signing import ClaimSignatures, OweClaim, place
from salama.signer.claims import sign_claim
from salama.testing.pair import preimage_of

PAYS_TO = p2wpkh(secp256k1.public_key(SECRET))
STEP = 300
"""Satoshis by which a rival of ours outbids a transaction, beyond what relays demand."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """All in satoshis. ``lost``: HTLCs that the peer took and nobody upstream will pay us for."""

    at_stake: int
    lost: int
    fees: int

    def is_within(self, *, lost: int, fee_percent: int) -> bool:
        return self.lost <= lost and self.fees * 100 <= self.at_stake * fee_percent

    def told(self, who: str, more: str = "") -> Outcome:
        """Printed as a row of docs/adversaries.md; the outcome itself, to be held against its bound."""
        share = 100 * self.fees / self.at_stake
        print(f"| {who} | {self.at_stake:,} | {self.lost:,} | {self.fees:,} ({share:.1f} %) | {more} |")
        return self


def together(outcomes: Sequence[Outcome]) -> Outcome:
    """The sum of several."""
    return Outcome(
        sum(one.at_stake for one in outcomes), sum(one.lost for one in outcomes), sum(one.fees for one in outcomes)
    )


def account(world: World, side: Side, amounts: Mapping[int, int]) -> Outcome:
    """What became of the outgoing HTLCs of ``side``, whose ``amounts`` differ from each other, by id."""
    assert side.learned().isdisjoint(side.failed())
    lost = sum(amounts[number] for number in open_to_theft(world, side, amounts))
    return Outcome(sum(amounts.values()), lost, world.gained(side)[1])


def open_to_theft(world: World, side: Side, amounts: Mapping[int, int]) -> set[int]:
    """Ids of the HTLCs that the peer has, or can still take by a preimage that ``side`` has not seen."""
    chain = world.chain.core.chain
    closed_by = chain.spenders.get(side.end.record.funding.outpoint)
    commitment = None if closed_by is None else world.chain.core.transaction(closed_by)
    if commitment is None:
        return set(amounts)
    by_value = {int(out.value): commitment[0].outpoint(n) for n, out in enumerate(commitment[0].outputs)}
    takers = {number: chain.spenders.get(by_value[amount]) for number, amount in amounts.items()}
    ours = {number for number, taker in takers.items() if taker is not None and bytes(taker) in side.sent}
    return set(amounts) - ours - side.learned()


def offer_htlcs(world: World, amounts: Mapping[int, int], expiry: int, delta: int) -> None:
    """Alice relays HTLCs of ``amounts`` (sat); what came in to her runs out ``delta`` blocks after ``expiry``."""
    alice = world.alice
    for number, amount in amounts.items():
        event = alice.end.add_event(number, amount * 1000, expiry)
        alice.upstream[bytes(event.origin)] = expiry + delta
        alice.end.does(event)
    world.pair.settle()
    world.pair.cut()


# --- who mines -------------------------------------------------------------------------------------------------------


def mine_dear(chain: Chain, floor: int, room: int = 1_000_000) -> None:
    """A block of at most ``room`` transactions that pay ``floor`` sat per 1000 weight units, alone or by a child."""
    pool = chain.core.pool
    chosen = [entry for entry in miner.choose(pool) if _best_rate(chain, entry) >= floor]
    mine_only(chain, *(entry.tx for entry in chosen[:room]))


def _best_rate(chain: Chain, entry: Entry) -> float:
    pool = chain.core.pool
    rates = []
    for txid in (entry.tx.txid, *pool.descendants(entry.tx.txid)):
        package = [pool.entries[one] for one in (*pool.ancestors(pool.entries[txid].tx), txid)]
        rates.append(sum(one.fee for one in package) * 1000 / sum(one.weight for one in package))
    return max(rates)


def mine_only(chain: Chain, *txs: Tx) -> None:
    """A block of exactly ``txs``."""
    tip = chain.core.chain.tip
    time = max(tip.time, chain.core.chain.median_time(tip.height)) + 1
    block = miner.mine(tip.hash, tip.height + 1, time, NOBODY, list(txs), 0)
    chain.core.submit_block(block.encode())
    assert chain.core.chain.tip.height == tip.height + 1


# --- who cheats ------------------------------------------------------------------------------------------------------


class Thief:
    """Bob, who has every preimage, keeps it to himself, and claims HTLCs of Alice's commitment when it suits him."""

    def __init__(self, world: World, amounts: Mapping[int, int]) -> None:
        self.world, self.bob, self.paid = world, world.bob, 0
        self._owed: dict[OutPoint, tuple[OweClaim, Claim]] = {}
        sign = self.bob.end.signer.sign_claim

        def watched(owed: OweClaim) -> ClaimSignatures:
            for claim in owed.claims:
                self._owed.setdefault(claim.outpoint, (owed, claim))
            return sign(owed)

        self.bob.end.signer.sign_claim = watched  # type: ignore[method-assign]
        self.bob.offer = lambda tx, parent=None: ""  # type: ignore[method-assign]
        for number in amounts:
            self.bob.does(SettleHtlc(number, preimage_of(number)))

    @property
    def claims(self) -> list[Claim]:
        """Of HTLCs, as soon as Bob's machine has seen them on the chain."""
        return [claim for _, claim in self._owed.values() if claim.preimage is not None]

    def claim(self, claim: Claim, fee: int, coin: tuple[OutPoint, TxOut] | None = None) -> Tx:
        """A signed transaction that takes the HTLC, and spends ``coin`` too if there is one."""
        owed, _ = self._owed[claim.outpoint]
        inputs, value = [claim.input], int(claim.amount)
        if coin is not None:
            inputs.append(TxIn(coin[0], RBF_SEQUENCE))
            value += int(coin[1].value)
        tx = Tx(2, tuple(inputs), (TxOut(Sat(value - fee), PAYS_TO),), 0)
        sweep = replace(owed.sweep, claims=(claim.outpoint,), coins=(), tx=tx, fee=Sat(fee))
        alone = replace(owed, sweep=sweep, claims=(claim,))
        signed = place(alone, self._signs(alone), lambda key: b"").tx
        return signed if coin is None else sign_last(signed, coin[1])

    def takes(self, claims: Sequence[Claim], fee: int) -> Tx:
        """One signed transaction that takes all of ``claims``."""
        owed, _ = self._owed[claims[0].outpoint]
        value = sum(int(one.amount) for one in claims)
        tx = Tx(2, tuple(one.input for one in claims), (TxOut(Sat(value - fee), PAYS_TO),), 0)
        sweep = replace(owed.sweep, claims=tuple(one.outpoint for one in claims), coins=(), tx=tx, fee=Sat(fee))
        wanted = replace(owed, sweep=sweep, claims=tuple(claims))
        return place(wanted, self._signs(wanted), lambda key: b"").tx

    def _signs(self, owed: OweClaim) -> ClaimSignatures:
        """A thief's signer has no policy."""
        keys = self.bob.end.signer._secrets(owed.key_index)
        names = ("funding", "revocation", "payment", "delayed_payment", "htlc")
        return sign_claim(owed, **{name: getattr(keys, name) for name in names})

    def outbids(self, outpoint: OutPoint) -> int:
        """A fee that replaces whatever of ours spends ``outpoint``."""
        pool = self.world.chain.core.pool
        txid = pool.spends.get(outpoint)
        if txid is None:
            return 1000
        gone = [pool.entries[one] for one in (txid, *pool.descendants(txid))]
        return sum(entry.fee for entry in gone) + STEP


def heavy_child(world: World, commitment: Tx) -> Tx:
    """Of Bob's anchor in ``commitment`` of Alice's, as large as relays take one, at the lowest rate that they take."""
    keys = world.bob.end.signer._secrets(world.bob.end.record.params.key_index)
    script = anchor_script(keys.funding.public_key)
    (anchor,) = [n for n, out in enumerate(commitment.outputs) if out.script == p2wsh(script)]
    coin, spent = world.chain.coins.pop()
    outputs = [TxOut(Sat(1_000), PAYS_TO)] * 3_000
    left = int(spent.value) + int(commitment.outputs[anchor].value) - 3_000_000 - 100_000
    inputs = (TxIn(commitment.outpoint(anchor), RBF_SEQUENCE), TxIn(coin, RBF_SEQUENCE))
    tx = Tx(2, inputs, (TxOut(Sat(left), PAYS_TO), *outputs), 0)
    digest = sighash.segwit_v0(tx, 0, script, commitment.outputs[anchor].value)
    tx = tx.with_witness(0, tuple(anchor_witness(secp256k1.sign(keys.funding, digest), script)))
    world.chain.coins.append((tx.outpoint(0), tx.outputs[0]))
    return sign_last(tx, spent)


def sign_last(tx: Tx, spent: TxOut) -> Tx:
    """With the witness of the last input, which spends a coin of the miner's."""
    index = len(tx.inputs) - 1
    code = sighash.p2wpkh_script_code(hash160(secp256k1.public_key(SECRET)))
    digest = sighash.segwit_v0(tx, index, code, spent.value)
    signature = secp256k1.to_der(secp256k1.sign(SECRET, digest)) + b"\x01"
    return tx.with_witness(index, (signature, secp256k1.public_key(SECRET)))


def pays_itself(coin: tuple[OutPoint, TxOut], fee: int) -> Tx:
    """A coin of the miner's sent to the miner."""
    tx = Tx(2, (TxIn(coin[0], RBF_SEQUENCE),), (TxOut(Sat(int(coin[1].value) - fee), PAYS_TO),), 0)
    return sign_last(tx, coin[1])


# --- who loses what we say -------------------------------------------------------------------------------------------


def lose_broadcasts(side: Side, share: float, dice: Random) -> Callable[[], int]:
    """Of what ``side`` broadcasts, ``share`` never arrives anywhere; a function that tells how often that happened."""
    offer, lost = side.offer, 0

    def perhaps(tx: Tx, parent: object = None) -> str:
        nonlocal lost
        if dice.random() < share:
            lost += 1
            side.sent[bytes(tx.txid)] = tx
            return ""
        return offer(tx, parent)

    side.offer = perhaps  # type: ignore[method-assign]
    return lambda: lost


def market(world: World, feerate: int) -> None:
    """Both sides hear of another fee rate."""
    for side in (world.alice, world.bob):
        side.feerate = feerate
        height, rate = BlockHeight(world.chain.height), FeeratePerKw(feerate)
        side.end.env = replace(side.end.env, height=height, feerates=replace(side.end.env.feerates, commitment=rate))
