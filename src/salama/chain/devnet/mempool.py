"""The devnet's mempool: which unconfirmed transactions are taken, replaced, put back (BIP 68, 113, 125).

Standardness is in ``policy``, the order of a block in ``miner``. Acceptance is one path: vet (inputs, locks, fees,
conflicts), run the scripts with the consensus library, then replace what conflicts and insert. A package is vetted the
same way with the fee asked of the whole; when it fails the pool is as before. Limits are Bitcoin Core's.

``entries`` keeps insertion order, and a parent is always inserted before its child, so that order is topological.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from salama.base.ids import OutPoint, Txid
from salama.bitcoin.tx import FINAL_SEQUENCE, Tx, TxOut
from salama.chain.devnet import kernel, policy, truc
from salama.chain.devnet.chainstate import COINBASE_MATURITY, ChainCoin, ChainState
from salama.chain.devnet.policy import Refusal, Rejected

INCREMENTAL_FEERATE: Final = 1000
ANCESTOR_LIMIT: Final = 25
DESCENDANT_LIMIT: Final = 25
FAMILY_VSIZE_LIMIT: Final = 101_000
# One late child of this size may exceed the descendant limit if it has a single ancestor: the "carve-out" that keeps
# one side's anchor spendable when the other side has filled the family.
CARVE_OUT_VSIZE: Final = 10_000
MAX_REPLACED: Final = 100
MAX_PACKAGE: Final = 25
LOCKTIME_IS_TIME: Final = 500_000_000
_SEQUENCE_DISABLED: Final = 1 << 31
_SEQUENCE_IS_TIME: Final = 1 << 22
_SEQUENCE_MASK: Final = 0xFFFF
_SEQUENCE_TIME_SHIFT: Final = 9
# A regtest pool nobody empties must not eat the machine.
MAX_POOL_VSIZE: Final = 100_000_000

_PACKAGE_RBF: Final = "package RBF failed"
_BELOW_RELAY: Final = "min relay fee not met"
# Words that a fee paid by a child may still overcome.
_FEE_WORDS: Final = (_BELOW_RELAY, "mempool min fee not met", "insufficient fee", "dust")


@dataclass(frozen=True, slots=True)
class Entry:
    """One accepted transaction. ``fee`` in satoshis, ``time`` in seconds since 1970, ``height`` of the tip then."""

    tx: Tx
    wtxid: Txid
    fee: int
    weight: int
    vsize: int
    sigops: int
    time: int
    height: int
    spent: tuple[TxOut, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A transaction taken: its entry and what it replaced."""

    entry: Entry
    replaced: tuple[Txid, ...] = ()


@dataclass(frozen=True, slots=True)
class PackageOutcome:
    """Result for a package: one value or refusal for each transaction, in the order given; ``word`` of the whole."""

    word: str
    results: tuple[Entry | Rejected, ...]
    replaced: tuple[Txid, ...]
    # Transactions whose fees were reckoned together, and their joint fee and size; empty if each paid for itself.
    together: tuple[Txid, ...] = ()
    fee: int = 0
    vsize: int = 0


class Mempool:
    """Unconfirmed transactions over one chain state."""

    def __init__(self, chain: ChainState, clock: Callable[[], int]) -> None:
        self._chain, self._clock = chain, clock
        self.entries: dict[Txid, Entry] = {}
        self.spends: dict[OutPoint, Txid] = {}
        self.vsize = 0
        self.sequence = 0
        # Satoshis per 1000 virtual bytes. A test may raise ``min_feerate`` to play a full mempool.
        self.relay_feerate = 1000
        self.min_feerate = 1000

    # --- families

    def parents(self, tx: Tx) -> set[Txid]:
        return {one.outpoint.txid for one in tx.inputs if one.outpoint.txid in self.entries}

    def children(self, txid: Txid) -> set[Txid]:
        outputs = len(self.entries[txid].tx.outputs)
        return {self.spends[o] for v in range(outputs) if (o := OutPoint(txid, v)) in self.spends}

    def ancestors(self, tx: Tx) -> set[Txid]:
        """Everything unconfirmed that ``tx`` builds on, without itself."""
        found: set[Txid] = set()
        pending = list(self.parents(tx))
        while pending:
            txid = pending.pop()
            if txid not in found:
                found.add(txid)
                pending.extend(self.parents(self.entries[txid].tx))
        return found

    def descendants(self, txid: Txid) -> set[Txid]:
        """Everything that builds on ``txid``, without itself."""
        found: set[Txid] = set()
        pending = list(self.children(txid))
        while pending:
            child = pending.pop()
            if child not in found:
                found.add(child)
                pending.extend(self.children(child))
        return found

    def coin(self, outpoint: OutPoint) -> ChainCoin | None:
        """The output, of the chain or the pool, whether or not the pool spends it."""
        entry = self.entries.get(outpoint.txid)
        if entry is not None:
            if outpoint.vout >= len(entry.tx.outputs):
                return None
            return ChainCoin(entry.tx.outputs[outpoint.vout], self._chain.next_height(), False)
        return self._chain.coins.get(outpoint)

    # --- acceptance

    def accept(self, tx: Tx) -> Outcome:
        """Takes one transaction or raises Rejected; nothing changed then."""
        return self._take(tx, together=False)

    def test(self, txs: Sequence[Tx]) -> list[Entry | Rejected]:
        """What ``accept`` of each in turn would say. Changes nothing."""
        saved = self._save()
        try:
            results: list[Entry | Rejected] = []
            for tx in txs:
                try:
                    results.append(self.accept(tx).entry)
                except Rejected as refusal:
                    results.append(refusal)
            return results
        finally:
            self._restore(saved)

    def put_back(self, txs: Iterable[Tx], newer_wins: bool = False) -> None:
        """Fills the pool again with what consensus and locks still allow, whatever it pays.

        Of two that conflict the first stays (a reorg: it was in a block), or the last if ``newer_wins`` (a restart: it
        had replaced the other).
        """
        self.clear()
        for tx in txs:
            if newer_wins and tx.txid not in self.entries:
                self._drop_conflicts(tx)
            try:
                self._take(tx, together=False, from_chain=True)
            except Rejected:
                continue

    def accept_package(self, txs: Sequence[Tx]) -> PackageOutcome:
        """Parents and, last, their child: each by itself if it can, the rest with their fees added up.

        What stands by itself stays accepted even if the rest fails.
        """
        results: list[Entry | Rejected] = []
        replaced: list[Txid] = []
        for tx in txs:
            result, evicted = self._try(tx)
            results.append(result)
            replaced.extend(evicted)
        waiting = [i for i, result in enumerate(results) if isinstance(result, Rejected)]
        if not waiting:
            return PackageOutcome("success", tuple(results), tuple(replaced))
        refusals = [(tx, result) for tx, result in zip(txs, results, strict=True) if isinstance(result, Rejected)]
        hopeless = not all(_may_wait_for_child(tx, refusal) for tx, refusal in refusals)
        if hopeless or waiting[-1] != len(txs) - 1:
            return PackageOutcome("transaction failed", tuple(results), tuple(replaced))
        saved = self._save()
        outcomes: list[Outcome] = []
        try:
            for i in waiting:
                # One by one: how many were taken tells who failed.
                outcomes.append(self._take(txs[i], together=True))  # noqa: PERF401
            gone = [txid for outcome in outcomes for txid in outcome.replaced]
            fee = sum(outcome.entry.fee for outcome in outcomes)
            vsize = sum(outcome.entry.vsize for outcome in outcomes)
            self._check_floor(fee, vsize)
            truc.check_dust_swept(self, [outcome.entry for outcome in outcomes])
            if gone:
                self._check_package_replacement(outcomes, [saved[0][txid] for txid in gone])
        except Rejected as refusal:
            self._restore(saved)
            if refusal.word.startswith(_PACKAGE_RBF):
                # Said of the package; of its transactions stays what each was told by itself.
                return PackageOutcome(str(refusal), tuple(results), tuple(replaced))
            # Whoever fails carries the blame; where all have passed, the child, which was to pay.
            results[waiting[min(len(outcomes), len(waiting) - 1)]] = refusal
            word = "unspent-dust" if refusal.word == truc.UNSPENT_DUST else "transaction failed"
            return PackageOutcome(word, tuple(results), tuple(replaced))
        for index, outcome in zip(waiting, outcomes, strict=True):
            results[index] = outcome.entry
        together = tuple(outcome.entry.wtxid for outcome in outcomes)
        return PackageOutcome("success", tuple(results), (*replaced, *gone), together, fee, vsize)

    def _try(self, tx: Tx) -> tuple[Entry | Rejected, tuple[Txid, ...]]:
        known = self.entries.get(tx.txid)
        if known is not None:
            return known, ()
        try:
            outcome = self.accept(tx)
        except Rejected as refusal:
            return refusal, ()
        return outcome.entry, outcome.replaced

    def _take(self, tx: Tx, *, together: bool, from_chain: bool = False) -> Outcome:
        """``together``: fees are reckoned by the caller. ``from_chain``: only consensus and locks count."""
        policy.check_consensus_form(tx)
        if not from_chain:
            policy.check_standard(tx)
        self._check_unknown(tx)
        coins = self._inputs(tx)
        self._check_locks(tx, coins)
        spent = tuple(coin.out for coin in coins)
        fee = sum(out.value for out in spent) - sum(out.value for out in tx.outputs)
        if fee < 0:
            raise Rejected("bad-txns-in-belowout", f"value in < value out by {-fee} sat")
        if not from_chain:
            policy.check_inputs_standard(tx, spent)
        weight = tx.weight
        sigops = policy.sigop_cost(tx, spent)
        # Core charges 20 bytes a signature operation where that is more than the bytes themselves.
        vsize = (max(weight, sigops * 20) + 3) // 4
        entry = Entry(tx, tx.wtxid, fee, weight, vsize, sigops, self._clock(), self._chain.height, spent)
        ancestors = self.ancestors(tx)
        conflicts = {self.spends[one.outpoint] for one in tx.inputs if one.outpoint in self.spends}
        evicted = set(conflicts)
        for txid in conflicts:
            evicted |= self.descendants(txid)
        if not from_chain:
            if not together:
                self._check_floor(fee, vsize)
            truc.check_ephemeral_dust(self, entry, ancestors, together)
            sibling = truc.check_topology(self, entry, ancestors, evicted)
            if sibling is not None:
                conflicts, evicted = conflicts | {sibling}, evicted | {sibling}
            self._check_family(entry, ancestors, evicted)
            if self.vsize + vsize > MAX_POOL_VSIZE:
                raise Rejected("mempool full")
        if conflicts:
            self._check_replacement(entry, ancestors, conflicts, evicted, together, from_chain)
        failing = kernel.failing_input(tx, spent)
        if failing is not None:
            raise Rejected(
                "mandatory-script-verify-flag-failed (Script failed)", f"input {failing} of {tx.txid} is not satisfied"
            )
        for txid in evicted:
            self._remove(txid)
        self._insert(entry)
        return Outcome(entry, tuple(evicted))

    def _check_unknown(self, tx: Tx) -> None:
        txid = tx.txid
        known = self.entries.get(txid)
        if known is not None:
            same = known.wtxid == tx.wtxid
            raise Rejected("txn-already-in-mempool" if same else "txn-same-nonwitness-data-in-mempool")
        if txid in self._chain.places:
            raise Rejected("txn-already-known", refusal=Refusal.ALREADY_IN_CHAIN)

    def _inputs(self, tx: Tx) -> list[ChainCoin]:
        coins: list[ChainCoin] = []
        for one in tx.inputs:
            coin = self.coin(one.outpoint)
            if coin is None:
                raise Rejected("bad-txns-inputs-missingorspent", refusal=Refusal.MISSING_INPUTS)
            coins.append(coin)
        return coins

    def _check_locks(self, tx: Tx, coins: Sequence[ChainCoin]) -> None:
        chain = self._chain
        height, median = chain.height + 1, chain.median_time(chain.height)
        if not is_final(tx, height, median):
            raise Rejected("non-final")
        for one, coin in zip(tx.inputs, coins, strict=True):
            if coin.coinbase and height - coin.height < COINBASE_MATURITY:
                raise Rejected(
                    "bad-txns-premature-spend-of-coinbase",
                    f"tried to spend coinbase at depth {height - coin.height}",
                )
            if tx.version < 2 or one.sequence & _SEQUENCE_DISABLED:
                continue
            lock = one.sequence & _SEQUENCE_MASK
            if one.sequence & _SEQUENCE_IS_TIME:
                since = chain.median_time(min(max(coin.height - 1, 0), chain.height))
                if median < since + (lock << _SEQUENCE_TIME_SHIFT):
                    raise Rejected("non-BIP68-final")
            elif height < coin.height + lock:
                raise Rejected("non-BIP68-final")

    def _check_floor(self, fee: int, vsize: int) -> None:
        relay = _fee_at(self.relay_feerate, vsize)
        if fee < relay:
            raise Rejected(_BELOW_RELAY, f"{fee} < {relay}")
        floor = _fee_at(self.min_feerate, vsize)
        if fee < floor:
            raise Rejected("mempool min fee not met", f"{fee} < {floor}")

    def _check_family(self, entry: Entry, ancestors: set[Txid], evicted: set[Txid]) -> None:
        if not ancestors:
            return
        if len(ancestors) + 1 > ANCESTOR_LIMIT:
            raise Rejected("too-long-mempool-chain", f"too many unconfirmed ancestors [limit: {ANCESTOR_LIMIT}]")
        if entry.vsize + sum(self.entries[txid].vsize for txid in ancestors) > FAMILY_VSIZE_LIMIT:
            raise Rejected("too-long-mempool-chain", f"exceeds ancestor size limit [limit: {FAMILY_VSIZE_LIMIT}]")
        carve_out = len(ancestors) == 1 and entry.vsize <= CARVE_OUT_VSIZE
        count_limit = DESCENDANT_LIMIT + (1 if carve_out else 0)
        vsize_limit = FAMILY_VSIZE_LIMIT + (CARVE_OUT_VSIZE if carve_out else 0)
        for txid in ancestors:
            family = self.descendants(txid) - evicted
            if len(family) + 2 > count_limit:
                raise Rejected(
                    "too-long-mempool-chain",
                    f"too many descendants for tx {txid} [limit: {DESCENDANT_LIMIT}]",
                )
            vsize = self.entries[txid].vsize + entry.vsize + sum(self.entries[one].vsize for one in family)
            if vsize > vsize_limit:
                raise Rejected(
                    "too-long-mempool-chain",
                    f"exceeds descendant size limit for tx {txid} [limit: {FAMILY_VSIZE_LIMIT}]",
                )

    # --- replacement

    def _check_replacement(
        self, entry: Entry, ancestors: set[Txid], conflicts: set[Txid], evicted: set[Txid], together: bool, exempt: bool
    ) -> None:
        txid = entry.tx.txid
        if exempt:
            # A block's transaction that was put back first stays.
            raise Rejected("txn-mempool-conflict")
        if ancestors & evicted:
            raise Rejected("bad-txns-spends-conflicting-tx", f"{txid} spends conflicting transaction")
        if len(evicted) > MAX_REPLACED:
            raise Rejected(
                "too many potential replacements",
                f"rejecting replacement {txid}; too many potential replacements ({len(evicted)} > {MAX_REPLACED})",
            )
        if together:
            return
        old_parents = {o.outpoint.txid for c in conflicts for o in self.entries[c].tx.inputs}
        # DEVIATION from Core 31, which dropped this rule; nodes on the way may still hold to it.
        if (self.parents(entry.tx) - evicted) - old_parents:
            raise Rejected("replacement-adds-unconfirmed", f"replacement {txid} adds an unconfirmed input")
        for conflict in conflicts:
            old = self.entries[conflict]
            if entry.fee * old.vsize <= old.fee * entry.vsize:
                raise Rejected(
                    "insufficient fee",
                    f"rejecting replacement {txid}; new feerate {_shown_feerate(entry)} <= old feerate "
                    f"{_shown_feerate(old)}",
                )
        _check_pays_for(txid, entry.fee, entry.vsize, [self.entries[one] for one in evicted])

    def _check_package_replacement(self, outcomes: Sequence[Outcome], old: Sequence[Entry]) -> None:
        """Replacement by one parent and its child, fees added up (Core's package RBF)."""
        if len(outcomes) != 2:
            raise Rejected("package RBF failed: package must be 1-parent-1-child")
        parent, child = outcomes[0].entry, outcomes[1].entry
        if self.ancestors(child.tx) != {parent.tx.txid}:
            raise Rejected("package RBF failed: new transaction cannot have mempool ancestors")
        if len(old) > MAX_REPLACED:
            raise Rejected("package RBF failed: too many potential replacements")
        fee, vsize = parent.fee + child.fee, parent.vsize + child.vsize
        if fee * parent.vsize <= parent.fee * vsize:
            raise Rejected("package RBF failed: package feerate is less than or equal to parent feerate")
        if any(fee * one.vsize <= one.fee * vsize for one in old):
            raise Rejected("package RBF failed: insufficient feerate: does not improve feerate diagram")
        try:
            _check_pays_for(child.tx.txid, fee, vsize, old)
        except Rejected as refusal:
            raise Rejected(f"package RBF failed: {refusal.word}", refusal.detail) from None

    # --- changes

    def _insert(self, entry: Entry) -> None:
        txid = entry.tx.txid
        self.entries[txid] = entry
        for one in entry.tx.inputs:
            self.spends[one.outpoint] = txid
        self.vsize += entry.vsize
        self.sequence += 1

    def _remove(self, txid: Txid) -> None:
        entry = self.entries.pop(txid)
        for one in entry.tx.inputs:
            del self.spends[one.outpoint]
        self.vsize -= entry.vsize
        self.sequence += 1

    def clear(self) -> None:
        """Empties the pool."""
        self.entries.clear()
        self.spends.clear()
        self.vsize = 0
        self.sequence += 1

    def block_connected(self, txs: Sequence[Tx]) -> None:
        """Drops what a new block confirms and what its spends make impossible."""
        for tx in txs[1:]:
            if tx.txid in self.entries:
                self._remove(tx.txid)
                continue
            self._drop_conflicts(tx)

    def _drop_conflicts(self, tx: Tx) -> None:
        for one in tx.inputs:
            conflict = self.spends.get(one.outpoint)
            if conflict is not None:
                for gone in (conflict, *self.descendants(conflict)):
                    self._remove(gone)

    def _save(self) -> tuple[dict[Txid, Entry], dict[OutPoint, Txid], int]:
        return dict(self.entries), dict(self.spends), self.vsize

    def _restore(self, saved: tuple[dict[Txid, Entry], dict[OutPoint, Txid], int]) -> None:
        self.entries, self.spends, self.vsize = dict(saved[0]), dict(saved[1]), saved[2]


def is_final(tx: Tx, height: int, median_time: int) -> bool:
    """Whether the locktime allows ``tx`` in a block at ``height`` whose parent has that median time (BIP 113)."""
    if tx.locktime == 0 or tx.locktime < (height if tx.locktime < LOCKTIME_IS_TIME else median_time):
        return True
    return all(one.sequence == FINAL_SEQUENCE for one in tx.inputs)


def _fee_at(feerate: int, vsize: int) -> int:
    """Satoshis for ``vsize`` at a rate per 1000 virtual bytes, rounded up."""
    return -(-feerate * vsize // 1000)


def _check_pays_for(txid: Txid, fee: int, vsize: int, old: Sequence[Entry]) -> None:
    """BIP 125 rules 3 and 4: more than all it evicts, and its own relay on top."""
    evicted = sum(one.fee for one in old)
    if fee < evicted:
        raise Rejected(
            "insufficient fee", f"rejecting replacement {txid}, less fees than conflicting txs; {fee} < {evicted}"
        )
    needed = _fee_at(INCREMENTAL_FEERATE, vsize)
    if fee - evicted < needed:
        raise Rejected(
            "insufficient fee",
            f"rejecting replacement {txid}, not enough additional fees to relay; {fee - evicted} < {needed}",
        )


def _shown_feerate(entry: Entry) -> str:
    """BTC for 1000 virtual bytes, as Core prints it."""
    rate = entry.fee * 1000 // entry.vsize
    return f"{rate // 100_000_000}.{rate % 100_000_000:08d} BTC/kvB"


def _may_wait_for_child(tx: Tx, refusal: Rejected) -> bool:
    if refusal.word == _BELOW_RELAY and tx.version != truc.TRUC_VERSION:
        # The child could be replaced by something else; only the topology of version 3 rules that out.
        return False
    return refusal.refusal is Refusal.MISSING_INPUTS or refusal.word.startswith(_FEE_WORDS)
