"""The network, which delivers late, and the collector, which works beside the writers (rules: `protocol`)."""

from collections.abc import Iterator

from tests.model.state import Collector, Flight, Kind, Obj, Pc, Plan, State
from tests.model.store import RECORD, Step, Store


class Surroundings(Store):
    """Every step that is not a writer's."""

    def _network_steps(self, state: State) -> Iterator[Step]:
        idle = all(w.pc is Pc.DONE for w in state.writers)
        for n, flight in enumerate(state.flights):
            rest = state._replace(flights=state.flights[:n] + state.flights[n + 1 :])
            if self._lands(flight.plan, state.objs[flight.target]):
                late = self._land(rest, flight.target, flight.plan, flight.writer, flight.step)
                yield f"late PUT of writer {flight.writer} on {self._name(flight.target)} lands", late
            # A PUT that may still land allows everything that a vanished one does, except rest and purges.
            if idle or self.scenario.purge:
                yield f"late PUT of writer {flight.writer} on {self._name(flight.target)} is lost for good", rest

    def _collector_steps(self, state: State) -> Iterator[Step]:
        record, c = state.objs[RECORD], state.collector
        if c.blob:
            deleted = state._replace(blobs=state.blobs - {c.blob}, collector=c._replace(blob=0))
            yield "collector: DELETE blob", deleted
        elif not c.planned and record.kind is Kind.LIVE and record.refs == 0:
            ring, floor = (record.ring, record.floor) if self.guards.ring_in_dead_records else ((), 0)
            plan = Plan(False, Obj(Kind.DEAD, 0, ring, floor))
            yield "collector: GET record, plan dead", state._replace(collector=c._replace(plan=plan, planned=True))
        elif c.planned and c.plan is None:
            yield "collector: PUT dead: 412", state._replace(collector=c._replace(planned=False))
        elif c.plan is not None:
            dead = self._write(state._replace(collector=Collector()), RECORD, c.plan.new)
            blob = record.mark if self.scenario.redirect else 0
            yield "collector: PUT dead: done", dead._replace(collector=Collector(blob=blob))
            if state.losses:
                yield "collector: PUT dead: done, response lost", dead._replace(losses=state.losses - 1)
                waiting = state._replace(
                    flights=tuple(sorted((*state.flights, Flight(RECORD, c.plan, -1)))),
                    collector=Collector(),
                    losses=state.losses - 1,
                )
                yield "collector: PUT dead: no answer, still on its way", waiting

    def _purge_steps(self, state: State) -> Iterator[Step]:
        purging = state.collector.purging
        if purging >= 0:
            idle = state._replace(collector=state.collector._replace(purging=-1))
            yield f"purge: DELETE {self._name(purging)}", self._purge(idle, purging)
            return
        for target, obj in enumerate(state.objs):
            if obj.kind is not Kind.DEAD or obj.refs or self._purge_must_wait(state, target):
                continue
            if self.guards.conditional_delete:
                yield f"purge: DELETE {self._name(target)} If-Match", self._purge(state, target)
            else:
                looked = state._replace(collector=state.collector._replace(purging=target))
                yield f"purge: GET {self._name(target)}: dead", looked

    def _purge_must_wait(self, state: State, target: int) -> bool:
        """Whether a create of the object is on its way, which the tombstone period is long enough to see the end of."""
        if not self.guards.purge_waits:
            return False
        if any(f.target == target and f.plan.on_absent for f in state.flights):
            return True
        for i, w in enumerate(state.writers):
            base_is_due = w.pc in (Pc.ACQUIRE_GET, Pc.ACQUIRE_PUT, Pc.COMMIT_PUT) and w.base is not None
            if base_is_due and w.base is not None and w.base.on_absent and self._commit(i, w).key == target:
                return True
            if w.plan is not None and w.plan.on_absent and self._target(i, w) == target:
                return True
        return False

    def _purge(self, state: State, target: int) -> State:
        obj = state.objs[target]
        # The least that "one tombstone period ago" can be: later than every id that was applied to what is removed.
        horizon = max(obj.floor, *obj.ring, 0) if self.guards.horizon else 0
        return self._write(state, target, Obj(Kind.ABSENT, 0, (), horizon, obj.mark if target else 0))
