"""Write docs/cli.md from the command line itself. `--check` only says whether the file is up to date."""

import inspect
import sys
from pathlib import Path

from cyclopts import App
from cyclopts.argument import Argument

from locum.cli.app import build, find, verbs

TARGET = Path(__file__).parents[1] / "docs/cli.md"

_INTRODUCTION = """\
# The command line

<!-- Written by `make docs`. Change the help texts in src/locum/cli/, not this file. -->

{help}

Every verb exits with 0 when it is done, 1 when it could not do it, 2 when it was asked wrongly, and 130 when
Ctrl-C stopped it. Errors are one paragraph on stderr. With `--json` exactly one JSON object is printed on
stdout, and everything else goes to stderr.

In `locum.toml`, a key stands at the top for every verb that has the flag, or in a verb's table for that verb,
before what stands at the top:

```toml
memory = "8GiB"

[run]
max-tokens = 200
```

A key that is no flag is an error. MODEL, PROMPT and FOLDER are always given on the command line.
"""


def arguments_of(app: App, verb: str) -> list[Argument]:
    """What a verb takes, in order."""
    found = find(app, verb).assemble_argument_collection(
        default_parameter=app.default_parameter, parse_docstring=True
    )
    return [argument for argument in found if argument.parse and not argument.children]


def section(app: App, verb: str) -> str:
    """The chapter about one verb: how to call it, what it does, and a table of what it takes."""
    command = find(app, verb).default_command
    assert command is not None
    text = (inspect.getdoc(command) or "").partition("\nParameters\n")[0].strip()
    usage = (find(app, verb).usage or "").removeprefix("Usage: ")
    rows = []
    for argument in arguments_of(app, verb):
        names = " ".join(f"`{name}`" for name in argument.names)
        metavar = "" if argument.hint is bool else argument.parameter.metavar or ""
        value = " or ".join(f"`{choice}`" for choice in argument.get_choices() or ()) or metavar
        if not argument.name.startswith("-"):
            names, value = f"{argument.name.upper()}", ""
        elif argument.parameter.show_choices is False:
            value = metavar
        said = " ".join((argument.parameter.help or "").split())
        cells = (names, value, said, _default(argument))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    table = "\n".join(["| | value | meaning | default |", "|---|---|---|---|", *rows])
    return f"## locum {verb}\n\n```text\n{usage}\n```\n\n{text}\n\n{table}\n"


def _default(argument: Argument) -> str:
    default = argument.field_info.default
    hidden = argument.parameter.show_default is False or default in (None, argument.field_info.empty)
    return "" if hidden else f"`{default}`"


def page() -> str:
    """The whole of docs/cli.md."""
    app = build()
    return "\n".join(
        [_INTRODUCTION.format(help=app.help.strip()), *(section(app, verb) for verb in verbs(app))]
    )


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
