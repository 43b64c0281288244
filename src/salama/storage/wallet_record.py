"""The wallet as one record: its facts, from which ``wallet.coins.assemble`` derives the rest again. It holds no
secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from salama.base.ids import OutPoint, Txid
from salama.base.units import BlockHeight
from salama.crypto.seeds import ExtendedKey
from salama.storage.errors import CorruptRecord
from salama.storage.layouts import Codec
from salama.wallet.coins import Branch, Coin, WalletState, WalletTx, assemble
from salama.wallet.keys import BRANCHES, Accounts, Kind

MAX_WATCHED: Final = 10_000_000
"""Indexes that a record may claim: deriving them takes time, so a wrong record must not ask for billions."""


@dataclass(frozen=True, slots=True)
class _Account:
    point: bytes
    chain_code: bytes = field(repr=False)
    depth: int
    parent_fingerprint: bytes
    number: int

    @classmethod
    def of(cls, key: ExtendedKey) -> _Account:
        return cls(key.point, key.chain_code, key.depth, key.parent_fingerprint, key.number)

    def key(self) -> ExtendedKey:
        return ExtendedKey(self.point, self.chain_code, None, self.depth, self.parent_fingerprint, self.number)


@dataclass(frozen=True, slots=True)
class _Wallet:
    wpkh: _Account
    tr: _Account
    branches: Mapping[tuple[Kind, int], Branch]
    recent: Mapping[Txid, WalletTx]
    settled: Mapping[OutPoint, Coin]
    leases: Mapping[OutPoint, str]
    expiries: Mapping[str, BlockHeight] = field(default_factory=dict)
    frozen: tuple[OutPoint, ...] = ()
    labels: Mapping[OutPoint, str] = field(default_factory=dict)


_WALLET: Final = Codec(_Wallet, "wallet")


def encode_wallet(state: WalletState) -> bytes:
    """The facts of ``state``."""
    accounts = state.accounts
    return _WALLET.encode(
        _Wallet(
            _Account.of(accounts.wpkh),
            _Account.of(accounts.tr),
            state.branches,
            state.recent,
            state.settled,
            state.leases,
            state.expiries,
            tuple(sorted(state.frozen)),
            state.labels,
        )
    )


def decode_wallet(data: bytes) -> WalletState:
    """Inverse of ``encode_wallet``; derives the watched scripts again. Raises CorruptRecord."""
    facts = _WALLET.decode(data)
    try:
        accounts = Accounts(facts.wpkh.key(), facts.tr.key())
        if set(facts.branches) != set(BRANCHES) or any(
            not 0 <= one.next_index <= one.watched <= MAX_WATCHED for one in facts.branches.values()
        ):
            raise CorruptRecord("wallet", "not the chains of keys of a wallet")
        return assemble(
            accounts,
            facts.branches,
            facts.recent,
            facts.settled,
            facts.leases,
            expiries=facts.expiries,
            frozen=frozenset(facts.frozen),
            labels=facts.labels,
        )
    except ValueError as fault:
        raise CorruptRecord("wallet", str(fault)) from None
