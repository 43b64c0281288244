"""From words and a backup, or from words and peers that kept one, back to our coins (B5.12, immunity J1 to J3).

``prepare`` writes what the backup knows into an empty database: each channel durably stale, the wallet's chains of keys
as far as they were issued, and the block from which the chain is looked through again. After that an ordinary node
does the rest: it calls the peers, asks each to publish its commitment, and sweeps what is ours. ``progress`` says how
far that is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from salama.base.ids import BlockHash, ChannelId, NodeId, OutPoint, ShortChannelId
from salama.base.machine import CommandRefused
from salama.base.units import BlockHeight, Sat
from salama.bitcoin.networks import Network
from salama.channel.backup import ChannelBackup, restored_channel
from salama.channel.state import ChannelRecord, Phase
from salama.node.addresses import parse_host_port
from salama.node.backup import BIRTHDAY, GENERATION
from salama.node.chain import TIP
from salama.node.openings import NEXT_KEY_INDEX
from salama.onchain.claims import Claim
from salama.onchain.machine import OnchainEnv, close_of
from salama.onchain.outputs import Role
from salama.onchain.resolve import Facts, Standing, Status, resolve
from salama.onchain.state import OnchainState
from salama.signer.local import LocalSigner
from salama.signer.wallet import WalletKeys
from salama.storage import queries
from salama.storage.backup import StaticBackup
from salama.storage.journal import Journal
from salama.storage.writes import AnyWrite, PutChannel, PutKeyValue, PutPeer, PutWallet
from salama.wallet.coins import new_wallet
from salama.wallet.keys import Kind
from salama.wallet.step import reaching

RECOVERING: Final = "recovering"
"""Set in a directory that was recovered: channels may still be learned from peers, until a new one is opened."""
BROUGHT: Final = "recovery.brought"
"""A sealed backup that a peer gave back, on its way through the next start."""
NEW_LIFE: Final = 1 << 20
"""By how much the generation of a recovered node is ahead: no backup of its former life may count as newer."""
ALIAS_HEIGHT: Final = 15_000_000
"""Aliases of restored channels stand below all others: nobody is ever told one."""
FIRST_NEW_KEY: Final = 1 << 30
"""New channels after a recovery take keys from a random place here and beyond: a key that had been used before, in a
channel of which no backup knows, would have its revocations known to somebody."""


class NotEmpty(CommandRefused):
    """Recovering beside a living database would lose what only that database knows."""

    def __init__(self) -> None:
        super().__init__(
            "not_empty",
            "There are channels in this directory already.",
            "Recover into an empty directory, and keep this one as it is.",
        )


@dataclass(frozen=True, slots=True)
class Restored:
    """What ``prepare`` did."""

    channels: int
    capacity: Sat
    scan_from: BlockHeight
    """First block to be looked at."""


def check_empty(journal: Journal) -> None:
    """Raises NotEmpty if the database knows channels that were not restored."""
    if any(not record.restored for record in journal.read_now(queries.open_channels)):
        raise NotEmpty


def is_recovering(journal: Journal, records: Iterable[ChannelRecord]) -> bool:
    """Whether channels that a peer's copy of our backup names may be added to ``records``, all that are open."""
    if journal.read_now(lambda db: queries.key_value(db, RECOVERING)) is None:
        return False
    return all(record.restored for record in records)


def merged(backups: Sequence[StaticBackup]) -> StaticBackup:
    """Everything that any of ``backups`` of one node knows; of two that know the same channel the newer counts."""
    newest = max(backups, key=lambda one: one.generation)
    channels: dict[ChannelId, ChannelBackup] = {}
    branches: dict[tuple[Kind, int], int] = {}
    for one in sorted(backups, key=lambda one: one.generation):
        channels.update({channel.channel_id: channel for channel in one.channels})
        branches.update({name: max(issued, branches.get(name, 0)) for name, issued in one.branches.items()})
    birthday = min(one.birthday for one in backups)
    kept = tuple(channels[channel_id] for channel_id in sorted(channels))
    return replace(newest, birthday=birthday, branches=branches, channels=kept)


async def prepare(
    journal: Journal,
    signer: LocalSigner,
    keys: WalletKeys,
    network: Network,
    backup: StaticBackup | None,
    hash_at: Callable[[int], Awaitable[BlockHash | None]],
    below: Callable[[int], int],
    now: int,
) -> Restored:
    """Write into ``journal`` what ``backup`` knows and it does not; in one transaction, and again without harm.

    Without a backup only marks the directory, so that peers may bring one. ``hash_at`` awaits the hash of the block at
    a height, or None; ``below`` is a die. Raises NotEmpty, or CommandRefused if the backup is another node's.
    """
    check_empty(journal)
    writes: list[AnyWrite] = [PutKeyValue(BROUGHT, b"")]
    if journal.read_now(lambda db: queries.key_value(db, NEXT_KEY_INDEX)) is None:
        first_key = FIRST_NEW_KEY + below(FIRST_NEW_KEY - (1 << 24))
        writes.append(PutKeyValue(NEXT_KEY_INDEX, first_key.to_bytes(8, "big")))
    reached = journal.read_now(lambda db: queries.number(db, GENERATION))
    if backup is None:
        ahead = reached + NEW_LIFE
        writes += [PutKeyValue(GENERATION, ahead.to_bytes(8, "big")), PutKeyValue(RECOVERING, b"")]
        await journal.commit(writes)
        return Restored(0, Sat(0), BlockHeight(0))
    check_ours(backup, signer.node_id, network)
    new = journal.read_now(lambda db: [one for one in backup.channels if not queries.has_channel(db, one.channel_id)])
    for number, one in enumerate(new):
        writes.append(PutChannel(None, _record(one, signer, network, below, number)))
        if addresses := tuple(filter(_is_usable, one.addresses)):
            writes.append(PutPeer(one.peer, addresses, now))
    wallet = journal.read_now(queries.wallet) or new_wallet(keys.accounts)
    start = min([int(backup.birthday), *(int(one.opened_at) for one in new)])
    known = journal.read_now(lambda db: queries.key_value(db, TIP))
    scan_from = max(1, start if known is None else min(start, int.from_bytes(known[:4], "big") + 1))
    found = await hash_at(scan_from - 1)
    if found is None:
        raise CommandRefused(
            "chain_too_short",
            f"The chain back-end does not know block {scan_from - 1}.",
            "Wait until it has caught up, then recover again.",
        )
    generation = max(reached, backup.generation) + NEW_LIFE
    writes += [
        PutWallet(reaching(wallet, backup.branches)),
        PutKeyValue(TIP, (scan_from - 1).to_bytes(4, "big") + bytes(found)),
        PutKeyValue(BIRTHDAY, int(backup.birthday).to_bytes(4, "big")),
        PutKeyValue(GENERATION, generation.to_bytes(8, "big")),
        PutKeyValue(RECOVERING, b""),
    ]
    await journal.commit(writes)
    return Restored(len(new), Sat.total(one.capacity for one in new), BlockHeight(scan_from))


def check_ours(backup: StaticBackup, node_id: NodeId, network: Network) -> None:
    """Raises CommandRefused if the backup is of another node or another network."""
    if (backup.node_id, bytes(backup.chain_hash)) != (node_id, network.chain_hash):
        raise CommandRefused(
            "foreign_backup", "This backup is of another node or another network.", "Use the one of these words."
        )


def _is_usable(address: str) -> bool:
    try:
        parse_host_port(address)
    except CommandRefused:
        return False
    return True


def _record(
    one: ChannelBackup, signer: LocalSigner, network: Network, below: Callable[[int], int], number: int
) -> ChannelRecord:
    alias = ShortChannelId.of(ALIAS_HEIGHT + below(1 << 16), below(1 << 24), number & 0xFFFF)
    keys = signer.channel_keys(one.key_index)
    return restored_channel(one, keys, signer.node_id, BlockHash(network.chain_hash), alias)


# --- how far it is ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the money of one restored channel stands."""

    channel_id: ChannelId
    peer: NodeId
    capacity: Sat
    outpoint: OutPoint
    stage: str
    """``unseen``, ``asking``, ``waiting``, ``claimed``, ``swept`` or ``done``."""
    words: str
    """What is missing, and for how long."""
    ours: Sat
    """Our share as far as the chain shows it."""


def summary(lines: Sequence[Progress], is_recovering: bool) -> str:
    """How far it is, in a sentence or two."""
    if not lines:
        if not is_recovering:
            return "Nothing is being recovered."
        return "No channel is known that could be recovered. Connect to your former peers: they may keep your backup."
    left = [line for line in lines if line.stage not in ("swept", "done")]
    if not left:
        return "All of it is home; what was claimed becomes final with the blocks to come."
    stages = Counter(line.stage for line in left)
    words = ", ".join(f"{stages[stage]} {said}" for stage, said in _STAGES.items() if stages[stage])
    return f"{len(lines) - len(left)} of {len(lines)} channels are home. Of the others: {words}."


_STAGES: Final = {
    "unseen": "not seen in the chain yet",
    "asking": "for which the peer must still publish",
    "waiting": "whose share is not free yet",
    "claimed": "whose claim waits for a block",
}


def progress(
    record: ChannelRecord, onchain: OnchainState | None, env: OnchainEnv, *, is_connected: bool, has_address: bool
) -> Progress:
    """Of a channel that was made from a backup."""
    stage, words, ours = _stage(record, onchain, env, is_connected, has_address)
    funding = record.funding
    return Progress(
        record.channel_id, record.params.their_node_id, funding.capacity, funding.outpoint, stage, words, ours
    )


def _stage(
    record: ChannelRecord, onchain: OnchainState | None, env: OnchainEnv, is_connected: bool, has_address: bool
) -> tuple[str, str, Sat]:
    if record.phase is Phase.CLOSED:
        return "done", "Settled for good.", Sat(0)
    close, closed_at = close_of(onchain, env.htlcs_at) if onchain is not None else (None, 0)
    if close is None or onchain is None:
        return (*_before_the_close(record, env, is_connected, has_address), Sat(0))
    facts = Facts(env.height, close, closed_at, onchain.record.confirmed)
    statuses = [s for s in resolve(record, facts).statuses if s.output.role is Role.TO_REMOTE]
    ours = Sat.total(s.output.amount for s in statuses)
    left = max(0, env.irrevocable_depth - facts.depth(closed_at))
    if not statuses:
        paid = "to our address or had nothing for us" if close.number is None else "had nothing for us"
        return "swept", f"Closed in block {closed_at}: it paid {paid}. Settled for good in {left} blocks.", ours
    return (*_after_the_close(statuses, closed_at, env.height, left), ours)


def _before_the_close(record: ChannelRecord, env: OnchainEnv, is_connected: bool, has_address: bool) -> tuple[str, str]:
    if record.funding.confirmation is None:
        waits = max(0, int(record.opened_at) + 2016 - int(env.height))
        unseen = f"Its funding is in no block up to {int(env.height)}; given up in {waits} blocks."
        if not is_connected:
            return "unseen", f"{unseen} Its peer is not connected."
        return "unseen", unseen
    if is_connected:
        return "asking", "The peer is asked to publish its commitment; its transaction is not in a block yet."
    if has_address:
        return "asking", "The peer does not answer at its address: it is called again and again."
    return "asking", "Nobody knows where the peer is: `salama connect NODE_ID@host:port`."


def _after_the_close(statuses: Iterable[Status], closed_at: int, height: BlockHeight, left: int) -> tuple[str, str]:
    said = f"The peer closed in block {closed_at}"
    for status in statuses:
        if status.standing is Standing.SPENT:
            continue
        claim: Claim | None = status.claim
        if status.standing is Standing.CLAIMABLE or claim is None:
            return "claimed", f"{said}; our share is being claimed, a block must take the claim."
        return "waiting", f"{said}; our share is free in {int(claim.ready_at) - int(height)} blocks."
    return "swept", f"{said}, our share is in the wallet. Settled for good in {left} blocks."
