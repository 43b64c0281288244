"""The books of a demo: every satoshi, from the chain's UTXO set and the nodes' databases.

Nothing here imports the node's code, so that a mistake of the node cannot be repeated by its auditor: the chain is
asked over JSON-RPC, the databases are read with plain SQL and MessagePack. ``python -m salama.demo.books DIR`` checks
a kept directory again.
"""
