"""The frame around every verb: parsing, configuration, output, errors and exit statuses."""

import os
import sys
from collections.abc import Sequence
from functools import partial
from io import TextIOWrapper

from cyclopts import App, Parameter

from locum import __version__
from locum.cli import config
from locum.cli.doctor import doctor
from locum.cli.evaluate import evaluate
from locum.cli.failures import STOPPED, report
from locum.cli.inspect import inspect
from locum.cli.output import OutputOptions
from locum.cli.pack import pack
from locum.cli.report import report as report_
from locum.cli.run import run
from locum.cli.simulate import simulate
from locum.cli.synth import synth
from locum.cli.trace import build as build_trace

_HELP = """Run Mixture-of-Experts language models in far less memory than they need, bit for bit.

MODEL is a folder in Hugging Face format or a hub id. Sizes are written like 4GiB or 512MiB. Settings come
from the file locum.toml in the current folder, then from LOCUM_* environment variables, then from flags, all
under the same names: `memory = "4GiB"`, `LOCUM_MEMORY=4GiB`, `--memory 4GiB`.
"""


def build() -> App:
    """The whole command line, not yet run."""
    app = App(
        name="locum",
        help=_HELP,
        help_format="markdown",
        version=__version__,
        version_flags=["--version"],
        default_parameter=Parameter(negative=(), show_env_var=False),
        suppress_keyboard_interrupt=False,
    )
    app.command(inspect, usage="Usage: locum inspect MODEL [OPTIONS]")
    app.command(run, usage="Usage: locum run [MODEL] [PROMPT] [OPTIONS]")
    app.command(build_trace())
    app.command(report_, name="report", usage="Usage: locum report TRACE... [-o FILE] [OPTIONS]")
    app.command(simulate, usage="Usage: locum simulate TRACE [OPTIONS]")
    app.command(evaluate, name="eval", usage="Usage: locum eval [MODEL] [OPTIONS]")
    app.command(pack, usage="Usage: locum pack MODEL -o DIR [OPTIONS]")
    app.command(synth, usage="Usage: locum synth SHAPE -o DIR [OPTIONS]")
    app.command(doctor, usage="Usage: locum doctor [FOLDER] [OPTIONS]")
    app.config = (config.from_environment, partial(config.from_file, app))
    return app


def verbs(app: App) -> list[str]:
    """Every verb as it is typed, in the order of the help: `trace`, then `trace import`, and so on."""
    found = []
    for name in app:
        if not name.startswith("-"):
            found += [name, *(f"{name} {below}" for below in verbs(app[name]))]
    return found


def find(app: App, verb: str) -> App:
    """What stands behind a verb of `verbs`."""
    for name in verb.split():
        app = app[name]
    return app


def run_command(arguments: Sequence[str]) -> int:
    """Parse and run one command line. Returns its exit status; errors go to stderr, one paragraph each."""
    _set_environment()
    verbose = False
    try:
        try:
            command, bound, _ = build().parse_args(arguments, exit_on_error=False, print_error=False)
            verbose = any(isinstance(v, OutputOptions) and v.verbose for v in bound.arguments.values())
            status = command(*bound.args, **bound.kwargs)
            sys.stdout.flush()
            return status or 0
        except Exception as error:
            return report(error, verbose=verbose)
    except KeyboardInterrupt:
        print("\nlocum: stopped", file=sys.stderr)
        return STOPPED
    finally:
        _flush_or_drop()


def _set_environment() -> None:
    """What must hold before anything else is loaded or printed."""
    # Idle OpenMP threads should sleep, not spin: the reader threads need the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - closed by whoever started us
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal without UTF-8 shows `?`, not a traceback
            stream.reconfigure(errors="replace")


def _flush_or_drop() -> None:
    """Get rid of what is still buffered for a stdout that nobody reads, or that is full."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
