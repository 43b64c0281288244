"""The wallet as one record: its facts, from which ``wallet.coins.assemble`` derives the rest again. It holds no
secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from salama.base.ids import OutPoint, Txid
from salama.crypto.seeds import ExtendedKey
from salama.storage.errors import CorruptRecord
from salama.storage.layouts import Codec
from salama.wallet.coins import Branch, Coin, WalletState, WalletTx, assemble
from salama.wallet.keys import Accounts, Kind


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
        )
    )


def decode_wallet(data: bytes) -> WalletState:
    """Inverse of ``encode_wallet``; derives the watched scripts again. Raises CorruptRecord."""
    facts = _WALLET.decode(data)
    try:
        accounts = Accounts(facts.wpkh.key(), facts.tr.key())
        return assemble(accounts, facts.branches, facts.recent, facts.settled, facts.leases)
    except ValueError as fault:
        raise CorruptRecord("wallet", str(fault)) from None
