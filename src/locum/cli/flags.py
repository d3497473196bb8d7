"""Kinds of flags that several verbs have."""

import math
from collections.abc import Callable, Sequence

from cyclopts import Group, Parameter, Token
from cyclopts.validators import Number

from locum.errors import UsageError
from locum.units import parse_bytes, parse_share

MEMORY = Group("Memory", sort_key=10)
SAMPLING = Group("Sampling", sort_key=20)
RUNNING = Group("Running", sort_key=30)


def _size(_type: object, tokens: Sequence[Token]) -> int | str:
    text = tokens[0].value
    return text if text == "auto" else _judge(tokens[0], parse_bytes)


def _share(_type: object, tokens: Sequence[Token]) -> str:
    # what it is a share of is not known yet: this only judges the writing
    _judge(tokens[0], lambda text: parse_share(text, 1 << 40))
    return tokens[0].value


def _judge(token: Token, parse: Callable[[str], int]) -> int:
    """The size that a token says. Raises `UsageError` naming the flag, key or variable it came from."""
    where = f"{token.keyword}" + ("" if token.source == "cli" else f" from {token.source}")
    try:
        size = parse(token.value)
    except UsageError as error:
        raise UsageError(error.what, where=where, allowed=error.allowed, got=error.got) from error
    if size < 1:
        raise UsageError("a size must be more than nothing", where=where, got=repr(token.value))
    return size


Size = Parameter(group=MEMORY, converter=_size, metavar="SIZE", show_choices=False)
Share = Parameter(group=MEMORY, converter=_share, metavar="SIZE|PERCENT")


def number(group: Group, metavar: str, **bounds: float) -> Parameter:
    """A number within `bounds` (gt, gte, lt, lte); `auto` and no value at all are not judged."""
    within = Number(**bounds)

    def judge(hint: object, value: object) -> None:
        if isinstance(value, int | float):
            if not math.isfinite(value):
                raise ValueError("Must be a finite number.")
            within(hint, value)

    return Parameter(group=group, metavar=metavar, show_choices=False, validator=judge)


def whole(_type: object, text: str, *, delimiter: str | None = None) -> list[str]:
    """A variable holds one stop text, blanks and all."""
    return [text]
