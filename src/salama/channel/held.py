"""A funding that is held back: both first signatures are there, and the transaction is not signed yet (B2.03, B2.04).

Several channels share one transaction, or it is made by another wallet: then it may be published only when the peer of
*every* output has signed, so it comes to the record last. Until then a restart finds nothing that it could publish.
"""

from __future__ import annotations

from salama.base.machine import CommandRefused, Transition
from salama.base.values import replace
from salama.channel.confirming import close_for_good
from salama.channel.dispatch import on
from salama.channel.env import ChannelEnv
from salama.channel.events import Broadcast, CommandAnswered, ForgetChannel, PublishFunding
from salama.channel.state import Channel, ChannelRecord, Phase


def is_held(record: ChannelRecord) -> bool:
    """Whether we open this channel, and it waits for the signed funding to come from us."""
    return record.phase is Phase.AWAITING_FUNDING and is_unpublished(record)


def is_unpublished(record: ChannelRecord) -> bool:
    """Whether nobody has the signed funding from us, nor the chain from anybody."""
    return (
        record.params.is_opener
        and not record.restored
        and record.funding.tx is None
        and record.funding.confirmation is None
        and record.spend is None
    )


@on(PublishFunding, phases=(Phase.AWAITING_FUNDING,))
def publish_funding(channel: Channel, event: PublishFunding, env: ChannelEnv) -> Transition[Channel]:
    """The signed transaction goes on record, and then to the network; a second time it is only published again."""
    record = channel.record
    if event.tx.txid != record.funding.outpoint.txid:
        raise CommandRefused("funding_wrong", "this is not the funding transaction of the channel")
    if any(spent.script_sig or not spent.witness for spent in event.tx.inputs):
        raise CommandRefused("funding_unsigned", "the funding transaction is not signed")
    if not is_held(record) and record.funding.tx is None:
        raise CommandRefused("not_ours_to_fund", "the peer publishes the funding of this channel")
    record = replace(record, active=(replace(record.funding, tx=event.tx), *record.active[1:]))
    effects = (Broadcast(event.tx, "funding"), CommandAnswered("", "funding published"))
    return Transition(Channel(record, channel.link), effects)


@on(ForgetChannel, phases=(Phase.AWAITING_FUNDING, Phase.SHUTTING_DOWN, Phase.NEGOTIATING, Phase.ON_CHAIN))
def forget_held(channel: Channel, event: ForgetChannel, env: ChannelEnv) -> Transition[Channel]:
    """Give a channel up whose funding nobody can publish, also if it was ended before that was decided."""
    if not is_unpublished(channel.record):
        raise CommandRefused("funding_signed", "the funding may be published already", "close it instead")
    done = close_for_good(channel, event.reason)
    return Transition(done.state, (*done.effects, CommandAnswered("", event.reason)), done.rows)
