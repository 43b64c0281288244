"""A simulator that finds nothing proves nothing: with a broken promise in the node, a few seeds must show it."""

from dataclasses import replace

from salama.channel.events import HtlcCommitted, PreimageLearned
from salama.node import channel_actor, channels, payments
from salama.node.actor import Actor
from salama.node.switchboard import Switchboard
from salama.payments.records import PutInvoice
from salama.sim.director import Size
from salama.sim.run import run_seed
from salama.storage import queries

ROUGH = Size(nodes=(4, 5), payments=40, seconds=15.0, faults=1.5)
MOST_SEEDS = 6


AT_OUTCOMES = replace(ROUGH, faults=3.0, only=frozenset({"outcome"}))
AT_REVOCATIONS = replace(ROUGH, faults=3.0, only=frozenset({"revocation"}))


def _first_problem(size: Size = ROUGH) -> str:
    for seed in range(1, MOST_SEEDS + 1):
        if problems := run_seed(seed, size, is_hasty=True).problems:
            return problems[0]
    return ""


async def _speaks_before_the_commit(self, events):
    old = self.state
    done = self.turn(old, await self.prepare(events))
    if done.owed:
        done = await self.complete(done)
    self.state = done.state
    for effect in done.effects:
        self.perform(effect)
    await self.journal.commit(self.writes(old, done))
    self.installed(old, done)
    self.finished()


def test_a_node_that_speaks_before_it_has_written(monkeypatch):
    monkeypatch.setattr(Actor, "_one_turn", _speaks_before_the_commit)
    assert _first_problem()


def test_a_node_that_forgets_what_it_passed_on(monkeypatch):
    resume = payments.resume
    monkeypatch.setattr(payments, "resume", lambda pending, origins: resume(pending, {}))
    assert _first_problem()


def test_a_node_that_forgets_htlcs_that_wait_for_a_decision(monkeypatch):
    resume = channels.resume

    def forgetful(record, env):
        done = resume(record, env)
        return replace(done, effects=tuple(e for e in done.effects if not isinstance(e, HtlcCommitted)))

    monkeypatch.setattr(channels, "resume", forgetful)
    assert _first_problem(AT_REVOCATIONS)


def test_a_payee_that_claims_without_writing_it_down(monkeypatch):
    writes = payments.PaymentsActor.writes

    def forgetful(self, old, done):
        return [write for write in writes(self, old, done) if not isinstance(write, PutInvoice)]

    monkeypatch.setattr(payments.PaymentsActor, "writes", forgetful)
    assert "payee paid=False" in _first_problem()


def test_a_node_that_forgets_at_a_start_what_became_of_its_htlcs(monkeypatch):
    monkeypatch.setattr(queries, "handoffs", lambda connection: [])
    assert _first_problem(AT_OUTCOMES)


def test_a_node_that_keeps_a_preimage_in_memory_only(monkeypatch):
    writes = channel_actor.ChannelActor.writes

    def forgetful(self, old, done):
        return [write for write in writes(self, old, done) if not isinstance(write, PreimageLearned)]

    monkeypatch.setattr(channel_actor.ChannelActor, "writes", forgetful)
    assert _first_problem(AT_OUTCOMES)


def test_a_node_that_drops_a_preimage_on_its_way_to_the_payments(monkeypatch):
    handed_over = Switchboard.handed_over

    def deaf(self, handoff):
        if not isinstance(handoff, PreimageLearned):
            handed_over(self, handoff)

    monkeypatch.setattr(Switchboard, "handed_over", deaf)
    assert _first_problem()


def test_a_node_whose_state_is_broken_is_told_of(monkeypatch):
    def broken(self, state, events):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(payments.PaymentsActor, "turn", broken)
    assert "frozen: ZeroDivisionError" in run_seed(1, ROUGH, is_hasty=True).problems[0]
