"""The methods of a node, of all areas: the server, the terminal, the clients and the documentation are made from them.

An area keeps its shapes and its methods' words in ``<area>_schema``, ending in a tuple ``METHODS``, and what they
do in ``<area>_methods``. A new area is one line here and one in ``methods``. Amounts come in with a unit
(``base.amounts``) and go out as integers in fields ending ``_msat``. Ids are text.
"""

from __future__ import annotations

from salama.api import (
    backup_schema,
    channels_schema,
    funding_schema,
    ledger_schema,
    node_schema,
    onchain_schema,
    payments_schema,
    peers_schema,
    wallet_schema,
)
from salama.api.method import Method

AREAS: tuple[tuple[Method, ...], ...] = (
    node_schema.METHODS,
    wallet_schema.METHODS,
    peers_schema.METHODS,
    channels_schema.METHODS,
    payments_schema.METHODS,
    onchain_schema.METHODS,
    funding_schema.METHODS,
    ledger_schema.METHODS,
    backup_schema.METHODS,
)
METHODS: dict[str, Method] = {method.name: method for area in AREAS for method in area}
ALIASES: dict[str, str] = {alias: m.name for m in METHODS.values() for alias in m.aliases}


def area_name(area: tuple[Method, ...]) -> str:
    """What an area is called: ``wallet`` for the methods of ``wallet_schema``."""
    modules = (shape.__module__ for method in area for shape in (method.params, method.result))
    return next(m for m in modules if m.endswith("_schema")).rpartition(".")[2].removesuffix("_schema")


def find_method(name: str) -> Method | None:
    """The method of that name or alias."""
    return METHODS.get(ALIASES.get(name, name))
