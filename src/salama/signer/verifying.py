"""Signatures of others, verified by several threads when there are many: the ``Verify`` that channels are given.

libsecp256k1 works without the interpreter's lock, so that the check of a commitment with a hundred HTLCs takes as much
less time as there are cores to spare. The caller waits and does its own share; nothing is decided before the last.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from salama.channel.env import Check, verify_all

WORTH_SHARING: Final = 32
"""Signatures from which on it pays: one takes about 40 us, handing some over about 100."""
MOST_THREADS: Final = 4


class SharedVerifier:
    """Call it with a list of checks: whether all of them are good. Its threads are started when first needed."""

    def __init__(self, threads: int = 0) -> None:
        """``threads`` with the caller's own; 0 for one a core, at most ``MOST_THREADS``."""
        self.threads = threads or min(MOST_THREADS, os.cpu_count() or 1)
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, checks: Sequence[Check]) -> bool:
        if len(checks) < WORTH_SHARING or self.threads < 2:
            return verify_all(checks)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads - 1, thread_name_prefix="verifier")
        share = -(-len(checks) // self.threads)
        others = [self._pool.submit(verify_all, checks[at : at + share]) for at in range(share, len(checks), share)]
        ours = verify_all(checks[:share])
        return all(other.result() for other in others) and ours

    def close(self) -> None:
        """End the threads, if there are any."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
