"""Regular expressions of a config, matched in bounded time.

Python's `re` tries one way after the other: `(a+)+$` takes twice as long with every further letter, six `.*`
in a row the sixth power of the length, and a config is anybody's text. Refusing what may be slow would refuse
what is in use: the same constructs are harmless elsewhere. So all ways are walked at once: a set of places in
the text, the bits of an integer, goes through the pattern from left to right. Whether there is a match comes
out as in `re`; which way it went does not, and is not asked.

Source: Cameron et al., "Bitwise Data Parallelism in Regular Expression Matching", PACT 2014.
"""

import re
from collections.abc import Callable
from functools import lru_cache

from locum.errors import UnsupportedError

_ATOM = re.compile(r"\\[AbBdDsSwWZ]|\\[^a-zA-Z0-9]|\[\^?\]?(?:\\.|[^\]\\])*\]|[^\\()\[\]{}*+?|]", re.DOTALL)
_WIDTHLESS = {"^", "$", r"\A", r"\b", r"\B", r"\Z"}
_TIMES = re.compile(r"(?:([*+?])|\{(\d{1,3})(,?)(\d{0,3})\})\??(?![*+?{])")
_BOUNDS = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_LOOPS, _GROUPS, _LENGTH = 2, 20, 1000


class _Text:
    """A text, and where in it each run of atoms was found."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._known: dict[str, int] = {}

    def places(self, run: str) -> int:
        """The places where `run` matches."""
        if run not in self._known:
            found = re.compile(f"(?={run})").finditer(self._text)  # a lookahead, so they may overlap
            self._known[run] = sum(1 << match.start() for match in found)
        return self._known[run]


Step = Callable[[_Text, int], int]
"""From the places reached so far to those reached after it."""


def matches(pattern: str, text: str) -> bool:
    """Whether `re.match` would find one. Raises `UnsupportedError` for a pattern that is not read here."""
    return _compiled(pattern)(_Text(text), 1) != 0


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> Step:
    parser = _Parser(pattern)
    try:
        step, _ = parser.alternatives()
        re.compile(pattern)  # which only reads it, and has the last word on what is one
    except re.error:
        raise parser.refusal() from None
    if parser.rest:
        raise parser.refusal()
    return step


class _Parser:
    """Each method takes its part off `rest`, and gives the step with how many loops lie in one another in it:
    each multiplies the time by the text's length.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = self.rest = pattern
        self._open = 0
        if len(pattern) > _LENGTH:
            raise self.refusal()

    def refusal(self) -> UnsupportedError:
        return UnsupportedError(
            "a pattern among the targets of config_groups is wrong, or locum does not match it",
            allowed="letters, classes, groups, alternatives, repetitions and lookahead, two deep at the most",
            got=repr(self.pattern[:80]),
        )

    def alternatives(self) -> tuple[Step, int]:
        ways = [self._sequence()]
        while self._take("|"):
            ways.append(self._sequence())

        def step(text: _Text, at: int) -> int:
            reached = 0
            for way, _ in ways:
                reached |= way(text, at)
            return reached

        return step, max(loops for _, loops in ways)

    def _sequence(self) -> tuple[Step, int]:
        parts = []
        while self.rest and self.rest[0] not in "|)":
            parts.append(self._repeated(*self._group()) if self._take("(") else self._run())

        def step(text: _Text, at: int) -> int:
            for part, _ in parts:
                at = part(text, at)
            return at

        return step, max((loops for _, loops in parts), default=0)

    def _run(self) -> tuple[Step, int]:
        """Atoms up to the next that is repeated, or that one."""
        run, width = "", 0
        while found := _ATOM.match(self.rest):
            moves = found[0] not in _WIDTHLESS
            times = _TIMES.match(self.rest, found.end())
            if times is None or not run:
                self.rest = self.rest[found.end() :]
                run, width = run + found[0], width + moves
            if times is not None:
                break
        if not run:
            raise self.refusal()

        def step(text: _Text, at: int) -> int:
            return (at & text.places(run)) << width

        def ever(text: _Text, at: int) -> int:
            places = text.places(run)  # a carry runs through all that follow one another
            return (((at & places) + places) ^ places) | at

        return self._repeated(step, 0, ever)

    def _group(self) -> tuple[Step, int]:
        self._open += 1
        if self._open > _GROUPS:
            raise self.refusal()
        kind = next((kind for kind in ("?:", "?=", "?!") if self._take(kind)), "")
        step, loops = self.alternatives()
        if not self._take(")"):
            raise self.refusal()
        self._open -= 1
        return (step, loops) if kind in {"", "?:"} else (_ahead(step, kind == "?="), self._loop(loops))

    def _repeated(self, step: Step, loops: int, ever: Step | None = None) -> tuple[Step, int]:
        """`ever`: how to take any number of steps at once."""
        if (found := _TIMES.match(self.rest)) is None:
            return step, loops
        self.rest = self.rest[found.end() :]
        sign, least, comma, most = found.groups()
        bounds = _BOUNDS[sign] if sign else (int(least), int(most or least) if most or not comma else None)
        if bounds[1] is not None and bounds[1] < bounds[0]:
            raise self.refusal()
        if bounds[1] is None and ever is not None:
            return _then_ever(step, bounds[0], ever), loops
        return _times(step, *bounds), loops if bounds[1] == 1 else self._loop(loops)

    def _loop(self, loops: int) -> int:
        if loops >= _LOOPS:
            raise self.refusal()
        return loops + 1

    def _take(self, text: str) -> bool:
        found = self.rest.startswith(text)
        self.rest = self.rest[len(text) * found :]
        return found


def _then_ever(step: Step, least: int, ever: Step) -> Step:
    def repeated(text: _Text, at: int) -> int:
        for _ in range(least):
            at = step(text, at)
        return ever(text, at)

    return repeated


def _times(step: Step, least: int, most: int | None) -> Step:
    def repeated(text: _Text, at: int) -> int:
        for _ in range(least):
            at = step(text, at)
        new, done = at, least
        while new and done != most:
            new = step(text, new) & ~at
            at, done = at | new, done + 1
        return at

    return repeated


def _ahead(step: Step, wanted: bool) -> Step:
    def stays(text: _Text, at: int) -> int:
        single = (1 << place for place in range(at.bit_length()) if at >> place & 1)
        return sum(place for place in single if (step(text, place) != 0) is wanted)

    return stays
