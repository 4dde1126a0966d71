"""What a request does to the store, whoever sends it: conditions, ETags that go out of date, writes that land."""

from tests.model.state import Commit, Flight, Guards, Kind, Obj, Pc, Phase, Plan, Scenario, State, Writer

# The number of the segment record among the objects; manifests are numbered from 1.
RECORD = 0

Step = tuple[str, State]


class Store:
    """One scenario under some guards; what all its actors share."""

    def __init__(self, scenario: Scenario, guards: Guards) -> None:
        self.scenario = scenario
        self.guards = guards

    def _commit(self, i: int, w: Writer) -> Commit:
        return self.scenario.writers[i][w.step]

    @staticmethod
    def _lands(plan: Plan | None, obj: Obj) -> bool:
        """Whether the condition of a planned PUT holds now. A plan whose ETag is out of date has become None."""
        return plan is not None and (not plan.on_absent or obj.kind is Kind.ABSENT)

    def _outlives(self, plan: Plan | None) -> bool:
        """Whether a plan can still land after its object was written: "is absent" comes true again after a purge."""
        return plan is not None and plan.on_absent and self.scenario.purge

    def _write(self, state: State, target: int, new: Obj) -> State:
        """One successful PUT: everything that was planned on the ETag before becomes void."""
        objs = (*state.objs[:target], new, *state.objs[target + 1 :])
        writers = []
        for i, w in enumerate(state.writers):
            if w.base is not None and self._commit(i, w).key == target and not self._outlives(w.base):
                w = w._replace(base=None)
            if w.plan is not None and self._target(i, w) == target and not self._outlives(w.plan):
                w = w._replace(plan=None)
            writers.append(w)
        flights = tuple(f for f in state.flights if f.target != target or self._outlives(f.plan))
        collector = state.collector._replace(plan=None) if target == RECORD else state.collector
        return state._replace(objs=objs, writers=tuple(writers), flights=flights, collector=collector)

    def _target(self, i: int, w: Writer) -> int:
        return self._commit(i, w).key if w.pc is Pc.FENCE_PUT else RECORD

    def _land(self, state: State, target: int, plan: Plan, i: int, step: int) -> State:
        """A PUT takes effect; for a commit (`step` >= 0) this is noted for the checker."""
        state = self._write(state, target, plan.new)
        if step < 0:
            return state
        w = state.writers[i]
        if w.applied or w.step != step or w.phase is not Phase.WRITTEN:
            return state._replace(fault="commit took effect twice or after it was rolled back")
        return self._set(state, i, w._replace(applied=True))

    @staticmethod
    def _set(state: State, i: int, writer: Writer) -> State:
        return state._replace(writers=(*state.writers[:i], writer, *state.writers[i + 1 :]))

    def _fly(self, state: State, flight: Flight, i: int, w: Writer) -> State:
        return self._set(state._replace(flights=tuple(sorted((*state.flights, flight)))), i, w)

    @staticmethod
    def _name(target: int) -> str:
        return "record" if target == RECORD else f"manifest {target}"
