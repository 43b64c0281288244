"""A private regtest chain in a process of its own, on Bitcoin Core's consensus, speaking bitcoind's JSON-RPC.

Development and tests only: coins here are worth nothing. Everything a node may ask of it is asked over loopback, so a
node meets the same surface as with a real bitcoind, and an abort inside the consensus library takes no node with it.
"""
