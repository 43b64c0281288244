"""Addresses: text that people exchange for a scriptpubkey (BIP 173, BIP 350, base58 for the old forms)."""

from __future__ import annotations

from typing import Final

from salama.bitcoin import bech32
from salama.bitcoin.networks import NETWORKS, Network
from salama.bitcoin.script import is_p2pkh, is_p2sh, p2pkh, p2sh, witness_program
from salama.crypto import base58

MAX_LENGTH: Final = 90


class MalformedAddress(ValueError):
    """Text that is no address of this network; ``reason`` is for a person."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"not a valid address: {reason}")


def parse(text: str, network: Network) -> bytes:
    """The scriptpubkey that an address of ``network`` stands for; raises MalformedAddress."""
    if len(text) > MAX_LENGTH:
        raise MalformedAddress(f"more than {MAX_LENGTH} characters")
    # Base58 may hold a "1" after two letters that look like a prefix; a full known prefix before it cannot be chance
    # because no version byte in use yields such text, so the decision needs no trial decoding.
    hrp = text.lower().rpartition("1")[0]
    if any(hrp == known.bech32_hrp for known in NETWORKS.values()):
        return _parse_segwit(text, network)
    try:
        return _parse_base58(text, network)
    except base58.InvalidBase58 as problem:
        try:
            foreign, _, _ = bech32.decode(text, MAX_LENGTH)
        except bech32.MalformedBech32:
            raise MalformedAddress(str(problem)) from None
        raise MalformedAddress(f"its prefix {foreign!r} belongs to no Bitcoin network we know") from None


def _parse_segwit(text: str, network: Network) -> bytes:
    try:
        hrp, groups, variant = bech32.decode(text, MAX_LENGTH)
        if hrp != network.bech32_hrp:
            raise _wrong_network([n for n in NETWORKS.values() if n.bech32_hrp == hrp], network)
        if not groups:
            raise MalformedAddress("it holds no witness program")
        version = groups[0]
        program = bech32.pack(groups[1:])
    except bech32.MalformedBech32 as problem:
        raise MalformedAddress(problem.reason) from None
    if version > 16:
        raise MalformedAddress(f"witness version {version} does not exist")
    if variant is not (bech32.Variant.BECH32 if version == 0 else bech32.Variant.BECH32M):
        raise MalformedAddress("the checksum is of the wrong kind for its witness version")
    if not 2 <= len(program) <= 40 or (version == 0 and len(program) not in (20, 32)):
        raise MalformedAddress(f"a witness program of {len(program)} bytes in version {version}")
    return bytes((0x50 + version if version else 0, len(program))) + program


def _parse_base58(text: str, network: Network) -> bytes:
    payload = base58.parse(text)
    if len(payload) != 21:
        raise MalformedAddress(f"{len(payload)} bytes instead of 21; is it a key?")
    prefix, digest = payload[0], payload[1:]
    if prefix == network.p2pkh_prefix:
        return p2pkh(digest)
    if prefix == network.p2sh_prefix:
        return p2sh(digest)
    owners = [n for n in NETWORKS.values() if prefix in (n.p2pkh_prefix, n.p2sh_prefix)]
    if owners:
        raise _wrong_network(owners, network)
    raise MalformedAddress(f"its version byte {prefix} belongs to no Bitcoin network we know")


def _wrong_network(owners: list[Network], network: Network) -> MalformedAddress:
    names = " or ".join(owner.name for owner in owners)
    return MalformedAddress(f"it belongs to {names}, and this node runs on {network.name}")


def render(script: bytes, network: Network) -> str | None:
    """The address of a scriptpubkey, or None if it has none."""
    if is_p2pkh(script):
        return base58.render(bytes((network.p2pkh_prefix,)) + script[3:23])
    if is_p2sh(script):
        return base58.render(bytes((network.p2sh_prefix,)) + script[2:22])
    program = witness_program(script)
    if program is None or (program[0] == 0 and len(program[1]) not in (20, 32)):
        return None
    version, data = program
    variant = bech32.Variant.BECH32M if version else bech32.Variant.BECH32
    return bech32.encode(network.bech32_hrp, bytes((version,)) + bech32.unpack(data), variant)
