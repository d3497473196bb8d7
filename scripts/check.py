"""The long form of the tests, in pieces that resume: what `make check` runs.

A piece is a test file with tests marked `check`; it is not run again once it has passed, until a source, a
test or pyproject.toml changes. The last piece is `python -m locum.bench.check`, the measurements, which keep
their own records and resume by themselves. Stop with Ctrl-C, and go on later. The outcome goes to
benchmarks/check.md.

    python scripts/check.py [--again] [WORD]     only pieces whose name holds WORD; --again: passed ones too
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
BENCH = (sys.executable, "-m", "locum.bench.check")
NO_TESTS = 5  # pytest's exit status for "nothing collected"


@dataclass(frozen=True)
class Piece:
    """A command to run, and its name in the table. One that `resumes` by itself is always run."""

    name: str
    command: tuple[str, ...]
    resumes: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a piece ended: `said` is the last line it printed."""

    name: str
    passed: bool
    seconds: float
    said: str


def output_of(command: Sequence[str], root: Path, allowed: tuple[int, ...] = (0,)) -> list[str]:
    """The lines a command prints. Exits with its error when it ends with a status that is not `allowed`."""
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if result.returncode not in allowed:
        sys.exit(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    return result.stdout.splitlines()


def find_pieces(root: Path, bench: Sequence[str]) -> list[Piece]:
    """Every piece there is: test files, then the measurements."""
    pytest = (sys.executable, "-m", "pytest", "-m", "check")
    collected = output_of([*pytest, "--collect-only", "-q"], root, allowed=(0, NO_TESTS))
    files = dict.fromkeys(line.partition("::")[0] for line in collected if "::" in line)
    return [
        *(Piece(file, (*pytest, file)) for file in files),
        Piece("measurements", tuple(bench), resumes=True),
    ]


def fingerprint(root: Path) -> str:
    """Of everything a result depends on: sources, tests, and the project file."""
    digest = hashlib.sha256(platform.python_version().encode())
    paths = [path for folder in ("src", "tests") for path in (root / folder).rglob("*") if path.is_file()]
    for path in sorted([*paths, root / "pyproject.toml"]):
        if "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(root)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def run_piece(piece: Piece, root: Path) -> Outcome:
    """Run one piece, its output passed on as it comes."""
    start, said = time.monotonic(), ""
    with subprocess.Popen(
        piece.command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            said = line.strip() or said
    return Outcome(piece.name, process.returncode == 0, round(time.monotonic() - start, 1), said.strip("= "))


def write_table(outcomes: Sequence[Outcome], missing: int, root: Path, tree: str) -> None:
    """benchmarks/check.md, under a temporary name first."""
    cells = []
    for piece in outcomes:
        verdict, said = "passed" if piece.passed else "**failed**", piece.said.replace("|", "/")
        cells.append(f"| {piece.name} | {verdict} | {piece.seconds:.0f} s | {said} |")
    machine = f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}"
    head = f"`make check` on {machine}"
    text = f"# The long form\n\n{head}; sources {tree}.\n"
    text += f"{missing} more were not run.\n" if missing else ""
    text += "\n".join(["\n| piece | outcome | time | its last line |", "|---|---|---|---|", *cells]) + "\n"
    target = root / "benchmarks/check.md"
    target.parent.mkdir(exist_ok=True)
    part = target.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(target)


def main(arguments: Sequence[str], root: Path = ROOT, bench: Sequence[str] = BENCH) -> int:
    """Run what has not passed yet; 0 when every piece asked for has passed."""
    again = "--again" in arguments
    words = [word for word in arguments if word != "--again"]
    tree = fingerprint(root)
    memory = root / ".cache/check" / tree
    memory.mkdir(parents=True, exist_ok=True)
    pieces = find_pieces(root, bench)
    outcomes = []
    for piece in pieces:
        record = memory / (hashlib.sha256(piece.name.encode()).hexdigest()[:16] + ".json")
        wanted = all(word in piece.name for word in words)
        if record.exists() and not (again and wanted):
            print(f"=== {piece.name}: passed before", flush=True)
            outcomes.append(Outcome(**json.loads(record.read_text(encoding="utf-8"))))
            continue
        if not wanted:
            continue
        print(f"=== {piece.name}", flush=True)
        outcome = run_piece(piece, root)
        outcomes.append(outcome)
        if outcome.passed and not piece.resumes:
            record.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
        write_table(outcomes, len(pieces) - len(outcomes), root, tree)
    write_table(outcomes, len(pieces) - len(outcomes), root, tree)
    failed = [outcome.name for outcome in outcomes if not outcome.passed]
    print(f"=== {len(outcomes) - len(failed)} of {len(pieces)} pieces passed; benchmarks/check.md is written")
    for name in failed:
        print(f"=== FAILED {name}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
