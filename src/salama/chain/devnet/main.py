"""The devnet's process: opens the directory, serves, and ends on SIGTERM, SIGINT or ``stop``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import Final

# Imported for what they register.
from salama.chain.devnet import chain_calls, mempool_calls, mining_calls  # noqa: F401
from salama.chain.devnet.blocklog import DamagedLog
from salama.chain.devnet.kernel import KernelFailure
from salama.chain.devnet.regtest import DirectoryInUse, Regtest
from salama.chain.devnet.rpc import Context, answer
from salama.chain.devnet.server import Credentials, RpcServer

COOKIE_USER: Final = "__cookie__"
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


def run(
    datadir: Path, host: str = "127.0.0.1", port: int = 0, rpcuser: str | None = None, rpcpassword: str | None = None
) -> int:
    """Serves the chain in ``datadir`` until told to stop; returns the exit code of the process.

    Prints one line of JSON once it answers: ``{"ready": true, "rpc": url, "cookie": path}``. Port 0 takes a free one.
    """
    if host not in LOOPBACK:
        return _fail(f"the devnet listens on loopback only, not on {host}")
    if rpcuser is not None and (":" in rpcuser or not rpcpassword):
        return _fail("rpcuser needs an rpcpassword and may not hold a colon")
    try:
        net = Regtest(datadir)
    except (DirectoryInUse, DamagedLog, KernelFailure, OSError) as problem:
        return _fail(str(problem))
    try:
        return asyncio.run(_serve(net, datadir, host, port, rpcuser, rpcpassword))
    finally:
        net.close()


async def _serve(
    net: Regtest, datadir: Path, host: str, port: int, rpcuser: str | None, rpcpassword: str | None
) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    tip_changed = asyncio.Event()

    def changed() -> None:
        # Wakes everybody who waits now; who comes later waits for the next one.
        nonlocal tip_changed
        tip_changed.set()
        tip_changed = asyncio.Event()

    async def new_tip(timeout: float) -> None:
        try:
            await asyncio.wait_for(tip_changed.wait(), timeout)
        except TimeoutError:
            return

    def stop_soon() -> None:
        # The caller of ``stop`` shall read the answer first.
        loop.call_later(0.05, stopping.set)

    net.on_tip = changed
    context = Context(net, time.monotonic(), time.monotonic, stop_soon, new_tip)
    password = secrets.token_hex(32)
    known = [(COOKIE_USER.encode(), password.encode())]
    if rpcuser is not None and rpcpassword is not None:
        known.append((rpcuser.encode(), rpcpassword.encode()))
    server = RpcServer(Credentials(tuple(known)), lambda body: answer(context, body))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        port = await server.start(host, port)
    except OSError as problem:
        return _fail(f"cannot listen on {host}:{port}: {problem}")
    cookie = datadir / ".cookie"
    _write_secret(cookie, f"{COOKIE_USER}:{password}")
    try:
        shown = f"[{host}]" if ":" in host else host
        ready = {"ready": True, "rpc": f"http://{shown}:{port}", "cookie": str(cookie), "height": net.chain.height}
        print(json.dumps(ready), flush=True)
        await stopping.wait()
    finally:
        cookie.unlink(missing_ok=True)
        await server.close()
    return 0


def _write_secret(path: Path, text: str) -> None:
    """Readable by its owner alone from the first byte on, and never half written."""
    draft = path.with_name(path.name + ".tmp")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)
    draft.replace(path)


def _fail(reason: str) -> int:
    print(json.dumps({"ready": False, "error": reason}), flush=True)
    print(f"salama devnet: {reason}", file=sys.stderr)
    return 1


def main(arguments: list[str] | None = None) -> int:
    """``python -m salama.chain.devnet --datadir D [--port P]``."""
    parser = argparse.ArgumentParser(prog="salama devnet", description="A private regtest chain with bitcoind's RPC.")
    parser.add_argument("--datadir", type=Path, required=True, help="where the chain is kept")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to listen on")
    parser.add_argument("--port", type=int, default=18443, help="0 takes a free port")
    parser.add_argument("--rpcuser", help="a user beside the cookie")
    parser.add_argument("--rpcpassword", help="and its password")
    chosen = parser.parse_args(arguments)
    return run(chosen.datadir, chosen.host, chosen.port, chosen.rpcuser, chosen.rpcpassword)
