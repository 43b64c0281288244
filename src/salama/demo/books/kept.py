"""The directory of a demo: where the chain and the nodes' databases are, and which coins each began with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MANIFEST: Final = "demo.json"
CHAIN: Final = "chain"
DATABASE: Final = "salama.sqlite3"


class NotADemo(Exception):
    """The directory is not one that ``salama demo --keep`` left."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the books must be told, because neither chain nor database says it: whose the first coins are.

    ``scripts``: node to the script, in hex, that its first block paid. ``miner``: the script of all other blocks.
    """

    scripts: dict[str, str]
    miner: str

    def save(self, directory: Path) -> None:
        """Write it into ``directory``."""
        text = json.dumps({"nodes": self.scripts, "miner": self.miner}, indent=2)
        (directory / MANIFEST).write_text(text + "\n")

    @classmethod
    def load(cls, directory: Path) -> Manifest:
        """Raises NotADemo."""
        try:
            fields = json.loads((directory / MANIFEST).read_text())
            return cls({str(k): str(v) for k, v in fields["nodes"].items()}, str(fields["miner"]))
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            raise NotADemo(f"{directory} was not left by `salama demo --keep` (no readable {MANIFEST})") from None
