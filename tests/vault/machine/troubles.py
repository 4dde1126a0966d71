"""What befalls the requests of a host."""

from stowfs.errors import WriteConflict
from tests.support.faults import FailAfter, FailBefore, Late, Rule, Stall, StallAfter

TROUBLES = [
    "lost answer",
    "lost request",
    "late",
    "away",
    "away, late",
    "away, lost answer",
    "conflict",
    "conflicts",
    "nothing but conflicts",
]
CRASHES = ["crash before", "crash after", "crash, late"]


def rules(trouble: str, nth: int) -> list[Rule]:
    """The rules by which a trouble begins with the `nth` request from now on."""
    away = Rule(FailBefore(), nth=nth + 1, times=None)
    conflict = FailBefore(WriteConflict("injected: two writes at once"))
    match trouble:
        case "lost answer":
            return [Rule(FailAfter(), nth=nth)]
        case "lost request":
            return [Rule(FailBefore(), nth=nth)]
        case "late":
            return [Rule(Late(), nth=nth)]
        case "away":
            return [Rule(FailBefore(), nth=nth, times=None)]
        case "away, late":
            return [Rule(Late(), nth=nth), away]
        case "away, lost answer":
            return [Rule(FailAfter(), nth=nth), away]
        case "conflict":
            return [Rule(conflict, "put", nth=nth)]
        case "conflicts":
            return [Rule(conflict, "put", nth=nth, times=3)]
        case "nothing but conflicts":
            return [Rule(conflict, "put", nth=nth, times=None)]
        case "crash before":
            return [Rule(Stall(), nth=nth)]
        case "crash after":
            return [Rule(StallAfter(), nth=nth)]
        case "crash, late":
            return [Rule(Late(), nth=nth), Rule(Stall(), nth=nth + 1)]
    return []
