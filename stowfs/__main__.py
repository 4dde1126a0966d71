"""`python -m stowfs`: the same as the command `stowfs`."""

import sys

from stowfs.cli.main import main

sys.exit(main())
