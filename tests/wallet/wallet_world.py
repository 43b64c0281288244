"""A small world for the wallet's tests: its keys, payments from strangers, blocks, and a step that checks itself."""

from __future__ import annotations

from itertools import count

from salama.base.ids import BlockHash, OutPoint, Txid
from salama.base.units import BlockHeight, Sat
from salama.bitcoin.block import Block, BlockHeader
from salama.bitcoin.chain_events import BlockConnected, BlockDisconnected
from salama.bitcoin.networks import REGTEST
from salama.bitcoin.tx import COINBASE_OUTPOINT, Tx, TxIn, TxOut
from salama.crypto.hashes import sha256
from salama.crypto.seeds import ExtendedKey
from salama.storage.wallet_record import decode_wallet, encode_wallet
from salama.wallet.coins import Coin, WalletState, assemble, new_wallet
from salama.wallet.events import WalletEnv
from salama.wallet.keys import Accounts, KeyPath, full_path
from salama.wallet.step import step

MASTER = ExtendedKey.of_seed(bytes(range(32)))
ACCOUNTS = Accounts.of_master(MASTER, REGTEST)
EMPTY = new_wallet(ACCOUNTS)
STRANGER = b"\x00\x14" + b"\x99" * 20
_fresh = count(1)


def secret_of(key: KeyPath) -> bytes:
    secret = MASTER.derive(full_path(key, REGTEST)).secret
    assert secret is not None
    return secret


def fresh_outpoint() -> OutPoint:
    """An output that exists somewhere else and was never spent."""
    return OutPoint(Txid(sha256(b"stranger %d" % next(_fresh))), 0)


def ours(kind="wpkh", chain=0, index=0) -> bytes:
    return ACCOUNTS.script(KeyPath(kind, chain, index))


def coin(value, kind="wpkh", *, height=1, index=0, coinbase=False) -> Coin:
    key = KeyPath(kind, 0, index)
    at = None if height is None else BlockHeight(height)
    return Coin(fresh_outpoint(), Sat(value), ours(kind, 0, index), key, at, coinbase)


def payment(script, value=100_000, *, spends=None) -> Tx:
    """A stranger's transaction that pays ``script``, with an output for the stranger first."""
    inputs = tuple(TxIn(outpoint) for outpoint in (spends or [fresh_outpoint()]))
    return Tx(2, inputs, (TxOut(Sat(5_000), STRANGER), TxOut(Sat(value), script)), 0)


def coinbase(script, height, value=5_000_000_000) -> Tx:
    return Tx(2, (TxIn(COINBASE_OUTPOINT, script_sig=height.to_bytes(4, "little")),), (TxOut(Sat(value), script),), 0)


def block(height, *txs, miner=STRANGER) -> BlockConnected:
    header = BlockHeader(2, BlockHash(bytes(32)), bytes(32), height, 0x207FFFFF, next(_fresh))
    return BlockConnected(BlockHeight(height), header.hash, Block(header, (coinbase(miner, height), *txs)))


def undo(height) -> BlockDisconnected:
    return BlockDisconnected(BlockHeight(height), BlockHash(bytes(32)))


def env(height=1000, entropy=b"\x07" * 32) -> WalletEnv:
    return WalletEnv(BlockHeight(height), entropy)


def check_state(state: WalletState) -> None:
    """What is kept up step by step is what follows from the facts, and no two known transactions are in conflict."""
    again = assemble(
        state.accounts,
        state.branches,
        state.recent,
        state.settled,
        state.leases,
        state.scripts,
        expiries=state.expiries,
        frozen=state.frozen,
        labels=state.labels,
    )
    assert again == state
    assert dict(again.coins) == dict(state.coins)
    assert dict(again.spenders) == dict(state.spenders)
    for txid, one in state.recent.items():
        assert one.txid == txid
        assert all(state.spenders[outpoint] == txid for outpoint in one.spends), "two transactions in conflict"


def check_restart(state: WalletState) -> None:
    """A restart finds the same wallet. Slower: it derives every script again."""
    restarted = decode_wallet(encode_wallet(state))
    assert restarted == state
    assert dict(restarted.scripts) == dict(state.scripts)
    assert dict(restarted.coins) == dict(state.coins) and dict(restarted.spenders) == dict(state.spenders)


def play(state: WalletState, *events, at=1000) -> WalletState:
    """Feed events, checking each state."""
    for event in events:
        state = step(state, event, env(at)).state
        check_state(state)
    check_restart(state)
    return state
