"""Looks into the mempool for what unconfirmed transactions reveal about channels on the chain (BOLT 5, B5.06).

A preimage may be shown to the network and never reach a block: whoever replaces it in time keeps the HTLC downstream
and its timeout upstream (replacement cycling, immunity C14). So the back-end is asked again and again which of the
outputs that somebody waits for are spent, and nothing while nobody waits. A look may miss what comes and goes between
two of them; a publisher of transactions, where there is one, tells of each.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Final

from salama.base.ids import OutPoint, Txid
from salama.bitcoin.tx import Tx
from salama.chain.backend import BackendError, BackendUnavailable, ChainBackend

log = logging.getLogger("salama.chain")

MAX_ASKED: Final = 1_000
"""Outputs in one question."""
MAX_FETCHED: Final = 200
"""Transactions fetched at one look; what is left comes with the next."""


class MempoolWatch:
    """Tells ``tell`` of each unconfirmed transaction that spends one of ``awaited()``, once and again after a block."""

    def __init__(
        self,
        backend: ChainBackend,
        awaited: Callable[[], Collection[OutPoint]],
        tell: Callable[[Tx], None],
        poll_seconds: float,
    ) -> None:
        self._backend, self._awaited, self._tell = backend, awaited, tell
        self._poll_seconds = poll_seconds
        self._told: set[Txid] = set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                await self.look()
            except (BackendUnavailable, BackendError) as problem:
                log.debug("no look into the mempool: %s", problem)

    def block_seen(self) -> None:
        """From now on everything is told anew."""
        self._told.clear()

    async def look(self) -> None:
        """Ask once. Raises BackendUnavailable and BackendError."""
        awaited = sorted(self._awaited())
        spenders: set[Txid] = set()
        for at in range(0, len(awaited), MAX_ASKED):
            spenders |= await self._backend.mempool_spenders(awaited[at : at + MAX_ASKED])
        # What left the mempool and comes back is told again.
        self._told &= spenders
        for txid in sorted(spenders - self._told)[:MAX_FETCHED]:
            tx = await self._backend.transaction(txid)
            if tx is not None:
                self._told.add(txid)
                self._tell(tx)
