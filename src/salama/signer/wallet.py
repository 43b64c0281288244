"""The wallet's keys: public accounts for the pure wallet, secrets for signing what it funded (BIP 84, BIP 86)."""

from __future__ import annotations

from salama.bitcoin.networks import Network
from salama.bitcoin.tx import Tx
from salama.crypto.seeds import ExtendedKey
from salama.signer.policy import check_fee
from salama.wallet.funding import Funded
from salama.wallet.keys import Accounts, KeyPath, full_path
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

    def secret(self, key: KeyPath) -> bytes:
        """The untweaked secret of ``key``."""
        secret = self._root.derive(full_path(key, self._network)).secret
        assert secret is not None
        return secret
