"""What the wallet's methods do. No decisions are made here."""

from __future__ import annotations

from salama.api import wallet_schema as schema
from salama.api.area import Area, whole_sat
from salama.api.method import Nothing
from salama.base.amounts import parse_amount
from salama.base.machine import CommandRefused
from salama.base.units import FeeratePerKw
from salama.bitcoin.address import MalformedAddress
from salama.bitcoin.address import parse as parse_address
from salama.bitcoin.address import render as render_address
from salama.channel.state import Channel, Phase


class WalletMethods(Area):
    """Coins on chain."""

    async def newaddr(self, params: schema.NewAddrParams) -> schema.NewAddr:
        script = await self.node.wallet.new_script("tr" if params.kind == "p2tr" else "wpkh")
        address = render_address(script, self.node.config.network)
        assert address is not None
        return schema.NewAddr(address=address)

    async def balance(self, _: Nothing) -> schema.Balance:
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
        amount = None if params.amount == "all" else whole_sat(parse_amount(params.amount))
        feerate = FeeratePerKw(params.feerate) if params.feerate else None
        tx, fee = await self.node.withdraw(script, amount, feerate)
        sent = next(o.value for o in tx.outputs if o.script == script)
        return schema.Withdrawn(
            txid=str(tx.txid), amount_msat=int(sent.msat), fee_msat=int(fee.msat), tx=tx.encode().hex()
        )
