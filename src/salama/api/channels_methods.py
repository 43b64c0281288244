"""What the methods about channels do. No decisions are made here."""

from __future__ import annotations

import asyncio

from salama.api import channels_schema as schema
from salama.api.area import next_cursor, page_before, page_of, whole_sat
from salama.api.peers_methods import PeerMethods
from salama.base.amounts import parse_amount
from salama.base.ids import ChannelId, MalformedId, Txid
from salama.base.machine import CommandRefused
from salama.base.units import FeeratePerKw
from salama.channel.commitments import local_commitment_tx
from salama.channel.events import CloseChannel, ForceClose
from salama.channel.state import Channel, ChannelRecord, LinkState, Phase
from salama.node.channel_actor import ChannelActor
from salama.node.fees import HONOURED_SECONDS, Terms
from salama.onchain.telling import sentence
from salama.storage import queries

CLOSED = "closed "
"""Begins a cursor into the channels that are closed for good."""


class ChannelMethods(PeerMethods):
    """Channels: opened, closed, listed, explained."""

    async def open(self, params: schema.OpenParams) -> schema.Opened:
        amount, push = whole_sat(parse_amount(params.amount)), parse_amount(params.push)
        node_id = await self.reach(params.peer)
        feerate = FeeratePerKw(params.feerate) if params.feerate else None
        channel_id, outpoint = await self.node.channels.open(
            node_id, amount, push, announce=not params.private, feerate=feerate, zero_conf=params.zero_conf
        )
        return schema.Opened(channel_id=str(channel_id), funding_txid=str(outpoint.txid), funding_vout=outpoint.vout)

    async def close(self, params: schema.CloseParams) -> schema.Closed:
        actor = self.node.channels.by_name(params.channel)
        if params.force:
            await self.node.channels.command(actor, ForceClose("asked for by the user"))
        else:
            known = actor.record.our_shutdown if actor.record is not None else None
            script = known or await self.node.wallet.new_script()
            feerate = FeeratePerKw(params.feerate) if params.feerate else None
            await self.node.channels.command(actor, CloseChannel(script, feerate))
        monotonic = self.node.outside.monotonic
        deadline = monotonic() + params.wait
        while not _is_close_agreed(actor) and (left := deadline - monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    await actor.changed.wait()
            except TimeoutError:
                break
        record = actor.record
        assert record is not None
        txid = await self._closing_txid(record)
        return schema.Closed(channel_id=str(record.channel_id), closing_txid=txid, state=record.phase.value)

    async def _closing_txid(self, record: ChannelRecord) -> str:
        """Of the transaction that closes the channel, of several the one that the mempool took: whoever mines or looks
        right after this expects it there."""
        broadcaster = self.node.broadcaster
        best = _closing_txid_of(record)
        if best:
            await broadcaster.attempted(Txid.parse(best))
        if record.spend is None and record.mutual_close is not None:
            txids = [close.tx.txid for close in record.closes]
            for one in txids:
                await broadcaster.attempted(one)
            best = next((str(one) for one in txids if broadcaster.is_out(one)), best)
        return best

    async def channels(self, params: schema.ChannelsParams) -> schema.Channels:
        node = self.node
        # First the living ones in the order of their ids, then, page by page too, those that are closed.
        closed_before = params.cursor.removeprefix(CLOSED) if params.cursor.startswith(CLOSED) else None
        lines: list[schema.Channel] = []
        if closed_before is None:
            living = {ChannelId(c): a for c, a in node.channels.by_id.items() if isinstance(a.state, Channel)}
            ids, more = page_of(living, params)
            for channel_id in ids:
                state = living[channel_id].state
                assert isinstance(state, Channel)
                lines.append(self._channel(state, living[channel_id]))
            if more:
                return schema.Channels(channels=lines, next_cursor=str(ids[-1]))
        room = params.limit - len(lines)
        if not params.closed or room == 0:
            return schema.Channels(channels=lines, next_cursor=CLOSED if params.closed else "")
        before = page_before(closed_before or "")
        page = await node.journal.read(lambda db: queries.closed_channels(db, before, room))
        closed = [self._channel(Channel(record), None) for record in page.rows]
        # One that closed while the disk was read is in both lists.
        gone = {line.channel_id for line in closed}
        lines = [line for line in lines if line.channel_id not in gone] + closed
        older = next_cursor(page.older)
        return schema.Channels(channels=lines, next_cursor=CLOSED + older if older else "")

    def _channel(self, channel: Channel, actor: ChannelActor | None) -> schema.Channel:
        record = channel.record
        funding = record.funding
        spec = funding.local.spec
        real = funding.short_channel_id
        terms = self.node.channels.terms.of(record.channel_id)
        view = self.node.channels.views().get(record.channel_id) if actor else None
        where = funding.confirmation
        htlcs = [h.side.value for h in record.htlcs.values()]
        return schema.Channel(
            channel_id=str(record.channel_id),
            short_channel_id=str(real) if real is not None else "",
            alias=str(record.our_alias),
            funding_txid=str(funding.outpoint.txid),
            funding_vout=funding.outpoint.vout,
            peer=str(record.params.their_node_id),
            state="frozen" if actor is not None and actor.frozen else record.phase.value,
            connected=channel.link_state is LinkState.READY,
            opener=record.params.is_opener,
            private=not record.params.announce,
            capacity_msat=int(funding.capacity.msat),
            ours_msat=int(spec.our_balance),
            theirs_msat=int(spec.their_balance),
            can_send_msat=int(view.spendable) if view is not None and view.ready else 0,
            can_receive_msat=int(self.node.channels.can_receive(channel)),
            reserve_ours_msat=int(record.params.theirs.channel_reserve.msat),
            reserve_theirs_msat=int(record.params.ours.channel_reserve.msat),
            feerate_per_kw=int(spec.feerate),
            htlcs_incoming=htlcs.count("incoming"),
            htlcs_outgoing=htlcs.count("outgoing"),
            confirmations=int(self.node.chain.height) + 1 - int(where.height) if where is not None else 0,
            closing_txid=_closing_txid_of(record),
            fee_base_msat=terms.base_msat,
            fee_ppm=terms.ppm,
            cltv_delta=terms.cltv_delta,
        )

    async def setfees(self, params: schema.SetFeesParams) -> schema.FeesSet:
        channels, now = self.node.channels, self.node.outside.now()
        terms, is_open = channels.terms, list(channels.by_id)
        if params.channel == "all":
            asked = None if params.usual else _changed(terms.usual, params)
            change = terms.set_for_all(asked, is_open, now)
            chosen = is_open
        elif params.usual:
            raise CommandRefused("bad_params", "The usual terms are those of all channels.", "Write: all --usual")
        else:
            actor = channels.by_name(params.channel)
            if actor.record is None or actor.record.channel_id not in channels.by_id:
                raise CommandRefused("unknown_channel", "This channel is not open yet.", "`salama channels` lists all.")
            chosen = [actor.record.channel_id]
            change = terms.set_for(chosen, _changed(terms.of(chosen[0]), params), is_open, now)
        await self.node.ask_for(change)
        lines = [
            schema.Fees(channel_id=str(c), fee_base_msat=t.base_msat, fee_ppm=t.ppm, cltv_delta=t.cltv_delta)
            for c, t in ((c, terms.of(c)) for c in chosen)
        ]
        return schema.FeesSet(channels=lines, honoured_seconds=HONOURED_SECONDS)

    async def why(self, params: schema.WhyParams) -> schema.Why:
        channel_id = self._channel_id(params.channel)
        rows = await self.node.journal.read(lambda db: queries.events_of_channel(db, channel_id))
        told = [schema.WhyLine(at=e.at, text=text) for e in rows if (text := sentence(e.name, e.fields))]
        return schema.Why(channel_id=str(channel_id), lines=told)

    def _channel_id(self, name: str) -> ChannelId:
        """A channel by any of its names, one that is closed for good by its whole id."""
        try:
            closed = ChannelId.parse(name)
        except MalformedId:
            return ChannelId(self.node.channels.by_name(name).state.channel_id)
        return closed


def _changed(terms: Terms, params: schema.SetFeesParams) -> Terms:
    """``terms`` with what was given put in place of the old."""
    if not params.base and params.ppm < 0 and params.cltv_delta < 0:
        raise CommandRefused("nothing_to_set", "Nothing was given to set.", "Add --base, --ppm or --cltv-delta.")
    return Terms(
        base_msat=int(parse_amount(params.base)) if params.base else terms.base_msat,
        ppm=terms.ppm if params.ppm < 0 else params.ppm,
        cltv_delta=terms.cltv_delta if params.cltv_delta < 0 else params.cltv_delta,
    )


def _closing_txid_of(record: ChannelRecord) -> str:
    if record.spend is not None:
        return str(record.spend.tx.txid)
    if record.mutual_close is not None:
        return str(record.mutual_close.tx.txid)
    if record.phase is Phase.ON_CHAIN and not record.stale:
        # What we publish to close by force; the chain may still choose the peer's.
        return str(local_commitment_tx(record, record.funding, record.funding.local).tx.txid)
    return ""


def _is_close_agreed(actor: ChannelActor) -> bool:
    """Whether there is a closing transaction, and the peer has answered what we offered."""
    record = actor.record
    if record is None or not _closing_txid_of(record):
        return False
    link = actor.state.link if isinstance(actor.state, Channel) else None
    return link is None or link.offer is None or link.offer.is_answered
