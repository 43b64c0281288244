"""What the wallet's methods do. No decisions are made here."""

from __future__ import annotations

import re
from typing import Final, Literal

from salama.api import wallet_schema as schema
from salama.api.area import Area, whole_sat
from salama.api.method import Done, Nothing
from salama.base.amounts import parse_amount
from salama.base.ids import MalformedId, OutPoint, Txid
from salama.base.machine import CommandRefused
from salama.base.units import FeeratePerKw
from salama.bitcoin.address import MalformedAddress
from salama.bitcoin.address import parse as parse_address
from salama.bitcoin.address import render as render_address
from salama.bitcoin.networks import Network
from salama.channel.state import Channel, Phase
from salama.node.node import Node
from salama.wallet.keys import CHANGE

SHORT_COIN: Final = re.compile(r"([0-9a-f]{8,63})(?:…|\.\.\.)?:([0-9]{1,5})")


class WalletMethods(Area):
    """Coins on chain."""

    async def newaddr(self, params: schema.NewAddrParams) -> schema.NewAddr:
        script = await self.node.wallet.new_script("tr" if params.kind == "p2tr" else "wpkh")
        address = render_address(script, self.node.config.network)
        assert address is not None
        return schema.NewAddr(address=address)

    async def balance(self, _: Nothing) -> schema.Balance:
        wallet = self.node.wallet.balance()
        reserve = self.node.channels.fee_reserve()
        missing = max(0, int(reserve) - self.node.wallet.spendable())
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
            fee_reserve_msat=int(reserve.msat),
            fee_reserve_missing_msat=1000 * missing,
            channels_ours_msat=ours,
            channels_theirs_msat=theirs,
            channels_pending_msat=pending,
            can_send_msat=sends,
            can_receive_msat=receives,
        )

    async def utxos(self, params: schema.UtxosParams) -> schema.Utxos:
        state, height = self.node.wallet.state, self.node.chain.height
        after = outpoint_of(params.cursor) if params.cursor else None
        waiting = sorted((c for c in state.unspent() if after is None or c.outpoint > after), key=lambda c: c.outpoint)
        page = waiting[: params.limit]
        free = {coin.outpoint for coin in state.spendable(height, own_change=True)}
        lines = []
        for coin in page:
            purpose = state.leases.get(coin.outpoint, "")
            lines.append(
                schema.Utxo(
                    outpoint=str(coin.outpoint),
                    amount_msat=int(coin.value.msat),
                    address=render_address(coin.script, self.node.config.network) or "",
                    confirmations=0 if coin.height is None else max(0, int(height) + 1 - int(coin.height)),
                    label=state.labels.get(coin.outpoint, ""),
                    frozen=coin.outpoint in state.frozen,
                    reserved_for=purpose,
                    reserved_until=int(state.expiries.get(purpose, 0)),
                    spendable=coin.outpoint in free,
                    change=coin.key.chain == CHANGE,
                )
            )
        more = len(waiting) > len(page)
        return schema.Utxos(utxos=lines, next_cursor=str(page[-1].outpoint) if more else "")

    async def label(self, params: schema.LabelParams) -> Done:
        await self.node.wallet.label(coin_named(self.node, params.coin), params.label)
        return Done()

    async def freeze(self, params: schema.FreezeParams) -> Done:
        await self.node.wallet.freeze(coins_named(self.node, params.coins), True)
        return Done()

    async def unfreeze(self, params: schema.FreezeParams) -> Done:
        await self.node.wallet.freeze(coins_named(self.node, params.coins), False)
        return Done()

    async def withdraw(self, params: schema.WithdrawParams) -> schema.Withdrawn:
        script = script_of(params.address, self.node.config.network)
        amount = None if params.amount == "all" else whole_sat(parse_amount(params.amount))
        feerate = FeeratePerKw(params.feerate) if params.feerate else None
        coins = coins_named(self.node, params.coins)
        spent = await self.node.spending.withdraw(script, amount, feerate, coins)
        sent = amount if amount is not None else spent.tx.outputs[0].value
        return schema.Withdrawn(
            txid=str(spent.tx.txid),
            amount_msat=int(sent.msat),
            fee_msat=int(spent.fee.msat),
            tx=spent.tx.encode().hex(),
        )

    async def bumpfee(self, params: schema.BumpFeeParams) -> schema.Bumped:
        try:
            txid = Txid.parse(params.txid)
        except MalformedId:
            raise CommandRefused("bad_txid", "This is no id of a transaction.", "It has 64 digits.") from None
        how: Literal["auto", "rbf", "cpfp"] = params.how  # type: ignore[assignment]  # the schema's pattern
        spent = await self.node.spending.bump(txid, FeeratePerKw(params.feerate), how, params.subtract)
        return schema.Bumped(
            txid=str(spent.tx.txid),
            how="cpfp" if spent.replaces is None else "rbf",
            fee_msat=int(spent.fee.msat),
            replaces="" if spent.replaces is None else str(spent.replaces),
            tx=spent.tx.encode().hex(),
        )


def script_of(address: str, network: Network) -> bytes:
    """What an address stands for. Raises CommandRefused."""
    try:
        return parse_address(address, network)
    except MalformedAddress as wrong:
        raise CommandRefused("bad_address", f"This is no address to send to: {wrong}.", "Check it.") from None


def outpoint_of(text: str) -> OutPoint:
    """A coin as a person names it. Raises CommandRefused."""
    try:
        return OutPoint.parse(text.strip())
    except MalformedId:
        raise CommandRefused("bad_coin", f"{text[:80]!r} names no coin.", "Write TXID:INDEX.") from None


def coins_named(node: Node, text: str) -> tuple[OutPoint, ...]:
    """Coins of ours that a person names, with commas between them, each once; none for an empty text. Raises
    CommandRefused.
    """
    return tuple(dict.fromkeys(coin_named(node, part) for part in text.split(","))) if text else ()


def coin_named(node: Node, text: str) -> OutPoint:
    """A coin by its whole name, or by a beginning, as a table shows it, that only one of ours has. Raises
    CommandRefused.
    """
    begins = SHORT_COIN.fullmatch(text.strip().lower())
    if begins is None:
        return outpoint_of(text)
    txid, place = begins.groups()
    found = [one for one in node.wallet.state.coins if str(one.vout) == place and str(one.txid).startswith(txid)]
    if len(found) != 1:
        problem = "is the beginning of several coins" if found else "is no coin of ours"
        raise CommandRefused("unknown_coin", f"{text.strip()[:80]!r} {problem}.", "`salama utxos` lists them.")
    return found[0]
