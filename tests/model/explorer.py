"""Breadth-first search over all reachable states, with a visited set of packed states and shortest traces.

A state is packed into one integer: each of its components is numbered when it is first met. The visited set maps every
packed state to its predecessor, and a trace is rebuilt by following these and asking the model for the labels again.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

from tests.model.protocol import Model
from tests.model.state import Kind, Obj, State

# Distinct values one component may take: far more than fit into memory along with the states made of them.
COMPONENT_BITS = 24


class StateLimit(Exception):
    """The search met more states than it was allowed to."""


@dataclass(frozen=True, slots=True)
class Result:
    """How many states were met, and the shortest way to a violation, if there is one."""

    states: int
    broken: tuple[str, ...] = ()
    trace: str = ""


class Packer:
    """Numbers the components of states, so that a state is one integer."""

    def __init__(self, example: State) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._values: list[Hashable] = []
        self._objs = len(example.objs)
        self._writers = len(example.writers)

    def pack(self, state: State) -> int:
        """The integer that stands for `state`."""
        rest = state[2:]
        packed = 0
        for part in (*state.objs, *state.writers, rest):
            number = self._numbers.get(part)
            if number is None:
                number = self._numbers[part] = len(self._values)
                self._values.append(part)
            packed = packed << COMPONENT_BITS | number
        return packed

    def unpack(self, packed: int) -> State:
        """The state behind an integer that `pack` gave."""
        parts = []
        for _ in range(self._objs + self._writers + 1):
            parts.append(self._values[packed & ((1 << COMPONENT_BITS) - 1)])
            packed >>= COMPONENT_BITS
        rest, *others = parts
        others.reverse()
        return State(tuple(others[: self._objs]), tuple(others[self._objs :]), *rest)  # type: ignore[arg-type,misc]


def explore(model: Model, *, wanted: str = "", limit: int = 5_000_000) -> Result:
    """Visits every state until one violates an invariant (that named `wanted`, if given).

    Raises StateLimit after `limit` states: a search that was cut short proves nothing.
    """
    start = model.initial()
    packer = Packer(start)
    first = packer.pack(start)
    previous: dict[int, int | None] = {first: None}
    queue = deque([first])
    while queue:
        packed = queue.popleft()
        for _, state in model.successors(packer.unpack(packed)):
            key = packer.pack(state)
            if key in previous:
                continue
            previous[key] = packed
            broken = model.violations(state)
            if broken and (not wanted or wanted in broken):
                return Result(len(previous), broken, _trace(model, packer, previous, key))
            queue.append(key)
        if len(previous) > limit:
            raise StateLimit(f"{model.scenario.name}: more than {limit:,} states")
    return Result(len(previous))


def _trace(model: Model, packer: Packer, previous: dict[int, int | None], key: int) -> str:
    """The steps from the initial state to `key`, one per line, each with the objects it leaves."""
    lines: list[str] = []
    while (before := previous[key]) is not None:
        label = next(text for text, state in model.successors(packer.unpack(before)) if packer.pack(state) == key)
        lines.append(f"{label:<76} {_objects(packer.unpack(key))}")
        key = before
    lines.append(f"{'at first':<76} {_objects(packer.unpack(key))}")
    return "\n".join(f"{n:>3}  {line}" for n, line in enumerate(reversed(lines)))


def _objects(state: State) -> str:
    record, *manifests = state.objs
    shown = [f"S={_object(record)}", *(f"K{n}={_object(m)}" for n, m in enumerate(manifests, 1))]
    return " ".join(shown) + (f" FAULT: {state.fault}" if state.fault else "")


def _object(obj: Obj) -> str:
    if obj.kind is Kind.ABSENT:
        return "absent"
    floor = f" floor {obj.floor}" if obj.floor else ""
    return f"{obj.kind.name.lower()}({obj.refs} ring {list(obj.ring)}{floor})"
