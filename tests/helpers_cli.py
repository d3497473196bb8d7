"""Running the command line as people do: in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_QUIET = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "100", "PYTHONUNBUFFERED": "1"}


def environment(**extra: str) -> dict[str, str]:
    """This process's variables without any `LOCUM_*` setting, and with `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LOCUM_")}
    return {**kept, **_QUIET, **extra}


def locum(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `locum ARGUMENTS` in `cwd` with `env` added to the environment."""
    return subprocess.run(
        [sys.executable, "-m", "locum", *arguments],
        cwd=cwd,
        env=environment(**(env or {})),
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def locum_with_session(body: str, *arguments: str) -> list[str]:
    """The command that runs `locum ARGUMENTS` with `body` as the body of `session.run(options, output)`.

    So the frame around a verb can be tested with any behaviour of the engine, in a process of its own.
    """
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    script = (
        "import sys, types\n"
        "session = types.ModuleType('locum.engine.session')\n"
        "engine = types.ModuleType('locum.engine')\n"
        "engine.session = session\n"
        "sys.modules.update({'locum.engine': engine, 'locum.engine.session': session})\n"
        f"def run(options, output):\n{indented}\n"
        "session.run = run\n"
        "from locum.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    return [sys.executable, "-c", script, *arguments]


def run_session(
    body: str, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `locum_with_session` to its end."""
    return subprocess.run(
        locum_with_session(body, *arguments),
        cwd=cwd,
        env=environment(**(env or {})),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
