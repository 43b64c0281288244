"""What a channel machine is told of the world at each step: it has no clock, chain or key of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from salama.base.units import BlockHeight, FeeratePerKw
from salama.channel.policy import DEFAULT_POLICY, Policy
from salama.crypto import secp256k1

Check = tuple[bytes, bytes, bytes]
"""A compressed point, a 32-byte digest and a compact signature."""
Verify = Callable[[Sequence[Check]], bool]
"""Whether every signature is valid and low-S; a whole list at a time, so that a pool may share it out."""


def verify_all(checks: Sequence[Check]) -> bool:
    """The plain ``Verify``: one after the other."""
    return all(secp256k1.verify(point, digest, signature) for point, digest, signature in checks)


@dataclass(frozen=True, slots=True)
class Feerates:
    """Our estimates."""

    commitment: FeeratePerKw
    """For a commitment transaction with anchors: enough to enter the mempool, its child pays the rest."""
    closing: FeeratePerKw
    """For a cooperative closing that nobody is in a hurry for."""


@dataclass(frozen=True, slots=True)
class ChannelEnv:
    """The same for every channel of one turn."""

    now: int
    """Unix seconds."""
    height: BlockHeight
    feerates: Feerates
    policy: Policy = DEFAULT_POLICY
    verify: Verify = verify_all
    minds_deadlines: bool = True
    """False for a moment after a start: peers that come back may still resolve what would else go to the chain."""
