"""What the methods for PSBTs, descriptors and joint openings do. No decisions are made here."""

from __future__ import annotations

from salama.api import funding_schema as schema
from salama.api.area import whole_sat
from salama.api.method import Done
from salama.api.peers_methods import PeerMethods
from salama.api.wallet_methods import coins_named, script_of
from salama.base.amounts import parse_amount
from salama.base.ids import ChannelId
from salama.base.machine import CommandRefused
from salama.base.units import BlockHeight, FeeratePerKw, Msat, Sat
from salama.bitcoin.address import render as render_address
from salama.bitcoin.psbt import MalformedPsbt, Psbt
from salama.bitcoin.tx import TxOut
from salama.channel.state import Opening
from salama.node.joint_funding import EXTERNAL_SECONDS, Wanted
from salama.wallet.psbts import finalised


class FundingMethods(PeerMethods):
    """PSBTs, descriptors, joint openings."""

    # --- PSBTs --------------------------------------------------------------------------------------------------------

    async def psbtfund(self, params: schema.PsbtFundParams) -> schema.PsbtFunded:
        node = self.node
        amount = None if params.amount == "all" else whole_sat(parse_amount(params.amount))
        output = TxOut(amount if amount is not None else Sat(0), script_of(params.address, node.config.network))
        coins = coins_named(node, params.coins)
        until = self._until(params.blocks)
        feerate = self._feerate(params.feerate)
        psbt, fee = await node.psbts.fund((output,), feerate, until, everything=amount is None, coins=coins)
        return schema.PsbtFunded(psbt=psbt.render(), fee_msat=int(fee.msat), reserved_until=int(until))

    async def psbtsign(self, params: schema.PsbtSignParams) -> schema.PsbtSigned:
        done = await self.node.psbts.sign(_psbt(params.psbt), self._until(params.blocks))
        fee = done.psbt.fee()
        return schema.PsbtSigned(
            psbt=done.psbt.render(),
            signed=done.inputs,
            spends_msat=int(done.spends.msat),
            receives_msat=int(done.receives.msat),
            fee_msat=None if fee is None else int(fee.msat),
            complete=all(one.is_final for one in finalised(done.psbt).inputs),
        )

    async def psbtfinalise(self, params: schema.PsbtFinaliseParams) -> schema.PsbtFinalised:
        done = finalised(_psbt(params.psbt))
        complete = all(one.is_final for one in done.inputs)
        if params.publish and not complete:
            raise CommandRefused("psbt_incomplete", "A signature is missing.", "Have it signed by everybody first.")
        tx = done.extract() if complete else None
        if params.publish:
            await self.node.psbts.publish(done)
        return schema.PsbtFinalised(
            psbt=done.render(),
            complete=complete,
            txid=str(done.tx.txid) if tx is None else str(tx.txid),
            tx="" if tx is None else tx.encode().hex(),
        )

    async def psbtrelease(self, params: schema.PsbtParams) -> schema.PsbtReleased:
        return schema.PsbtReleased(coins=self.node.psbts.release(_psbt(params.psbt)))

    async def descriptors(self, params: schema.DescriptorsParams) -> schema.Descriptors:
        node = self.node
        born = node.outside.birthday(node.config)
        lines = [
            schema.DescriptorLine(
                desc=one.text,
                active=True,
                internal=one.internal,
                range=[0, one.watched - 1],
                next_index=one.next_index,
                timestamp=born,
            )
            for one in node.wallet.descriptors(node.config.network, private=params.private)
        ]
        return schema.Descriptors(descriptors=lines)

    # --- openings -----------------------------------------------------------------------------------------------------

    async def openbatch(self, params: schema.OpenBatchParams) -> schema.OpenedBatch:
        wanted = []
        for part in params.channels.split(","):
            peer, equals, amount = part.strip().rpartition("=")
            if not equals:
                raise CommandRefused("bad_batch", f"{part[:80]!r} is no PEER=AMOUNT.", "Write PEER=AMOUNT,PEER=AMOUNT.")
            wanted.append(await self._wanted(peer, amount, Msat(0), params.private))
        opened = await self.node.joint.open_batch(wanted, self._feerate(params.feerate))
        lines = [
            schema.OpenedOne(channel_id=str(channel_id), peer=str(one.node_id), funding_vout=outpoint.vout)
            for one, (channel_id, outpoint) in zip(wanted, opened, strict=True)
        ]
        return schema.OpenedBatch(funding_txid=str(opened[0][1].txid), channels=lines)

    async def openpsbt(self, params: schema.OpenPsbtParams) -> schema.OpenPsbtBegun:
        wanted = await self._wanted(params.peer, params.amount, parse_amount(params.push), params.private)
        name, output = await self.node.joint.begin(wanted)
        return schema.OpenPsbtBegun(
            opening=name,
            address=render_address(output.script, self.node.config.network) or "",
            amount_msat=int(output.value.msat),
            seconds=int(EXTERNAL_SECONDS),
        )

    async def openverify(self, params: schema.OpenVerifyParams) -> schema.OpenVerified:
        channel_id, outpoint = await self.node.joint.verify(params.opening, _psbt(params.psbt))
        return schema.OpenVerified(
            channel_id=str(channel_id), funding_txid=str(outpoint.txid), funding_vout=outpoint.vout
        )

    async def openfinish(self, params: schema.OpenFinishParams) -> schema.OpenFinished:
        channel_id = self._held(params.channel)
        try:
            tx = await self.node.joint.finish(channel_id, _psbt(params.psbt))
        except MalformedPsbt as wrong:
            raise CommandRefused("psbt_incomplete", f"It cannot be published: {wrong.reason}.") from None
        return schema.OpenFinished(channel_id=str(channel_id), funding_txid=str(tx.txid))

    async def openabort(self, params: schema.OpenAbortParams) -> Done:
        reason = "given up by the user"
        if not await self.node.joint.abort(params.opening, reason):
            await self.node.joint.forget(self._held(params.opening), reason)
        return Done()

    def _held(self, name: str) -> ChannelId:
        state = self.node.channels.by_name(name).state
        if isinstance(state, Opening):
            raise CommandRefused("unknown_channel", "That channel is only being opened.")
        return ChannelId(state.channel_id)

    async def _wanted(self, peer: str, amount: str, push: Msat, private: bool) -> Wanted:
        return Wanted(await self.reach(peer), whole_sat(parse_amount(amount)), push, not private)

    def _feerate(self, given: int) -> FeeratePerKw:
        return FeeratePerKw(given) if given else self.node.channels.feerate

    def _until(self, blocks: int) -> BlockHeight:
        return BlockHeight(int(self.node.chain.height) + blocks)


def _psbt(text: str) -> Psbt:
    try:
        return Psbt.parse(text)
    except MalformedPsbt as wrong:
        raise CommandRefused("bad_psbt", f"This is no PSBT: {wrong.reason}.", "Copy all of it.") from None
