"""The books of one directory, from the chain and the databases to the verdict."""

from __future__ import annotations

from pathlib import Path

from salama.demo.books.accounts import Audit
from salama.demo.books.audit import audit, scripts_of
from salama.demo.books.chain import ChainRpc, read_chain, unspent
from salama.demo.books.databases import read_node
from salama.demo.books.flows import follow
from salama.demo.books.kept import DATABASE, Manifest


def check(directory: Path, rpc: ChainRpc) -> Audit:
    """Audit the demo in ``directory``, whose chain answers at ``rpc``.

    Raises NotADemo, DatabaseUnreadable, ChainUnreadable.
    """
    manifest = Manifest.load(directory)
    chain = read_chain(rpc)
    coins = unspent(rpc, scripts_of(chain))
    nodes = {name: read_node(name, directory / name / DATABASE) for name in manifest.scripts}
    return audit(chain, coins, nodes, follow(nodes), manifest)
