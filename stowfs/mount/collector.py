"""Spares Python's cycle collector work that it does in vain.

What a daemon makes has no cycles, but for an error now and then: what is thrown away is freed at once. The collector
nevertheless looks at everything each time that there is a quarter more of it, all modules included, and at what is new
each time that there are 700 objects of it.
"""

import gc

NEW_OBJECTS = 5000
"""Containers made and not freed since, after which the collector looks at them: what some requests at once need. With
this and without the modules it takes two per cent of what copying many small files costs, instead of five."""


def spare_collector() -> None:
    """Once everything is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])
