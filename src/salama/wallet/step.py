"""The wallet as a machine: blocks, mempool and commands in; coins, leases and addresses out.

    step(state, event, env) -> Transition(state, effects, rows)

A block without anything of ours returns the very same state. Every event but a command for something new may come
twice. Commands that cannot be done raise CommandRefused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from salama.base.ids import OutPoint, Txid
from salama.base.machine import CommandRefused, Event, Row, Transition
from salama.base.units import BlockHeight, Sat
from salama.bitcoin.chain_events import BlockConnected, BlockDisconnected
from salama.bitcoin.tx import Tx
from salama.wallet import events as ev
from salama.wallet.bumping import bump
from salama.wallet.coins import FORGET_DEPTH, GAP_LIMIT, Branch, WalletState, WalletTx, coins_of, watched_scripts
from salama.wallet.funding import fund, fund_all
from salama.wallet.keys import CHANGE, EXTERNAL, KeyPath, Kind

MAX_LEASED: Final = 1000
"""Coins one command may name."""
MAX_PURPOSE: Final = 200
"""Characters in the purpose of a lease."""
MAX_LABEL: Final = 100
"""Characters in a coin's label."""
MAX_UNCONFIRMED: Final = 2000
"""Transactions kept before they confirm: strangers can send us any number, and a block shows them again anyway."""


class _Draft:
    """A state being changed: its mappings are copied once and frozen again at the end of the turn."""

    def __init__(self, state: WalletState) -> None:
        self.accounts = state.accounts
        self.branches = dict(state.branches)
        self.recent = dict(state.recent)
        self.settled = dict(state.settled)
        self.leases = dict(state.leases)
        self.expiries = dict(state.expiries)
        self.frozen = set(state.frozen)
        self.labels = dict(state.labels)
        self.scripts = state.scripts
        self.coins = dict(state.coins)
        self.spenders = dict(state.spenders)

    def freeze(self) -> WalletState:
        return WalletState(
            self.accounts,
            self.branches,
            self.recent,
            self.settled,
            self.leases,
            self.scripts,
            self.coins,
            self.spenders,
            self.expiries,
            frozenset(self.frozen),
            self.labels,
        )

    def put(self, one: WalletTx) -> None:
        """Add or replace a transaction; whatever conflicts with it goes, and its keys count as used."""
        for outpoint in one.spends:
            rival = self.spenders.get(outpoint)
            if rival is not None and rival != one.txid:
                self.remove(rival)
        self.recent[one.txid] = one
        self.spenders.update(dict.fromkeys(one.spends, one.txid))
        for coin in one.coins:
            self.coins[coin.outpoint] = coin
            self.use(coin.key)

    def remove(self, txid: Txid) -> None:
        """Forget a transaction that will not confirm, and all that spend from it."""
        doomed = [txid]
        while doomed:
            one = self.recent.pop(doomed.pop(), None)
            if one is None:
                continue
            for outpoint in one.spends:
                if self.spenders.get(outpoint) == one.txid:
                    del self.spenders[outpoint]
            for coin in one.coins:
                self.coins.pop(coin.outpoint, None)
                if coin.outpoint in self.spenders:
                    doomed.append(self.spenders[coin.outpoint])
            # What the user said of its coins is kept: a reorganisation may bring them back.

    def use(self, key: KeyPath) -> None:
        """Never issue ``key`` again, and keep the gap beyond it watched."""
        name = (key.kind, key.chain)
        old = self.branches[name]
        if key.index >= old.next_index:
            new = Branch(key.index + 1, key.index + 1 + GAP_LIMIT)
            self.branches[name] = new
            self.scripts = {**self.scripts, **dict(watched_scripts(self.accounts, {name: (old.watched, new.watched)}))}

    def forget_before(self, tip: BlockHeight) -> None:
        """Let go of transactions deeper than any reorg; their unspent outputs become settled coins."""
        deep = [one for one in self.recent.values() if one.height is not None and int(tip) - one.height >= FORGET_DEPTH]
        for one in deep:
            self.settled.update({coin.outpoint: coin for coin in one.coins})
        for one in deep:
            del self.recent[one.txid]
            for outpoint in one.spends:
                self.settled.pop(outpoint, None)
                self.coins.pop(outpoint, None)
                self.leases.pop(outpoint, None)
                self.spenders.pop(outpoint, None)
                self.frozen.discard(outpoint)
                self.labels.pop(outpoint, None)

    def lease(self, outpoints: Iterable[OutPoint], purpose: str, until: BlockHeight | None) -> None:
        """Set coins aside; ``until`` counts for all that the purpose holds."""
        self.leases.update(dict.fromkeys(outpoints, purpose))
        if until is not None:
            self.expiries[purpose] = until

    def release(self, purpose: str) -> None:
        """Free what a purpose holds."""
        self.leases = {outpoint: holder for outpoint, holder in self.leases.items() if holder != purpose}
        self.expiries.pop(purpose, None)

    def expire(self, tip: BlockHeight) -> None:
        """Free what was set aside until now."""
        for purpose in [purpose for purpose, until in self.expiries.items() if until <= tip]:
            self.release(purpose)


def step(state: WalletState, event: Event, env: ev.WalletEnv) -> Transition[WalletState]:
    """The next state; raises CommandRefused, and TypeError for an event that is none of the wallet's."""
    handler = _HANDLERS.get(type(event))
    if handler is None:
        raise TypeError(f"the wallet knows no event {type(event).__name__}")
    return handler(state, event, env)


def reaching(state: WalletState, issued: Mapping[tuple[Kind, int], int]) -> WalletState:
    """``state`` with so many keys of each branch issued before, and the gap beyond them watched."""
    draft = _Draft(state)
    for (kind, chain), count in issued.items():
        if count and (kind, chain) in draft.branches:
            draft.use(KeyPath(kind, chain, count - 1))
    return draft.freeze()


def _view(tx: Tx, height: BlockHeight | None, state: WalletState | _Draft) -> WalletTx | None:
    """What ``tx`` means to us, or None if nothing."""
    spends = () if tx.is_coinbase else tuple([one.outpoint for one in tx.inputs])
    coins, spenders, scripts = state.coins, state.spenders, state.scripts
    if not any(o in coins or o in spenders for o in spends) and not any(out.script in scripts for out in tx.outputs):
        return None
    whole = tx if spends and all(o in coins for o in spends) else None
    return WalletTx(tx.txid, spends, coins_of(tx, height, scripts), height, whole)


def _block_connected(state: WalletState, event: BlockConnected, env: ev.WalletEnv) -> Transition[WalletState]:
    draft: _Draft | None = None
    confirmed: dict[Txid, None] = {}
    watched = -1
    # A payment to one of the last watched scripts uncovers more, which an earlier transaction of the same block may
    # already pay: look again until nothing new comes up.
    while watched != len((draft or state).scripts):
        watched = len((draft or state).scripts)
        for tx in event.block.txs:
            one = _view(tx, event.height, draft or state)
            if one is None:
                continue
            known = (draft or state).recent.get(one.txid)
            if known is not None and (known.height, known.coins) == (one.height, one.coins):
                continue
            draft = draft or _Draft(state)
            draft.put(one)
            confirmed[one.txid] = None
    if draft is None and all(until > event.height for until in state.expiries.values()):
        return Transition(state)
    draft = draft or _Draft(state)
    draft.expire(event.height)
    rows = tuple(_confirmed(draft, txid, event.height) for txid in confirmed if txid in draft.recent)
    draft.forget_before(event.height)
    return Transition(draft.freeze(), rows=rows)


def _confirmed(draft: _Draft, txid: Txid, height: BlockHeight) -> Row:
    one = draft.recent[txid]
    spent = Sat.total(draft.coins[o].value for o in one.spends if o in draft.coins)
    received = Sat.total(coin.value for coin in one.coins)
    paid = spent if one.tx is None else Sat.total(out.value for out in one.tx.outputs)
    # Paying more than is spent is no transaction at all: a back-end that says so is wrong, but stops nobody here.
    fee = None if one.tx is None or paid > spent else spent - paid
    return ev.WalletTxConfirmed(txid, height, received, spent, fee)


def _block_disconnected(state: WalletState, event: BlockDisconnected, env: ev.WalletEnv) -> Transition[WalletState]:
    undone = [one for one in state.recent.values() if one.height is not None and one.height >= event.height]
    if not undone:
        return Transition(state)
    draft = _Draft(state)
    for one in undone:
        if one.txid not in draft.recent:
            continue  # it spent a coinbase that is gone
        if one.is_coinbase:
            draft.remove(one.txid)
        else:
            draft.put(one.at(None))
    return Transition(draft.freeze(), rows=tuple(ev.WalletTxUnconfirmed(one.txid) for one in undone))


def _tx_seen(state: WalletState, event: ev.TxSeen, env: ev.WalletEnv) -> Transition[WalletState]:
    one = _view(event.tx, None, state)
    if one is None or one.is_coinbase or one.txid in state.recent:
        return Transition(state)
    rivals = {state.spenders[o] for o in one.spends if o in state.spenders}
    if any(state.recent[rival].height is not None for rival in rivals):
        return Transition(state)  # stale news: a block has decided already
    if not one.ours and sum(other.height is None for other in state.recent.values()) >= MAX_UNCONFIRMED:
        return Transition(state)
    draft = _Draft(state)
    draft.put(one)
    return Transition(draft.freeze())


def _tx_dropped(state: WalletState, event: ev.TxDropped, env: ev.WalletEnv) -> Transition[WalletState]:
    known = state.recent.get(event.txid)
    if known is None or known.height is not None:
        return Transition(state)
    draft = _Draft(state)
    draft.remove(event.txid)
    return Transition(draft.freeze())


def _issue(draft: _Draft, kind: Kind, chain: int) -> KeyPath:
    key = KeyPath(kind, chain, draft.branches[kind, chain].next_index)
    draft.use(key)
    return key


def _new_address(state: WalletState, event: ev.NewAddress, env: ev.WalletEnv) -> Transition[WalletState]:
    draft = _Draft(state)
    key = _issue(draft, event.kind, CHANGE if event.change else EXTERNAL)
    return Transition(draft.freeze(), (ev.AddressIssued(draft.accounts.script(key), key),))


def _check_purpose(purpose: str) -> None:
    if not 0 < len(purpose) <= MAX_PURPOSE:
        raise CommandRefused("bad_purpose", f"A lease needs a purpose of 1 to {MAX_PURPOSE} characters.")


def _lease(state: WalletState, event: ev.Lease, env: ev.WalletEnv) -> Transition[WalletState]:
    _check_purpose(event.purpose)
    if len(event.outpoints) > MAX_LEASED:
        raise CommandRefused("too_many_coins", f"At most {MAX_LEASED} coins can be leased at once.")
    for outpoint in event.outpoints:
        if outpoint not in state.coins:
            raise CommandRefused("unknown_coin", f"{outpoint} is not a coin of this wallet.")
        holder = state.leases.get(outpoint, event.purpose)
        if holder != event.purpose:
            raise CommandRefused("coin_leased", f"{outpoint} is set aside for {holder}.", "Choose another coin.")
        if outpoint in state.spenders and outpoint not in state.leases:
            raise CommandRefused("coin_spent", f"{outpoint} is spent by {state.spenders[outpoint]}.")
    if event.until is None and all(outpoint in state.leases for outpoint in event.outpoints):
        return Transition(state)
    draft = _Draft(state)
    draft.lease(event.outpoints, event.purpose, event.until)
    return Transition(draft.freeze())


def _release(state: WalletState, event: ev.Release, env: ev.WalletEnv) -> Transition[WalletState]:
    if not state.leased_to(event.purpose) and event.purpose not in state.expiries:
        return Transition(state)
    draft = _Draft(state)
    draft.release(event.purpose)
    return Transition(draft.freeze())


def _freeze(state: WalletState, event: ev.Freeze, env: ev.WalletEnv) -> Transition[WalletState]:
    _check_named(state, event.outpoints)
    wanted = state.frozen | set(event.outpoints) if event.frozen else state.frozen - set(event.outpoints)
    return Transition(state if wanted == state.frozen else replace(state, frozen=wanted))


def _label(state: WalletState, event: ev.LabelCoin, env: ev.WalletEnv) -> Transition[WalletState]:
    _check_named(state, (event.outpoint,))
    if len(event.text) > MAX_LABEL or not (event.text.isprintable() or not event.text):
        raise CommandRefused("bad_label", f"A label is one line of at most {MAX_LABEL} characters.")
    labels = {outpoint: text for outpoint, text in state.labels.items() if outpoint != event.outpoint}
    if event.text:
        labels[event.outpoint] = event.text
    return Transition(state if labels == state.labels else replace(state, labels=labels))


def _check_named(state: WalletState, outpoints: tuple[OutPoint, ...]) -> None:
    if len(outpoints) > MAX_LEASED:
        raise CommandRefused("too_many_coins", f"At most {MAX_LEASED} coins can be named at once.")
    for outpoint in outpoints:
        if outpoint not in state.coins:
            raise CommandRefused(
                "unknown_coin", f"{outpoint} is not a coin of this wallet.", "`salama utxos` lists them."
            )


def _check_new_purpose(state: WalletState, purpose: str) -> None:
    _check_purpose(purpose)
    if state.leased_to(purpose):
        raise CommandRefused("purpose_in_use", f"Coins are already set aside for {purpose}.", "Release them first.")


def _obstacle(state: WalletState, outpoint: OutPoint, env: ev.WalletEnv) -> str:
    """Why a coin cannot be spent now."""
    coin = state.coins.get(outpoint)
    if coin is None:
        return "is no coin of this wallet"
    if outpoint in state.spenders:
        return f"is spent by {state.spenders[outpoint]}"
    if outpoint in state.frozen:
        return "is frozen"
    if outpoint in state.leases:
        return f"is set aside for {state.leases[outpoint]}"
    return "cannot be spent yet: it is mined too lately" if not coin.is_mature(env.height) else "is not confirmed"


def _fund(state: WalletState, event: ev.FundTransaction, env: ev.WalletEnv) -> Transition[WalletState]:
    _check_new_purpose(state, event.purpose)
    coins = state.spendable(env.height, min_depth=event.min_depth, own_change=event.own_change)
    if event.only:
        wanted = frozenset(event.only)
        coins = tuple(coin for coin in coins if coin.outpoint in wanted)
        if len(coins) != len(wanted):
            missing = min(wanted.difference(coin.outpoint for coin in coins))
            raise CommandRefused(
                "coin_unavailable",
                f"{missing} {_obstacle(state, missing, env)}.",
                "`salama utxos` lists what can be spent.",
            )
    draft = _Draft(state)
    if event.everything:
        if len(event.outputs) != 1:
            raise CommandRefused("one_output_needed", "Everything can be sent to one output only.")
        funded = fund_all(coins, event.outputs[0].script, event.feerate, entropy=env.entropy, locktime=int(env.height))
    else:
        change = KeyPath(event.change_kind, CHANGE, draft.branches[event.change_kind, CHANGE].next_index)
        funded = fund(
            event.outputs,
            coins,
            event.feerate,
            draft.accounts.script(change),
            entropy=env.entropy,
            locktime=int(env.height),
        )
        if funded.change_index is not None:
            draft.use(change)
    draft.lease((coin.outpoint for coin in funded.coins), event.purpose, event.until)
    return Transition(draft.freeze(), (ev.TransactionFunded(event.purpose, funded),))


def _bump(state: WalletState, event: ev.BumpFee, env: ev.WalletEnv) -> Transition[WalletState]:
    _check_new_purpose(state, event.purpose)
    draft = _Draft(state)
    change = KeyPath("tr", CHANGE, draft.branches["tr", CHANGE].next_index)
    script = draft.accounts.script(change)
    made = bump(
        state,
        event.txid,
        event.feerate,
        # Confirmed ones alone: a replacement may not bring in new unconfirmed inputs (BIP 125).
        state.spendable(env.height),
        script,
        how=event.how,
        subtract=event.subtract,
        entropy=env.entropy,
        locktime=int(env.height),
        funds_channel=event.funds_channel,
    )
    if any(output.script == script for output in made.funded.tx.outputs):
        draft.use(change)
    draft.lease((coin.outpoint for coin in made.funded.coins), event.purpose, event.until)
    return Transition(draft.freeze(), (ev.TransactionFunded(event.purpose, made.funded, made.replaces),))


# The events of one handler are one class, which a mapping's type cannot say: hence Any for that argument.
_HANDLERS: Final[dict[type[Event], Callable[[WalletState, Any, ev.WalletEnv], Transition[WalletState]]]] = {
    BlockConnected: _block_connected,
    BlockDisconnected: _block_disconnected,
    ev.TxSeen: _tx_seen,
    ev.TxDropped: _tx_dropped,
    ev.NewAddress: _new_address,
    ev.Lease: _lease,
    ev.Release: _release,
    ev.FundTransaction: _fund,
    ev.BumpFee: _bump,
    ev.Freeze: _freeze,
    ev.LabelCoin: _label,
}
