"""`locum eval`: how good a model is on text it has not seen, and how far it is from another."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from locum.cli.flags import RUNNING, Size, number
from locum.cli.output import DEFAULT, Output, OutputOptions

_WHAT = Group("What is judged", sort_key=5)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class EvalOptions:
    """What `locum eval` was asked to do; fields are named as the flags."""

    model: Annotated[str | None, Parameter(parse=False)] = None
    """Folder in Hugging Face format, GGUF file or hub id; None: the model that ships with locum."""

    against: Annotated[str | None, Parameter(group=_WHAT, metavar="MODEL")] = None
    """A reference with the same tokenizer: how far the model is from it (KL divergence), and how often both
    find the same token likeliest."""

    data: Annotated[Path | None, Parameter(group=_WHAT, metavar="FILE")] = None
    """Text to judge: JSONL with `text` and `domain` in each line, or one plain text. Left out, the held-out
    text that ships with locum."""

    domain: Annotated[tuple[str, ...], Parameter(group=_WHAT, metavar="NAME", show_default=False)] = ()
    """Only text of this domain. May be given several times."""

    questions: Annotated[int, number(_WHAT, "N", gte=0)] = 0
    """Ask this many generated questions of each kind (sums, sorting, ...), and count exact answers."""

    window: Annotated[int, number(_WHAT, "TOKENS", gte=8)] = 512
    """Longer text is judged in overlapping windows of so many tokens."""

    memory: Annotated[int | Literal["auto"], Size] = "auto"
    """Bound of the whole process, both models included. `auto` is the smaller of the cgroup's limit and the
    available memory, less 10%."""

    threads: Annotated[int | Literal["auto"], number(RUNNING, "N", gte=1)] = "auto"
    """Threads that compute."""


def evaluate(
    model: str | None = None,
    /,
    *,
    options: EvalOptions = EvalOptions(),
    output_options: OutputOptions = DEFAULT,
) -> None:
    """Judge a model on held-out text: bits per byte, in all and for each domain, with 95% intervals.

    Parameters
    ----------
    model
        A folder in Hugging Face format, a packed folder, a GGUF file or a hub id; left out, the model that
        ships with locum.
    """
    with Output(output_options) as output:
        from locum.model.hub import resolve

        # a wrong name should not have to wait for torch
        folder = None if model is None else str(resolve(model))
        from locum.evaluate import session

        # Any, because to mypy a frozen class is no `Options`; a test compares the fields
        asked: Any = replace(options, model=folder)
        session.run(asked, output)
