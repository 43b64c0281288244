"""What users of the machines do: they ask for invoices and pay them, look again after a crash, and write down what they
tried."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from salama.api.methods import Methods
from salama.api.payments_schema import InvoiceParams, Paid, PayParams
from salama.base.ids import PaymentHash
from salama.base.machine import CommandRefused
from salama.node.node import Node
from salama.sim.machine import Machine, MachineDown, within
from salama.sim.world import World
from salama.storage.errors import StorageFault

BIG = 0.1
"""Share of payments for which no single channel of payer or payee is large enough, where there are such."""
SHORT_LIVED = 0.03
"""Share of invoices that may run out before they are paid."""


@dataclass(slots=True)
class Tried:
    """A payment that was asked for."""

    payer: Machine
    payee: Machine
    amount: int
    payment_hash: PaymentHash


class Traffic:
    """Payments between machines, at random moments."""

    def __init__(self, world: World, payments: int, seconds: float) -> None:
        self.world, self._payments, self._seconds = world, payments, seconds
        self.tried: list[Tried] = []
        self.dice = world.dice("traffic")

    async def flows(self) -> None:
        """All of them, and some time for the last ones."""
        pause = self._seconds / self._payments
        paying: list[asyncio.Future[None]] = []
        for _ in range(self._payments):
            payer, payee, amount = self._big() or self._any()
            paying.append(asyncio.ensure_future(self._pay(payer, payee, amount)))
            await asyncio.sleep(self.dice.expovariate(1 / pause))
        await asyncio.wait(paying, timeout=15)

    def _any(self) -> tuple[Machine, Machine, int]:
        payer, payee = self.dice.sample(self.world.machines, 2)
        return payer, payee, int(10 ** self.dice.uniform(3.5, 8.3))

    def _big(self) -> tuple[Machine, Machine, int] | None:
        """A payment that must go in parts."""
        if self.dice.random() >= BIG:
            return None
        payer, payee = self.dice.sample(self.world.machines, 2)
        out, back = _spendable(payer), _receivable(payee)
        one = min(max(out, default=0), max(back, default=0))
        most = int(min(sum(out), sum(back)) * 0.9)
        return (payer, payee, self.dice.randint(one + 1, most)) if most > one else None

    async def _pay(self, payer: Machine, payee: Machine, amount: int) -> None:
        world = self.world
        is_short_lived = self.dice.random() < SHORT_LIVED
        params = InvoiceParams(amount=f"{amount}msat", description="sim", expiry=5 if is_short_lived else 3600)
        try:
            made = await within(20, payee.ask(lambda node: Methods(node).invoice(params)))
        except (MachineDown, TimeoutError, StorageFault):
            world.count("invoices not made")
            return
        tried = Tried(payer, payee, amount, PaymentHash(bytes.fromhex(made.payment_hash)))
        self.tried.append(tried)
        world.note(f"{payer.name}: pays {payee.name} {amount} {made.payment_hash[:12]}")
        if is_short_lived:
            await asyncio.sleep(self.dice.uniform(0, 60))

        async def pay(node: Node) -> Paid:
            return await Methods(node).pay(PayParams(request=made.invoice, timeout=40))

        for _ in range(4):
            try:
                paid = await payer.ask(pay)
            except MachineDown:
                # Like any user: look whether it is paid, and if nothing is under way try again.
                await asyncio.sleep(self.dice.uniform(1, 10))
                continue
            except (CommandRefused, StorageFault) as refused:
                world.note(f"{payer.name}: {made.payment_hash[:12]} {refused}")
                return
            world.note(f"{payer.name}: {made.payment_hash[:12]} {paid.status} {paid.failure_code} {paid.fee_msat}")
            world.count(f"answered {paid.status}")
            return


def _spendable(machine: Machine) -> list[int]:
    if machine.node is None or not machine.is_up:
        return []
    return [int(view.spendable) for view in machine.node.channels.views().values() if view.ready]


def _receivable(machine: Machine) -> list[int]:
    if machine.node is None or not machine.is_up:
        return []
    channels = machine.node.channels
    ready = [channels.by_id[view.channel_id].record for view in channels.views().values() if view.ready]
    return [int(record.funding.local.spec.their_balance) for record in ready if record is not None]
