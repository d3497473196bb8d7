"""What rendering a chat template may cost, and the counting of it. No template can look at or change this.

Two budgets and a deadline, all per rendering. *Work*: an operation costs 1, and touching data 1 per 64
characters (an item of a list counts for 16). *Made*: bytes of the texts and lists that operations produce,
whether they are kept or not. Both grow with the conversation, so long chats are not cut short. Guards ask
before anything large is made; a single operation works on data of a checked size, so the clock is looked at
often enough.
"""

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import GeneratorType
from typing import Any

from jinja2.utils import Namespace

_ITEM = 16  # what one item of a container weighs, in characters
_NESTING = 64
_SERIES: Any = (list, tuple, range, *map(type, ({}.keys(), {}.values(), {}.items())))


@dataclass(frozen=True)
class ChatLimits:
    """Bounds of one rendering. The defaults leave real templates a factor of a hundred and more.

    `template` characters of template; `work` operations; `made` bytes produced; both plus `work_per_char` and
    `made_per_char` for each character of the conversation; `seconds` on the clock; `depth` nested calls.
    """

    template: int = 64 * 1024
    work: int = 1_000_000
    work_per_char: int = 8
    made: int = 64 << 20
    made_per_char: int = 64
    seconds: float = 10.0
    depth: int = 60


class LimitError(Exception):
    """A template wants more than it may have. The message says of what."""


class Meter:
    """The running account of one rendering."""

    def __init__(self, limits: ChatLimits, input_size: int) -> None:
        self.work = limits.work + limits.work_per_char * input_size
        self.made = limits.made + limits.made_per_char * input_size
        self.depth = limits.depth
        self._seconds = limits.seconds
        self._deadline = time.monotonic() + limits.seconds

    def spend(self, work: int) -> None:
        """Count operations. Raises `LimitError` when they or the time are used up."""
        self.work -= work
        if self.work < 0:
            raise LimitError("it does not come to an end: too many operations")
        if time.monotonic() > self._deadline:
            raise LimitError(f"it takes longer than {self._seconds:g} seconds")

    def touch(self, *values: Any) -> int:
        """Count the reading of whole values. Returns their weight."""
        weight = sum(weigh(value, self.made) for value in values)
        self.spend(1 + weight // 64)
        return weight

    def ask(self, size: int) -> None:
        """Raise `LimitError` if `size` bytes more may not be made."""
        if size > self.made:
            raise LimitError("it makes too much text")

    def make(self, size: int) -> None:
        """Count bytes made."""
        self.ask(size)
        self.made -= size

    def keep(self, value: Any, fresh: bool = False) -> Any:
        """Count a value just made, with the texts in a `fresh` list, and return it, a generator metered."""
        if isinstance(value, GeneratorType):
            self.make(512)
            return counted(value)
        self.make(footprint(value))
        if fresh and isinstance(value, list | tuple):
            self.spend(1 + len(value) // 4)
            self.make(sum(footprint(item) for item in value))
        return value


METER: ContextVar[Meter] = ContextVar("METER")


def footprint(value: Any) -> int:
    """Bytes a value takes, roughly and without what is in it."""
    if isinstance(value, str):
        return 64 + len(value) * (1 if value.isascii() else 4)
    if isinstance(value, list | tuple):
        return 64 + 16 * len(value)
    if isinstance(value, Mapping):
        return 64 + 128 * len(value)
    return 0 if value is None or isinstance(value, int | float) else 512


def weigh(value: Any, limit: int) -> int:
    """Characters in a value and all it holds, as often as printing would show them, 16 more for each item.

    Raises `LimitError` above `limit` (shared parts count each time, so this is reached quickly by lists of
    lists of themselves) and for deep nesting.
    """
    if isinstance(value, str):
        return len(value) + _ITEM
    total, stack = 0, [iter((value,))]
    while stack:
        item = next(stack[-1], stack)
        if item is stack:
            stack.pop()
            continue
        total += _ITEM + (len(item) if isinstance(item, str) else 0)
        if isinstance(item, int):
            total += item.bit_length() // 4
        inner = _inside(item)
        if inner is not None:
            stack.append(inner)
        if total > limit or len(stack) > _NESTING:
            raise LimitError("a value grows too large or is nested too deep")
    return total


def _inside(item: Any) -> Iterator[Any] | None:
    if isinstance(item, Namespace):
        item = item._Namespace__attrs
    if isinstance(item, dict):
        return iter([part for pair in item.items() for part in pair])
    return iter(item) if isinstance(item, _SERIES) else None


def counted(values: Iterable[Any], cost: int = 1) -> Iterator[Any]:
    """The same values, each counted as it is taken."""
    meter = METER.get()
    for value in values:
        meter.spend(cost)
        yield value


class Counted:
    """What a `for` of a template runs over: counted, and with a length where there is one."""

    def __init__(self, values: Iterable[Any], cost: int) -> None:
        self._values, self._cost = values, cost

    def __iter__(self) -> Iterator[Any]:
        return counted(iter(self._values), self._cost)

    def __len__(self) -> int:
        return len(self._values)  # type: ignore[arg-type]  # TypeError is the answer loops expect


_WIDTH = 1000
_NUMBER = re.compile(r"\d+")
_FLAGS_AND_WIDTH = re.compile(r"[#0\- +]*(\*|\d*)(?:\.(\*|\d*))?[hlL]?")


def check_width(spec: str) -> int:
    """The sum of the widths and precisions in a format. Refuses any of more than a thousand, and `*`."""
    digits = _NUMBER.findall(spec)
    if "*" in spec or any(len(number) > 9 or int(number) > _WIDTH for number in digits):
        raise LimitError("a width in a format is too large or unknown")
    return sum(map(int, digits))


def check_printf(meter: Meter, text: str, values: Any) -> None:
    """Ask for what `text % values` may make. Conversions are found as Python finds them."""
    weight, size, place = meter.touch(text, values), len(text), text.find("%")
    while place >= 0:
        place += 1
        if text.startswith("(", place):
            place = _closing(text, place)
        spec = _FLAGS_AND_WIDTH.match(text, place)
        assert spec is not None, "matches nothing at least"
        kind = text[spec.end() : spec.end() + 1]
        size += check_width(spec[0]) + weight * (10 if kind in ("r", "a") else 1)
        meter.spend(1)
        place = text.find("%", spec.end() + 1)
    meter.ask(4 * size)


def _closing(text: str, place: int) -> int:
    """Behind the parenthesis that closes the one at `place`; the end of the text if none does."""
    depth = 0
    while place < len(text):
        depth += (text[place] == "(") - (text[place] == ")")
        place += 1
        if depth == 0:
            break
    return place


def check_integers(limit: int, *values: Any) -> None:
    """Refuse numbers beyond `limit` where they say how much to make."""
    if any(isinstance(value, int) and abs(value) > limit for value in values):
        raise LimitError(f"a number is larger than {limit}")


def check_search(meter: Meter, text: str, *parts: Any) -> None:
    """Count a search that may compare every part at every place, which searching backwards does."""
    meter.spend(sum(len(text) * len(part) for part in parts if isinstance(part, str)) // 4096)


def check_replace(meter: Meter, text: str, old: Any, new: Any) -> None:
    """Ask for what replacing all `old` by `new` makes."""
    if isinstance(old, str) and isinstance(new, str):
        meter.ask(4 * (len(text) + (text.count(old) * len(new))))
