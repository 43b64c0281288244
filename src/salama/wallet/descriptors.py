"""The wallet as descriptors that other programs import, to see the same coins or, if asked for, to spend them
(BIP 380 with its checksum, BIP 382 ``wpkh``, BIP 386 ``tr``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from salama.bitcoin.networks import Network
from salama.crypto.seeds import ExtendedKey
from salama.wallet.coins import WalletState
from salama.wallet.keys import BRANCHES, CHANGE, Kind, account_path

_INPUT: Final = "0123456789()[],'/*abcdefgh@:$%{}IJKLMNOPQRSTUVWXYZ&+-.;<=>?!^_|~ijklmnopqrstuvwxyzABCDEFGH`#\"\\ "
_OUTPUT: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR: Final = (0xF5DEE51989, 0xA9FDCA3312, 0x1BAB10E32D, 0x3706B1677A, 0x644D626FFD)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One chain of keys. ``text`` with its checksum; it may hold a secret, so it is left out of ``repr``."""

    text: str = field(repr=False)
    internal: bool
    """Change."""
    next_index: int
    """The first key that was never given out."""
    watched: int
    """Keys that we look at ourselves: from 0 to this one less one."""


def checksum(text: str) -> str:
    """Eight characters that follow a descriptor and its ``#``. ValueError for a character that none may have."""
    state, groups = 1, []
    for character in text:
        value = _INPUT.find(character)
        if value < 0:
            raise ValueError(f"no descriptor holds {character!r}")
        state = _step(state, value & 31)
        groups.append(value >> 5)
        if len(groups) == 3:
            state = _step(state, groups[0] * 9 + groups[1] * 3 + groups[2])
            groups = []
    if groups:
        state = _step(state, groups[0] if len(groups) == 1 else groups[0] * 3 + groups[1])
    for _ in range(8):
        state = _step(state, 0)
    state ^= 1
    return "".join(_OUTPUT[state >> 5 * (7 - place) & 31] for place in range(8))


def _step(state: int, value: int) -> int:
    top = state >> 35
    state = (state & 0x7FFFFFFFF) << 5 ^ value
    for bit, term in enumerate(_GENERATOR):
        if top >> bit & 1:
            state ^= term
    return state


def export(
    state: WalletState, fingerprint: bytes, network: Network, secrets: dict[Kind, ExtendedKey] | None = None
) -> tuple[Descriptor, ...]:
    """The four chains of the wallet. ``secrets``: account keys that may spend, for private descriptors."""
    found = []
    for kind, chain in BRANCHES:
        account = state.accounts.wpkh if kind == "wpkh" else state.accounts.tr
        key = (account if secrets is None else secrets[kind]).render(testnet=network.coin_type != 0)
        origin = f"{fingerprint.hex()}{account_path(kind, network)[1:]}".replace("'", "h")
        bare = f"{kind}([{origin}]{key}/{chain}/*)"
        branch = state.branches[kind, chain]
        found.append(Descriptor(f"{bare}#{checksum(bare)}", chain == CHANGE, branch.next_index, branch.watched))
    return tuple(found)
