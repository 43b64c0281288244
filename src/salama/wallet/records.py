"""The wallet on disk: one msgpack record with a version, so that a later shape can still read an earlier one.

Only facts are written; scripts, coins and spenders are derived again by ``assemble``.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from salama.base.ids import OutPoint, Txid
from salama.base.units import BlockHeight, Sat
from salama.bitcoin.tx import Tx
from salama.crypto.seeds import ExtendedKey
from salama.wallet.coins import Branch, Coin, WalletState, WalletTx, assemble
from salama.wallet.keys import BRANCHES, Accounts, KeyPath, Kind

VERSION: Final = 1
MAX_WATCHED: Final = 10_000_000
"""Indexes a record may claim: deriving them takes time, so a damaged record must not ask for billions."""


class MalformedWallet(ValueError):
    """Bytes that are not a wallet record of a version we know."""


class _Coin(msgspec.Struct, array_like=True, frozen=True):
    outpoint: bytes
    value: int
    script: bytes
    kind: Literal["wpkh", "tr"]
    chain: int
    index: int
    height: int | None
    coinbase: bool


class _Tx(msgspec.Struct, array_like=True, frozen=True):
    txid: bytes
    spends: list[bytes]
    coins: list[_Coin]
    height: int | None
    tx: bytes | None


class _Branch(msgspec.Struct, array_like=True, frozen=True):
    kind: Literal["wpkh", "tr"]
    chain: int
    next_index: int
    watched: int


class _Wallet(msgspec.Struct, array_like=True, frozen=True):
    version: int
    wpkh: str
    tr: str
    branches: list[_Branch]
    recent: list[_Tx]
    settled: list[_Coin]
    leases: list[tuple[bytes, str]]


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Wallet)


def encode(state: WalletState) -> bytes:
    """The record of ``state``; equal states have equal records."""
    return _ENCODER.encode(
        _Wallet(
            VERSION,
            state.accounts.wpkh.render(),
            state.accounts.tr.render(),
            [_Branch(*name, *state.branches[name]) for name in sorted(state.branches)],
            [
                _Tx(
                    bytes(one.txid),
                    [_flat(outpoint) for outpoint in one.spends],
                    [_flat_coin(coin) for coin in one.coins],
                    _plain(one.height),
                    None if one.tx is None else one.tx.encode(),
                )
                for _, one in sorted(state.recent.items())
            ],
            [_flat_coin(coin) for _, coin in sorted(state.settled.items())],
            [(_flat(outpoint), purpose) for outpoint, purpose in sorted(state.leases.items())],
        )
    )


def decode(data: bytes) -> WalletState:
    """The state of a record; raises MalformedWallet."""
    try:
        record = _DECODER.decode(data)
        if record.version != VERSION:
            raise MalformedWallet(f"wallet record of version {record.version}, known is {VERSION}")
        branches: dict[tuple[Kind, int], Branch] = {}
        for one in record.branches:
            if not 0 <= one.next_index <= one.watched <= MAX_WATCHED:
                raise MalformedWallet("a branch out of range")
            branches[one.kind, one.chain] = Branch(one.next_index, one.watched)
        if set(branches) != set(BRANCHES):
            raise MalformedWallet("not the branches of a wallet")
        coins = [_coin(one) for one in record.settled]
        return assemble(
            Accounts(ExtendedKey.parse(record.wpkh), ExtendedKey.parse(record.tr)),
            branches,
            {Txid(one.txid): _tx(one) for one in record.recent},
            {coin.outpoint: coin for coin in coins},
            {_outpoint(raw): purpose for raw, purpose in record.leases},
        )
    except MalformedWallet:
        raise
    except ValueError as problem:  # msgspec's errors, our units, ids, transactions and keys all are
        raise MalformedWallet(f"not a wallet record: {problem}") from None


def _plain(height: BlockHeight | None) -> int | None:
    return None if height is None else int(height)


def _height(height: int | None) -> BlockHeight | None:
    return None if height is None else BlockHeight(height)


def _flat(outpoint: OutPoint) -> bytes:
    return bytes(outpoint.txid) + outpoint.vout.to_bytes(4, "little")


def _outpoint(raw: bytes) -> OutPoint:
    if len(raw) != 36:
        raise MalformedWallet(f"an outpoint of {len(raw)} bytes")
    return OutPoint(Txid(raw[:32]), int.from_bytes(raw[32:], "little"))


def _flat_coin(coin: Coin) -> _Coin:
    key = coin.key
    return _Coin(
        _flat(coin.outpoint),
        int(coin.value),
        coin.script,
        key.kind,
        key.chain,
        key.index,
        _plain(coin.height),
        coin.coinbase,
    )


def _coin(one: _Coin) -> Coin:
    key = KeyPath(one.kind, one.chain, one.index)
    return Coin(_outpoint(one.outpoint), Sat(one.value), one.script, key, _height(one.height), one.coinbase)


def _tx(one: _Tx) -> WalletTx:
    return WalletTx(
        Txid(one.txid),
        tuple(_outpoint(raw) for raw in one.spends),
        tuple(_coin(coin) for coin in one.coins),
        _height(one.height),
        None if one.tx is None else Tx.decode(one.tx),
    )
