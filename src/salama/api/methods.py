"""What each method does, of all areas: short functions that ask the node and shape the answer. No decisions are made
here.
"""

from __future__ import annotations

from salama.api.backup_methods import BackupMethods
from salama.api.channels_methods import ChannelMethods
from salama.api.funding_methods import FundingMethods
from salama.api.ledger_methods import LedgerMethods
from salama.api.node_methods import NodeMethods
from salama.api.onchain_methods import OnchainMethods
from salama.api.payments_methods import PaymentMethods
from salama.api.schema import METHODS
from salama.api.server import Handler
from salama.api.wallet_methods import WalletMethods


class Methods(
    NodeMethods,
    WalletMethods,
    ChannelMethods,
    PaymentMethods,
    OnchainMethods,
    FundingMethods,
    LedgerMethods,
    BackupMethods,
):
    """The methods of one node. A method of the schema is a method of the same name here, in the class of its area."""

    def handlers(self) -> dict[str, Handler]:
        """By method name, as a server wants them."""
        return {name: getattr(self, name) for name in METHODS}
