"""Settings from `locum.toml` and from `LOCUM_*` variables, under the names of the flags.

Only flags are settings: MODEL and PROMPT are always given on the command line. In the file, keys stand at the
top (for every verb that has the flag) or in a table named after a verb (for that verb, before the top):

    memory = "8GiB"
    [run]
    max-tokens = 200
"""

import difflib
import tomllib
from pathlib import Path
from typing import Any

from cyclopts import App, ArgumentCollection
from cyclopts.config import Dict, Env

from locum.errors import UsageError

FILE = Path("locum.toml")


def from_environment(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill in the flags that the command line left out from `LOCUM_<FLAG>`. cyclopts calls this."""
    Env("LOCUM_", command=False, source="the environment")(app, commands, _flags(arguments))


def from_file(root: App, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill in the flags still missing from `locum.toml` in the current folder.

    `root` is the whole command line, whose flags are the keys there may be. Raises `UsageError` when the file
    cannot be read, or has a key that is no flag.
    """
    if not FILE.exists():
        return
    try:
        document = tomllib.loads(FILE.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError("the settings cannot be read", where=FILE, got=error) from error
    flags = {name: _names(root, root[name]) for name in root if not name.startswith("-")}
    mine = _long(arguments)
    for settings in _settings(document, flags, commands[0]):
        # a verb's table may hold flags that only another of its commands has
        taken = {key: value for key, value in settings.items() if _flag(key) in mine}
        Dict(taken, source=str(FILE), use_commands_as_keys=False)(app, commands, _flags(arguments))


def _settings(document: dict[str, Any], flags: dict[str, set[str]], verb: str) -> list[dict[str, Any]]:
    """What the file says to `verb`: its own table first, then the keys at the top that it has."""
    tables = {key: document.pop(key) for key in flags if isinstance(document.get(key), dict)}
    everywhere = set[str]().union(*flags.values())
    for table, known, where in [
        (document, everywhere, FILE),
        *((tables[name], flags[name], f"{FILE}, table [{name}]") for name in tables),
    ]:
        unknown = sorted(key for key in table if _flag(key) not in known)
        if unknown:
            close = difflib.get_close_matches(_flag(unknown[0]), known, n=1)
            hint = (
                f"The nearest flag is `{close[0]}`" if close else "See the flags of each verb in its --help"
            )
            raise UsageError(f"unknown key `{unknown[0]}`", where=where, todo=hint)
    top = {key: value for key, value in document.items() if _flag(key) in flags[verb]}
    return [tables.get(verb, {}), top]


def _flag(key: str) -> str:
    return key.replace("_", "-")


def _names(root: App, verb: App) -> set[str]:
    """The long names of a verb's flags, without dashes, those of its commands included."""
    found = _long(verb.assemble_argument_collection(default_parameter=root.default_parameter))
    return found.union(*(_names(root, verb[name]) for name in verb if not name.startswith("-")))


def _long(arguments: ArgumentCollection) -> set[str]:
    """The long names of flags, without dashes."""
    return {name[2:] for argument in _flags(arguments) for name in argument.names if name.startswith("--")}


def _flags(arguments: ArgumentCollection) -> ArgumentCollection:
    """Those of `arguments` that have a flag, which the positional ones do not."""
    return ArgumentCollection(a for a in arguments if a.parse and any(n.startswith("--") for n in a.names))
