"""Where a verb's words go: results to stdout; notes, progress and errors to stderr."""

import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Annotated, Self, TextIO

from cyclopts import Group as FlagGroup
from cyclopts import Parameter
from rich.console import Console, Group, RenderableType
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

_FLAG = Parameter(show_default=False)
_LOG = logging.getLogger("locum")
_LINES = 4


@Parameter(name="*", group=FlagGroup("Output", sort_key=90))
@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """The flags that every verb has."""

    json: Annotated[bool, _FLAG] = False
    """Print exactly one JSON object on stdout, and everything else on stderr."""

    quiet: Annotated[bool, _FLAG] = False
    """Print the result and warnings only."""

    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"], show_default=False)] = False
    """Say more on stderr, and show the traceback of an unexpected error."""


DEFAULT = OutputOptions()


class Output:
    """Carries `OutputOptions` out, as a context manager around a verb's work.

    With `--json` everything that writes to stdout meanwhile, C libraries included, is sent to stderr instead,
    and the one document given to `result` is written when the work ends, however it ends.
    """

    def __init__(self, options: OutputOptions) -> None:
        self.json, self.quiet, self.verbose = options.json, options.quiet, options.verbose
        self._document: str | None = None
        self._stdout: int | None = None
        self._handler: logging.Handler | None = None

    def __enter__(self) -> Self:
        self._handler = logging.StreamHandler(sys.stderr)
        self._handler.setFormatter(logging.Formatter("locum: %(message)s"))
        _LOG.addHandler(self._handler)
        _LOG.setLevel(logging.DEBUG if self.verbose else logging.WARNING if self.quiet else logging.INFO)
        if self.json:
            sys.stdout.flush()
            self._stdout = os.dup(1)
            os.dup2(2, 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handler is not None:
            _LOG.removeHandler(self._handler)
        if self._stdout is not None:
            sys.stdout.flush()
            os.dup2(self._stdout, 1)
            os.close(self._stdout)
            self._stdout = None
        if self._document is not None:
            print(self._document, flush=True)

    def result(self, document: Mapping[str, object]) -> None:
        """The verb's result for programs: printed by `--json`, dropped otherwise. At most once.

        Numbers that JSON cannot hold (infinity, NaN) become null.
        """
        if self.json:
            assert self._document is None, "a verb has one result"
            self._document = json.dumps(_jsonable(document), allow_nan=False)

    def show(self, *parts: RenderableType) -> None:
        """The verb's result for people, on stdout. Nothing with `--json`."""
        if not self.json:
            _console(sys.stdout).print(*parts, sep="\n", highlight=False, markup=False)

    def block(self, rows: Sequence[tuple[str, str]], title: str) -> None:
        """A small table beside the result, on stderr: stdout holds the result alone.

        Nothing with `--json`, whose document says the same, or with `--quiet`.
        """
        if not self.json and not self.quiet:
            sys.stdout.flush()
            _console(sys.stderr).print(facts(rows, title))

    def report(self, rows: Sequence[tuple[str, str]], title: str) -> None:
        """The verb's result for people as a table of names and values, on stdout. Nothing with `--json`."""
        self.show(facts(rows, title))

    def text(self, piece: str) -> None:
        """A piece of text on stdout as it comes, without a newline. Nothing with `--json`."""
        if not self.json:
            sys.stdout.write(piece)
            sys.stdout.flush()

    def note(self, message: str) -> None:
        """A line about what is going on, on stderr. Nothing with `--quiet`."""
        _LOG.info("%s", message)

    def detail(self, message: str) -> None:
        """A line for the curious, on stderr and with `-v` only."""
        _LOG.debug("%s", message)

    def warn(self, message: str) -> None:
        """A line that must be seen, on stderr."""
        _LOG.warning("%s", message)

    @contextmanager
    def working(self, label: str) -> Iterator[None]:
        """Around long work: a moving line on a terminal, a plain one elsewhere, none with `--quiet`."""
        if not self.quiet and sys.stderr.isatty():
            with Console(file=sys.stderr).status(Text(label)):
                yield
        else:
            self.note(label)
            yield

    @contextmanager
    def counting(self, label: str, total: int) -> Iterator[Callable[..., None]]:
        """Around work of `total` parts: what it gives is called with the number done so far, or for each one.

        A bar on a terminal, some lines elsewhere, nothing with `--quiet`.
        """
        if not self.quiet and sys.stderr.isatty():
            with Progress(*Progress.get_default_columns(), console=Console(file=sys.stderr)) as bar:
                task = bar.add_task(label, total=total)
                yield (
                    lambda done=None: bar.advance(task) if done is None else bar.update(task, completed=done)
                )
            return
        so_far = 0
        self.note(label)

        def heard(done: int | None = None) -> None:
            nonlocal so_far
            before, so_far = so_far, so_far + 1 if done is None else done
            if so_far * _LINES // total > before * _LINES // total:
                self.note(f"{label}: {so_far * 100 // total}%")

        yield heard


def facts(rows: Sequence[tuple[str, str]], title: str) -> RenderableType:
    """A titled table of names and values, in plain text: nothing in it is markup."""
    page = Table.grid(padding=(0, 2))
    page.add_column(no_wrap=True)
    page.add_column(overflow="fold")
    for name, value in rows:
        page.add_row(Text(name, style="dim"), Text(value))
    return Group(Text(title, style="bold"), page, "")


def table(rows: Sequence[Sequence[str]], heads: Sequence[str], title: str) -> RenderableType:
    """A titled table with a row of heads: the first column names, the others hold figures."""
    page = Table.grid(padding=(0, 2))
    page.show_header, page.header_style = True, "dim"
    for number, head in enumerate(heads):
        page.add_column(Text(head), justify="right" if number else "left", no_wrap=True)
    for row in rows:
        page.add_row(*(Text(cell) for cell in row))
    return Group(Text(title, style="bold"), page, "")


def _console(stream: TextIO) -> Console:
    # where it is no terminal, nothing is known about the width: wide enough for our widest table
    return Console(file=stream, width=None if stream.isatty() else 120)


def _jsonable(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value
