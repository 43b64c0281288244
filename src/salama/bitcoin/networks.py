"""The Bitcoin networks we run on and what each calls its things (BOLT 1 ports, BOLT 11 prefixes, chain_hash).

Testnet 3 is left out: testnet4 replaced it, and its endless block storms make heights useless for HTLC deadlines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from salama.base.ids import BlockHash


@dataclass(frozen=True, slots=True)
class Network:
    """Constants of one network. ``chain_hash`` is the genesis block hash in wire order."""

    name: str
    chain_hash: BlockHash
    bech32_hrp: str
    bolt11_hrp: str
    p2pkh_prefix: int
    p2sh_prefix: int
    default_port: int
    """Port of Lightning peers (BOLT 1)."""
    rpc_port: int
    """Port on which this network's bitcoind answers JSON-RPC."""
    coin_type: int
    """Second level of a BIP 44 derivation path, hardened there."""
    xpub_version: int
    xprv_version: int
    longest_silence: int | None = 3 * 3600
    """Seconds without a block after which we rather doubt our view of the chain than the miners: at ten minutes a block
    such a pause comes about once in a thousand years. None where blocks are made on demand."""

    def __str__(self) -> str:
        return self.name


MAINNET: Final = Network(
    name="mainnet",
    chain_hash=BlockHash.parse("000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"),
    bech32_hrp="bc",
    bolt11_hrp="bc",
    p2pkh_prefix=0,
    p2sh_prefix=5,
    default_port=9735,
    rpc_port=8332,
    coin_type=0,
    xpub_version=0x0488B21E,
    xprv_version=0x0488ADE4,
)
TESTNET4: Final = Network(
    name="testnet4",
    chain_hash=BlockHash.parse("00000000da84f2bafbbc53dee25a72ae507ff4914b867c565be350b0da8bf043"),
    bech32_hrp="tb",
    bolt11_hrp="tb",
    p2pkh_prefix=111,
    p2sh_prefix=196,
    default_port=49735,
    rpc_port=48332,
    coin_type=1,
    xpub_version=0x043587CF,
    xprv_version=0x04358394,
)
SIGNET: Final = Network(
    name="signet",
    chain_hash=BlockHash.parse("00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6"),
    bech32_hrp="tb",
    bolt11_hrp="tbs",
    p2pkh_prefix=111,
    p2sh_prefix=196,
    default_port=39735,
    rpc_port=38332,
    coin_type=1,
    xpub_version=0x043587CF,
    xprv_version=0x04358394,
)
REGTEST: Final = Network(
    name="regtest",
    chain_hash=BlockHash.parse("0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"),
    bech32_hrp="bcrt",
    bolt11_hrp="bcrt",
    p2pkh_prefix=111,
    p2sh_prefix=196,
    default_port=19846,
    rpc_port=18443,
    coin_type=1,
    xpub_version=0x043587CF,
    xprv_version=0x04358394,
    longest_silence=None,
)

NETWORKS: Final[dict[str, Network]] = {network.name: network for network in (MAINNET, TESTNET4, SIGNET, REGTEST)}
