"""What a node takes from the machine it runs on, in one place: disk, view of Bitcoin, sockets, clocks, dice.

A simulated world gives nodes another ``Outside`` and runs everything else as it is.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from salama.base.ids import NodeId
from salama.bitcoin.tx import Tx
from salama.chain.backend import ChainBackend
from salama.chain.bitcoind import Bitcoind
from salama.chain.publishers import find_publishers
from salama.net import tcp
from salama.net.tcp import Connection, PeerAddress
from salama.node.config import Config
from salama.node.seed import birthday, load_or_make_seed, rescan_from
from salama.storage.journal import Journal
from salama.transport.noise import StaticKey


class Accepting(Protocol):
    """Accepts connections until stopped."""

    async def start(self, address: PeerAddress) -> PeerAddress: ...
    async def stop(self) -> None: ...


class Running(Protocol):
    """Works until it is cancelled."""

    async def run(self) -> None: ...


class Outside:
    """The real machine."""

    _passphrase = ""

    @classmethod
    def unlocking(cls, passphrase: str) -> Outside:
        """The machine, for a seed that lies there sealed."""
        made = cls()
        made._passphrase = passphrase
        return made

    # --- clocks and dice ----------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Unix seconds; may jump."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since no particular moment; never goes back."""
        return time.monotonic()

    def entropy(self, size: int) -> bytes:
        """Secret random bytes."""
        return secrets.token_bytes(size)

    def below(self, limit: int) -> int:
        """A random number from 0 to ``limit`` - 1, of at most 48 bits."""
        return int.from_bytes(self.entropy(16), "big") % limit

    # --- disk ---------------------------------------------------------------------------------------------------------

    def seed(self, config: Config) -> bytes:
        """The wallet's seed, made at the first start."""
        return load_or_make_seed(config.directory, self._passphrase)

    def birthday(self, config: Config) -> int:
        """Unix seconds before which the chain holds nothing of ours; 0 if nobody knows."""
        return birthday(config.directory)

    def rescan_from(self, config: Config) -> int | None:
        """Unix seconds since when the chain may hold coins of a restored seed; None if it was made here."""
        return rescan_from(config.directory)

    def journal(self, config: Config) -> Journal:
        """Open the node's database. Raises StorageFault."""
        return Journal.open(config.directory, copy=config.database_copy)

    # --- networks -----------------------------------------------------------------------------------------------------

    def backend(self, config: Config) -> ChainBackend:
        """The view of the Bitcoin network."""
        return Bitcoind(
            config.bitcoind, cookie=config.cookie, user=config.bitcoind_user, password=config.bitcoind_password
        )

    async def feed(self, backend: ChainBackend, on_transaction: Callable[[Tx], None]) -> Running | None:
        """What listens to the publishers of ``backend``, not yet running; None if it has none and is asked in turns."""
        if not isinstance(backend, Bitcoind) or not (publishers := await find_publishers(backend)):
            return None
        from salama.chain.zmq_feed import ZmqFeed  # who has no publisher need not load the library

        if "hashblock" in publishers:
            backend.hear_blocks()
        return ZmqFeed(publishers, backend.heard_block, on_transaction)

    async def connect(self, address: PeerAddress, their_node_id: NodeId, our_key: StaticKey) -> Connection:
        """Dial a peer. Raises ConnectFailed."""
        return await tcp.connect(address, their_node_id, our_key)

    def listener(self, our_key: StaticKey, on_connection: Callable[[Connection], Awaitable[None]]) -> Accepting:
        """What accepts peers, not yet started."""
        return tcp.Listener(our_key, on_connection)
