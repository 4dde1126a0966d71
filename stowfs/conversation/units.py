"""What a format hands to the segmenter: the units of a conversation, one after another.

A unit (a message, a line, a turn) is a stretch of bytes after whose end a run may end. It begins where the one before
it ended. A generator of units looks at nothing before the offset it is started at, and gives a unit only once no later
byte can change it. The segmenter starts a new generator at every cut; therefore cutting can go on from any cut without
the bytes before it.
"""

import sys
from typing import NamedTuple

BEYOND = sys.maxsize
"""The end of a unit that is longer than a run may be. The generator goes on, where it can, with the parts of it."""


class Unit(NamedTuple):
    """A stretch of bytes that ends at the offset `end` (exclusive).

    `messages` is how many messages end with it. `shared_from` is set for a block that whole fleets share (a system
    prompt, the schemas of the tools): the offset at which a cut sets it apart from what comes before it.
    """

    end: int
    messages: int = 0
    shared_from: int | None = None


TOO_LONG = Unit(BEYOND)
