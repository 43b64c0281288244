"""Where a restored wallet begins to look through the chain: at the birthday of its words."""

from __future__ import annotations

from typing import Final

from salama.base.machine import CommandRefused
from salama.base.units import BlockHeight
from salama.chain.backend import BackendError, ChainBackend
from salama.node.chain import Tip

MARGIN: Final = 2 * 60 * 60
"""Seconds by which the times of blocks may be wrong, as consensus lets them."""


async def block_before(backend: ChainBackend, birthday: int) -> Tip:
    """The last block that is certainly older than ``birthday`` (unix seconds), or the first of the chain.

    Found in about twenty looks. Raises CommandRefused("block_pruned"), BackendUnavailable and BackendError.
    """
    info = await backend.info()
    moment = birthday - MARGIN
    low, high = 0, int(info.height)  # the block at ``low`` is old enough, that above ``high`` is not
    while low < high:
        middle = (low + high + 1) // 2
        if await _time_at(backend, middle) < moment:
            low = middle
        else:
            high = middle - 1
    found = await backend.block_hash(low)
    if found is None:
        raise BackendError(0, f"it lost the block at height {low} while it was asked")
    return Tip(BlockHeight(low), found)


async def _time_at(backend: ChainBackend, height: int) -> int:
    """What the block there says of its time. Times may step back by less than the margin, so halving finds a block
    whose neighbours are at most that far off."""
    name = await backend.block_hash(height)
    if name is None:
        raise BackendError(0, f"it lost the block at height {height} while it was asked")
    try:
        return (await backend.block(name)).header.time
    except BackendError as error:
        raise CommandRefused(
            "block_pruned",
            f"The chain back-end lacks block {height}, at which the restored wallet must look: {error.message}.",
            "Use a bitcoind that keeps its blocks since the birthday of your words.",
        ) from None
