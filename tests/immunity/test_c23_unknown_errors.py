"""C23 a broadcast given up for an error with an unknown name (eclair #3346, lnd #10189)

What failed: bitcoind refused a transaction in words that the node did not know, or had changed between two versions;
the node took that for the end, and the penalty or the claim was never offered again.

Defence: chain/backend.py:BroadcastResult.retry names the few reasons that are hopeless, and everything else is tried
again; node/chain.py:Broadcaster and onchain/machine.py:_carry_out offer even those at every block, because a
transaction that confirms is all that counts.

The words of a bitcoind's replies on the wire: tests/chain/test_bitcoind_backend.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onchain_relay import Chain, World, open_chain

from salama.base.ids import OutPoint, Txid
from salama.base.units import BlockHeight, Sat
from salama.bitcoin.block import Block
from salama.bitcoin.script import p2wpkh
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.chain.backend import BackendError, BackendUnavailable, BroadcastResult
from salama.channel.events import SettleHtlc
from salama.node.chain import Broadcaster
from salama.onchain.events import BlockSeen
from salama.testing.pair import preimage_of

WORDS = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        [
            "bad-txns-inputs-missingorspent",
            "txn-mempool-conflict",
            "insufficient fee, rejecting replacement",
            "mempool min fee not met, 300 < 500",
            "too-long-mempool-chain, too many descendants",
            "mandatory-script-verify-flag-failed (Signature must be zero)",
            "non-BIP68-final",
            "a reject of version 99",
        ]
    ),
)
CODES = st.integers(-32_768, 0)
REPLIES = st.one_of(
    st.builds(lambda code, word: BroadcastResult(False, code=code, reason=word), CODES, WORDS),
    st.builds(BackendError, CODES, WORDS),
    st.builds(BackendUnavailable, WORDS),
)
TX = Tx(2, (TxIn(OutPoint(Txid(bytes(31) + b"\x01"), 0)),), (TxOut(Sat(1_000), p2wpkh(b"\x02" + bytes(32))),), 0)


class Moody:
    """A back-end that gives ``replies``, one a call, and then takes everything."""

    def __init__(self, replies: list[Any]) -> None:
        self.replies, self.calls = replies, 0

    async def broadcast(self, tx: Tx) -> BroadcastResult:
        self.calls += 1
        if not self.replies:
            return BroadcastResult(True)
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        assert isinstance(reply, BroadcastResult)
        return reply


@settings(max_examples=60, deadline=None)
@given(st.lists(REPLIES, max_size=8))
def test_whatever_the_answer_the_next_block_brings_another_try(replies: list[Any]) -> None:
    async def story() -> None:
        count = len(replies)
        backend = Moody(replies)
        broadcaster = Broadcaster(backend)  # type: ignore[arg-type]
        broadcaster.publish(TX, "test")
        await broadcaster.attempted(TX.txid)
        empty = Block(b"", ())  # type: ignore[arg-type]
        for number in range(count):
            assert backend.calls == number + 1 and not broadcaster.is_out(TX.txid)
            broadcaster.block_connected(empty)
            await broadcaster.attempted(TX.txid)
        assert broadcaster.is_out(TX.txid) and broadcaster.waiting(TX.txid) == TX
        await broadcaster.stop()

    asyncio.run(story())


@settings(max_examples=40, deadline=None)
@given(CODES.filter(lambda code: code != -22), WORDS)
def test_an_unknown_refusal_is_never_hopeless(code: int, word: str) -> None:
    assert BroadcastResult(False, code=code, reason=f"in words of tomorrow: {word}").retry


@pytest.fixture(scope="module")
def claiming() -> Iterator[tuple[Chain, World]]:
    """Alice claims two HTLCs of Bob's commitment; no block comes."""
    with open_chain() as chain:
        world = World.open(chain)
        alice, bob = world.alice, world.bob
        bob.end.adds(50_000_000, 40_000_000, expiry=chain.height + 60)
        world.pair.settle()
        world.pair.cut()
        alice.does(*(SettleHtlc(n, preimage_of(n)) for n in range(2)))
        world.force_close(bob)
        bob.is_offline = True
        world.mine(1)
        world.strict = False
        yield chain, world


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(WORDS.filter(bool), min_size=1, max_size=6))
def test_no_refusal_ends_a_claim(claiming: tuple[Chain, World], words: list[str]) -> None:
    """Any words, at any block: both HTLCs are claimed by something in flight, offered at every block."""
    _chain, world = claiming
    alice = world.alice
    kept, offer = alice.state, alice.offer
    assert kept is not None
    wanted = {i.outpoint for s in kept.record.sweeps if s.deadline is not None for i in s.tx.inputs}
    offered: list[Tx] = []
    for word in words:
        offered.clear()

        def refuse(tx: Tx, parent: object = None, word: str = word) -> str:
            offered.append(tx)
            return word

        alice.offer = refuse  # type: ignore[method-assign]
        alice.run(BlockSeen(BlockHeight(alice.seen)))
        assert wanted <= {i.outpoint for tx in offered for i in tx.inputs}
        assert alice.state is not None
        assert wanted <= {o for s in alice.state.record.sweeps for o in s.claims}
    alice.state, alice.offer = kept, offer  # type: ignore[method-assign]
