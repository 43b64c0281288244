"""The wallet's keys: public accounts for the pure wallet, secrets for signing what it funded (BIP 84, BIP 86)."""

from __future__ import annotations

from collections.abc import Mapping

from salama.bitcoin.networks import Network
from salama.bitcoin.psbt import Psbt
from salama.bitcoin.tx import Tx
from salama.crypto.seeds import ExtendedKey
from salama.signer.policy import check_fee
from salama.wallet.coins import Coin
from salama.wallet.funding import Funded
from salama.wallet.keys import KINDS, Accounts, KeyPath, Kind, account_path, full_path
from salama.wallet.psbts import all_spent, signed
from salama.wallet.signing import sign


class WalletKeys:
    """Keys below the BIP 32 root of ``seed`` for one network. Secrets are never kept, only derived."""

    def __init__(self, seed: bytes, network: Network) -> None:
        self._root, self._network = ExtendedKey.of_seed(seed), network
        self.accounts = Accounts.of_master(self._root, network)

    def __repr__(self) -> str:
        return f"WalletKeys({self._network.name})"

    def sign(self, funded: Funded) -> Tx:
        """The transaction with every input signed. Raises SigningRefused if its fee is absurd."""
        check_fee(funded.tx, sum(int(coin.value) for coin in funded.coins), funded.weight)
        return sign(funded, self.secret)

    def sign_psbt(self, psbt: Psbt, mine: Mapping[int, Coin]) -> Psbt:
        """The PSBT with signatures on ``mine``. Raises CommandRefused, and SigningRefused if its fee is absurd."""
        spent = all_spent(psbt, mine)
        weight = 4 * len(psbt.tx.encode_stripped()) + 300 * len(psbt.inputs)
        check_fee(psbt.tx, sum(int(output.value) for output in spent), weight)
        return signed(psbt, mine, self.secret)

    @property
    def fingerprint(self) -> bytes:
        """Of the master key: how descriptors and PSBTs name this wallet."""
        return self._root.fingerprint

    def account_secrets(self) -> dict[Kind, ExtendedKey]:
        """The account keys with their secrets: whoever has them may spend every coin."""
        return {kind: self._root.derive(account_path(kind, self._network)) for kind in KINDS}

    def secret(self, key: KeyPath) -> bytes:
        """The untweaked secret of ``key``."""
        secret = self._root.derive(full_path(key, self._network)).secret
        assert secret is not None
        return secret
