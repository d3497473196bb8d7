"""Write docs/cli.md from the command line itself. `--check` only says whether the file is up to date."""

import os
import subprocess
import sys
from pathlib import Path

TARGET = Path(__file__).parents[1] / "docs/cli.md"
VERBS = ("inspect", "run", "doctor")

_INTRODUCTION = """\
# The command line

<!-- Written by `make docs`. Change the help texts in src/locum/cli/, not this file. -->

Every verb exits with 0 when it is done, 1 when it could not do it, 2 when it was asked wrongly, and 130 when
Ctrl-C stopped it. Errors are one paragraph on stderr. With `--json` exactly one JSON object is printed on
stdout, and everything else goes to stderr.

Settings come from `locum.toml` in the current folder, then from `LOCUM_*` variables, then from flags; later
ones win. The names are the same: `--max-tokens 200` is `LOCUM_MAX_TOKENS=200`, and in the file

```toml
memory = "8GiB"      # for every verb that has the flag

[run]                # for one verb, before what stands at the top
max-tokens = 200
```

An unknown key in the file is an error. MODEL and PROMPT are always given on the command line.
"""


def help_text(*arguments: str) -> str:
    """What `locum ARGUMENTS --help` prints, 100 columns wide and without colours."""
    command = [sys.executable, "-m", "locum", *arguments, "--help"]
    env = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "PYTHONIOENCODING": "utf-8"}
    result = subprocess.run(command, capture_output=True, encoding="utf-8", env=env, check=True)
    return "\n".join(line.rstrip() for line in result.stdout.strip().splitlines())


def page() -> str:
    """The whole of docs/cli.md."""
    parts = [_INTRODUCTION, "## locum\n", f"```text\n{help_text()}\n```\n"]
    for verb in VERBS:
        parts += [f"## locum {verb}\n", f"```text\n{help_text(verb)}\n```\n"]
    return "\n".join(parts)


def main() -> int:
    """Write the page, or compare it; 1 when `--check` finds it out of date."""
    wanted = page()
    if "--check" in sys.argv[1:]:
        same = TARGET.exists() and TARGET.read_text(encoding="utf-8") == wanted
        print(f"{TARGET.name} is up to date" if same else f"{TARGET.name} is out of date: run `make docs`")
        return 0 if same else 1
    TARGET.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
