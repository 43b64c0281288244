"""Fundings that one opening cannot make alone: one transaction for several channels, or one of another wallet.

The order is the whole safety. Each peer signs our first commitment for an output of a transaction that nobody has
signed; only then is it signed; only then is it written into every channel, and published. Whatever ends this before the
signature leaves nothing that could reach the chain. Whatever ends it after the first channel has it finds the
transaction there at the next start, for the others: none of them may be given up any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from salama.base.ids import ChannelId, NodeId, OutPoint, Txid
from salama.base.machine import CommandRefused
from salama.base.units import FeeratePerKw, Msat, Sat
from salama.bitcoin.psbt import Psbt
from salama.bitcoin.script import witness_program
from salama.bitcoin.tx import Tx, TxOut
from salama.chain.backend import BackendError, BackendUnavailable, ChainBackend
from salama.channel.events import ForgetChannel, FundingMade, PublishFunding
from salama.channel.held import is_held, is_unpublished
from salama.channel.state import ChannelRecord
from salama.channel.transactions import funding_output
from salama.node.channels import Channels
from salama.node.outside import Outside
from salama.node.wallet import WalletActor
from salama.wallet.coins import WalletState
from salama.wallet.psbts import finalised

log = logging.getLogger("salama.channels")

MAX_BATCH: Final = 25
"""Channels opened by one transaction."""
MAX_EXTERNAL: Final = 20
"""Openings that wait for another wallet at the same time."""
MAX_GIVEN_UP: Final = 1_000
"""Scripts of openings that came to nothing which are remembered, the latest."""
UNDO_SECONDS: Final = 10.0
"""How long a failed batch waits for its openings to end; they end without it, too."""
EXTERNAL_SECONDS: Final = 600.0
"""How long a person may take to make the transaction: peers give up after about as much."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A channel that is to be opened."""

    node_id: NodeId
    amount: Sat
    push: Msat
    announce: bool


class Funder:
    """Stands between an opening that asks for its funding and whoever makes it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.asked: asyncio.Future[TxOut] = loop.create_future()
        self.made: asyncio.Future[FundingMade] = loop.create_future()

    async def __call__(self, output: TxOut) -> FundingMade:
        """The funding that pays ``output``. Raises CommandRefused."""
        if not self.asked.done():
            self.asked.set_result(output)
        return await self.made

    def refuse(self, code: str, reason: str) -> None:
        """End the opening, if it still waits."""
        if not self.made.done():
            self.made.set_exception(CommandRefused(code, reason))
            self.made.exception()  # nobody need fetch it


Opened = tuple[ChannelId, OutPoint]


def _read(done: asyncio.Task[Opened]) -> None:
    """Take the outcome of an opening that nobody may be waiting for any more."""
    if not done.cancelled():
        done.exception()


@dataclass(slots=True)
class _External:
    funder: Funder
    opening: asyncio.Task[Opened] = field(repr=False)


class JointFunding:
    """Batches, and fundings from outside."""

    def __init__(self, channels: Channels, wallet: WalletActor, backend: ChainBackend, outside: Outside) -> None:
        self._channels, self._wallet, self._backend, self._outside = channels, wallet, backend, outside
        self._external: dict[str, _External] = {}
        self._given_up: deque[bytes] = deque(maxlen=MAX_GIVEN_UP)
        """Scripts that another wallet was asked to pay in this run, and must not pay any more."""
        self._publishing: set[asyncio.Task[None]] = set()
        self._batches: set[Txid] = set()
        """Transactions of batches under way."""

    # --- several at once ----------------------------------------------------------------------------------------------

    async def open_batch(self, wanted: Sequence[Wanted], feerate: FeeratePerKw) -> list[Opened]:
        """Open all of them by one transaction, or none. Raises CommandRefused."""
        if not 1 <= len(wanted) <= MAX_BATCH:
            raise CommandRefused("bad_batch", f"A batch opens 1 to {MAX_BATCH} channels, not {len(wanted)}.")
        funders = [Funder() for _ in wanted]
        leased = self._wallet.promise(Sat.total(one.amount for one in wanted))
        openings = [
            asyncio.create_task(
                self._channels.open(
                    one.node_id, one.amount, one.push, announce=one.announce, feerate=feerate, funder=funder,
                    of_ours=Sat(0),
                )
            )
            for one, funder in zip(wanted, funders, strict=True)
        ]  # fmt: skip
        purpose = f"open batch {self._outside.entropy(8).hex()}"
        txid: Txid | None = None
        try:
            outputs = await self._all_asked(funders, openings)
            funded = await self._wallet.draft(tuple(outputs), feerate, purpose)
            leased()
            txid = funded.tx.txid
            self._batches.add(txid)
            for place, funder in enumerate(funders):
                funder.made.set_result(FundingMade(funded.tx, funded.index_of(place), publish=False))
            opened = await asyncio.gather(*openings)
            if len(self.held_for(txid)) != len(opened):
                raise CommandRefused("batch_failed", "A channel of the batch has ended before all of them were ready.")
            # From here on every output belongs to a channel whose peer has signed: forward only, whoever gives up.
            tx = self._wallet.sign(funded, purpose)
        except BaseException:
            leased()
            if txid is not None:
                self._batches.discard(txid)
            await asyncio.shield(self._undo(funders, openings))
            self._wallet.release(purpose)
            raise
        # A caller who goes away does not stop it halfway.
        work = self._publish_all([channel_id for channel_id, _ in opened], tx)
        self._publishing.add(publishing := asyncio.create_task(work))
        publishing.add_done_callback(self._publishing.discard)
        await asyncio.shield(publishing)
        return list(opened)

    async def _publish_all(self, channels: Sequence[ChannelId], tx: Tx) -> None:
        """Give the signed transaction to all of them at once. Raises what the first says if none takes it.

        One that fails in this very moment does not keep it from the others: its commitment spends its output.
        """
        try:
            outcomes = await asyncio.gather(*(self.publish(one, tx) for one in channels), return_exceptions=True)
        finally:
            self._batches.discard(tx.txid)
        failed = {one: outcome for one, outcome in zip(channels, outcomes, strict=True) if outcome is not None}
        if len(failed) == len(channels):
            raise failed[channels[0]]
        for channel_id, outcome in failed.items():
            log.error("channel %s failed while its funding was published: %s", channel_id, outcome)

    @staticmethod
    async def _all_asked(funders: Sequence[Funder], openings: Sequence[asyncio.Task[Opened]]) -> list[TxOut]:
        """What each peer agreed to; raises what ends an opening before that."""
        pending: set[asyncio.Future[Any]] = {one.asked for one in funders}
        while pending:
            done, _ = await asyncio.wait(pending.union(openings), return_when=asyncio.FIRST_COMPLETED)
            for opening in openings:
                if opening.done():
                    opening.result()  # none can have succeeded yet
            pending -= done
        return [one.asked.result() for one in funders]

    async def _undo(self, funders: Sequence[Funder], openings: Sequence[asyncio.Task[Opened]]) -> None:
        """End every opening, wherever it stands: one that is a channel already has nothing to publish."""
        reason = "another channel of the same transaction was not opened"
        for funder in funders:
            funder.refuse("batch_failed", reason)
            actor = self._channels.funded_by(funder)
            if actor is not None:
                actor.tell(ForgetChannel(reason))
        for one in openings:
            one.add_done_callback(_read)
        await asyncio.wait(openings, timeout=UNDO_SECONDS)

    def held_for(self, txid: Txid) -> list[ChannelId]:
        """Channels that wait for this transaction."""
        return [one.channel_id for one in self._held() if one.funding.outpoint.txid == txid]

    def waiting(self) -> list[ChannelId]:
        """Channels whose funding only a person can bring, or give up: no batch under way will sign it."""
        return [one.channel_id for one in self._held() if one.funding.outpoint.txid not in self._batches]

    def _held(self) -> list[ChannelRecord]:
        return [one for one in self._channels.records() if is_held(one)]

    async def publish(self, channel_id: ChannelId, tx: Tx) -> None:
        """Write the signed transaction into the channel, then to the network. Raises CommandRefused."""
        actor = self._channels.by_id.get(channel_id)
        if actor is None:
            raise CommandRefused("unknown_channel", "The channel is gone.")
        await self._channels.command(actor, PublishFunding(tx))
        await self._channels.broadcaster.attempted(tx.txid)

    # --- by another wallet --------------------------------------------------------------------------------------------

    async def begin(self, wanted: Wanted) -> tuple[str, TxOut]:
        """Ask the peer; a name for the opening, and the output that the other wallet must pay.

        Raises CommandRefused.
        """
        if len(self._external) >= MAX_EXTERNAL:
            raise CommandRefused("too_many_openings", f"{MAX_EXTERNAL} openings wait for their funding already.")
        funder, name = Funder(), self._outside.entropy(8).hex()
        opening = asyncio.create_task(
            self._channels.open(
                wanted.node_id, wanted.amount, wanted.push, announce=wanted.announce, feerate=None, funder=funder,
                of_ours=Sat(0), seconds=EXTERNAL_SECONDS,
            )
        )  # fmt: skip
        self._external[name] = _External(funder, opening)

        def ended(done: asyncio.Task[Opened]) -> None:
            self._external.pop(name, None)
            funder.refuse("opening_failed", "the opening has ended")
            if funder.asked.done() and (done.cancelled() or done.exception() is not None):
                self._given_up.append(funder.asked.result().script)
            _read(done)

        opening.add_done_callback(ended)
        try:
            (output,) = await self._all_asked([funder], [opening])
        except BaseException:
            funder.refuse("aborted", "nobody waits for it any more")
            raise
        return name, output

    async def verify(self, name: str, psbt: Psbt) -> Opened:
        """Have the peer sign for the output of ``psbt``, signed or not; afterwards it may be signed. Raises
        CommandRefused.
        """
        waiting = self._external.get(name)
        if waiting is None or not waiting.funder.asked.done() or waiting.funder.made.done():
            raise CommandRefused("unknown_opening", "No opening of this name waits.", "`openpsbt` begins one.")
        wanted = waiting.funder.asked.result()
        places = [vout for vout, output in enumerate(psbt.tx.outputs) if output == wanted]
        if len(places) != 1:
            raise CommandRefused(
                "funding_wrong",
                f"The PSBT pays {wanted.value} satoshis to the channel {len(places)} times.",
                "It must do so once.",
            )
        for index in range(len(psbt.inputs)):
            spent = psbt.spent(index)
            if spent is None or witness_program(spent.script) is None:
                raise CommandRefused(
                    "psbt_malleable",
                    f"Input {index} does not show that it spends a native segwit output.",
                    "Only with such inputs is the id of the transaction sure before it is signed.",
                )
        waiting.funder.made.set_result(FundingMade(psbt.tx, places[0], publish=False))
        return await asyncio.shield(waiting.opening)

    async def finish(self, channel_id: ChannelId, psbt: Psbt) -> Tx:
        """Publish the signed transaction. Raises CommandRefused and MalformedPsbt."""
        tx = finalised(psbt).extract()
        self.check_all_signed(tx)
        held = self.held_for(tx.txid)
        await self._publish_all(held if channel_id in held else [channel_id], tx)
        return tx

    def check_all_signed(self, tx: Tx) -> None:
        """Raises CommandRefused if an output is meant for a channel whose peer has not signed our first commitment."""
        asked = [one.funder.asked for one in self._external.values()]
        unsigned = {one.result().script for one in asked if one.done()}.union(self._given_up)
        if any(output.script in unsigned for output in tx.outputs):
            raise CommandRefused(
                "funding_unsafe",
                "This transaction pays a channel that its peer has not signed for; published, the money would be lost.",
                "Use `openverify`, then `openfinish`; if the opening is over, make another PSBT.",
            )

    async def abort(self, name: str, reason: str) -> bool:
        """Give up an opening that waits for its PSBT; False if there is none of that name."""
        waiting = self._external.get(name)
        if waiting is None:
            return False
        waiting.funder.refuse("aborted", reason)
        await asyncio.wait((waiting.opening,))
        return True

    async def forget(self, channel_id: ChannelId, reason: str) -> None:
        """Give up a channel whose funding is held, and nobody has published it. Raises CommandRefused."""
        actor = self._channels.by_id.get(channel_id)
        record = actor.record if actor is not None else None
        if actor is None or record is None or not is_unpublished(record):
            raise CommandRefused("not_held", "The funding of this channel is not held back.", "Close it instead.")
        txid = record.funding.outpoint.txid
        try:
            is_known = await self._backend.transaction(txid) is not None
        except (BackendError, BackendUnavailable) as error:
            raise CommandRefused(
                "chain_unknown", f"Whether the funding is published cannot be told: {error}.", "Try again later."
            ) from None
        if is_known or txid in self._batches or self._is_signed(txid):
            raise CommandRefused(
                "funding_signed", "The funding of this channel is signed, and on its way.", "Close the channel instead."
            )
        ours, theirs = record.funding.our_funding_pubkey, record.funding.their_funding_pubkey
        script = funding_output(record.funding.capacity, ours, theirs).script
        self._given_up.append(script)
        try:
            await self._channels.command(actor, ForgetChannel(reason))
        except CommandRefused:
            self._given_up.remove(script)
            raise

    def _is_signed(self, txid: Txid) -> bool:
        """Whether the transaction is on record, with another channel of it or in the wallet."""
        return txid in signed_fundings(self._channels.records(), self._wallet.state)

    def resume(self) -> None:
        """At start-up: what one channel, or the wallet, has signed is given to those that still wait for it."""
        signed = signed_fundings(self._channels.records(), self._wallet.state)
        for record in self._held():
            tx = signed.get(record.funding.outpoint.txid)
            if tx is not None:
                self._channels.by_id[record.channel_id].tell(PublishFunding(tx))


def signed_fundings(records: Iterable[ChannelRecord], wallet: WalletState) -> dict[Txid, Tx]:
    """Signed transactions that are on record: fundings, and what the wallet spends."""
    found = {txid: one.tx for txid, one in wallet.recent.items() if one.tx is not None}
    for record in records:
        found.update({funding.tx.txid: funding.tx for funding in record.active if funding.tx is not None})
    return found
