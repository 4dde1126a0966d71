"""What a bulk copy did: counted, with every failure and every skipped file."""

import time
from dataclasses import dataclass, field

from stowfs.cli.failures import explain
from stowfs.cli.output import counted, note, size


@dataclass(slots=True)
class Tally:
    """`errors` and `skips`: name and reason. Each is said on stderr at once."""

    files: int = 0
    directories: int = 0
    bytes: int = 0
    errors: list[tuple[str, str]] = field(default_factory=list)
    skips: list[tuple[str, str]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def copied(self, byte_count: int) -> None:
        """A file of so many bytes was copied."""
        self.files += 1
        self.bytes += byte_count

    def failed(self, name: str, error: Exception) -> None:
        """A file or directory could not be copied."""
        explained = explain(error)
        reason = explained[0] if explained else repr(error)
        self.errors.append((name, reason))
        note(reason if name in reason else f"{name}: {reason}")

    def skipped(self, name: str, reason: str) -> None:
        """Something is not copied, on purpose."""
        self.skips.append((name, reason))
        note(f"{name}: skipped: {reason}")

    def document(self) -> dict[str, object]:
        """For a program. `seconds`: wall time."""
        return {
            "files": self.files,
            "directories": self.directories,
            "bytes": self.bytes,
            "seconds": round(time.monotonic() - self.started, 3),
            "errors": [{"name": name, "error": reason} for name, reason in self.errors],
            "skipped": [{"name": name, "reason": reason} for name, reason in self.skips],
        }

    def line(self) -> str:
        """For a person."""
        rest = [counted(len(self.errors), "error")] if self.errors else []
        rest += [f"{len(self.skips):,} skipped"] if self.skips else []
        done = f"{counted(self.files, 'file')}, {size(self.bytes)} in {time.monotonic() - self.started:.1f} s"
        return ", ".join([done, *rest])
