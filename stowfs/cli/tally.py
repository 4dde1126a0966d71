"""What a bulk copy did: counted, with every failure and every skipped file."""

import time
import traceback
from dataclasses import dataclass, field

from stowfs.cli.failures import cause, explain
from stowfs.cli.output import counted, note, size
from stowfs.vault.naming import display


@dataclass(slots=True)
class Tally:
    """`errors` and `skips`: name, and reason without it. Each is said on stderr at once."""

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
        """A file or directory could not be copied. Of a defect, the traceback is shown."""
        explained = explain(cause(error))
        # A time that this host cannot have is no defect.
        if explained is None and not isinstance(error, OverflowError):
            traceback.print_exception(error)
        reason = explained[0] if explained else repr(error)
        # An error of a file or an id begins with its name, the latter without the slashes around it.
        for known in (name, display(name.strip("/"))):
            reason = reason.removeprefix(f"{known}: ")
        self.errors.append((name, reason))
        note(reason if reason.startswith(f"{name} ") else f"{name}: {reason}")

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
