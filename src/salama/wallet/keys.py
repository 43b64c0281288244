"""Our on-chain addresses, derived from public account keys alone (BIP 84 and BIP 86 under BIP 32).

The wallet holds two account keys, ``wpkh`` and ``tr``; the secrets behind them stay with the signer, which finds
each by its ``KeyPath``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from salama.bitcoin.networks import Network
from salama.bitcoin.script import p2tr, p2wpkh
from salama.crypto.secp256k1 import taproot_output_key, xonly
from salama.crypto.seeds import ExtendedKey

Kind: TypeAlias = Literal["wpkh", "tr"]

EXTERNAL: Final = 0
CHANGE: Final = 1
KINDS: Final[tuple[Kind, ...]] = ("wpkh", "tr")
BRANCHES: Final[tuple[tuple[Kind, int], ...]] = tuple((kind, chain) for kind in KINDS for chain in (EXTERNAL, CHANGE))

_PURPOSE: Final[dict[Kind, int]] = {"wpkh": 84, "tr": 86}


@dataclass(frozen=True, slots=True, order=True)
class KeyPath:
    """Where a key of ours is: its account, external (0) or change (1) chain, and index there."""

    kind: Kind
    chain: int
    index: int

    def __str__(self) -> str:
        return f"{self.kind}/{self.chain}/{self.index}"


def account_path(kind: Kind, network: Network) -> str:
    """Path of an account from the seed: ``m/84'/0'/0'`` (BIP 84) or ``m/86'/0'/0'`` (BIP 86)."""
    return f"m/{_PURPOSE[kind]}'/{network.coin_type}'/0'"


def full_path(key: KeyPath, network: Network) -> str:
    """Path of a key from the seed."""
    return f"{account_path(key.kind, network)}/{key.chain}/{key.index}"


@dataclass(frozen=True, slots=True)
class Accounts:
    """The two account keys at ``account_path``, without their secrets."""

    wpkh: ExtendedKey
    tr: ExtendedKey

    def __post_init__(self) -> None:
        if self.wpkh.secret is not None or self.tr.secret is not None:
            raise ValueError("the wallet takes public account keys only")

    @classmethod
    def of_master(cls, master: ExtendedKey, network: Network) -> Accounts:
        """From the master key, whose secret is needed here once and not kept."""
        return cls(
            master.derive(account_path("wpkh", network)).public,
            master.derive(account_path("tr", network)).public,
        )

    def branch(self, kind: Kind, chain: int) -> ExtendedKey:
        """The parent of all keys of one chain: deriving it once halves the cost of many scripts."""
        return (self.wpkh if kind == "wpkh" else self.tr).child(chain)

    def public_key(self, key: KeyPath) -> bytes:
        """33 bytes, before any taproot tweak."""
        return self.branch(key.kind, key.chain).child(key.index).point

    def script(self, key: KeyPath) -> bytes:
        """The scriptpubkey that pays to ``key``."""
        return script_for(key.kind, self.public_key(key))


def script_for(kind: Kind, public_key: bytes) -> bytes:
    """p2wpkh, or p2tr with an unspendable script path (BIP 86)."""
    if kind == "wpkh":
        return p2wpkh(public_key)
    return p2tr(taproot_output_key(xonly(public_key))[0])
