"""Every order in which the requests of several actors may reach a store, and what may befall each request.

    stage = Stage(MemoryStore())
    actors = {"a": Actor(work_of_a), "b": Actor(work_of_b, recover_b)}
    await stage.play(actors, Script())

An actor is given a line of its own to the store. It waits before each request until a script has chosen it. Time is
that of a mock clock: whoever waits before trying again does so only when nobody else can go on.

    for script in orders(2):            # all of them: each script goes on where the last one left
        trio.run(play, script, clock=MockClock(autojump_threshold=0))
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import trio
import trio.testing

from stowfs.errors import StoreError, StoreUnavailable
from stowfs.store.base import ObjectStore
from stowfs.store.observed import ObservedStore, Operation

T = TypeVar("T")

TROUBLES = ("request lost", "response lost", "late", "crash before", "crash after")
"""What may befall a request. One that is late takes effect some time later, or not at all where it cannot any more."""

Work = Callable[[ObjectStore], Awaitable[object]]


@dataclass(frozen=True)
class Actor:
    """What one host does, and what is done for it after a crash."""

    work: Work
    recover: Work | None = None


@dataclass(frozen=True, slots=True, order=True)
class Move:
    """What happens next: the request of an actor with that `number` is carried out, or `trouble` befalls it; without an
    actor, one that is late lands."""

    actor: str
    trouble: str = ""
    number: int = 0


@dataclass
class Script:
    """Choices, by number: those given, then the first one each time. `widths`: between how many it was, each time.

    At most so many `troubles` befall requests; and so many times another actor goes on than the last one, which could
    have gone on as well (`switches`).
    """

    choices: Sequence[int] = ()
    troubles: int = 0
    switches: int = 1000
    widths: list[int] = field(default_factory=list)

    def choose(self, among: Sequence[Move]) -> Move:
        place = len(self.widths)
        self.widths.append(len(among))
        return among[self.choices[place] % len(among) if place < len(self.choices) else 0]


def orders(switches: int, troubles: int = 0) -> Iterator[Script]:
    """Scripts that take every way there is with so many switches and troubles, if each is played before the next one
    is asked for."""
    choices: list[int] = []
    while True:
        script = Script(tuple(choices), troubles, switches)
        yield script
        assert len(script.widths) >= len(choices), "the same choices have led elsewhere"
        choices += [0] * (len(script.widths) - len(choices))
        while choices and choices[-1] + 1 >= script.widths[len(choices) - 1]:
            choices.pop()
        if not choices:
            return
        choices[-1] += 1


@dataclass
class _Turn:
    actor: str
    chosen: trio.Event = field(default_factory=trio.Event)
    trouble: str = ""


class _Line(ObservedStore):
    """What one actor sees of the store."""

    def __init__(self, inner: ObjectStore, stage: "Stage", actor: str) -> None:
        super().__init__(inner)
        self._stage = stage
        self._actor = actor

    async def _pass(
        self, operation: Operation, key: str, send: Callable[[], Awaitable[T]], *, sent: int = 0, more: bool = False
    ) -> T:
        return await self._stage.request(self._actor, f"{operation} {key}", send)


class Stage:
    """One play. `log`: what was asked for, by whom, and what befell it."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._waiting: dict[int, _Turn] = {}
        self._requests = 0
        self._scopes: dict[str, trio.CancelScope] = {}
        self._late: list[Callable[[], Awaitable[object]]] = []
        self.log: list[str] = []

    async def play(self, actors: dict[str, Actor], script: Script) -> None:
        """Until all actors have ended, and what was late has landed."""
        left, switches, last = script.troubles, script.switches, ""
        async with trio.open_nursery() as nursery:
            for name, actor in actors.items():
                nursery.start_soon(self._act, name, actor.work)
            await trio.testing.wait_all_tasks_blocked()
            while self._scopes:
                if not self._waiting:
                    await trio.sleep(1)
                    await trio.testing.wait_all_tasks_blocked()
                    continue
                # Which of two actors was quicker to ask is not ours to choose.
                moves = sorted(Move(turn.actor, number=number) for number, turn in self._waiting.items())
                if not switches and last in [move.actor for move in moves]:
                    moves = [move for move in moves if move.actor == last]
                if left:
                    moves += [replace(move, trouble=trouble) for move in moves for trouble in TROUBLES]
                if self._late:
                    moves.append(Move(""))
                move = script.choose(moves)
                left -= bool(move.trouble)
                if not move.actor:
                    await self._land()
                    continue
                switches -= move.actor != last and last in [turn.actor for turn in self._waiting.values()]
                last = move.actor
                turn, scope = self._waiting[move.number], self._scopes[move.actor]
                turn.trouble = move.trouble
                if move.trouble == "crash before":
                    scope.cancel()
                else:
                    turn.chosen.set()
                await trio.testing.wait_all_tasks_blocked()
                if scope.cancel_called and (recover := actors[move.actor].recover) is not None:
                    nursery.start_soon(self._act, move.actor, recover)
                    await trio.testing.wait_all_tasks_blocked()
        while self._late:
            await self._land()

    async def request(self, actor: str, what: str, send: Callable[[], Awaitable[T]]) -> T:
        """One request of an actor, when it is its turn."""
        self._requests += 1
        number = self._requests
        turn = self._waiting[number] = _Turn(actor)
        try:
            await turn.chosen.wait()
        finally:
            del self._waiting[number]
        self.log.append(f"{actor}: {what} {turn.trouble}".rstrip())
        match turn.trouble:
            case "request lost":
                raise StoreUnavailable("injected: the request was lost")
            case "late":
                self._late.append(send)
                raise StoreUnavailable("injected: the response was lost, the request is on its way")
            case "response lost":
                await send()
                raise StoreUnavailable("injected: the response was lost")
            case "crash after":
                await send()
                self._scopes[actor].cancel()
                await trio.sleep_forever()
        return await send()

    async def _act(self, name: str, work: Work) -> None:
        with trio.CancelScope() as scope:
            self._scopes[name] = scope
            await work(_Line(self._store, self, name))
        if self._scopes[name] is scope:
            del self._scopes[name]

    async def _land(self) -> None:
        send = self._late.pop(0)
        try:
            await send()
            self.log.append("what was late landed")
        except StoreError as error:
            self.log.append(f"what was late did not land: {error}")
