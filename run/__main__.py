"""`python -m run`: the whole loop on this machine, which is `make run` (`run.loop`)."""

import sys

from run.loop import main

if __name__ == "__main__":
    sys.exit(main())
