"""Under which ids it was tried to commit a draft, and what it was each time: who finds one of them in the store knows
how much of the draft is there.

An id stays until it is known what became of it, for good: nobody may be able to tell whether a commit whose answer was
not seen took effect.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from stowfs.vault.manifest import Snapshot
from stowfs.vault.overlay import Mark
from stowfs.vault.ring import Verdict


@dataclass(frozen=True, slots=True)
class Plan:
    """A commit of a draft that nobody has tried yet: its id, and what it is to store."""

    commit: str
    mark: Mark


@dataclass(frozen=True, slots=True)
class Attempt:
    """A commit of a draft whose answer was not seen: its id, and what the draft was. `certain`: it took effect; else
    nobody can tell."""

    commit: str
    mark: Mark
    certain: bool = True


class Beside(msgspec.Struct, frozen=True, array_like=True):
    """Where a draft that lost is kept, or may be by now: the path of the copy, and what the draft was."""

    path: str
    mark: Mark


class Attempts:
    """The attempts of one draft, by commit id; and the last one to keep it `beside` what won."""

    def __init__(self, known: Mapping[str, Mark] | None = None, beside: Beside | None = None) -> None:
        self._marks = dict(known or {})
        self.beside = beside

    def __bool__(self) -> bool:
        """Whether some state of the draft may be in the store already."""
        return bool(self._marks)

    def copy(self) -> "Attempts":
        """The same, independent of them."""
        return Attempts(self._marks, self.beside)

    def begin(self, commit: str, mark: Mark) -> None:
        """The draft is about to be committed under this id, as it is at `mark`."""
        self._marks[commit] = mark

    def failed(self, commit: str) -> None:
        """The attempt under this id did not take effect, and never will."""
        self._marks.pop(commit, None)

    def go_back(self, tried: "Attempts", changes: int) -> None:
        """Forgets the attempts of states after the one of this number; `tried`: those there were at that."""
        self._marks = {commit: mark for commit, mark in self._marks.items() if mark.changes <= changes}
        if self.beside is not None and self.beside.mark.changes > changes:
            self.beside = tried.beside

    def was(self, plan: Plan) -> bool:
        """Whether what was tried last under the id of the plan is what was planned."""
        return self._marks.get(plan.commit) == plan.mark

    def with_plan(self, plan: Plan | None) -> dict[str, Mark]:
        """All of them, and the one that is planned, as the journal keeps them."""
        return self._marks | {plan.commit: plan.mark} if plan else dict(self._marks)

    def last_in(self, version: Snapshot, base: Snapshot | None) -> Attempt | None:
        """The last attempt that took effect in `version` or before it, and not before `base`.

        Attempts that it shows to have failed are forgotten, where what they were to replace is gone for good.
        """
        ring = version.manifest.ring
        known = base.manifest.ring.recent if base else ()
        happened, doubtful = [], []
        for commit, mark in list(self._marks.items()):
            if commit in known:
                continue
            match ring.verdict(commit):
                case Verdict.HAPPENED:
                    happened.append(commit)
                case Verdict.DID_NOT_HAPPEN:
                    if mark.over != version.etag:
                        del self._marks[commit]
                case Verdict.UNKNOWN:
                    doubtful.append(commit)
        if happened:
            # By the order in the ring: a clock may have been set back between them.
            last = max(happened, key=ring.recent.index)
            return Attempt(last, self._marks[last])
        return Attempt(max(doubtful), self._marks[max(doubtful)], certain=False) if doubtful else None

    def doubtful(self, version: Snapshot, base: Snapshot | None) -> list[Attempt]:
        """Those of which `version` does not tell whether they took effect in it, or before it and not before `base`."""
        ring = version.manifest.ring
        known = base.manifest.ring.recent if base else ()
        return [
            Attempt(commit, mark, certain=False)
            for commit, mark in self._marks.items()
            if commit not in known and ring.verdict(commit) is Verdict.UNKNOWN
        ]

    def may_replace(self, version: Snapshot | None) -> bool:
        """Whether one of them may still take effect, in the place of `version` (None: of nothing)."""
        over = version.etag if version is not None else None
        return any(mark.over == over for mark in self._marks.values())

    def forget(self, version: Snapshot) -> None:
        """All attempts so far are in `version`, or failed for good, but for those to replace it."""
        self._marks = {commit: mark for commit, mark in self._marks.items() if mark.over == version.etag}
