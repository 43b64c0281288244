"""Three real nodes: paying over announced and private channels, restarts, a kill under load, strangers, closes.

The tests of this module share their nodes and channels; each leaves them as it found them, the closes come last.
"""

import asyncio
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from salama.base.ids import BlockHash, ChannelId, NodeId
from salama.base.machine import CommandRefused
from salama.bitcoin.networks import REGTEST, SIGNET
from salama.crypto.secp256k1 import ecdh, public_key
from salama.crypto.seeds import ExtendedKey
from salama.invoices import bolt11
from salama.net.tcp import Connection, connect
from salama.node.addresses import parse_host_port
from salama.node.features import FEATURES
from salama.node.seed import load_or_make_seed
from salama.signer.local import LocalSigner
from salama.testing.network import LocalNetwork, LocalNode, until
from salama.transport.noise import StaticKey
from salama.wire import Error, Init, Message, Ping, Pong, Warning, decode_message
from salama.wire.features import Context, Features
from salama.wire.opening import FundingCreated
from salama.wire.updates import ChannelReestablish

CAPACITY = 1_000_000_000
PUSH = 300_000_000


@dataclass
class Trio:
    """alice -- announced -- bob -- private -- carol."""

    network: LocalNetwork
    alice: LocalNode
    bob: LocalNode
    carol: LocalNode

    def usable(self) -> None:
        self.network.usable(self.alice, self.bob)
        self.network.usable(self.bob, self.carol)

    def totals(self) -> dict[str, int]:
        """Msat that each node has in its channels, once nothing is under way; both ends agree on every channel."""
        self.network.at_rest()
        for one, other in ((self.alice, self.bob), (self.bob, self.carol)):
            ours, theirs = one.channel(other), other.channel(one)
            assert ours["ours_msat"] + ours["theirs_msat"] == CAPACITY
            assert (ours["ours_msat"], ours["theirs_msat"]) == (theirs["theirs_msat"], theirs["ours_msat"])
        return {n.name: sum(c["ours_msat"] for c in n.channels()) for n in (self.alice, self.bob, self.carol)}


@pytest.fixture(scope="module")
def trio(network: LocalNetwork) -> Trio:
    alice, bob, carol = (network.start(name) for name in ("alice", "bob", "carol"))
    network.fund(alice, bob)
    network.open(alice, bob, "1000000sat", push=f"{PUSH}msat")
    network.open(bob, carol, "1000000sat", private=True)
    network.known(1)
    return Trio(network, alice, bob, carol)


# --- channels and payments --------------------------------------------------------------------------------------------


def test_what_was_pushed_is_the_peers(trio: Trio) -> None:
    one = trio.bob.channel(trio.alice)
    assert (one["ours_msat"], one["theirs_msat"], one["capacity_msat"]) == (PUSH, CAPACITY - PUSH, CAPACITY)
    assert (one["private"], trio.bob.channel(trio.carol)["private"]) == (False, True)
    for node in (trio.alice, trio.bob, trio.carol):
        # nobody hears of the private one
        assert node.call("getinfo")["graph_channels"] == 1


def test_a_payment_over_two_hops_the_last_one_private(trio: Trio) -> None:
    before = trio.totals()
    made = trio.carol.call("invoice", amount="5000sat", description="tea")
    paid = trio.alice.call("pay", request=made["invoice"])
    assert (paid["status"], paid["amount_msat"], paid["failure_code"]) == ("succeeded", 5_000_000, "")
    assert hashlib.sha256(bytes.fromhex(paid["preimage"])).hexdigest() == made["payment_hash"]
    fee = paid["fee_msat"]
    assert fee > 0
    after = trio.totals()
    assert {n: after[n] - before[n] for n in after} == {"alice": -5_000_000 - fee, "bob": fee, "carol": 5_000_000}
    line = trio.carol.call("invoices", limit=1)["invoices"][0]
    assert (line["status"], line["received_msat"], line["description"]) == ("paid", 5_000_000, "tea")
    line = trio.alice.call("payments", limit=1)["payments"][0]
    assert (line["status"], line["fee_msat"]) == ("succeeded", fee)
    line = trio.bob.call("forwards", limit=1)["forwards"][0]
    assert (line["status"], line["fee_msat"], line["amount_out_msat"]) == ("settled", fee, 5_000_000)


def test_an_invoice_that_leaves_the_amount_open(trio: Trio) -> None:
    open_amount = trio.bob.invoice("any")
    with pytest.raises(CommandRefused) as refused:
        trio.alice.call("pay", request=open_amount)
    assert refused.value.code == "amount_missing"
    assert trio.alice.call("pay", request=open_amount, amount="7msat")["status"] == "succeeded"


def test_a_rehearsal_of_closing_by_force(trio: Trio) -> None:
    """What closing everything would take is known before."""
    told = trio.bob.call("stress", feerate=200)
    assert (told["feerate_per_kw"], told["missing_msat"], told["can_close_all"]) == (50_000, 0, True)
    assert len(told["channels"]) == 2 and 0 < told["from_wallet_msat"] < told["fees_msat"] < told["available_msat"]
    far = trio.bob.call("stress", feerate=2_000)
    assert far["uneconomic_msat"] > 0 and not far["can_close_all"] and "would offer half" in far["answer"]
    assert refusal(trio.bob, "stress", feerate=0)


def refusal(node: LocalNode, method: str, **params: Any) -> str:
    with pytest.raises(CommandRefused) as refused:
        node.call(method, **params)
    assert not refused.value.reason[:1].islower()
    assert refused.value.reason.endswith(".")
    return refused.value.code


def foreign_invoice(node: LocalNode, **changes: Any) -> str:
    """An invoice signed by ``node``'s key that its node knows nothing of."""
    signer = LocalSigner(load_or_make_seed(node.directory))
    fields: dict[str, Any] = {
        "network": REGTEST,
        "timestamp": int(time.time()),
        "payment_hash": hashlib.sha256(b"?").digest(),
        "payment_secret": bytes(32),
        "payee": signer.node_id,
        "amount_msat": None,
        "description": "",
        "expiry": 3600,
        "min_final_cltv_expiry": 30,
        "route_hints": (),
        "features": FEATURES.only(Context.INVOICE),
    }
    return bolt11.sign(bolt11.Invoice(**(fields | changes)), signer.sign_recoverable)


def test_invoices_that_cannot_be_paid(trio: Trio) -> None:
    good = trio.bob.invoice("10sat")
    wrong = good[:-1] + ("q" if good[-1] != "q" else "p")
    assert refusal(trio.alice, "pay", request=wrong) == "invalid_invoice"
    assert refusal(trio.alice, "pay", request=good[:-30]) == "invalid_invoice"
    assert refusal(trio.alice, "pay", request="") == "invalid_invoice"
    assert refusal(trio.alice, "pay", request="lnbcrt" + "1" * 5000) == "invalid_invoice"
    assert refusal(trio.alice, "pay", request=foreign_invoice(trio.bob, network=SIGNET)) == "invalid_invoice"
    expired = foreign_invoice(trio.bob, timestamp=int(time.time()) - 7200)
    assert refusal(trio.alice, "pay", request=expired) == "invoice_expired"
    assert refusal(trio.bob, "pay", request=good) == "payment_to_self"
    assert refusal(trio.alice, "pay", request=good, amount="10sat") == "amount_given"
    assert refusal(trio.alice, "pay", request=good, max_fee="a lot") == "bad_amount"
    # none of this has spoilt it
    assert trio.alice.call("pay", request=f" LIGHTNING:{good.upper()}\n")["status"] == "succeeded"
    assert refusal(trio.alice, "pay", request=good) == "already_paid"


def test_a_payee_that_does_not_know_the_payment(trio: Trio) -> None:
    before = trio.totals()
    paid = trio.alice.call("pay", request=foreign_invoice(trio.bob), amount="10sat")
    assert (paid["status"], paid["failure_code"]) == ("failed", "incorrect_or_unknown_payment_details")
    assert paid["failure_reason"].startswith("The payee ")
    assert trio.totals() == before


def test_more_than_there_is(trio: Trio) -> None:
    before = trio.totals()
    paid = trio.alice.pays(trio.carol, "2000000sat")
    assert paid["status"] == "failed"
    assert paid["failure_code"]
    assert trio.totals() == before


def test_commands_that_make_no_sense(trio: Trio) -> None:
    alice, bob = trio.alice, trio.bob
    assert refusal(alice, "open", peer=bob.uri, amount="1000001msat") == "bad_amount"
    assert refusal(alice, "open", peer=bob.uri, amount="1000sat", push="2000sat")
    assert refusal(alice, "open", peer=bob.uri, amount="20999999btc")
    assert refusal(alice, "open", peer="02" + "11" * 32, amount="100000sat") == "not_connected"
    assert refusal(alice, "connect", peer="not a node") == "bad_node_id"
    assert refusal(alice, "connect", peer=f"{bob.node_id}@127.0.0.1:nowhere") == "bad_address"
    assert refusal(alice, "connect", peer=alice.uri) == "own_node_id"
    assert refusal(alice, "connect", peer=f"{public_key(b'x' * 32).hex()}@{bob.listen}") == "connect_failed"
    assert refusal(alice, "close", channel="no such") == "unknown_channel"
    assert refusal(alice, "payments", cursor="yesterday") == "bad_cursor"
    assert refusal(alice, "invoice", amount="0sat") == "bad_amount"
    trio.usable()


# --- restarts ---------------------------------------------------------------------------------------------------------


def test_a_peer_that_restarts_is_called_again(trio: Trio) -> None:
    before = trio.totals()
    assert trio.network.stop(trio.bob) == 0
    until("alice notices", lambda: not trio.alice.channel(trio.bob)["connected"])
    paid = trio.alice.pays(trio.carol, "1sat", timeout=2)
    assert paid["status"] == "failed"
    trio.network.start("bob")
    trio.usable()
    assert trio.totals() == before
    assert trio.alice.pays(trio.carol, "1sat")["status"] == "succeeded"


def test_everybody_stops_and_starts_again(trio: Trio) -> None:
    before = trio.totals()
    nodes = (trio.alice, trio.bob, trio.carol)
    ids = [node.node_id for node in nodes]
    assert [trio.network.stop(node) for node in nodes] == [0, 0, 0]
    assert [trio.network.start(node.name).node_id for node in nodes] == ids
    trio.usable()
    assert trio.totals() == before
    assert trio.alice.pays(trio.carol, "1sat")["status"] == "succeeded"


def test_a_relaying_node_is_killed_under_load(trio: Trio) -> None:
    """Whatever was under way is over afterwards, nothing is lost, nobody pays for nothing, no channel is closed."""
    before = trio.totals()
    invoices = [trio.carol.invoice("20sat") for _ in range(60)]
    known = len(trio.alice.call("payments", limit=1000)["payments"])

    def pay(invoice: str) -> None:
        with suppress(CommandRefused):  # the node was asked; its record tells
            trio.alice.call("pay", request=invoice, timeout=20)

    with ThreadPoolExecutor(12) as pool:
        paying = [pool.submit(pay, invoice) for invoice in invoices]
        until("some are paid", lambda: sum(f.done() for f in paying) >= 10)
        trio.network.kill(trio.bob)
        trio.network.start("bob")
        trio.usable()
    after = trio.totals()
    lines = trio.alice.call("payments", limit=1000)["payments"][: len(invoices)]
    assert len(trio.alice.call("payments", limit=1000)["payments"]) == known + len(invoices)
    done = [one for one in lines if one["status"] == "succeeded"]
    assert all(one["status"] in ("succeeded", "failed") for one in lines)
    paid = [one for one in trio.carol.call("invoices", limit=60)["invoices"] if one["status"] == "paid"]
    assert {one["payment_hash"] for one in done} == {one["payment_hash"] for one in paid}
    assert len(done) >= 10
    spent = sum(one["amount_msat"] + one["fee_msat"] for one in done)
    assert before["alice"] - after["alice"] == spent
    assert after["carol"] - before["carol"] == 20_000 * len(done)
    assert sum(after.values()) == sum(before.values())
    assert trio.network.mempool() == []


# --- strangers --------------------------------------------------------------------------------------------------------


async def talk(
    node: LocalNode, *messages: bytes | Message, seconds: float = 5.0, secret: bytes = b"\x42" * 32, **init: Any
) -> list[Message]:
    """What ``node`` answers a stranger who says this after its ``init``; up to a pong or the end."""
    key = StaticKey(public_key(secret), lambda point: ecdh(secret, point))
    connection = await connect(parse_host_port(node.listen), NodeId.parse(node.node_id), key)
    ours = Init(
        globalfeatures=Features.of(),
        features=init.get("features", FEATURES.only(Context.INIT)),
        networks=(BlockHash(init.get("chain", REGTEST.chain_hash)),),
    )
    said = [m if isinstance(m, bytes) else m.encode() for m in (ours, *messages)]
    connection.send([*said, Ping(num_pong_bytes=7, ignored=b"").encode()])
    heard: list[Message] = []
    async with asyncio.timeout(seconds):
        while raw := await connection.receive():
            heard += [decode_message(one) for one in raw]
            if any(isinstance(one, Pong) for one in heard):
                break
    await connection.close()
    return heard


def hears(node: LocalNode, *messages: bytes | Message, **init: Any) -> list[Message]:
    return asyncio.run(talk(node, *messages, **init))


def last_words(heard: list[Message]) -> str:
    """The warning with which the node hung up."""
    assert not any(isinstance(one, Pong) for one in heard)
    (warning,) = [one for one in heard if isinstance(one, Warning)]
    return warning.data.decode()


def test_an_unknown_channel_is_named_in_the_error(trio: Trio) -> None:
    nobody = ChannelId(b"\x07" * 32)
    point = public_key(b"\x01" * 32)
    heard = hears(
        trio.alice,
        ChannelReestablish(
            channel_id=nobody,
            next_commitment_number=1,
            next_revocation_number=0,
            your_last_per_commitment_secret=bytes(32),
            my_current_per_commitment_point=point,
        ),
    )
    (error,) = [one for one in heard if isinstance(one, Error)]
    assert (error.channel_id, error.data) == (nobody, b"unknown channel")
    assert any(isinstance(one, Pong) for one in heard), "the connection goes on"


def test_another_peers_channel_is_unknown_to_a_stranger(trio: Trio) -> None:
    theirs = ChannelId(bytes.fromhex(trio.alice.channel(trio.bob)["channel_id"]))
    heard = hears(
        trio.alice, Error(channel_id=theirs, data=b"close it"), Error(channel_id=ChannelId(bytes(32)), data=b"")
    )
    assert any(isinstance(one, Pong) for one in heard)
    heard = hears(
        trio.alice,
        FundingCreated(
            temporary_channel_id=theirs, funding_txid=bytes(32), funding_output_index=0, signature=bytes(64)
        ),
    )
    assert [one.channel_id for one in heard if isinstance(one, Error)] == [theirs]
    trio.usable()
    assert trio.alice.channel(trio.bob)["state"] == "normal"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"\xff\xfe", "even type"),
        (b"", "malformed"),
        (b"\x00", "malformed"),
        (b"\x00\x20" + bytes(40), "malformed"),
        (b"\x01\x00" + bytes(400), "malformed"),
        (b"\x00\x10\x00\x00\x00\x00", "second init"),
        (Pong(ignored=bytes(3)), "pong"),
    ],
    ids=["unknown even", "empty", "one byte", "short open_channel", "channel_announcement", "init", "pong"],
)
def test_messages_that_end_the_connection(trio: Trio, message: bytes | Message, words: str) -> None:
    assert words in last_words(hears(trio.alice, message))


def test_messages_that_are_ignored(trio: Trio) -> None:
    heard = hears(
        trio.alice, b"\xff\xff" + bytes(60_000), b"\x80\x01", Warning(channel_id=ChannelId(bytes(32)), data=b"\x1b[2J")
    )
    assert any(isinstance(one, Pong) for one in heard)
    assert "\x1b" not in trio.alice.log()


def test_strangers_with_nothing_in_common(trio: Trio) -> None:
    # No word is said to whoever cannot be talked to: the connection just ends.
    for init in ({"chain": SIGNET.chain_hash}, {"features": Features.decode(b"\x01" + bytes(30))}):
        heard = hears(trio.alice, **init)
        assert not any(isinstance(one, Pong) for one in heard)


def test_a_peer_that_calls_twice_keeps_its_last_connection(trio: Trio) -> None:
    async def twice() -> None:
        secret = b"\x43" * 32
        key = StaticKey(public_key(secret), lambda point: ecdh(secret, point))
        init = Init(globalfeatures=Features.of(), features=FEATURES.only(Context.INIT), networks=None)

        async def call() -> Connection:
            connection = await connect(parse_host_port(trio.alice.listen), NodeId.parse(trio.alice.node_id), key)
            connection.send([init.encode()])
            assert await connection.receive()
            return connection

        first = await call()
        second = await call()
        async with asyncio.timeout(5):
            while await first.receive():
                pass
        second.send([Ping(num_pong_bytes=1, ignored=b"").encode()])
        assert await second.receive()
        await first.close()
        await second.close()

    asyncio.run(twice())


def test_nobody_noticed_any_of_this(trio: Trio) -> None:
    before = trio.totals()
    assert trio.alice.pays(trio.carol, "1sat")["status"] == "succeeded"
    assert sum(trio.totals().values()) == sum(before.values())
    for node in (trio.alice, trio.bob, trio.carol):
        assert node.complaints() == ""
        assert "Traceback" not in node.log()
        assert "frozen" not in node.log()


def test_no_log_holds_a_secret(trio: Trio) -> None:
    """At level debug, after payments, restarts and strangers: words, keys and preimages stand in no line."""
    preimage = trio.alice.pays(trio.carol, "1sat")["preimage"]
    for node in (trio.alice, trio.bob, trio.carol):
        seed = load_or_make_seed(node.directory)
        root = ExtendedKey.of_seed(seed)
        signer = LocalSigner(seed)
        secrets = [seed, bytes(root.secret or b""), root.chain_code, bytes(signer._node_key)]
        for index in range(4):
            mine = signer._secrets(index)
            secrets += [bytes(key) for key in (mine.funding, mine.revocation, mine.payment, mine.htlc)]
            secrets += [bytes(mine.delayed_payment), bytes(mine.commitments_seed)]
        log = node.log().lower()
        words = (node.directory / "seed.words").read_text("utf-8").splitlines()[-1].removeprefix("words ")
        assert len(log) > 10_000 and len(words.split()) == 24
        assert not any(secret.hex() in log for secret in secrets)
        assert preimage not in log
        assert words not in log and " ".join(words.split()[:3]) not in log and "prv" not in log


# --- the end ----------------------------------------------------------------------------------------------------------


def test_a_channel_is_closed_by_agreement(trio: Trio) -> None:
    bob, carol = trio.bob, trio.carol
    ours = carol.channel(bob)["ours_msat"]
    name = bob.channel(carol)["channel_id"]
    closed = bob.call("close", channel=name)
    assert closed["closing_txid"] in trio.network.mempool()
    with pytest.raises(CommandRefused, match="offered already"):
        bob.call("close", channel=name)
    again = bob.call("close", channel=name, feerate=20_000)
    assert again["closing_txid"] != closed["closing_txid"]
    assert trio.network.mempool() == [again["closing_txid"]], "the higher fee replaces the lower one"
    trio.network.mine(6)
    # Bob asked and pays what a closing should cost; Carol's own offer, at the floor, is not what confirms.
    until("carol has her coins", lambda: carol.call("balance")["onchain_confirmed_msat"] == ours // 1000 * 1000)
    assert bob.call("balance")["channels_ours_msat"] == bob.channel(trio.alice)["ours_msat"]
    assert bob.complaints() == carol.complaints() == "", "that only one of several can confirm is no trouble"


def test_a_channel_is_closed_by_force(trio: Trio) -> None:
    alice, bob = trio.alice, trio.bob
    closed = alice.call("close", channel=alice.channel(bob)["channel_id"], force=True)
    assert closed["state"] == "on_chain" and len(closed["closing_txid"]) == 64
    # Bob hears of it at once and may be the first to offer his own commitment.
    offered = until("a commitment is offered", trio.network.mempool)
    trio.network.mine(1)
    until("bob has seen it", lambda: bob.channel(alice)["closing_txid"] in offered)
    until("alice has, too", lambda: alice.channel(bob)["closing_txid"] == bob.channel(alice)["closing_txid"])
    assert alice.channel(bob)["state"] == bob.channel(alice)["state"] == "on_chain"
    paid = alice.pays(bob, "1sat", timeout=1)
    assert (paid["status"], paid["preimage"]) == ("failed", "")
