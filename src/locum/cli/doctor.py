"""`locum doctor`: what is installed, what is fast, what is missing and how to get it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from locum.cli.checks import Check, all_checks
from locum.cli.measured import measured_pages
from locum.cli.output import DEFAULT, Output, OutputOptions
from locum.errors import LocumError, UsageError
from locum.machine.kernels import child_rates
from locum.machine.measuring import complete, lacks
from locum.machine.profile import MachineProfile, changes, load_cached

_STYLES = {"ok": "green", "warn": "yellow", "bad": "red"}


def doctor(
    folder: Path = Path(),
    /,
    *,
    again: Annotated[bool, Parameter(show_default=False)] = False,
    output_options: OutputOptions = DEFAULT,
) -> int:
    """Check this machine: what is installed, how fast memory, disk and kernels are, and what to mend.

    Measures what has not been measured before, or has changed since: half a minute. The exit status is 1 when
    something is bad.

    Parameters
    ----------
    folder
        Where the models lie: its disk is the one measured.
    again
        Measure everything anew.
    """
    with Output(output_options) as output:
        if not folder.exists():
            raise UsageError("no such folder", got=repr(str(folder)))
        profile = _profile(folder, again, output)
        checks = all_checks(folder, profile)
        measured = profile if isinstance(profile, MachineProfile) else None
        output.result(
            {
                "checks": [asdict(check) for check in checks],
                "machine": None if measured is None else asdict(measured),
            }
        )
        output.show(_page(checks), *([] if measured is None else measured_pages(measured)))
    return 1 if any(check.status == "bad" for check in checks) else 0


def _profile(folder: Path, again: bool, output: Output) -> MachineProfile | LocumError:
    """What is known of the machine, measured now where it is not; or why it cannot be."""
    kept = None if again else load_cached(folder)
    if kept is not None and not lacks(kept, kernels_too=True):
        return kept
    if kept is None and not again:
        for change in changes(folder):
            output.note(f"measured before, but not as it is now: {change}")
    try:
        with output.counting("measuring disk, memory and kernels (once)", 100) as heard:
            return complete(
                folder,
                lambda what, share: heard(int(share * 100)),
                other_kernels=lambda: child_rates("locum.kernels.rates"),
                again=again,
            )
    except LocumError as error:
        return error


def _page(checks: list[Check]) -> Table:
    page = Table.grid(padding=(0, 2))
    for check in checks:
        status = Text(check.status, style=_STYLES[check.status])
        page.add_row(status, Text(check.name), Text(check.value))
        if check.todo:
            page.add_row("", "", Text(check.todo, style="dim"))
    return page
