"""`locum doctor`: what is installed, what is fast, what is missing and how to get it."""

from dataclasses import asdict
from pathlib import Path

from rich.table import Table
from rich.text import Text

from locum.cli.checks import Check, all_checks
from locum.cli.output import DEFAULT, Output, OutputOptions
from locum.errors import UsageError

_STYLES = {"ok": "green", "warn": "yellow", "bad": "red"}


def doctor(
    folder: Path = Path(),
    /,
    *,
    output_options: OutputOptions = DEFAULT,
) -> int:
    """Check this machine: what is installed, how fast memory and disk are, and what to mend.

    Measures what has not been measured before, a few seconds. The exit status is 1 when something is bad.

    Parameters
    ----------
    folder
        Where the models lie: its disk is the one measured.
    """
    with Output(output_options) as output:
        if not folder.exists():
            raise UsageError("no such folder", got=repr(str(folder)))
        with output.working("checking; memory and disk are measured once, which takes a few seconds"):
            checks = all_checks(folder)
        output.result({"checks": [asdict(check) for check in checks]})
        output.show(_page(checks))
    return 1 if any(check.status == "bad" for check in checks) else 0


def _page(checks: list[Check]) -> Table:
    page = Table.grid(padding=(0, 2))
    for check in checks:
        status = Text(check.status, style=_STYLES[check.status])
        page.add_row(status, Text(check.name), Text(check.value))
        if check.todo:
            page.add_row("", "", Text(check.todo, style="dim"))
    return page
