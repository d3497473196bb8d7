"""The command line: one file per verb, thin. `main` is the command `locum`.

Nothing here loads torch: the verbs import what they need when they run, so `--help` is instant.
"""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 could not, 2 asked wrongly, 130 stopped.

    `arguments` is `sys.argv[1:]` when left out.
    """
    try:
        from locum.cli.app import run_command

        return run_command(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:  # before there was anybody else to catch it
        return 130
