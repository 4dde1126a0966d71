"""How often something was done, how long it took, and how it failed."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Outcomes:
    """All of one kind. `seconds`: the time of all together. `errors`: how many failed, by the name of the error."""

    count: int = 0
    seconds: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)

    def note(self, seconds: float, error: str | None) -> None:
        """One more, which took so many seconds."""
        self.count += 1
        self.seconds += seconds
        if error is not None:
            self.errors[error] += 1
