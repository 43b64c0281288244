"""The part of `salama doctor` that asks the Bitcoin network: is it there, the right one, and enough to live on."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any, Final

from salama.chain.backend import BackendError, BackendUnavailable, ChainInfo
from salama.chain.bitcoind import Bitcoind
from salama.chain.publishers import TOPICS, find_publishers
from salama.node.config import Config
from salama.node.doctor import Finding, Verdict

OLDEST_CORE: Final = 250000
"""Packages of a parent and its child came into the mempool of Bitcoin Core in steps; before 25 a claim may be stuck."""
MAX_OFFSET: Final = 70
"""Seconds that bitcoind's peers may disagree with this machine's clock."""
EARLY_BLOCK: Final = 7200
"""Seconds that the network lets a block run ahead of time."""


def _found(check: str, verdict: Verdict, seen: str, remedy: str = "") -> Finding:
    return Finding(check, verdict, seen, remedy)


async def look_at_chain(config: Config) -> AsyncIterator[Finding]:
    """Everything about the back-end of ``config``; asks, and changes nothing."""
    backend = Bitcoind(
        config.bitcoind, cookie=config.cookie, user=config.bitcoind_user, password=config.bitcoind_password, timeout=10
    )
    try:
        try:
            info = await backend.info()
        except (BackendUnavailable, BackendError) as error:
            remedy = (
                f"Is there a bitcoind or `salama devnet` at {config.bitcoind}, and is the cookie file the right one?"
            )
            yield _found("bitcoind", Verdict.FAIL, str(error), remedy)
            return
        for finding in _chain(config, info, time.time()):
            yield finding
        if not backend.is_local:
            remedy = "Use a tunnel (SSH, WireGuard) or a bitcoind of this machine."
            yield _found("bitcoind", Verdict.WARN, "passwords cross the network in the clear", remedy)
        yield await _pruned(backend)
        network = await _asked(backend, "getnetworkinfo")
        if network is not None:
            yield _version(network)
            yield _offset(network)
        yield await _zmq(backend)
        yield _found("txindex", Verdict.OK, "not needed")
    finally:
        await backend.close()


def _chain(config: Config, info: ChainInfo, now: float) -> list[Finding]:
    ours = config.network
    if bytes(info.genesis_hash) != ours.chain_hash:
        seen = f"{config.bitcoind} serves {info.network_name}, not {ours.name}"
        return [_found("bitcoind", Verdict.FAIL, seen, "Point --bitcoind at the right one.")]
    findings = [_found("bitcoind", Verdict.OK, f"{config.bitcoind} serves {info.network_name}")]
    age = now - info.tip_time
    if not info.synced:
        remedy = "The node waits for it at its start; it may take days."
        findings.append(_found("chain", Verdict.WARN, f"bitcoind is catching up, block {int(info.height)}", remedy))
    elif age < -EARLY_BLOCK:
        findings.append(_found("chain", Verdict.FAIL, "the last block is hours ahead of this clock", "Set the clock."))
    elif ours.longest_silence is not None and age >= ours.longest_silence:
        seen = f"no block for {age / 3600:.0f} hours"
        findings.append(_found("chain", Verdict.FAIL, seen, "Look at bitcoind's peers and at the clock."))
    else:
        findings.append(_found("chain", Verdict.OK, f"block {int(info.height)}"))
    return findings


async def _asked(backend: Bitcoind, method: str) -> dict[str, Any] | None:
    """The answer, None from a back-end that does not know the question (our devnet leaves some out)."""
    try:
        answer = await backend.rpc(method)
    except (BackendUnavailable, BackendError):
        return None
    return answer if isinstance(answer, dict) else None


async def _pruned(backend: Bitcoind) -> Finding:
    answer = await _asked(backend, "getblockchaininfo") or {}
    if not answer.get("pruned"):
        return _found("pruning", Verdict.OK, "all blocks are there")
    height = answer.get("pruneheight", 0)
    remedy = "Good for a running node; to restore from words it must keep blocks since their birthday."
    return _found("pruning", Verdict.WARN, f"blocks before {height} are gone", remedy)


def _version(network: dict[str, Any]) -> Finding:
    version = network.get("version", 0)
    shown = ascii(str(network.get("subversion", "")))[1:-1][:60]
    if isinstance(version, int) and 0 < version < OLDEST_CORE:
        return _found(
            "bitcoind version", Verdict.WARN, shown, "Use Bitcoin Core 25 or later: its mempool takes packages."
        )
    return _found("bitcoind version", Verdict.OK, shown)


def _offset(network: dict[str, Any]) -> Finding:
    offset = network.get("timeoffset", 0)
    if isinstance(offset, int) and abs(offset) > MAX_OFFSET:
        return _found("network time", Verdict.WARN, f"peers' clocks differ by {offset} seconds", "Set the clock.")
    return _found("network time", Verdict.OK, "agrees with this clock")


async def _zmq(backend: Bitcoind) -> Finding:
    try:
        heard = await find_publishers(backend)
    except BackendUnavailable:
        heard = {}
    if heard:
        return _found("zmq", Verdict.OK, f"publishes {', '.join(sorted(heard))}")
    wanted = " and ".join(f"-zmqpub{topic}" for topic in TOPICS)
    return _found("zmq", Verdict.OK, f"not there, and not needed; {wanted} tell of blocks and payments sooner")
