"""The commit protocol of stowfs as a transition system: one segment record, some manifests, every interleaving.

The rules. GET and PUT are single store requests, everything between two of them can be interleaved with anything.
`id in o` means in the ring of o; `push(o, id)` appends to the ring, and what drops out at the other end raises
`o.floor` to its id where that is greater. An object that is absent has an empty ring and `floor = horizon`, an id of
the moment one tombstone period ago (0 while nothing is ever removed physically); whoever creates it writes that floor.
Every body has a new unique commit id, and every write, whatever it changes, carries ring and floor on.

    seen(o, id, doubt):                      # did the operation `id` take effect on o?
        id in o                  -> yes
        id > o.floor             -> no       # not yet: a PUT may be on its way; it dies with the next write to o
        no attempt was unclear   -> no       # `doubt` is false: every attempt so far was answered 412, or none made
        otherwise                -> unknown  # an attempt timed out, or the process has been restarted since

    acquire(row):                            # one reference for this commit; ids A (acquire) and R (release)
        loop: r = GET record
              A in r                    -> break
              r live                    -> PUT If-Match:      live(n + 1), push A
              r dead or absent          -> upload the payload under a fresh revision key (or inline);
                                           PUT If-Match/-None-Match: live(1) with that payload, push A
              answered 2xx              -> break
              (unknown counts as no: acquiring twice is too high, never too low)
        delete own revision keys that the record just seen or written does not name

    release(row, certain):                   # certain: the reference is known to have been acquired
        loop: r = GET record
              seen(r, R, doubt) is not no      -> break        # done, or perhaps done: never twice
              certain or A in r                -> PUT live(n - 1), push R
              A <= r.floor                     -> break        # perhaps never acquired
              otherwise                        -> PUT r unchanged (absent: dead), push R   # cancel: a late acquire dies
              answered 2xx                     -> break

    collect: r = GET record; live(0) past the grace period -> PUT If-Match: dead, ring and floor kept, no payload;
             answered 2xx -> delete the blob the record named. Unclear -> leave it.

    purge:   dead record, or tombstone without references, not written to for a tombstone period, which is longer than
             any request or any time between a GET and its PUT can last -> DELETE If-Match. Never unconditionally.

    commit(row, target):                     # delete is a commit of a tombstone; so are trash, expiry and fences
        m = GET manifest                     # the base
     again:
        m is not what the operation demands  -> lose(row)
        held    = held or (target refers to the segment and m does not)
        surplus = m.refs + held - target.refs
        journal base ETag, held, surplus; phase recorded where an acquire is to be done, else written
        acquire(row) where held;  journal phase written
        PUT target If-Match/-None-Match base, ring of m (also into and out of tombstones), push C
        answered 2xx -> committed(row)
     look:
        m = GET manifest; moved = (m.etag != base; where the base was "absent": m is there)
        C in m                               -> committed(row)
        did = seen(m, C, doubt), but "no" where the base had an ETag and m still has it
        moved, unknown                       -> remove row, release nothing, report an error
        moved, no                            -> every attempt is dead: again (doubt = false), or lose(row)
        not moved, no                        -> again (doubt stays), or fence
        not moved, unknown                   -> fence
     fence:
        PUT m unchanged (absent: a tombstone) If-Match/-None-Match base
        answered 2xx                         -> did is no: lose(row); unknown: remove row, release nothing
        otherwise                            -> look

    committed(row): journal phase updated; acknowledge; release(row, certain) where surplus; remove row
    lose(row):      journal phase lost; release(row, certain = the acquire was confirmed) where held; remove row

    recover(row), every step with doubt:
        recorded -> no manifest PUT of this row can land: commit again from the spool with the same ids, or lose(row)
        written  -> look
        updated  -> release(row, certain) where surplus
        lost     -> release(row, certain as journalled) where held

Rename is one row with two commits: the new name (acquire), then a tombstone for the old one (release).
"""

from collections.abc import Iterator
from typing import Literal

from tests.model.collector import Surroundings
from tests.model.state import KEEP, Flight, Kind, Obj, Pc, Phase, Plan, State, When, Writer
from tests.model.store import RECORD, Step

ABSENT = Obj(Kind.ABSENT)
# Ids of the steps of one writer must not meet those of the next; a rename has two steps.
STEPS_PER_WRITER = 4
# The blob id of everybody where revision keys are taken out: a key derived from the content alone.
SHARED_BLOB = 1

Seen = Literal["yes", "no", "unknown"]


class Model(Surroundings):
    """The transition system of one scenario under some guards."""

    def initial(self) -> State:
        """The state in which nobody has done anything."""
        count = sum(m.refs for m in self.scenario.manifests)
        record = Obj(Kind.LIVE, count) if count else ABSENT
        return State(
            objs=(record, *self.scenario.manifests),
            writers=tuple(Writer() for _ in self.scenario.writers),
            crashes=self.scenario.crashes,
            losses=self.scenario.losses,
        )

    def successors(self, state: State) -> Iterator[Step]:
        """Every state one step away, and what the step is called."""
        for i, writer in enumerate(state.writers):
            if writer.pc is not Pc.DONE:
                for label, after in self._writer_steps(state, i, writer):
                    yield f"writer {i}: {label}", after
        yield from self._network_steps(state)
        if self.scenario.collect:
            yield from self._collector_steps(state)
        if self.scenario.purge:
            yield from self._purge_steps(state)

    def quiescent(self, state: State) -> bool:
        """No journal row, nothing on its way."""
        return not state.flights and all(w.pc is Pc.DONE for w in state.writers)

    def violations(self, state: State) -> tuple[str, ...]:
        """The names of the invariants that do not hold."""
        record, *manifests = state.objs
        references = sum(m.refs for m in manifests)
        broken = [state.fault] if state.fault else []
        if references and (record.kind is not Kind.LIVE or record.refs < references):
            broken.append("count too low")
        if references and record.kind is Kind.LIVE and record.mark and record.mark not in state.blobs:
            broken.append("payload missing")
        exact = not any(o.floor for o in state.objs)
        if exact and record.refs != references and self.quiescent(state):
            broken.append("count inexact at rest")
        for i, w in enumerate(state.writers):
            if w.phase is Phase.UPDATED and not self._is_there(state, i, w):
                broken.append("acknowledged commit is not there")
        return tuple(broken)

    def _is_there(self, state: State, i: int, w: Writer) -> bool:
        """Whether an acknowledged commit took effect, and its content is there unless another commit's content is."""
        commit = self._commit(i, w)
        m = state.objs[commit.key]
        if not w.applied or not m.mark:
            return False
        if m.mark != self._ids(i, w)[2]:
            return True
        return m.kind is commit.kind or (m.kind is Kind.ABSENT and commit.kind is Kind.DEAD)

    @staticmethod
    def _ids(i: int, w: Writer) -> tuple[int, int, int]:
        """The ids of acquire, release and commit of the present step."""
        n = i * STEPS_PER_WRITER + w.step
        return 2 * n + 1, 2 * n + 2, n + 1

    def _seen(self, obj: Obj, op: int, doubt: bool) -> Seen:
        if op in obj.ring:
            return "yes"
        return "unknown" if doubt and op <= obj.floor and self.guards.floor_rule else "no"

    def _push(self, obj: Obj, op: int, capacity: int) -> tuple[tuple[int, ...], int]:
        ring = (*obj.ring, op)
        dropped = ring[:-capacity]
        return ring[-capacity:], max(obj.floor, *dropped) if dropped else obj.floor

    # Steps of a writer

    def _writer_steps(self, state: State, i: int, w: Writer) -> Iterator[Step]:
        match w.pc:
            case Pc.OPEN:
                yield "GET manifest (base)", self._set(state, i, self._open(i, w, state.objs[self._commit(i, w).key]))
            case Pc.ACQUIRE_GET:
                yield self._acquire(state, i, w)
            case Pc.COMMIT_GET:
                yield from self._look(state, i, w)
            case Pc.RELEASE_GET:
                yield self._release(state, i, w)
            case _:
                yield from self._put(state, i, w)
        if state.crashes and w.phase is not Phase.NONE:
            yield from self._crash(state, i, w)

    def _open(self, i: int, w: Writer, m: Obj, *, doubt: bool = False) -> Writer:
        """Journals a commit on the base `m`, and plans it."""
        commit = self._commit(i, w)
        demands = {
            When.ANY: True,
            When.LIVE: m.kind is Kind.LIVE,
            When.NOT_LIVE: m.kind is not Kind.LIVE,
            When.TRASHED: m.kind is Kind.DEAD and m.refs > 0,
        }
        if not demands[commit.when]:
            return self._lose(i, w)
        refs = m.refs if commit.refs == KEEP else commit.refs
        held = int(w.held or refs > m.refs)
        commit_id = self._ids(i, w)[2]
        ring, floor = self._push(m, commit_id, self.scenario.manifest_ring)
        if commit.kind is Kind.DEAD and not self.guards.ring_in_tombstones:
            ring, floor = (), 0
        base = Plan(m.kind is Kind.ABSENT, Obj(commit.kind, refs, ring, floor, commit_id))
        w = w._replace(held=held, surplus=m.refs + held - refs, base=base, plan=None)
        if held and not w.sure and self.guards.acquire_before_commit:
            return w._replace(pc=Pc.ACQUIRE_GET, phase=Phase.RECORDED, doubt=False)
        return w._replace(pc=Pc.COMMIT_PUT, phase=Phase.WRITTEN, doubt=doubt)

    def _acquire(self, state: State, i: int, w: Writer) -> Step:
        record = state.objs[RECORD]
        op = self._ids(i, w)[0]
        if op in record.ring and self.guards.op_ids:
            return "GET record: own acquire is there", self._acquired(state, i, w)
        ring, floor = self._push(record, op, self.scenario.record_ring)
        count, mark = record.refs + 1, record.mark
        if record.kind is not Kind.LIVE:
            count, mark = 1, 0
            if self.scenario.redirect:
                w = w._replace(uploads=w.uploads + 1)
                mark = self._blob(i, w.uploads)
                state = state._replace(blobs=state.blobs | {mark})
        plan = Plan(record.kind is Kind.ABSENT, Obj(Kind.LIVE, count, ring, floor, mark))
        return "GET record, plan acquire", self._set(state, i, w._replace(pc=Pc.ACQUIRE_PUT, plan=plan))

    def _blob(self, i: int, upload: int) -> int:
        return 10 * (i + 1) + upload if self.guards.revision_keys else SHARED_BLOB

    def _acquired(self, state: State, i: int, w: Writer) -> State:
        state = self._drop_own_blobs(state, i, w)
        w = w._replace(sure=True, plan=None, doubt=False)
        if w.phase is Phase.UPDATED:  # only where acquire_before_commit is taken out
            return self._set(state, i, self._committed(i, w))
        return self._set(state, i, w._replace(pc=Pc.COMMIT_PUT, phase=Phase.WRITTEN))

    def _drop_own_blobs(self, state: State, i: int, w: Writer) -> State:
        own = {self._blob(i, n + 1) for n in range(w.uploads)} - {state.objs[RECORD].mark}
        return state._replace(blobs=state.blobs - own) if own & state.blobs else state

    def _look(self, state: State, i: int, w: Writer) -> Iterator[Step]:
        m = state.objs[self._commit(i, w).key]
        moved = not self._lands(w.base, m)
        match self._outcome(i, w, m, moved):
            case "yes":
                yield "GET manifest: own commit is there", self._set(state, i, self._committed(i, w))
                return
            case "unknown" if moved or not self.guards.unknown_is_fenced:
                forgotten = self._forget(w)
                yield "GET manifest: outcome unknown, release nothing", self._set(state, i, forgotten)
                return
            case "no":
                again = self._open(i, w, m, doubt=w.doubt and not moved)
                base = "moved" if moved else "unchanged"
                yield f"GET manifest: not committed, base {base}, again", self._set(state, i, again)
        if moved or not self.guards.fence:
            yield "GET manifest: not committed, roll back", self._set(state, i, self._lose(i, w))
        else:
            kind = m.kind if m.kind is not Kind.ABSENT and self.guards.fence_keeps_content else Kind.DEAD
            fence = w._replace(pc=Pc.FENCE_PUT, plan=Plan(m.kind is Kind.ABSENT, m._replace(kind=kind)))
            yield "GET manifest: not committed, plan fence", self._set(state, i, fence)

    def _outcome(self, i: int, w: Writer, m: Obj, moved: bool) -> Seen:
        """Whether this commit took effect, as far as the manifest `m` tells."""
        seen = self._seen(m, self._ids(i, w)[2], w.doubt)
        # A commit would have changed the ETag. The absence of an object proves nothing where purges happen.
        unchanged = not moved and m.kind is not Kind.ABSENT and self.guards.unknown_is_fenced
        return "no" if seen == "unknown" and unchanged else seen

    def _forget(self, w: Writer) -> Writer:
        """Removes the row of a commit of which nobody can say whether it took effect."""
        return self._done(w._replace(phase=Phase.NONE))

    def _committed(self, i: int, w: Writer) -> Writer:
        w = w._replace(phase=Phase.UPDATED, base=None, plan=None, doubt=False)
        if w.held and not w.sure:  # only where acquire_before_commit is taken out
            return w._replace(pc=Pc.ACQUIRE_GET)
        if w.surplus:
            return w._replace(pc=Pc.RELEASE_GET)
        return self._next(i, w)

    def _lose(self, i: int, w: Writer) -> Writer:
        w = w._replace(phase=Phase.LOST, base=None, plan=None, doubt=False)
        return w._replace(pc=Pc.RELEASE_GET) if w.held else self._done(w)

    def _next(self, i: int, w: Writer) -> Writer:
        """The end of one commit: the next one of a rename, or the end of the program."""
        if w.phase is Phase.UPDATED and w.step + 1 < len(self.scenario.writers[i]):
            return Writer(step=w.step + 1, uploads=w.uploads)
        return self._done(w)

    @staticmethod
    def _done(w: Writer) -> Writer:
        return Writer(pc=Pc.DONE, phase=w.phase, step=w.step, applied=w.applied)

    def _release(self, state: State, i: int, w: Writer) -> Step:
        record = state.objs[RECORD]
        acquire_id, op, _ = self._ids(i, w)
        if self.guards.op_ids and (seen := self._seen(record, op, w.doubt)) != "no":
            return f"GET record: released already is {seen}", self._released(state, i, w)
        certain = w.sure or w.phase is Phase.UPDATED
        happened = "yes" if certain else self._seen(record, acquire_id, True)
        if happened == "unknown":
            return "GET record: acquired or not is unknown", self._released(state, i, w)
        if happened == "no" and not self.guards.cancel_rewrites:
            return "GET record: never acquired", self._released(state, i, w)
        ring, floor = self._push(record, op, self.scenario.record_ring)
        new = record._replace(ring=ring, floor=floor)
        label = "GET record, plan cancel"
        if happened == "yes":
            label = "GET record, plan release"
            new = new._replace(refs=max(0, record.refs - 1))
            if record.refs == 0:
                state = state._replace(fault="released what nobody holds")
        elif record.kind is Kind.ABSENT:
            new = new._replace(kind=Kind.DEAD)
        plan = Plan(record.kind is Kind.ABSENT, new)
        return label, self._set(state, i, w._replace(pc=Pc.RELEASE_PUT, plan=plan))

    def _released(self, state: State, i: int, w: Writer) -> State:
        return self._set(self._drop_own_blobs(state, i, w), i, self._next(i, w))

    def _put(self, state: State, i: int, w: Writer) -> Iterator[Step]:
        """The planned PUT: 2xx, 412, response lost, or no answer and still on its way."""
        is_commit = w.pc is Pc.COMMIT_PUT
        plan = w.base if is_commit else w.plan
        target = self._commit(i, w).key if is_commit else self._target(i, w)
        what, look = {
            Pc.ACQUIRE_PUT: ("acquire", Pc.ACQUIRE_GET),
            Pc.COMMIT_PUT: ("manifest", Pc.COMMIT_GET),
            Pc.FENCE_PUT: ("fence", Pc.COMMIT_GET),
            Pc.RELEASE_PUT: ("release", Pc.RELEASE_GET),
        }[w.pc]
        if plan is None or not self._lands(plan, state.objs[target]):
            yield f"PUT {what}: 412", self._set(state, i, w._replace(pc=look, plan=None))
            if state.losses:
                unclear = self._set(state, i, w._replace(pc=look, plan=None, doubt=True))
                yield f"PUT {what}: 412, response lost", unclear._replace(losses=state.losses - 1)
            return
        step = w.step if is_commit else -1
        landed = self._land(state, target, plan, i, step)
        w2 = landed.writers[i]
        yield f"PUT {what}: done", self._answered(landed, i, w2, state.objs[target])
        if state.losses:
            lost = self._set(landed, i, w2._replace(pc=look, plan=None, doubt=True))
            yield f"PUT {what}: done, response lost", lost._replace(losses=state.losses - 1)
            waiting = self._fly(state, Flight(target, plan, i, step), i, w._replace(pc=look, plan=None, doubt=True))
            yield f"PUT {what}: no answer, still on its way", waiting._replace(losses=state.losses - 1)

    def _answered(self, state: State, i: int, w: Writer, replaced: Obj) -> State:
        match w.pc:
            case Pc.ACQUIRE_PUT:
                return self._acquired(state, i, w)
            case Pc.COMMIT_PUT:
                return self._set(state, i, self._committed(i, w))
            case Pc.FENCE_PUT:
                unknown = self._outcome(i, w, replaced, False) == "unknown"
                return self._set(state, i, self._forget(w) if unknown else self._lose(i, w))
            case _:
                return self._released(state, i, w)

    def _crash(self, state: State, i: int, w: Writer) -> Iterator[Step]:
        """Ends the process and starts its recovery from the journal row, with the PUT not sent or left on its way."""
        is_commit = w.pc is Pc.COMMIT_PUT
        plan = w.base if is_commit else w.plan
        target = self._commit(i, w).key if is_commit else self._target(i, w)
        left = state._replace(crashes=state.crashes - 1)
        lost = w._replace(plan=None, doubt=True)
        match w.phase:
            case Phase.RECORDED:
                after = {
                    "commit again": lost._replace(pc=Pc.OPEN, base=None),
                    "roll back": self._lose(i, lost)._replace(doubt=True),
                }
            case Phase.WRITTEN:
                after = {"look": lost._replace(pc=Pc.COMMIT_GET)}
            case _:
                again = Pc.ACQUIRE_GET if w.pc in (Pc.ACQUIRE_GET, Pc.ACQUIRE_PUT) else Pc.RELEASE_GET
                after = {"release": lost._replace(pc=again)}
        for how, writer in after.items():
            yield f"crash, recovery will {how}", self._set(left, i, writer)
            if plan is not None and self._lands(plan, state.objs[target]) and (is_commit or w.plan is not None):
                flight = Flight(target, plan, i, w.step if is_commit else -1)
                yield f"crash with the PUT on its way, recovery will {how}", self._fly(left, flight, i, writer)
