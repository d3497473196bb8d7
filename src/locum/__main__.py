"""`python -m locum` is the command `locum`."""

import sys

from locum.cli import main

if __name__ == "__main__":
    sys.exit(main())
