"""`python -m tests.model [CRASHES LOSSES]`: explores every scenario with these bounds (2 and 1), prints counts.

Exit status 1 where an invariant is violated, with the shortest trace. The default takes three minutes.
"""

import sys
from dataclasses import replace
from time import process_time

from tests.model.explorer import explore
from tests.model.protocol import Model
from tests.model.scenarios import ALL
from tests.model.state import Guards

STATE_LIMIT = 50_000_000


def main(arguments: list[str]) -> int:
    """Explores all scenarios; returns the exit status."""
    crashes, losses = (int(a) for a in arguments) if arguments else (2, 1)
    total = 0
    for scenario in ALL:
        began = process_time()
        deeper = replace(scenario, crashes=crashes, losses=losses)
        result = explore(Model(deeper, Guards()), limit=STATE_LIMIT)
        total += result.states
        print(f"{result.states:>12,} states {process_time() - began:7.1f} s  {scenario.name}", flush=True)
        if result.broken:
            print(f"violated: {', '.join(result.broken)}\n{result.trace}")
            return 1
    print(f"{total:>12,} states in all, every one safe")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
