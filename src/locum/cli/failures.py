"""From an exception to one paragraph on stderr and an exit status."""

import sys
import traceback

from cyclopts import CycloptsError

from locum.errors import LocumError, UsageError

COULD_NOT, ASKED_WRONGLY, STOPPED = 1, 2, 130


def report(error: Exception, *, verbose: bool) -> int:
    """Say what went wrong on stderr, one paragraph, and return the exit status.

    A broken pipe is silent: whoever read us has seen enough. Anything that is neither a `LocumError` nor a
    mistake on the command line is a bug, or the machine failing us; its traceback comes with `-v`.
    """
    if isinstance(error, BrokenPipeError):
        return COULD_NOT
    if isinstance(error, CycloptsError):
        error.verbose = False
        _say(str(error))
        return ASKED_WRONGLY
    if verbose:
        traceback.print_exception(error)
    if isinstance(error, LocumError):
        _say(str(error))
        return ASKED_WRONGLY if isinstance(error, UsageError) else COULD_NOT
    hint = "" if verbose else " Run again with -v for the traceback."
    if isinstance(error, OSError):
        _say(f"{error}.{hint}")
    else:
        _say(f"this should not have happened: {type(error).__name__}: {error}.{hint}")
    return COULD_NOT


def _say(message: str) -> None:
    paragraph = " ".join(message.split())
    print(f"locum: {paragraph}", file=sys.stderr)
