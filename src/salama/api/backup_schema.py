"""What survives the loss of the disk, and how far a recovery is."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from salama.api.method import Method, Nothing, Params, Result


class BackupParams(Params, frozen=True, kw_only=True):
    write: Annotated[bool, Meta(description="write it again now, here and to every copy")] = False


class BackupPlace(Result, frozen=True, kw_only=True):
    """A place where the backup of the channels is kept."""

    place: str
    is_current: bool
    problem: str
    """Why it is not, in words; empty if it is."""


class BackupState(Result, frozen=True, kw_only=True):
    generation: int
    """Counts changes of the set of channels."""
    made_at: int
    """Unix seconds; 0 if none is there."""
    channels: int
    places: list[BackupPlace]
    """The file beside the database, the copies, and the peers that keep one for us."""
    warnings: list[str]


class RecoveringChannel(Result, frozen=True, kw_only=True):
    channel_id: str
    peer: str
    capacity_msat: int
    ours_msat: int
    """Our share of what the peer published; 0 until then."""
    stage: str
    """unseen, asking, waiting, claimed, swept."""
    missing: str
    """What is missing, and for how long."""


class RecoveryState(Result, frozen=True, kw_only=True):
    answer: str
    is_recovering: bool
    capacity_msat: int
    """Of the channels that are listed."""
    ours_msat: int
    """As far as the chain shows it."""
    onchain_msat: int
    """In the wallet, unconfirmed coins too."""
    channels: list[RecoveringChannel]


METHODS: tuple[Method, ...] = (
    Method(
        "backup",
        "Where the backup of the channels is, and how old; or write it now.",
        BackupParams,
        BackupState,
        aliases=("staticbackup", "exportchanbackup"),
    ),
    Method(
        "recovery",
        "How far a recovery is: each channel, what is missing, and for how long.",
        Nothing,
        RecoveryState,
        aliases=("emergencyrecover", "getrecoveryinfo"),
    ),
)
