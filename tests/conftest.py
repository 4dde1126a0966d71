"""Fixtures that tests of several layers use."""

import signal

from tests.support.s3_servers import moto, moto_url, rgw, rgw_url

__all__ = ["moto", "moto_url", "rgw", "rgw_url"]

# Who is started in the background by a shell ignores interrupts, and so does all that it starts: whether a command can
# be interrupted must not depend on how its tests were started.
signal.signal(signal.SIGINT, signal.default_int_handler)
