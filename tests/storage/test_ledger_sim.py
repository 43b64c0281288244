from dataclasses import replace
from salama.sim.director import SMALL
from salama.sim.run import run_seed
from salama.sim import invariants
from salama.storage.ledger_check import check, balances

def test_seeds(monkeypatch):
    judge = invariants.judge
    bc = invariants.Books.look
    n=[0,0]
    def blook(self, m):
        bc(self, m)
        n[1]+=1
        if n[1]%150==0 and m.is_up and m.node is not None and m.journal is not None and not m.journal._closed:
                rep = m.journal.read_now(lambda db: check(db)); n[0]+=1
                for p in rep.problems: self._world.problem(f"{m.name}: {p}")
    monkeypatch.setattr(invariants.Books,'look',blook)
    def judged(world, tried):
        judge(world, tried)
        for m in world.machines:
            rep = m.journal.read_now(lambda db: check(db, deep=True))
            for p in rep.problems: world.problem(f"{m.name}: {p}")
            print(m.name, rep.pending, rep.transfers, rep.under_way)
        print({a:b for a,b in m.journal.read_now(balances).items()})
    monkeypatch.setattr(invariants,'judge',judged)
    for seed in (1,2,3,4,5):
        r = run_seed(seed, replace(SMALL, forced=3))
        print(r.line, n); print("\n".join(r.problems))
