"""A node inside a Python program: the same node as `salama run`, with the same methods, without a process of its own.

    async with salama.Node.regtest() as alice, salama.Node.regtest(beside=alice) as bob:
        await alice.fund()
        await alice.open(bob.uri, "1000000sat")
        await alice.mine(6)
        paid = await alice.pay((await bob.invoice("1000sat")).invoice)

On regtest a chain comes with the first node: a process that ends with it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import msgspec

from salama.api.calls import Calls
from salama.api.errors import INTERNAL
from salama.api.method import Params, Result
from salama.api.methods import Methods
from salama.api.places import data_directory
from salama.base.machine import CommandRefused
from salama.chain.bitcoind import Bitcoind
from salama.node.config import load_config
from salama.node.node import Node as NodeItself
from salama.node.outside import Outside

log = logging.getLogger("salama.embedded")

R = TypeVar("R", bound=Result)

QUICK: Final = {"poll_seconds": "0.05", "gossip_flush_seconds": "0.2", "reconnect_seconds": "0.1"}
"""On a chain of our own nobody is bothered by haste."""
MATURITY: Final = 100
"""Blocks on top of a reward before it can be spent."""
PATIENCE: Final = 30.0
"""Seconds in which a chain on this machine starts, ends, or tells of a block."""
PAUSE: Final = 0.01


class Chain:
    """A private chain as a process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: asyncio.subprocess.Process | None = None
        self.url = self.cookie = ""

    async def start(self) -> None:
        """Raises CommandRefused if it does not come up."""
        command = (sys.executable, "-m", "salama", "devnet", "--dir", str(self._directory), "--port", "0")
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), PATIENCE)
            ready = json.loads(line or b"{}")
            self.url, self.cookie = ready["rpc"], ready["cookie"]
        except (TimeoutError, ValueError, KeyError):
            await self.stop()
            raise CommandRefused("no_chain", "The private chain did not start.", "See its complaint above.") from None

    async def stop(self) -> None:
        """End it; more than once does no harm."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), PATIENCE)
        except TimeoutError:
            process.kill()
            await process.wait()


class Node(Calls):
    """A node in this event loop, from ``async with`` to its end."""

    def __init__(
        self,
        network: str,
        directory: Path | str | None = None,
        settings: Mapping[str, str] | None = None,
        *,
        passphrase: str = "",
    ) -> None:
        """``directory``: None is the usual one. ``settings`` are those of `salama settings`, beside the directory's
        file; the environment is left alone. ``passphrase`` unseals the words.
        """
        self._network = network
        self._directory = data_directory(str(directory) if directory else None, network)
        self._settings = dict(settings or {})
        self._passphrase = passphrase
        self._temporary: Path | None = None
        self._beside: Node | None = None
        self._brings_chain = False
        self._chain: Chain | None = None
        self._running: asyncio.Task[None] | None = None

    @classmethod
    def regtest(
        cls,
        directory: Path | str | None = None,
        settings: Mapping[str, str] | None = None,
        *,
        beside: Node | None = None,
    ) -> Self:
        """A node on a private chain of its own or, ``beside`` another, on that one's. Without a directory everything
        is forgotten at the end.
        """
        temporary = None if directory is not None else Path(tempfile.mkdtemp(prefix="salama"))
        made = cls("regtest", directory or temporary, {"listen": "127.0.0.1:0", **QUICK, **(settings or {})})
        made._temporary, made._beside, made._brings_chain = temporary, beside, beside is None
        return made

    @property
    def node_id(self) -> str:
        return str(self._node.signer.node_id)

    @property
    def uri(self) -> str:
        """``NODE_ID@HOST:PORT``, for others on this machine."""
        return f"{self.node_id}@{self._node.listening}"

    # --- its life -----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def _start(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._brings_chain:
            self._chain = Chain(self._directory / "chain")
            await self._chain.start()
        chain = self._beside._chain if self._beside is not None else self._chain
        if chain is not None:
            self._settings |= {"bitcoind": chain.url, "cookie": chain.cookie}
        config = load_config(self._network, self._directory, flags=self._settings)
        self._node = NodeItself(config, Outside.unlocking(self._passphrase))
        self._handlers = Methods(self._node).handlers()
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._running = asyncio.create_task(self._node.run(ready), name="embedded node")
        await asyncio.wait((self._running, ready), return_when=asyncio.FIRST_COMPLETED)
        if self._running.done():
            await self._running  # raises why it ended
            raise CommandRefused("stopped", "The node was stopped before it was ready.")

    async def _end(self) -> None:
        running, self._running = self._running, None
        try:
            if running is not None and not running.done():
                self._node.stop()
            if running is not None:
                await running
        finally:
            if self._chain is not None:
                await self._chain.stop()
            if self._temporary is not None:
                shutil.rmtree(self._temporary, ignore_errors=True)

    async def ask(self, method: str, params: Params, result: type[R]) -> R:
        if self._running is None or self._running.done():
            raise CommandRefused("not_running", "The node does not run.", "Ask it inside of `async with`.")
        try:
            checked = msgspec.convert(msgspec.to_builtins(params), type=type(params))
        except msgspec.ValidationError as error:
            raise CommandRefused("bad_params", f"{method}: {error}") from None
        try:
            answer = await self._handlers[method](checked)
        except CommandRefused:
            raise
        except Exception as error:
            log.exception("method %s failed", method)
            raise CommandRefused(INTERNAL.code, INTERNAL.reason, INTERNAL.remedy) from error
        assert isinstance(answer, result)
        return answer

    # --- a chain of one's own -----------------------------------------------------------------------------------------

    async def chain(self, method: str, *params: Any) -> Any:
        """A call to the back-end's JSON-RPC, for tests and experiments. Raises BackendError, BackendUnavailable."""
        backend = self._node.backend
        assert isinstance(backend, Bitcoind)
        return await backend.rpc(method, *params)

    async def mine(self, blocks: int = 1, address: str = "") -> int:
        """Mine to ``address``, or to nobody, and wait until this node has the blocks; the height."""
        if address:
            await self.chain("generatetoaddress", blocks, address)
        else:
            await self.chain("generatetodescriptor", blocks, f"raw(0014{secrets.token_hex(20)})")
        height = int(await self.chain("getblockcount"))
        async with asyncio.timeout(PATIENCE):
            while int(self._node.chain.height) < height:
                await asyncio.sleep(PAUSE)
        return height

    async def fund(self) -> int:
        """Mine a reward to this node and make it spendable; what it has on chain then, in millisatoshis."""
        await self.mine(1, (await self.newaddr()).address)
        await self.mine(MATURITY)
        return (await self.balance()).onchain_confirmed_msat
