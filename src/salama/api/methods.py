"""What each method does: short functions that ask the node and shape the answer. No decisions are made here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from salama import __version__
from salama.api import schema
from salama.api.amounts import parse_amount
from salama.api.server import Handler
from salama.base.ids import ChannelId, MalformedId, PaymentHash, Preimage, Txid
from salama.base.machine import CommandRefused
from salama.base.units import FeeratePerKw, Msat, Sat
from salama.bitcoin.address import MalformedAddress
from salama.bitcoin.address import parse as parse_address
from salama.bitcoin.address import render as render_address
from salama.channel.commitments import local_commitment_tx
from salama.channel.events import CloseChannel, ForceClose
from salama.channel.state import Channel, ChannelRecord, LinkState, Phase
from salama.crypto.hashes import sha256
from salama.invoices import bolt11
from salama.node.addresses import parse_peer
from salama.node.channel_actor import ChannelActor
from salama.node.graph import node_alias
from salama.node.node import FEATURES, Node
from salama.onchain.telling import sentence
from salama.payments.records import ForwardStatus, Invoice, Payment, PutInvoice
from salama.storage import queries
from salama.storage.writes import PutPeer
from salama.wire.features import BASIC_MPP, Context

P = TypeVar("P", bound=schema.Params)

FINAL_CLTV = 30
"""Blocks that our invoices ask the last HTLC to leave us: time to go to the chain, with room (B2.49)."""
FINAL_SLACK = 3
"""Blocks that we add to what a payee asks for: blocks may come while the payment is on its way."""


class Methods:
    """The methods of one node."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def handlers(self) -> dict[str, Handler]:
        """By method name, as a server wants them."""
        found: dict[str, Callable[..., Awaitable[schema.Result]]] = {
            name: getattr(self, name) for name in schema.METHODS if hasattr(self, name)
        }
        return dict(found)

    # --- the node -----------------------------------------------------------------------------------------------------

    async def getinfo(self, _: schema.Nothing) -> schema.Info:
        node = self.node
        channels = list(node.channels.by_id.values())
        active = sum(node.channels.views()[c].ready for c in list(node.channels.by_id) if c in node.channels.views())
        pending = sum(a.record is not None and a.record.phase is Phase.AWAITING_FUNDING for a in channels)
        return schema.Info(
            node_id=str(node.signer.node_id),
            alias=node.config.alias,
            network=node.config.network.name,
            version=__version__,
            block_height=int(node.chain.height),
            block_hash=str(node.chain.tip.hash) if node.chain.tip else "",
            synced=node.chain.caught_up.is_set(),
            addresses=[node.listening] if node.listening else [],
            peers=len(node.peers.connected),
            channels_active=active,
            channels_pending=pending,
            channels_inactive=len(channels) - active - pending,
            graph_nodes=node.gossip.graph.node_count(),
            graph_channels=len(node.gossip.graph),
        )

    async def counters(self, _: schema.Nothing) -> schema.Counters:
        journal = self.node.journal.counters
        return schema.Counters(
            commits=journal.commits,
            syncs=journal.syncs,
            statements=journal.rows,
            bytes_written=journal.bytes,
            checkpoints=journal.checkpoints,
            longest_write_us=int(journal.longest_write * 1e6),
            signatures=self.node.signer.signatures,
        )

    async def stop(self, _: schema.Nothing) -> schema.Done:
        # After the answer is on its way.
        asyncio.get_running_loop().call_later(0.05, self.node.stop)
        return schema.Done()

    # --- on chain -----------------------------------------------------------------------------------------------------

    async def newaddr(self, params: schema.NewAddrParams) -> schema.NewAddr:
        script = await self.node.wallet.new_script("tr" if params.kind == "p2tr" else "wpkh")
        address = render_address(script, self.node.config.network)
        assert address is not None
        return schema.NewAddr(address=address)

    async def balance(self, _: schema.Nothing) -> schema.Balance:
        wallet = self.node.wallet.balance()
        ours = theirs = pending = sends = receives = 0
        for actor in self.node.channels.by_id.values():
            channel = actor.state
            if not isinstance(channel, Channel) or channel.record.phase in (Phase.ON_CHAIN, Phase.CLOSED):
                continue
            if channel.record.spend is not None or channel.record.mutual_close is not None:
                continue  # the wallet counts what the closing transaction pays us
            spec = channel.record.funding.local.spec
            if channel.record.phase is Phase.AWAITING_FUNDING:
                pending += int(spec.our_balance)
                continue
            ours += int(spec.our_balance)
            theirs += int(spec.their_balance)
            receives += int(self.node.channels.can_receive(channel))
        for view in self.node.channels.views().values():
            sends += int(view.spendable) if view.ready else 0
        return schema.Balance(
            onchain_confirmed_msat=int(wallet.confirmed.msat),
            onchain_unconfirmed_msat=int(wallet.unconfirmed.msat),
            onchain_immature_msat=int(wallet.immature.msat),
            onchain_reserved_msat=int(wallet.reserved.msat),
            channels_ours_msat=ours,
            channels_theirs_msat=theirs,
            channels_pending_msat=pending,
            can_send_msat=sends,
            can_receive_msat=receives,
        )

    async def withdraw(self, params: schema.WithdrawParams) -> schema.Withdrawn:
        try:
            script = parse_address(params.address, self.node.config.network)
        except MalformedAddress as wrong:
            raise CommandRefused("bad_address", f"This is no address to send to: {wrong}.", "Check it.") from None
        amount = None if params.amount == "all" else _whole(parse_amount(params.amount))
        feerate = FeeratePerKw(params.feerate) if params.feerate else None
        tx, fee = await self.node.withdraw(script, amount, feerate)
        sent = next(o.value for o in tx.outputs if o.script == script)
        return schema.Withdrawn(
            txid=str(tx.txid), amount_msat=int(sent.msat), fee_msat=int(fee.msat), tx=tx.encode().hex()
        )

    # --- peers --------------------------------------------------------------------------------------------------------

    async def connect(self, params: schema.ConnectParams) -> schema.Connected:
        node_id, address = parse_peer(params.peer)
        node = self.node
        if node_id == node.signer.node_id:
            raise CommandRefused("own_node_id", "That is this node itself.", "Connect to another one.")
        address = address or node.peers.addresses.get(node_id)
        if address is None:
            if node_id in node.peers.connected:
                return schema.Connected(node_id=str(node_id))
            raise CommandRefused("no_address", "Nobody has told us where that node is.", "Write NODE_ID@host:port.")
        await node.peers.connect(node_id, address)
        await node.journal.commit([PutPeer(node_id, (str(address),), int(node.outside.now()))])
        node.peers.keep(node_id)
        return schema.Connected(node_id=str(node_id))

    async def disconnect(self, params: schema.DisconnectParams) -> schema.Done:
        node_id, _ = parse_peer(params.peer)
        peer = self.node.peers.connected.get(node_id)
        if peer is None:
            raise CommandRefused("not_connected", "That peer is not connected.", "`salama peers` lists who is.")
        self.node.peers.let_go(node_id)
        peer.disconnect("asked for by the user")
        return schema.Done()

    async def peers(self, _: schema.Nothing) -> schema.Peers:
        node = self.node
        known = sorted({*node.peers.connected, *node.channels.by_peer})
        lines = []
        for node_id in known:
            peer = node.peers.connected.get(node_id)
            address = peer.connection.address if peer else str(node.peers.addresses.get(node_id, ""))
            lines.append(
                schema.Peer(
                    node_id=str(node_id),
                    alias=node_alias(node.gossip.graph, node_id),
                    connected=peer is not None,
                    inbound=peer is not None and peer.connection.inbound,
                    address=address,
                    channels=len(node.channels.by_peer.get(node_id, ())),
                )
            )
        return schema.Peers(peers=lines)

    # --- channels -----------------------------------------------------------------------------------------------------

    async def open(self, params: schema.OpenParams) -> schema.Opened:
        node_id, address = parse_peer(params.peer)
        amount, push = _whole(parse_amount(params.amount)), parse_amount(params.push)
        if node_id not in self.node.peers.connected:
            if address is None and node_id not in self.node.peers.addresses:
                raise CommandRefused(
                    "not_connected", "The peer is not connected.", "Write NODE_ID@host:port, or connect first."
                )
            await self.connect(schema.ConnectParams(peer=params.peer))
        feerate = FeeratePerKw(params.feerate) if params.feerate else None
        channel_id, outpoint = await self.node.channels.open(
            node_id, amount, push, announce=not params.private, feerate=feerate
        )
        return schema.Opened(channel_id=str(channel_id), funding_txid=str(outpoint.txid), funding_vout=outpoint.vout)

    async def close(self, params: schema.CloseParams) -> schema.Closed:
        actor = self.node.channels.by_name(params.channel)
        if params.force:
            await self.node.channels.command(actor, ForceClose("asked for by the user"))
        else:
            script = await self.node.wallet.new_script()
            await self.node.channels.command(actor, CloseChannel(script))
        monotonic = self.node.outside.monotonic
        deadline = monotonic() + params.wait
        while (txid := _closing_txid(actor)) == "" and (left := deadline - monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    await actor.changed.wait()
            except TimeoutError:
                break
        record = actor.record
        assert record is not None
        if txid:
            # Whoever mines or looks right after this expects it in the mempool.
            await self.node.broadcaster.attempted(Txid.parse(txid))
        return schema.Closed(channel_id=str(record.channel_id), closing_txid=txid, state=record.phase.value)

    async def channels(self, params: schema.ChannelsParams) -> schema.Channels:
        node = self.node
        lines = [
            self._channel(actor.state, actor)
            for actor in node.channels.by_id.values()
            if isinstance(actor.state, Channel)
        ]
        if params.closed:
            page = await node.journal.read(lambda db: queries.closed_channels(db, limit=1000))
            closed = [self._channel(Channel(record), None) for record in page.rows]
            # One that closed while the disk was read is in both lists.
            ids = {line.channel_id for line in closed}
            lines = [line for line in lines if line.channel_id not in ids] + closed
        return schema.Channels(channels=lines)

    def _channel(self, channel: Channel, actor: ChannelActor | None) -> schema.Channel:
        record = channel.record
        funding = record.funding
        spec = funding.local.spec
        real = funding.short_channel_id
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
        )

    # --- payments -----------------------------------------------------------------------------------------------------

    async def invoice(self, params: schema.InvoiceParams) -> schema.InvoiceCreated:
        node = self.node
        amount = None if params.amount == "any" else parse_amount(params.amount)
        if amount is not None and amount == 0:
            raise CommandRefused("bad_amount", "An invoice asks for more than nothing.", "Write an amount, or any.")
        preimage, payment_secret = Preimage(node.outside.entropy(32)), node.outside.entropy(32)
        payment_hash, now = PaymentHash(sha256(preimage)), int(node.outside.now())
        text = bolt11.sign(
            bolt11.Invoice(
                network=node.config.network,
                timestamp=now,
                payment_hash=payment_hash,
                payment_secret=payment_secret,
                payee=node.signer.node_id,
                amount_msat=amount,
                description=params.description,
                expiry=params.expiry,
                min_final_cltv_expiry=FINAL_CLTV,
                route_hints=node.route_hints(),
                features=FEATURES.only(Context.INVOICE),
            ),
            node.signer.sign_recoverable,
        )
        invoice = Invoice(
            payment_hash=payment_hash,
            preimage=preimage,
            payment_secret=payment_secret,
            amount=amount,
            text=text,
            description=params.description,
            created=now,
            expires=now + params.expiry,
            min_final_cltv_expiry=FINAL_CLTV,
        )
        await node.journal.commit([PutInvoice(invoice)])
        return schema.InvoiceCreated(
            invoice=text, payment_hash=str(payment_hash), amount_msat=_maybe(amount), expires_at=invoice.expires
        )

    async def pay(self, params: schema.PayParams) -> schema.Paid:
        node, started = self.node, self.node.outside.monotonic()
        try:
            request = _bare(params.request)
            invoice = bolt11.parse(request, networks=(node.config.network,))
        except bolt11.InvalidInvoice as invalid:
            raise CommandRefused(
                "invalid_invoice", f"This is no invoice that can be paid: {invalid.reason}.", "Ask for a new one."
            ) from None
        now = int(node.outside.now())
        if invoice.is_expired(now):
            raise CommandRefused(
                "invoice_expired", f"The invoice expired {now - invoice.expires_at} seconds ago.", "Ask for a new one."
            )
        amount = _amount_of(invoice, params.amount)
        if invoice.payee == node.signer.node_id:
            raise CommandRefused("payment_to_self", "The invoice is our own.", "")
        payment = Payment(
            payment_hash=invoice.payment_hash,
            payee=invoice.payee,
            invoice=request,
            payment_secret=invoice.payment_secret,
            payment_metadata=invoice.metadata,
            amount=amount,
            max_fee=parse_amount(params.max_fee) if params.max_fee else _usual_fee_limit(amount),
            final_cltv_delta=invoice.min_final_cltv_expiry + FINAL_SLACK,
            created=now,
            deadline=now + params.timeout,
        )
        done = await node.payments.pay(payment, invoice.route_hints, multi_part=invoice.features.has(BASIC_MPP))
        return _paid(done, node.outside.monotonic() - started)

    async def payments(self, params: schema.PageParams) -> schema.Payments:
        page = await self.node.journal.read(lambda db: queries.payments(db, _before(params.cursor), params.limit))
        lines = [
            schema.PaymentLine(
                payment_hash=str(p.payment_hash),
                status=p.status.value,
                amount_msat=int(p.amount),
                fee_msat=int(p.fee),
                payee=str(p.payee),
                created=p.created,
                failure_code=p.failure_code,
            )
            for p in page.rows
        ]
        return schema.Payments(payments=lines, next_cursor=_cursor(page.older))

    async def invoices(self, params: schema.PageParams) -> schema.Invoices:
        page = await self.node.journal.read(lambda db: queries.invoices(db, _before(params.cursor), params.limit))
        now = int(self.node.outside.now())
        lines = [
            schema.InvoiceLine(
                payment_hash=str(i.payment_hash),
                status="expired" if i.status.value == "open" and now >= i.expires else i.status.value,
                amount_msat=_maybe(i.amount),
                received_msat=int(i.received),
                description=i.description,
                created=i.created,
                expires_at=i.expires,
                invoice=i.text,
            )
            for i in page.rows
        ]
        return schema.Invoices(invoices=lines, next_cursor=_cursor(page.older))

    async def forwards(self, params: schema.PageParams) -> schema.Forwards:
        journal = self.node.journal
        page = await journal.read(lambda db: queries.forwards(db, _before(params.cursor), params.limit))
        total = await journal.read(lambda db: queries.forwarded(db, 0))
        lines = [
            schema.Forward(
                in_channel=str(f.incoming.channel_id),
                out_channel=str(f.outgoing_channel),
                amount_in_msat=int(f.amount_in),
                amount_out_msat=int(f.amount_out),
                fee_msat=int(f.amount_in) - int(f.amount_out) if f.status is ForwardStatus.SETTLED else 0,
                status=f.status.value,
                at=f.at,
            )
            for f in page.rows
        ]
        return schema.Forwards(
            forwards=lines,
            next_cursor=_cursor(page.older),
            total_fee_msat=int(total.fees),
            settled=total.count,
        )

    async def events(self, params: schema.EventsParams) -> schema.Events:
        rows = await self.node.journal.read(lambda db: queries.events_after(db, params.after, params.limit))
        lines = [schema.Event(id=e.id, at=e.at, name=e.name, fields=e.fields) for e in rows]
        return schema.Events(events=lines, last_id=lines[-1].id if lines else params.after)

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

    async def decode(self, params: schema.DecodeParams) -> schema.Decoded:
        from salama.api.decoding import decode_item

        return schema.Decoded(decoded=decode_item(params.item))


# --- shaping ----------------------------------------------------------------------------------------------------------


def _whole(amount: Msat) -> Sat:
    if int(amount) % 1000:
        raise CommandRefused("bad_amount", "A channel holds whole satoshis.", "Leave the millisatoshis away.")
    return amount.sat


def _maybe(amount: Msat | None) -> int | None:
    return None if amount is None else int(amount)


def _before(cursor: str) -> int | None:
    if not cursor:
        return None
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        raise CommandRefused("bad_cursor", "This is no cursor of ours.", "Use next_cursor of the last page.")
    return int(cursor)


def _cursor(older: int | None) -> str:
    return "" if older is None else str(older)


def _bare(request: str) -> str:
    """A payment request without what links and copying put round it."""
    request = request.strip()
    return request[10:] if request[:10].lower() == "lightning:" else request


def _amount_of(invoice: bolt11.Invoice, given: str) -> Msat:
    if invoice.amount_msat is None:
        if not given:
            raise CommandRefused("amount_missing", "The invoice leaves the amount to you.", "Add --amount.")
        amount = parse_amount(given)
    elif given:
        raise CommandRefused("amount_given", "The invoice says how much it wants.", "Leave --amount away.")
    else:
        amount = invoice.amount_msat
    if amount == 0:
        raise CommandRefused("bad_amount", "A payment must carry an amount.", "")
    return amount


def _usual_fee_limit(amount: Msat) -> Msat:
    """1 % and 10 sat."""
    return Msat(int(amount) // 100 + 10_000)


def _paid(payment: Payment, seconds: float) -> schema.Paid:
    return schema.Paid(
        payment_hash=str(payment.payment_hash),
        status=payment.status.value,
        amount_msat=int(payment.amount),
        fee_msat=int(payment.fee),
        preimage=payment.preimage.hex() if payment.preimage is not None else "",
        failure_code=payment.failure_code,
        failure_reason=payment.failure_reason,
        seconds=round(seconds, 4),
        parts=[
            schema.Part(
                status=part.status.value,
                delivered_msat=int(part.delivered),
                fee_msat=int(part.fee),
                route=[f"{hop.short_channel_id}>{str(hop.node_id)[:12]}" for hop in part.hops],
                failure=part.failure,
            )
            for part in payment.parts
        ],
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


def _closing_txid(actor: ChannelActor) -> str:
    record = actor.record
    return _closing_txid_of(record) if record is not None else ""
