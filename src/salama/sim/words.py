"""What machines said about HTLCs, held against what they did: one outcome each, the same on both sides of a node.

Seen on the wire, before encryption, so that a machine that forgets cannot forget it for us.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from salama.payments.records import ForwardStatus, PaymentStatus, PutForward
from salama.sim.invariants import has_liar, records_of
from salama.sim.links import ABOUT_HTLC
from salama.storage import queries

if TYPE_CHECKING:
    from salama.sim.links import SimConnection
    from salama.sim.machine import Machine
    from salama.sim.world import World

ADD, FULFIL, FAIL, FAIL_MALFORMED = (number.to_bytes(2, "big") for number in ABOUT_HTLC)


class Htlc(NamedTuple):
    """An HTLC as the wire names it."""

    offered_by: str
    channel: bytes
    id: int


class Words:
    """Listens to every machine that is honest."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._hashes: dict[Htlc, bytes] = {}
        self._removed: dict[Htlc, bool] = {}
        """Whether it was fulfilled, from the first word about it on."""

    def said(self, connection: SimConnection, message: bytes) -> None:
        """Called with each message that leaves a machine."""
        kind = message[:2]
        if kind not in (ADD, FULFIL, FAIL, FAIL_MALFORMED) or connection.owner.is_hostile:
            return
        channel, number = message[2:34], int.from_bytes(message[34:42], "big")
        if kind == ADD:
            # Offered anew with another hash after a disconnect: the earlier one was never signed.
            self._hashes[Htlc(connection.owner.name, channel, number)] = message[50:82]
            return
        htlc = Htlc(connection.peer.name, channel, number)
        if self._removed.setdefault(htlc, kind == FULFIL) is not (kind == FULFIL):
            self._world.problem(f"{connection.owner.name} both fulfils and fails HTLC {number} of {channel.hex()[:12]}")

    def judge(self) -> None:
        """When all is quiet."""
        for machine in self._world.machines:
            if not machine.is_hostile:
                self._judge(machine)

    def _judge(self, machine: Machine) -> None:
        world = self._world
        assert machine.journal is not None
        unsafe = self._off_the_wire(machine)
        page = machine.journal.read_now(lambda db: queries.forwards(db, None, 1000))
        relayed = {(bytes(one.outgoing_channel), one.outgoing_id): one for one in page.rows}
        sent = machine.journal.read_now(lambda db: queries.payments(db, None, 1000))
        paid = {bytes(one.payment_hash): one.status for one in sent.rows}
        for htlc, is_fulfilled in self._removed.items():
            if htlc.offered_by != machine.name or htlc.channel in unsafe:
                continue
            name = f"{machine.name}: HTLC {htlc.id} of {htlc.channel.hex()[:12]}"
            status = paid.get(self._hashes[htlc])
            forward = relayed.get((htlc.channel, htlc.id))
            if forward is not None:
                self._agrees(name, forward, is_fulfilled, unsafe, machine)
            elif is_fulfilled and status is None:
                world.problem(f"{name} was fulfilled, and nobody claimed it from whom it came")
            elif is_fulfilled and status is not PaymentStatus.SUCCEEDED:
                world.problem(f"{name} was fulfilled, but the payment is {status and status.value}")
        ((left,),) = machine.journal.read_now(lambda db: db.execute("SELECT count(*) FROM handoffs").fetchall())
        if left and not unsafe:
            world.problem(f"{machine.name}: {left} outcomes of HTLCs that nobody took up")

    def _agrees(self, name: str, forward: PutForward, is_fulfilled: bool, unsafe: set[bytes], machine: Machine) -> None:
        upstream = bytes(forward.incoming.channel_id)
        if is_fulfilled is not (forward.status is ForwardStatus.SETTLED):
            self._world.problem(f"{name} is fulfilled={is_fulfilled}, the books say {forward.status.value}")
        if upstream in unsafe:
            return
        said = [
            self._removed[one]
            for other in self._world.machines
            if (one := Htlc(other.name, upstream, int(forward.incoming.id))) in self._removed and other is not machine
        ]
        if said and said != [is_fulfilled]:
            self._world.problem(f"{name} is fulfilled={is_fulfilled}, and upstream it was {said}")
        elif not said:
            self._world.problem(f"{name} has an outcome, and upstream nobody was told of it")

    def _off_the_wire(self, machine: Machine) -> set[bytes]:
        """Channels of the machine whose HTLCs may end on the chain, or whose other end lies."""
        world = self._world
        return {
            bytes(one.channel_id)
            for one in records_of(machine)
            if bytes(one.channel_id) in world.forced or has_liar(world, one)
        }
