"""Methods about closing by force."""

from __future__ import annotations

from salama.api import onchain_schema as schema
from salama.api.area import Area
from salama.base.units import FeeratePerKw
from salama.channel.state import Channel, ChannelRecord, Phase
from salama.onchain.stress import Line, rehearse

VBYTE = 250
"""Sat per 1000 weight units that are 1 sat per virtual byte."""


class OnchainMethods(Area):
    async def stress(self, params: schema.StressParams) -> schema.Stress:
        feerate = FeeratePerKw(VBYTE * params.feerate)
        found: list[tuple[ChannelRecord, tuple[Line, ...]]] = []
        for state in self.node.channels.states():
            if not isinstance(state, Channel) or state.record.phase in (Phase.ON_CHAIN, Phase.CLOSED):
                continue
            if state.record.spend is None and not state.record.stale:
                found.append((state.record, rehearse(state.record, feerate)))
        channels = [_shown(record, lines) for record, lines in sorted(found, key=lambda pair: pair[0].channel_id)]
        needed = sum(one.from_wallet_msat for one in channels)
        available = 1000 * self.node.wallet.spendable()
        missing, waiting = max(0, needed - available), sum(not one.commitment_is_economic for one in channels)
        uneconomic = sum(one.uneconomic_msat for one in channels)
        return schema.Stress(
            feerate_per_kw=int(feerate),
            answer=_answer(params.feerate, len(channels), missing // 1000, waiting, uneconomic // 1000),
            can_close_all=not missing and not waiting,
            fees_msat=sum(one.fees_msat for one in channels),
            from_wallet_msat=needed,
            available_msat=available,
            missing_msat=missing,
            uneconomic_msat=uneconomic,
            channels=channels,
        )


def _shown(record: ChannelRecord, lines: tuple[Line, ...]) -> schema.StressedChannel:
    paid = [line for line in lines if line.is_economic]
    return schema.StressedChannel(
        channel_id=str(record.channel_id),
        peer=str(record.params.their_node_id),
        state=record.phase.value,
        fees_msat=1000 * sum(int(line.fee) for line in paid),
        from_wallet_msat=1000 * sum(int(line.fee) for line in paid if line.from_wallet),
        # The commitment itself is not left behind: it waits.
        uneconomic_msat=1000 * sum(int(line.amount) for line in lines[1:] if not line.is_economic),
        commitment_is_economic=not lines or lines[0].is_economic,
        lines=[_sentence(line) for line in lines],
    )


def _sentence(line: Line) -> str:
    payer = "the wallet" if line.from_wallet else "itself"
    what = f"{line.what}, {int(line.amount):,} sat"
    if line.is_economic:
        return f"{what}: costs {int(line.fee):,} sat, paid by {payer}"
    if line.fee:
        return f"{what}: would offer {int(line.fee):,} sat, no more, and wait for a cheaper time"
    return f"{what}: not worth this rate"


def _answer(rate: int, channels: int, missing: int, waiting: int, uneconomic: int) -> str:
    """For a person, in whole sentences; amounts in satoshis."""
    if not channels:
        return "There is no open channel."
    subject = "the only channel" if channels == 1 else f"all {channels} channels"
    said = f"At {rate} sat/vbyte {subject} could be closed by force at once."
    if missing or waiting:
        subject = "the only channel could not" if channels == 1 else f"not all of {channels} channels could"
        said = f"At {rate} sat/vbyte {subject} be closed by force at once."
    if waiting:
        whose = "Its commitment" if channels == 1 else f"The commitments of {waiting}"
        said += f" {whose} would offer half of what depends on it, which is less than that, and wait."
    if missing:
        said += f" The wallet lacks {missing:,} sat for the fees: deposit them."
    if uneconomic:
        said += f" {uneconomic:,} sat would not be worth claiming at that rate."
    return said
