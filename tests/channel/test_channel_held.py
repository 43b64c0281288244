"""A funding that is held back: nothing can be published before it is signed, and it is signed last (B2.03, B2.04)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from salama.base.machine import CommandRefused
from salama.bitcoin.tx import Tx, TxIn
from salama.channel.events import (
    Broadcast,
    CloseChannel,
    ForceClose,
    ForgetChannel,
    FundingConfirmed,
    FundingMade,
    FundingSpent,
    FundingUnconfirmed,
    PublishFunding,
    RequestFunding,
    WatchFunding,
)
from salama.channel.held import is_held
from salama.channel.state import Opening, Phase
from salama.channel.step import resume, step
from salama.testing.pair import End, Pair, through_disk, wallet_tx
from salama.wire.setup import Error


def unsigned(tx: Tx) -> Tx:
    return Tx(tx.version, tuple(TxIn(one.outpoint, one.sequence) for one in tx.inputs), tx.outputs, tx.locktime)


class HeldPair(Pair):
    """Alice's funding is made by somebody who signs it last."""

    def _funds(self) -> None:
        last = self.alice.effects[-1] if self.alice.effects else None
        if isinstance(self.alice.state, Opening) and isinstance(last, RequestFunding):
            self.funding_tx, vout = wallet_tx(last.amount, last.script)
            self.alice.does(FundingMade(unsigned(self.funding_tx), vout, publish=False))


@pytest.fixture
def pair() -> Pair:
    """Both have the other's first signature; nobody has signed the funding."""
    made = HeldPair.of(None)
    made.opens(1_000_000, 0)
    made.settle()
    return made


def published(end: End) -> list[Tx]:
    return [effect.tx for effect in end.effects if isinstance(effect, Broadcast)]


def refusal(end: End, event: object) -> str:
    with pytest.raises(CommandRefused) as refused:
        step(end.channel, event, end.env)  # type: ignore[arg-type]
    return refused.value.code


def test_nothing_is_published_with_both_signatures_alone(pair: Pair) -> None:
    assert is_held(pair.alice.record) and pair.alice.record.phase is Phase.AWAITING_FUNDING
    assert pair.alice.record.funding.local.signature and not is_held(pair.bob.record)
    assert published(pair.alice) == [] and pair.alice.of(WatchFunding)


def test_a_restart_finds_nothing_to_publish(pair: Pair) -> None:
    again = resume(through_disk(pair.alice.record), pair.alice.env)
    assert not any(isinstance(effect, Broadcast) for effect in again.effects)


def test_the_signed_one_goes_on_record_and_then_out(pair: Pair) -> None:
    tx = pair.funding_tx
    assert tx is not None
    pair.alice.does(PublishFunding(tx))
    assert published(pair.alice) == [tx] and pair.alice.record.funding.tx == tx and not is_held(pair.alice.record)
    again = resume(through_disk(pair.alice.record), pair.alice.env)
    assert [effect.tx for effect in again.effects if isinstance(effect, Broadcast)] == [tx]
    pair.alice.does(PublishFunding(tx))  # once more, and no harm
    pair.confirms()
    pair.settle()
    assert pair.alice.record.phase is Phase.NORMAL and pair.bob.record.phase is Phase.NORMAL
    assert refusal(pair.alice, PublishFunding(tx)) == "not_held"


def test_only_the_signed_funding_of_this_channel_is_taken(pair: Pair) -> None:
    tx = pair.funding_tx
    assert tx is not None
    assert refusal(pair.alice, PublishFunding(unsigned(tx))) == "funding_unsigned"
    assert refusal(pair.alice, PublishFunding(replace(tx, locktime=1))) == "funding_wrong"
    assert refusal(pair.bob, PublishFunding(tx)) == "not_ours_to_fund"


def test_what_nobody_can_publish_is_given_up(pair: Pair) -> None:
    pair.alice.does(ForgetChannel("another channel failed"))
    assert pair.alice.record.phase is Phase.CLOSED
    assert any(isinstance(message, Error) for message in pair.alice.sent())
    assert pair.funding_tx is not None
    assert refusal(pair.alice, PublishFunding(pair.funding_tx)) == "not_held"


@pytest.mark.parametrize("end", ["error", "shutdown", "by force"])
def test_what_ended_before_it_was_published_can_be_given_up(pair: Pair, end: str) -> None:
    """Else it would wait for ever for a funding that never comes: an opener forgets nothing by itself."""
    alice = pair.alice
    if end == "error":
        alice.hears(Error(channel_id=alice.record.channel_id, data=b"never mind"))
    elif end == "shutdown":
        alice.does(CloseChannel(alice.record.params.closing_script))
        pair.settle()
    else:
        alice.does(ForceClose("a person asked"))
    assert alice.record.phase in (Phase.ON_CHAIN, Phase.NEGOTIATING)
    pair.mines(5000)
    assert alice.record.phase is not Phase.CLOSED
    alice.does(ForgetChannel("the batch failed"))
    assert alice.record.phase is Phase.CLOSED


@pytest.mark.parametrize("seen", ["confirmed", "spent"])
def test_what_ended_is_kept_once_the_chain_knows_it(pair: Pair, seen: str) -> None:
    alice, tx = pair.alice, pair.funding_tx
    assert tx is not None
    alice.does(ForceClose("a person asked"))
    alice.does(FundingConfirmed(tx, alice.env.height, 1))
    if seen == "spent":
        alice.does(FundingSpent(alice.broadcasts[-1], alice.env.height), FundingUnconfirmed())
    assert refusal(alice, ForgetChannel("changed our mind")) == "funding_signed"
    assert alice.record.phase is Phase.ON_CHAIN


def test_what_may_be_published_is_never_given_up(pair: Pair) -> None:
    assert pair.funding_tx is not None
    pair.alice.does(PublishFunding(pair.funding_tx))
    assert refusal(pair.alice, ForgetChannel("changed our mind")) == "funding_signed"
    assert refusal(pair.bob, ForgetChannel("changed our mind")) == "funding_signed"


def test_a_funding_that_somebody_else_published_is_not_given_up(pair: Pair) -> None:
    """Another wallet's owner may have done it: the chain decides."""
    pair.confirms()
    pair.settle()
    assert pair.alice.record.phase is Phase.NORMAL
    with pytest.raises(CommandRefused):
        step(pair.alice.channel, ForgetChannel("too late"), pair.alice.env)
