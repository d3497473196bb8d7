"""`python -m locum.machine FOLDER`: measure this machine's quick figures, 3 s, and keep the result.

A process of its own, because measuring touches half a gigabyte that `--memory` knows nothing of.
"""

import sys
from pathlib import Path

from locum.errors import LocumError
from locum.machine.measuring import measure

if __name__ == "__main__":
    try:
        measure(Path(sys.argv[1]))
    except LocumError as error:
        sys.exit(f"locum: {error}")
