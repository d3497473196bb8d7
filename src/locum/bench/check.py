"""The long measurements, in pieces that resume.

    python -m locum.bench.check [PIECE ...] [--list] [--again] [--keep DIR] [--out DIR]

Without names, every piece. A piece whose record in DIR (`benchmarks`) was made by these very sources and
met its targets is not run again, unless `--again`. Checkpoints of up to 14 GB are made in a temporary
folder, see TMPDIR, and removed at the end; `--keep DIR` makes and leaves them there. Exit status 1 when a
target is missed.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from locum.bench.facts import sources_hash
from locum.bench.pieces import PIECES
from locum.bench.record import Result, load, save
from locum.bench.workshop import Workshop, say
from locum.errors import LocumError


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m locum.bench.check", description=__doc__.splitlines()[0])
    parser.add_argument("pieces", nargs="*", choices=[*PIECES, []], metavar="PIECE", help=", ".join(PIECES))
    parser.add_argument("--list", action="store_true", help="print the names of the pieces, and do nothing")
    parser.add_argument("--again", action="store_true", help="also run pieces that are on record")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="make the checkpoints here, and leave them")
    parser.add_argument("--out", type=Path, default=Path("benchmarks"), metavar="DIR", help="for the records")
    return parser.parse_args(arguments)


def _on_record(out: Path, piece: str, sources: str) -> Result | None:
    found = load(out, piece)
    return found[0] if found is not None and found[1] == sources and found[0].met else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the pieces asked for; 0 when all met their targets."""
    asked = _parse(arguments)
    if asked.list:
        say("\n".join(PIECES))
        return 0
    sources, met = sources_hash(), True
    with Workshop(asked.keep) as workshop:
        for piece in asked.pieces or PIECES:
            result = None if asked.again else _on_record(asked.out, piece, sources)
            if result is not None:
                say(f"{piece}: on record")
            else:
                say(f"{piece}: measuring")
                result = PIECES[piece](workshop)
                save(asked.out, piece, result, sources)
            for target in result.targets:
                say(f"{piece}: {target.line()}")
            met = met and result.met
    return 0 if met else 1


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    # asked to go, by whoever: what is big and temporary goes first
    for ending in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(ending, _stop)
    try:
        sys.exit(main())
    except LocumError as error:
        sys.stderr.write(f"locum: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("\nlocum: stopped; pieces that are on record stay so\n")
        sys.exit(130)
