"""Transactions in words: what each is, what it spends, which output goes to whom and why, its fee, its deadline.

Nothing is guessed: the channels' own records, read from the nodes' databases, say what spent a funding output
(``onchain.identify``), and the nodes' own accounts say who claims what until when.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from salama.base.ids import ChannelId, OutPoint
from salama.bitcoin.tx import Tx
from salama.channel.state import ChannelRecord
from salama.demo.books.kept import DATABASE
from salama.onchain.identify import Close, CloseKind, identify
from salama.onchain.outputs import Output, Role
from salama.storage import queries

Ask = Callable[..., Awaitable[Any]]
"""A call to the chain's JSON-RPC."""

_BEST_VIEW: Final = (
    CloseKind.REVOKED,
    CloseKind.LOCAL,
    CloseKind.REMOTE,
    CloseKind.REMOTE_NEXT,
    CloseKind.MUTUAL,
)
"""Of what two nodes say of a transaction, the one that comes first here knows most."""


@dataclass(frozen=True, slots=True)
class Line:
    """One amount and what it is for; ``label`` is what happens to it."""

    label: str
    sat: int
    text: str


@dataclass(frozen=True, slots=True)
class Told:
    """A transaction, ready to be shown."""

    title: str
    txid: str
    lines: tuple[Line, ...]
    fee: int
    rate: str
    deadline: str
    delay: int = 0
    """Blocks that the owner of a commitment has to wait."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """An output that somebody will spend: whose commitment it comes from, and the other one's name."""

    output: Output
    close: Close
    owner: str
    other: str


@dataclass(frozen=True, slots=True)
class _Claimed:
    """What a node wrote down about a claim of its own."""

    name: str
    deadline: int


@dataclass(slots=True)
class _Reading:
    """Everything that is looked up for one explanation."""

    height: int
    coins: Mapping[OutPoint, int]
    """Amounts of outputs that are in no commitment."""
    closes: dict[bytes, tuple[Close, str, str]]
    claims: dict[str, _Claimed]
    waiting: Mapping[bytes, Tx]
    wallets: dict[bytes, str] = field(default_factory=dict)
    """Scripts to which channels close, and whose they are."""


class Explainer:
    """Remembers what it has shown. ``ids``: name of a node, and of its data directory, to its id."""

    def __init__(self, ask: Ask, directory: Path, ids: Mapping[str, str]) -> None:
        self._ask, self._directory, self._names = ask, directory, {node_id: name for name, node_id in ids.items()}
        self._seen: set[str] = set()
        self._pieces: dict[OutPoint, _Piece] = {}
        self._fees: dict[bytes, tuple[int, int]] = {}

    async def unseen(self) -> list[str]:
        """Ids of transactions that wait to be mined and were not explained yet."""
        return [txid for txid in await self._ask("getrawmempool") if txid not in self._seen]

    async def explain(self, txids: Sequence[str], folders: Sequence[str] = ()) -> list[Told]:
        """Each of these transactions, parents first. ``folders``: data directories to read beside the nodes'."""
        txs = [Tx.decode(bytes.fromhex(await self._ask("getrawtransaction", txid))) for txid in txids]
        self._seen.update(txids)
        # A parent is spent by its child, never the other way round.
        txs.sort(key=lambda tx: any(bytes(one.outpoint.txid) == bytes(p.txid) for p in txs for one in tx.inputs))
        coins = {}
        for outpoint in {one.outpoint for tx in txs for one in tx.inputs}:
            made = Tx.decode(bytes.fromhex(await self._ask("getrawtransaction", str(outpoint.txid))))
            coins[outpoint] = int(made.outputs[outpoint.vout].value)
        height = int(await self._ask("getblockcount"))
        waiting = {bytes(tx.txid): tx for tx in txs}
        reading = _Reading(height, coins, {}, {}, waiting)
        await asyncio.to_thread(self._read, reading, txs, folders)
        return [self._tell(tx, reading) for tx in txs]

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read(self, reading: _Reading, txs: Sequence[Tx], folders: Sequence[str]) -> None:
        for folder in (*self._names.values(), *folders):
            path = self._directory / folder / DATABASE
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
                name = folder.partition("-")[0]
                for record, peer in self._channels(database):
                    reading.wallets[record.our_shutdown or record.params.closing_script] = name
                    for tx in txs:
                        self._read_close(reading, database, name, record, peer, tx)
                lines = database.execute("SELECT fields FROM events WHERE name = 'onchain.claim'")
                for fields in (json.loads(line) for (line,) in lines):
                    reading.claims[fields["txid"]] = _Claimed(name, int(fields["deadline"]))

    def _channels(self, database: sqlite3.Connection) -> list[tuple[ChannelRecord, str]]:
        found = []
        for channel_id, peer in database.execute("SELECT channel_id, peer FROM channels").fetchall():
            record = queries.channel(database, ChannelId(channel_id))
            if record is not None:
                found.append((record, self._names.get(peer.hex(), "somebody")))
        return found

    @staticmethod
    def _read_close(
        reading: _Reading, database: sqlite3.Connection, name: str, record: ChannelRecord, peer: str, tx: Tx
    ) -> None:
        close = identify(record, tx, lambda number: queries.htlcs_at(database, record.channel_id, number))
        if close is None or close.kind not in _BEST_VIEW:
            return
        known = reading.closes.get(bytes(tx.txid))
        if known is None or _BEST_VIEW.index(close.kind) < _BEST_VIEW.index(known[0].kind):
            owner, other = (name, peer) if close.owner_is_us else (peer, name)
            reading.closes[bytes(tx.txid)] = (close, owner, other)

    # --- telling ------------------------------------------------------------------------------------------------------

    def _tell(self, tx: Tx, reading: _Reading) -> Told:
        fee = sum(reading.coins[one.outpoint] for one in tx.inputs) - sum(int(out.value) for out in tx.outputs)
        self._fees[bytes(tx.txid)] = (fee, tx.vsize)
        known, delay = reading.closes.get(bytes(tx.txid)), 0
        if known is not None:
            close, owner, other = known
            delay = close.owner_delay
            for output in close.outputs:
                self._pieces[output.outpoint] = _Piece(output, close, owner, other)
            if close.kind is CloseKind.MUTUAL:
                title, lines, deadline = _together(tx, close, reading.wallets)
            else:
                title, lines, deadline = _commitment(close, owner, other, int(close.funding.capacity))
        elif any(one.outpoint in self._pieces for one in tx.inputs):
            title, lines, deadline = self._claim(tx, reading)
        else:
            lines = [Line("pays", int(out.value), "") for out in tx.outputs]
            title, deadline = "A transaction of somebody's wallet", ""
        return Told(title, str(tx.txid), tuple(lines), fee, self._rate(tx, fee), deadline, delay)

    def _rate(self, tx: Tx, fee: int) -> str:
        alone = f"{fee / tx.vsize:.1f} sat/vB"
        parents = {bytes(one.outpoint.txid) for one in tx.inputs if one.outpoint in self._pieces}
        anchors = [p for one in tx.inputs if (p := self._pieces.get(one.outpoint)) and "anchor" in p.output.role.value]
        if not anchors or len(tx.inputs) == len(anchors) or len(parents) != 1:
            return alone
        parent_fee, parent_size = self._fees[parents.pop()]
        both = (fee + parent_fee) / (tx.vsize + parent_size)
        return f"{alone}, which makes {both:.1f} for both together"

    def _claim(self, tx: Tx, reading: _Reading) -> tuple[str, list[Line], str]:
        """A transaction that spends outputs of a commitment, or of what came from one."""
        claimed = reading.claims.get(str(tx.txid), _Claimed("somebody", 0))
        name = claimed.name
        lines, pieces = [], []
        for index, one in enumerate(tx.inputs):
            piece = self._pieces.get(one.outpoint)
            if piece is None:
                lines.append(Line("spends", reading.coins[one.outpoint], f"a coin of {name}'s wallet, for the fee"))
                continue
            pieces.append(piece)
            lines.append(Line("spends", int(piece.output.amount), _spent(piece, name)))
            if piece.output.role is Role.HTLC and piece.owner == name:
                made = tx.outputs[index]
                stage = Output(tx.outpoint(index), made.value, b"", Role.SECOND_STAGE, piece.output.htlc)
                self._pieces[stage.outpoint] = _Piece(stage, piece.close, piece.owner, piece.other)
        for index, out in enumerate(tx.outputs):
            second = self._pieces.get(tx.outpoint(index))
            delay = second.close.owner_delay if second else 0
            text = f"{name}'s, after {delay} blocks more" if second else f"to {name}'s wallet"
            lines.append(Line("pays", int(out.value), text))
        preimage = any(len(item) == 32 for one in tx.inputs for item in one.witness)
        return _title(pieces[0], name, preimage), lines, _deadline(pieces[0], claimed, reading.height)


# --- words -----------------------------------------------------------------------------------------------------------


def _commitment(close: Close, owner: str, other: str, capacity: int) -> tuple[str, list[Line], str]:
    revoked = close.kind is CloseKind.REVOKED
    title = f"{owner.capitalize()}'s commitment transaction, number {close.number}"
    if revoked:
        title += ", revoked"
    lines = [Line("spends", capacity, f"the channel of {owner} and {other}; both have signed")]
    lines += [Line("pays", int(one.amount), _made(one, close, owner, other)) for one in close.outputs]
    htlcs = [one.htlc for one in close.outputs if one.htlc is not None]
    if revoked:
        return title, lines, f"{other} must act within {close.owner_delay} blocks of its confirmation"
    if htlcs:
        expiry = min(int(htlc.cltv_expiry) for htlc in htlcs)
        return title, lines, f"soon: the HTLC in it has run out at block {expiry}"
    return title, lines, "none: nobody can take what is another's"


def _together(tx: Tx, close: Close, wallets: Mapping[bytes, str]) -> tuple[str, list[Line], str]:
    lines = [Line("spends", int(close.funding.capacity), "the channel; both have signed this very transaction")]
    lines += [Line("pays", int(out.value), f"to {wallets.get(out.script, 'somebody')}'s wallet") for out in tx.outputs]
    return "The close that both agreed to", lines, "none: all is said"


def _made(output: Output, close: Close, owner: str, other: str) -> str:
    """Whose an output of a commitment is, and why."""
    revoked = close.kind is CloseKind.REVOKED
    if output.role is Role.TO_LOCAL:
        if revoked:
            return f"{owner}'s after {close.owner_delay} blocks, {other}'s at once: {other} knows the secret"
        return f"{owner}'s after {close.owner_delay} blocks, in which {other} could object if this were old"
    if output.role is Role.TO_REMOTE:
        return f"{other}'s, from the next block on"
    if output.role is Role.HTLC and output.htlc is not None:
        payee, payer = (other, owner) if output.offered else (owner, other)
        if revoked:
            return f"an HTLC: {other} knows the secret and may take it"
        return f"the HTLC: {payee}'s with the preimage, {payer}'s after block {output.htlc.cltv_expiry}"
    is_owners = (output.role is Role.OUR_ANCHOR) == close.owner_is_us
    return f"{owner if is_owners else other}'s anchor: a handle to pay more fee by"


def _spent(piece: _Piece, name: str) -> str:
    """What a claim spends."""
    role, whose = piece.output.role, f"{piece.owner}'s"
    if piece.close.kind is CloseKind.REVOKED and role is not Role.TO_REMOTE:
        return f"what {piece.owner} wanted to have" if role is Role.TO_LOCAL else f"{role.value} of {whose} old state"
    if role is Role.TO_LOCAL:
        return f"{whose} side of the channel; its delay of {piece.close.owner_delay} blocks is over"
    if role is Role.TO_REMOTE:
        return f"{name}'s side of the channel"
    if role is Role.HTLC:
        return "the HTLC"
    if role is Role.SECOND_STAGE:
        return f"the HTLC's amount; its delay of {piece.close.owner_delay} blocks is over"
    return f"{name}'s anchor of the transaction above"


def _title(piece: _Piece, name: str, preimage: bool) -> str:
    role, who = piece.output.role, name.capitalize()
    if piece.close.kind is CloseKind.REVOKED and role is not Role.TO_REMOTE:
        return f"The penalty: {who} takes everything"
    if role is Role.HTLC:
        if piece.owner == name:
            return f"{who}'s HTLC-{'success' if preimage else 'timeout'} transaction"
        return f"{who} claims the HTLC with {'the preimage' if preimage else 'its expiry'}"
    if role in (Role.TO_LOCAL, Role.SECOND_STAGE, Role.TO_REMOTE):
        return f"{who}'s own money comes home"
    return f"A child that pays for its parent, by {who}"


def _deadline(piece: _Piece, claimed: _Claimed, height: int) -> str:
    if not claimed.deadline:
        if "anchor" in piece.output.role.value:
            return "none: nothing in the commitment runs out"
        return f"none: nobody but {claimed.name} can spend it"
    after = "then the other side could take it"
    if piece.close.kind is CloseKind.REVOKED:
        after = f"from then on {piece.owner} could take it"
    elif piece.output.role is Role.HTLC:
        after = "before the HTLC that it was relayed from runs out"
    return f"block {claimed.deadline} ({claimed.deadline - height} from now): {after}"
