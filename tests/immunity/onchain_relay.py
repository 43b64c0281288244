"""Closes on the chain for the tests beside this file: what ``tests/onchain`` has, and a node that relays between two.

``Relay`` is one node with channels upstream and one downstream, each a ``World`` on the same chain. What is learned
downstream is carried up as a node does it: row by row, and again from the beginning after a restart.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "onchain"))

from onchain_world import Chain, Side, World, children, events_of, kind_of, open_chain

from salama.base.machine import Row
from salama.channel.events import FailHtlc, HtlcFailed, Origin, PreimageLearned, SettleHtlc
from salama.onchain.machine import close_of
from salama.onchain.outputs import Role

__all__ = [
    "Chain",
    "Relay",
    "Side",
    "World",
    "alike",
    "balance_of",
    "children",
    "events_of",
    "kind_of",
    "open_chain",
]


def balance_of(side: Side) -> int:
    """Satoshis of the delayed balance in our own commitment on the chain."""
    assert side.state is not None
    close, _ = close_of(side.state, side.htlcs_at)
    assert close is not None
    return sum(int(output.amount) for output in close.outputs if output.role is Role.TO_LOCAL)


def alike(world: World, adder: Side, count: int, amount: int, expiries: list[int]) -> None:
    """HTLCs of the same hash and amount (msat), which only their ids tell apart."""
    end = adder.end
    events = [
        replace(end.add_event(7, amount, expiries[n]), origin=Origin(f"{adder.name} {n}".encode()))
        for n in range(count)
    ]
    end.does(*events)
    world.pair.settle()


@dataclass(eq=False)
class Relay:
    """A node that passes on: its ends are ``alice`` of every channel; payers are upstream, the payee is downstream."""

    down: World
    ups: list[World]
    told: list[tuple[int, int, str]] = field(default_factory=list)
    """What went upstream: channel, id there, and the kind of row."""
    silent: set[int] = field(default_factory=set)
    """Payers who do not answer."""
    _carried: int = 0

    @classmethod
    def between(cls, chain: Chain, payers: int = 1) -> Relay:
        down, *ups = (World.open(chain) for _ in range(payers + 1))
        for world in (down, *ups):
            world.follow()
        return cls(down, ups)

    def passes_on(self, payer: int, number: int, amount: int, expiry: int, delta: int = 40) -> None:
        """An HTLC of ``amount`` msat with the hash of ``number``, in and out."""
        up = self.ups[payer]
        incoming = up.bob.end.add_event(number, amount, expiry + delta)
        up.bob.end.does(replace(incoming, origin=Origin(b"%d" % next(up.bob.end.numbers))))
        up.pair.settle()
        at = max(up.alice.end.pending)
        origin = Origin(b"%d/%d" % (payer, at))
        self.down.alice.upstream[bytes(origin)] = expiry + delta
        self.down.alice.end.does(replace(self.down.alice.end.add_event(number, amount, expiry), origin=origin))
        self.down.pair.settle()

    def carry(self) -> None:
        """Everything that downstream has handed over since the last time, upstream."""
        rows: list[Row] = [*self.down.alice.end.rows, *self.down.alice.rows]
        handed = [row for row in rows if isinstance(row, PreimageLearned | HtlcFailed) and b"/" in bytes(row.origin)]
        for row in handed[self._carried :]:
            payer, at = (int(part) for part in bytes(row.origin).split(b"/"))
            up = self.ups[payer]
            if isinstance(row, PreimageLearned):
                up.alice.does(SettleHtlc(at, row.preimage))
            else:
                up.alice.does(FailHtlc(at, row.reason))
            self.told.append((payer, at, type(row).__name__))
            if payer not in self.silent:
                up.pair.settle()
        self._carried = len(handed)

    def mine(self, count: int = 1, *, restarts: bool = False) -> None:
        for _ in range(count):
            self.down.chain.mine()
            for world in (self.down, *self.ups):
                world.follow()
            self.carry()
            if restarts:
                self.restarts()

    def restarts(self) -> None:
        """Nothing is left but what the disk has; what was handed over comes once more."""
        for number, up in enumerate(self.ups):
            up.pair.cut()
            up.alice.restarts()
            if number not in self.silent and up.alice.end.record.phase.value != "on_chain":
                up.pair.connect()
                up.pair.settle()
        self.down.alice.restarts()
        self._carried = 0
        self.carry()
