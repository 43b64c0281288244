"""What the interop tests share: a chain, our node and LDK as processes, and the little world they make together.

The chain is `salama devnet` or a real bitcoind: both speak bitcoind's JSON-RPC, and the tests know no other way to
them. Coins that are not our node's are P2WSH of OP_TRUE, which anybody may spend: a funding transaction for LDK needs
no wallet and no signature.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from salama.api.client import call as call_node
from salama.base.ids import OutPoint
from salama.base.units import Sat
from salama.bitcoin.address import render
from salama.bitcoin.block import Block
from salama.bitcoin.networks import NETWORKS
from salama.bitcoin.script import OP_1, p2wsh, script
from salama.bitcoin.tx import Tx, TxIn, TxOut

T = TypeVar("T")

HERE = Path(__file__).parent
LDK = HERE / "ldk"
BITCOIND_ROOT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "salama" / "bitcoind-root"

ANYONE = script(OP_1)
ANYONE_SCRIPT = p2wsh(ANYONE)
ANYONE_ADDRESS = str(render(ANYONE_SCRIPT, NETWORKS["regtest"]))
NOBODY_SCRIPT = p2wsh(b"\x6a")
NOBODY_ADDRESS = str(render(NOBODY_SCRIPT, NETWORKS["regtest"]))
"""Coins sent there are gone; blocks that nobody is to profit from are mined to it."""

WAIT_SECONDS = 90.0
PAUSE = 0.02
MATURITY = 100


def need(name: str, missing: str | None) -> None:
    """Go on if nothing is missing; else skip with the reason, or fail where SALAMA_REQUIRE names the part."""
    if missing is None:
        return
    if name in os.environ.get("SALAMA_REQUIRE", "").split(","):
        pytest.fail(f"SALAMA_REQUIRE names {name}, but {missing}")
    pytest.skip(missing)


def missing_ldk() -> str | None:
    """Why LDK cannot run here, or None."""
    if shutil.which("node") is None:
        return "LDK needs Node 18 or later, and there is no `node` on PATH"
    if not (LDK / "node_modules" / "lightningdevkit").is_dir():
        return "LDK is not installed; run scripts/interop_setup ldk"
    return None


def bitcoind_command() -> list[str] | None:
    """How to start a real bitcoind: BITCOIND, the one on PATH, or that of scripts/interop_setup. None without any."""
    named = os.environ.get("BITCOIND") or shutil.which("bitcoind")
    if named:
        return [named]
    program = BITCOIND_ROOT / "usr/bin/bitcoind"
    loaders = [*BITCOIND_ROOT.glob("usr/lib/*-linux-gnu*/ld-linux-*.so.*"), *BITCOIND_ROOT.glob("usr/lib/ld-linux-*")]
    if not program.exists() or not loaders:
        return None
    # Started by the loader of its own system it needs neither chroot nor root, and sees our directories.
    libraries = ":".join(str(path) for path in BITCOIND_ROOT.glob("usr/lib/*-linux-gnu*"))
    return [str(loaders[0]), "--library-path", libraries, str(program)]


def missing_bitcoind() -> str | None:
    """Why no real bitcoind can run here, or None."""
    return None if bitcoind_command() else "there is no bitcoind; run scripts/interop_setup bitcoind, or set BITCOIND"


class TookTooLong(AssertionError):
    """Something that a test waits for did not happen."""


def until(what: str, condition: Callable[[], T], seconds: float = WAIT_SECONDS) -> T:
    """Ask again and again until the answer is true; that answer. Raises TookTooLong."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > end:
            raise TookTooLong(f"waited {seconds:.0f} seconds until {what}")
        time.sleep(PAUSE)
    return answer


class RpcFailed(Exception):
    """The chain answered with an error."""

    def __init__(self, code: int, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(f"{code} {message}")


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _start(command: Sequence[str], log: Path, **more: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": ""}
    with log.open("ab") as stderr:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": stderr} | more
        return subprocess.Popen(command, text=True, env=environment, **pipes)


def _end(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> None:
    if process.poll() is None:
        process.send_signal(number)
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=10)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


# --- the chain --------------------------------------------------------------------------------------------------------


@dataclass
class Coin:
    """A confirmed coin that anybody may spend."""

    outpoint: OutPoint
    amount: Sat
    height: int


class Chain:
    """A regtest chain behind bitcoind's JSON-RPC."""

    def __init__(self, process: subprocess.Popen[str], url: str, cookie: Path) -> None:
        self.process, self.url, self.cookie = process, url, cookie
        self.coins: list[Coin] = []
        self._lock = threading.Lock()
        self._again: Callable[[], subprocess.Popen[str]] = lambda: self.process

    @classmethod
    def devnet(cls, directory: Path) -> Chain:
        """Our own chain."""
        command = [sys.executable, "-m", "salama", "devnet", "--dir", str(directory / "chain"), "--port", "0"]
        process = _start(command, directory / "chain.stderr")
        assert process.stdout is not None
        said = json.loads(process.stdout.readline() or "{}")
        assert said.get("ready"), said
        return cls(process, said["rpc"], Path(said["cookie"]))

    @classmethod
    def bitcoind(cls, directory: Path, first: str = NOBODY_ADDRESS, *options: str) -> Chain:
        """A real bitcoind on regtest with Bitcoin Core's mempool policy, and one block to the address ``first``."""
        command = bitcoind_command()
        assert command is not None
        datadir, port = directory / "bitcoind", free_port()
        datadir.mkdir()
        command += [f"-datadir={datadir}", "-regtest", f"-rpcport={port}", "-server", "-listen=0", "-disablewallet"]
        command += options
        # The floor that has been usual for long; newer versions go down to a tenth of it.
        command += ["-minrelaytxfee=0.00001", "-incrementalrelayfee=0.00001"]
        if "knots" in subprocess.run([*command, "-version"], capture_output=True, text=True, check=True).stdout.lower():
            # Its own defaults are stricter than what the network relays.
            command += ["-corepolicy=1", "-mempooltruc=enforce"]
        log, cookie = directory / "bitcoind.log", datadir / "regtest" / ".cookie"
        chain = cls(_start(command, log, stdout=subprocess.DEVNULL), f"http://127.0.0.1:{port}", cookie)
        chain._again = lambda: _start(command, log, stdout=subprocess.DEVNULL)
        until("bitcoind answers", chain._answers)
        # Without a fresh block bitcoind believes that it is still downloading the chain.
        chain.mine(1, first)
        return chain

    @classmethod
    def lonely(cls, directory: Path, chain: str) -> Chain:
        """A real bitcoind on a public chain (its word for it), at its first block and without any peer."""
        command = bitcoind_command()
        assert command is not None
        datadir, port = directory / "bitcoind", free_port()
        datadir.mkdir()
        command += [f"-datadir={datadir}", f"-chain={chain}", f"-rpcport={port}", "-server", "-disablewallet"]
        command += ["-listen=0", "-connect=0", "-dnsseed=0"]
        cookie = datadir / ("" if chain == "main" else chain) / ".cookie"
        one = cls(
            _start(command, directory / "bitcoind.log", stdout=subprocess.DEVNULL), f"http://127.0.0.1:{port}", cookie
        )
        until("bitcoind answers", one._answers)
        return one

    def start_again(self) -> None:
        """Start a bitcoind that was stopped or killed, in its directory and on its port."""
        self.process = self._again()
        until("bitcoind answers", self._answers)

    def kill(self) -> None:
        """SIGKILL."""
        _end(self.process, signal.SIGKILL)

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError("bitcoind ended by itself")
        try:
            self.call("getblockcount")
        except (OSError, RpcFailed, http.client.HTTPException, ValueError):
            # Also one that was killed: it left a cookie that its successor refuses until it has written its own.
            return False
        return True

    def call(self, method: str, *params: Any) -> Any:
        """Raises RpcFailed; OSError if nobody is there."""
        body = json.dumps({"id": 1, "method": method, "params": params}).encode()
        login = base64.b64encode(self.cookie.read_bytes()).decode()
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=60)
        try:
            connection.request("POST", "/", body, {"Authorization": f"Basic {login}"})
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        if answer["error"] is not None:
            raise RpcFailed(answer["error"]["code"], answer["error"]["message"])
        return answer["result"]

    @property
    def height(self) -> int:
        return int(self.call("getblockcount"))

    def block(self, height: int) -> Block:
        return Block.decode(bytes.fromhex(self.call("getblock", self.call("getblockhash", height), 0)))

    def mine(self, count: int = 1, address: str = NOBODY_ADDRESS) -> list[str]:
        """Hashes of the new blocks. Coins mined to ANYONE_ADDRESS are kept in ``coins``."""
        first = self.height + 1
        hashes: list[str] = self.call("generatetoaddress", count, address)
        if address == ANYONE_ADDRESS:
            for height in range(first, first + count):
                coinbase = self.block(height).txs[0]
                self.coins.append(Coin(OutPoint(coinbase.txid, 0), coinbase.outputs[0].value, height))
        return hashes

    def take_coin(self) -> Coin:
        """A mature coin for anyone, for you alone."""
        with self._lock:
            coin = next(c for c in self.coins if c.height + MATURITY <= self.height)
            self.coins.remove(coin)
            return coin

    def pay(self, outputs: Sequence[tuple[int, bytes]], fee: int = 1_000) -> Tx:
        """A transaction to these scripts out of anybody's coin, not yet sent."""
        coin = self.take_coin()
        change = int(coin.amount) - sum(amount for amount, _ in outputs) - fee
        all_outputs = [*outputs, (change, ANYONE_SCRIPT)]
        tx = Tx(2, (TxIn(coin.outpoint, 0xFFFFFFFD),), tuple(TxOut(Sat(a), s) for a, s in all_outputs), 0)
        return tx.with_witness(0, (ANYONE,))

    def submit(self, txs: Sequence[str]) -> list[str]:
        """Send raw transactions, alone or else as a package; the complaint about each, empty if taken."""
        complaints = [self._send(tx) for tx in txs]
        if len(txs) > 1 and any(complaints):
            answer = self.call("submitpackage", list(txs))
            if answer["package_msg"] == "success":
                return [""] * len(txs)
            complaints = [str(answer)] * len(txs)
        return complaints

    def _send(self, tx: str) -> str:
        try:
            self.call("sendrawtransaction", tx)
        except RpcFailed as failed:
            known = ("already in block chain", "already in utxo set", "txn-already")
            return "" if any(k in failed.message.lower() for k in known) else failed.message
        return ""

    def mempool(self) -> list[str]:
        return list(self.call("getrawmempool"))

    def stop(self) -> None:
        _end(self.process)


# --- our node ---------------------------------------------------------------------------------------------------------

SETTINGS = ("gossip_flush_seconds=0.2", "reconnect_seconds=0.2", "poll_seconds=0.1", "log_level=debug")


class SalamaNode:
    """`salama run` as its users run it, and its socket."""

    def __init__(self, name: str, directory: Path, chain: Chain, settings: Sequence[str] = ()) -> None:
        self.name, self.directory, self._chain, self._settings = name, directory / name, chain, settings
        self._listen = "127.0.0.1:0"
        self.address = ""
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "salama", "run", "--network", "regtest", "--dir", str(self.directory)]
        command += ["--listen", self._listen, "--alias", self.name]
        command += ["--bitcoind", self._chain.url, "--cookie", str(self._chain.cookie)]
        for setting in (*SETTINGS, *self._settings):
            command += ["--set", setting]
        self._stderr = self.directory.parent / f"{self.name}.stderr"
        self.process = _start(command, self._stderr)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self._stderr.read_text()
        said = json.loads(line)
        self.node_id, self.socket, self._listen = said["node_id"], Path(said["socket"]), said["listen"]

    @property
    def port(self) -> int:
        return int(self._listen.rsplit(":", 1)[1])

    @property
    def uri(self) -> str:
        return f"{self.node_id}@{self._listen}"

    def call(self, method: str, **params: Any) -> Any:
        """Raises CommandRefused."""
        return call_node(self.socket, method, params, timeout=90)

    def channel(self, channel_id: str = "") -> dict[str, Any]:
        """One channel, closed or not: that of the id, or the only one."""
        channels = self.call("channels", closed=True)["channels"]
        found = [c for c in channels if channel_id in ("", c["channel_id"])]
        assert len(found) == 1, channels
        return dict(found[0])

    def log(self) -> str:
        """All that it wrote down."""
        return (self.directory / "salama.log").read_text()

    def kill(self) -> None:
        """SIGKILL: nothing is finished, flushed or said goodbye to."""
        _end(self.process, signal.SIGKILL)

    def stop(self) -> None:
        _end(self.process)


# --- LDK --------------------------------------------------------------------------------------------------------------


class LdkFailed(Exception):
    """LDK refused a command."""


class Ldk:
    """LDK in a process of its own. Its transactions are published as they come; every event is kept in ``events``."""

    def __init__(self, directory: Path, chain: Chain, **options: Any) -> None:
        self._chain = chain
        self.log_file = directory / "ldk.stderr"
        self.process = _start(["node", str(LDK / "peer.mjs")], self.log_file, stdin=subprocess.PIPE, cwd=LDK)
        self.events: list[dict[str, Any]] = []
        self.published: list[tuple[str, str]] = []
        """Raw transactions that LDK sent, and what the chain had against each (mostly nothing)."""
        self._changed = threading.Condition()
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        self._ids = 0
        self._read = 0
        self._hashes: list[str] = list(options.pop("hashes", ()))
        """Block hashes by height, from 1 on, as LDK was told."""
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()
        self.wait("started", lambda e: e.get("ready") is True)
        started = self.call("start", seed=options.pop("seed", "07" * 32), **options)
        self.node_id, self.port = started["node_id"], started["port"]

    @property
    def uri(self) -> str:
        return f"{self.node_id}@127.0.0.1:{self.port}"

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if "id" in said:
                self._answers.pop(said["id"]).put(said)
                continue
            if said.get("event") == "Broadcast":
                complaints = self._chain.submit(said["txs"])
                self.published += zip(said["txs"], complaints, strict=True)
            with self._changed:
                self.events.append(said)
                self._changed.notify_all()

    def call(self, method: str, **params: Any) -> Any:
        """Raises LdkFailed."""
        assert self.process.stdin is not None
        self._ids += 1
        answer = self._answers[self._ids] = queue.Queue()
        self.process.stdin.write(json.dumps({"id": self._ids, "method": method, **params}) + "\n")
        self.process.stdin.flush()
        said = answer.get(timeout=30)
        if "error" in said:
            raise LdkFailed(f"{method}: {said['error']}")
        return said["result"]

    def wait(
        self, what: str, wanted: Callable[[dict[str, Any]], bool], seconds: float = WAIT_SECONDS
    ) -> dict[str, Any]:
        """The next event that is wanted; earlier ones that were not waited for are passed over. Raises TookTooLong."""
        end = time.monotonic() + seconds
        with self._changed:
            while True:
                while self._read < len(self.events):
                    self._read += 1
                    if wanted(self.events[self._read - 1]):
                        return self.events[self._read - 1]
                if not self._changed.wait(max(0.0, end - time.monotonic())):
                    raise TookTooLong(f"waited {seconds:.0f} seconds until LDK reported {what}; {self.complaints()}")

    def event(self, name: str, seconds: float = WAIT_SECONDS, **fields: Any) -> dict[str, Any]:
        """The next event of that name with these fields."""
        return self.wait(
            name, lambda e: e.get("event") == name and all(e.get(k) == v for k, v in fields.items()), seconds
        )

    def seen(self, name: str, **fields: Any) -> list[dict[str, Any]]:
        """Every event so far of that name with these fields."""
        return [e for e in self.events if e.get("event") == name and all(e.get(k) == v for k, v in fields.items())]

    def complaints(self) -> list[str]:
        """What LDK had against its peers or its own situation: warnings and errors of its log."""
        return [e["text"] for e in self.events if e.get("event") == "Log"]

    def save(self) -> dict[str, Any]:
        """Its state, to start it again with: ``Ldk(directory, chain, **saved)``. Later than now that is a cheat."""
        return {"saved": self.call("save"), "hashes": list(self._hashes)}

    def follow(self) -> None:
        """Bring LDK to the tip of the chain, back over a fork if need be."""
        height = self._chain.height
        while self._hashes and (
            len(self._hashes) > height or self._chain.call("getblockhash", len(self._hashes)) != self._hashes[-1]
        ):
            header = self._chain.call("getblockheader", self._hashes[-1], False)
            self.call("disconnect_block", header=header, height=len(self._hashes))
            self._hashes.pop()
        while len(self._hashes) < height:
            first = len(self._hashes) + 1
            hashes = [self._chain.call("getblockhash", h) for h in range(first, min(first + 50, height + 1))]
            self.call("blocks", blocks=[self._chain.call("getblock", h, 0) for h in hashes], height=first)
            self._hashes += hashes

    def channel(self, channel_id: str = "") -> dict[str, Any]:
        """One open channel: that of the id, or the only one."""
        channels = self.call("channels")
        found = [c for c in channels if channel_id in ("", c["channel_id"])]
        assert len(found) == 1, (channels, self.complaints())
        return dict(found[0])

    def stop(self) -> None:
        if self.process.poll() is None:
            try:
                self.call("stop")
            except (OSError, queue.Empty, LdkFailed):
                self.process.kill()
        self.process.wait(timeout=10)
        self._reader.join(timeout=10)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


# --- all together -----------------------------------------------------------------------------------------------------


@dataclass
class World:
    """A chain with money on it, our nodes, and LDK where a test asks for it."""

    directory: Path
    chain: Chain
    nodes: dict[str, SalamaNode] = field(default_factory=dict)
    ldk_peer: Ldk | None = None

    @property
    def ldk(self) -> Ldk:
        assert self.ldk_peer is not None
        return self.ldk_peer

    def __getitem__(self, name: str) -> SalamaNode:
        return self.nodes[name]

    def add_node(self, name: str, *settings: str) -> SalamaNode:
        node = self.nodes[name] = SalamaNode(name, self.directory, self.chain, settings)
        return node

    def add_ldk(self, **options: Any) -> Ldk:
        self.ldk_peer = Ldk(self.directory, self.chain, **options)
        return self.ldk_peer

    def fund(self) -> None:
        """Give every node three coins and leave some for anyone, all mature."""
        for node in self.nodes.values():
            node.address = node.call("newaddr")["address"]
            self.chain.mine(3, node.address)
        self.chain.mine(10, ANYONE_ADDRESS)
        self.mine(MATURITY)

    def mine(self, count: int = 1) -> None:
        """Mine, and return once everybody stands at the new tip."""
        self.chain.mine(count)
        self.follow()

    def follow(self) -> None:
        """Wait until everybody stands at the tip of the chain."""
        if self.ldk_peer is not None:
            self.ldk_peer.follow()
        tip = self.chain.call("getbestblockhash")
        for node in self.nodes.values():
            until(
                f"{node.name} stands at {tip}",
                lambda node=node: node.call("getinfo")["block_hash"] == tip,
                seconds=2 * WAIT_SECONDS,
            )

    def settled(self, txid: str, blocks: int) -> None:
        """Wait until a transaction is in the mempool, then bury it."""
        until(f"{txid} is in the mempool", lambda: txid in self.chain.mempool())
        self.mine(blocks)

    def ready(self, channel_id: str, *nodes: SalamaNode) -> None:
        """Wait until the channel carries payments at these nodes, and at LDK if it has it."""
        for node in nodes:
            until(
                f"{node.name} can use {channel_id}",
                lambda node=node: (
                    node.channel(channel_id)["state"] == "normal" and node.channel(channel_id)["connected"]
                ),
            )
        if self.ldk_peer is not None:
            for channel in self.ldk_peer.call("channels"):
                if channel["channel_id"] == channel_id:
                    until("LDK can use it", lambda: self.ldk.channel(channel_id)["usable"])

    def stop(self) -> None:
        if self.ldk_peer is not None:
            self.ldk_peer.stop()
        for node in self.nodes.values():
            node.stop()
        self.chain.stop()


def txid_of(raw: str) -> str:
    return str(Tx.decode(bytes.fromhex(raw)).txid)
