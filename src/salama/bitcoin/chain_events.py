"""What happens to the best chain, as events for every machine that lives by blocks (BOLT 5; channels, wallet, onchain).

Blocks arrive in order: each connected block's parent is the one last connected and not disconnected since.
"""

from __future__ import annotations

from dataclasses import dataclass

from salama.base.ids import BlockHash
from salama.base.machine import Event
from salama.base.units import BlockHeight
from salama.bitcoin.block import Block


@dataclass(frozen=True, slots=True)
class BlockConnected(Event):
    """``block`` is now the tip of the best chain, at ``height``."""

    height: BlockHeight
    hash: BlockHash
    block: Block


@dataclass(frozen=True, slots=True)
class BlockDisconnected(Event):
    """The tip, ``hash`` at ``height``, left the best chain; its parent is the tip until the next event."""

    height: BlockHeight
    hash: BlockHash
