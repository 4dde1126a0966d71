"""What a check finds wrong in a store. Each finding names an object and the conversations it touches."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`key`: the object that is wrong or missing. `conversations`: paths of those (deleted ones too) that it touches;
    empty where it only costs space."""

    key: str
    conversations: tuple[str, ...] = ()

    def describe(self) -> str:
        """What is wrong, for a person."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Dangling(Finding):
    """A segment that is referenced is not there. `collected`: it was, and was given up."""

    digest: str
    collected: bool
    references: int

    def describe(self) -> str:
        how = "was collected" if self.collected else "is missing"
        return f"the segment {how}, and is referenced {_times(self.references)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrupt(Finding):
    """The bytes of a segment, or a reference to them, are not what they should be."""

    digest: str
    reason: str

    def describe(self) -> str:
        return self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingBlob(Finding):
    """A record redirects to a payload that is not there."""

    digest: str

    def describe(self) -> str:
        return "the redirected payload is missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Undecodable(Finding):
    """A manifest, tombstone, record or page that makes no sense. `digest`: the segment of a record or page."""

    reason: str
    digest: str | None = None

    def describe(self) -> str:
        return self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class NewerFormat(Finding):
    """An object that a later stowfs wrote, in a format that this one does not know: nothing is known to be wrong."""

    reason: str

    def describe(self) -> str:
        return self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class LostDictionary(Finding):
    """A dictionary is missing or damaged: what was compressed with it cannot be read."""

    reason: str

    def describe(self) -> str:
        return f"{self.reason}: what was compressed with it cannot be read"


@dataclass(frozen=True, slots=True, kw_only=True)
class CountTooLow(Finding):
    """A segment has more references than were counted: it could be collected while it is needed. `revision`: the ETag
    of the record that says so."""

    digest: str
    counted: int
    references: int
    revision: str

    def describe(self) -> str:
        return f"counted {_times(self.counted)}, referenced {_times(self.references)}: it could be lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class CountTooHigh(Finding):
    """A segment has fewer references than were counted: its space is never given back. `revision` as above."""

    digest: str
    counted: int
    references: int
    revision: str

    def describe(self) -> str:
        return f"counted {_times(self.counted)}, referenced {_times(self.references)}: it wastes space"


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncounted(Finding):
    """A segment had so many references that nobody counts them any more, and has few now. `revision` as above."""

    digest: str
    references: int
    revision: str

    def describe(self) -> str:
        return f"nobody counts it any more, and it is referenced {_times(self.references)}: it wastes space"


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanBlob(Finding):
    """A redirected payload that no record names."""

    size: int

    def describe(self) -> str:
        return f"no record names this payload of {self.size:,} bytes: it wastes space"


@dataclass(frozen=True, slots=True, kw_only=True)
class StrayObject(Finding):
    """An object under a key that stowfs does not write, or does not leave there."""

    size: int
    temporary: bool

    def describe(self) -> str:
        return "left over from a probe that was interrupted" if self.temporary else "stowfs has no such objects"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedUpload(Finding):
    """A multipart upload that was begun long ago and never ended. `started` in seconds since the epoch."""

    upload_id: str
    started: float

    def describe(self) -> str:
        return "an upload that was never finished: it wastes space"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"
