"""G1 blocks that a node thinks too large (CVE-2022-44797, CVE-2022-39389: btcd, lnd)

What failed: limits of the parser's own refused blocks that the network accepted, and the node stood still.

Defence: bitcoin/block.py:Block.decode and bitcoin/tx.py:read_tx have no limit but the length of the data; nothing is
validated again.

G2 other faults of a consensus of one's own (CVE-2024-34478, CVE-2024-38365: btcd)

What failed: a node that judged blocks by itself disagreed with the network about signature hashes and old scripts.

Defence: no script is ever evaluated here; whatever the back-end calls a block of the best chain is one, and
bitcoin/block.py:Block.decode reads scripts as bytes.

G4 a back-end that goes backwards or answers for another chain (polar #410; Electrum detects a change of chain)

What failed: heights and outputs of one network were taken for those of another, or blocks were taken back because the
back-end rebuilt its index.

Defence: node/node.py:Node._check_backend compares the first block with our network's and with the one that this
directory belongs to, chain/watcher.py:Watcher compares it at every look and takes nothing back for a shorter chain.

G5 a fee estimator that lies or is silent (Core Lightning 26.04)

What failed: no estimate, or a mad one, was used as it came.

Defence: chain/bitcoind.py:Bitcoind.feerate bounds what is answered and knows none;
channel/limits.py:acceptable_feerates bounds what a peer may ask whatever we believe; channel/normal.py:adjust_feerate
bounds what we ask ourselves.

G6 a transaction list with a tail repeated (CVE-2012-2459, and transactions of 64 bytes)

What failed: two different lists of transactions have one merkle root, so that a block could be taken for invalid, or a
node of the tree for a transaction.

Defence: we read blocks from a back-end that has validated them (chain/bitcoind.py), keep nothing that says a block is
invalid, and take no merkle proofs; bitcoin/block.py:merkle_root is only compared.

G7 bitcoind over a plain network (eclair says that it must be local or in a tunnel)

What failed: whoever is on the way reads the password of bitcoind and answers in its place.

Defence: chain/http_client.py:JsonRpcClient.is_local tells; node/node.py:Node.warnings and the log say it at every
start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from salama.base.ids import BlockHash, OutPoint, Txid
from salama.base.units import BlockHeight, FeeratePerKw, Sat
from salama.bitcoin.block import Block, merkle_root
from salama.bitcoin.networks import REGTEST
from salama.bitcoin.tx import Tx, TxIn, TxOut, read_tx
from salama.chain.backend import BackendError, ChainInfo, HeaderInfo
from salama.chain.bitcoind import MAX_FEERATE, MIN_FEERATE, Bitcoind
from salama.chain.watcher import Watcher, WrongChain
from salama.channel.env import Feerates
from salama.channel.events import FeeratesChanged
from salama.channel.limits import acceptable_feerates
from salama.node.node import Node
from salama.testing.pair import Pair, default_env
from salama.wire.updates import UpdateFee

OUT = (TxOut(Sat(1), b"\x51"),)


def spending(*witness: bytes, script_sig: bytes = b"") -> Tx:
    return Tx(2, (TxIn(OutPoint(Txid(b"\x01" * 32), 0), 0, script_sig, witness),), OUT, 0)


BIG = {
    "half a million items": spending(*[b""] * 500_001),
    "an inscription of 4 MB": spending(b"\x00" * 3_900_000, b"\xc0" * 33),
    "998 of 999": spending(*[b"\x01" * 64] * 998, b"\x20" * 34 * 999, b"\xc0" * 33),
    "a long script": spending(script_sig=b"\x00" * 1_000_000),
    "many outputs": Tx(2, (TxIn(OutPoint(Txid(b"\x01" * 32), 0)),), OUT * 100_000, 0),
}


@pytest.mark.parametrize("name", BIG)
def test_g1_what_consensus_allows_is_read(name: str) -> None:
    data = BIG[name].encode()
    tx, end = read_tx(data, 0)
    assert end == len(data) and tx == BIG[name]


def test_g1_a_whole_block_of_them() -> None:
    header = bytes(80)
    txs = [BIG["half a million items"], BIG["998 of 999"]]
    data = header + b"\x02" + b"".join(tx.encode() for tx in txs)
    assert list(Block.decode(data).txs) == txs


def backend(estimate: Any, floor: Any = Decimal("0.00001")) -> FeeratePerKw | None:
    async def batch(_: Any) -> list[Any]:
        return [estimate, {"mempoolminfee": floor}]

    return asyncio.run(Bitcoind.feerate(SimpleNamespace(_rpc=SimpleNamespace(batch=batch)), 6))  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [{}, {"errors": ["Insufficient data"]}, {"feerate": None}])
def test_g5_no_estimate_is_no_number(answer: Any) -> None:
    assert backend(answer) is None


@pytest.mark.parametrize("rate", [0, "0.00000001", "0.0001", 1, 20_000_000])
def test_g5_an_estimate_is_bounded(rate: int | str) -> None:
    answer = backend({"feerate": Decimal(rate)})
    assert answer is not None and MIN_FEERATE <= int(answer) <= MAX_FEERATE


@pytest.mark.parametrize("rate", [Decimal("nan"), Decimal("inf"), Decimal(-1), 0.5, True, "many", [], {}, 10**30])
def test_g5_nonsense_is_an_error_of_the_back_end(rate: Any) -> None:
    with pytest.raises(BackendError):
        backend({"feerate": rate})


@pytest.mark.parametrize("rate", [0, 1, 253, 50_000, FeeratePerKw.MAX])
def test_g5_whatever_we_believe_a_peers_choice_is_bounded(rate: int) -> None:
    from dataclasses import replace

    env = replace(default_env(), feerates=Feerates(FeeratePerKw(rate), FeeratePerKw(rate)))
    least, most = acceptable_feerates(env)
    assert 253 <= least < most <= int(env.policy.max_feerate)


@pytest.mark.parametrize("rate", [0, 1, FeeratePerKw.MAX])
def test_g5_a_mad_estimate_asks_for_no_mad_fee(rate: int) -> None:
    from dataclasses import replace

    pair = Pair.opened()
    env = replace(pair.alice.env, feerates=Feerates(FeeratePerKw(rate), FeeratePerKw(rate)))
    pair.alice.env = env
    pair.alice.does(FeeratesChanged())
    for message in pair.alice.sent():
        if isinstance(message, UpdateFee):
            assert env.policy.min_feerate <= message.feerate_per_kw <= env.policy.max_feerate
    assert pair.alice.balance > 0 and pair.alice.is_connected


def test_g6_a_repeated_tail_is_another_block() -> None:
    ids = [Txid(bytes([n]) * 32) for n in range(1, 7)]
    assert merkle_root(ids) == merkle_root([*ids, *ids[4:]]), "the old flaw is in the protocol itself"
    one = Block.decode(bytes(80) + b"\x01" + spending(b"x").encode())
    two = Block.decode(bytes(80) + b"\x02" + spending(b"x").encode() * 2)
    assert len(one.txs) == 1 and len(two.txs) == 2 and one != two


@pytest.mark.parametrize(
    "script",
    [
        b"\xac" * 500,  # more signature checks than a block may hold
        b"\x4e\xff\xff\xff\xff",  # pushes four gigabytes that are not there
        b"\x50\xff\xfe",  # reserved and unknown operations
        b"\x30\x44\x02\x20" * 20,  # what an old FindAndDelete looked for
    ],
)
def test_g2_scripts_are_bytes(script: bytes) -> None:
    tx = Tx(2, (TxIn(OutPoint(Txid(b"\x01" * 32), 0), 0, script, (script, script)),), (TxOut(Sat(1), script),), 0)
    data = bytes(80) + b"\x01" + tx.encode()
    (read,) = Block.decode(data).txs
    assert (read.encode(), read.txid) == (tx.encode(), tx.txid)


class _Chains(Bitcoind):
    """Answers for whichever chain it is told to."""

    genesis, height = BlockHash(b"\x01" * 32), 5

    async def info(self) -> ChainInfo:
        return ChainInfo("regtest", BlockHeight(self.height), self._at(self.height), self.genesis, True, 0)

    async def block_hash(self, height: int) -> BlockHash | None:
        return self._at(height) if height <= self.height else None

    async def header(self, block_hash: BlockHash) -> HeaderInfo | None:
        height = block_hash[0]
        return HeaderInfo(block_hash, self._at(height - 1), BlockHeight(height), height <= self.height)

    async def wait_for_block(self, tip: BlockHash, height: int, timeout: float) -> None:
        await asyncio.sleep(0.005)

    @staticmethod
    def _at(height: int) -> BlockHash:
        return BlockHash(bytes([height]) * 32)


def _watched(story: Callable[[_Chains, Watcher], Awaitable[None]]) -> list[object]:
    told: list[object] = []

    async def main() -> None:
        backend = _Chains("http://127.0.0.1:1")
        recent = [(BlockHeight(height), backend._at(height)) for height in range(1, 5)]
        watcher = Watcher(backend, (BlockHeight(5), backend._at(5)), recent=recent, poll_interval=0.005)

        async def listen() -> None:
            async for event in watcher:
                told.append(event)  # noqa: PERF401 - the list is looked at while it grows

        task = asyncio.create_task(listen())
        async with asyncio.timeout(10):
            while not watcher.at_tip:
                await asyncio.sleep(0.005)
            await story(backend, watcher)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if task.done() and not task.cancelled() and (failure := task.exception()) is not None:
            raise failure

    asyncio.run(main())
    return told


def test_g4_another_chain_ends_it() -> None:
    async def story(backend: _Chains, watcher: Watcher) -> None:
        backend.genesis = BlockHash(b"\x02" * 32)
        await asyncio.sleep(0.1)

    with pytest.raises(WrongChain):
        _watched(story)


def test_g4_a_height_that_falls_takes_nothing_back() -> None:
    async def story(backend: _Chains, watcher: Watcher) -> None:
        backend.height = 2
        while watcher.stale_since is None:
            await asyncio.sleep(0.005)
        assert "behind" in watcher.problem
        backend.height = 5
        while watcher.stale_since is not None:
            await asyncio.sleep(0.005)

    assert _watched(story) == []


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8332", True),
        ("http://localhost:8332", True),
        ("http://[::1]:8332", True),
        ("http://192.168.0.7:8332", False),
        ("http://localhost.example:8332", False),
    ],
)
def test_g7_a_password_that_leaves_the_machine_is_warned_of(url: str, local: bool) -> None:
    joint = SimpleNamespace(waiting=list)
    config, chain = SimpleNamespace(network=REGTEST), SimpleNamespace(trouble="", feerate=None)
    node = SimpleNamespace(config=config, backend=Bitcoind(url), chain=chain, joint=joint)
    warnings = Node.warnings(node)  # type: ignore[arg-type]
    assert [("unencrypted" in one) for one in warnings] == ([] if local else [True])
