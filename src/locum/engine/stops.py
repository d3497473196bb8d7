"""Stop strings in a stream of text: cut before the earliest one, and never print a part of it.

The rule is that of a search in the whole text: of all occurrences of all stop strings the one that *starts*
first ends the text, whatever pieces the text came in. So a stop that is complete may still have to wait for a
longer one that started before it and is not decided yet; until then nothing behind that start is handed out.

Method: the automaton of Aho and Corasick (Efficient string matching, CACM 18(6), 1975). Its state is the
longest end of the text that begins some stop string, which is exactly what must be held back. One step a
character, whatever the number of stop strings.
"""

from collections import deque
from collections.abc import Sequence

from locum.errors import UsageError


class StopMatcher:
    """Watches one text for `stops`: `push` pieces, then `flush` once.

    `stopped` says whether a stop ended the text, `matched` which one (of several with one start, any).
    Raises `UsageError` for an empty stop string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = _checked(stops)
        self._goto, self._fail, self._depth, self._longest = _automaton(self._stops)
        self._state = 0
        self._held = ""  # the text behind everything handed out
        self._cut: int | None = None  # where in `_held` the earliest complete stop starts
        self._candidate: str | None = None
        self.matched: str | None = None
        self.stopped = False

    def push(self, text: str) -> tuple[str, bool]:
        """Take the next piece. Returns what is now safe to print, and whether a stop ended the text."""
        if self.stopped:
            return "", True
        if not self._stops:
            return text, False
        start = len(self._held)
        self._held += text
        for position in range(start, len(self._held)):
            self._advance(self._held[position])
            end = position + 1
            found = self._longest[self._state]
            if found is not None and (self._cut is None or end - len(found) < self._cut):
                self._cut, self._candidate = end - len(found), found
            if self._cut is not None and end - self._depth[self._state] >= self._cut:
                return self._stop(self._cut), True  # nothing that started earlier is still open
        undecided = len(self._held) - self._depth[self._state]
        emit, self._held = self._held[:undecided], self._held[undecided:]
        if self._cut is not None:
            self._cut -= undecided
        return emit, False

    def flush(self) -> str:
        """The text has ended: return what was held back, cut before a stop that is complete in it.

        `stopped` and `matched` then say whether there was one.
        """
        if self.stopped:
            return ""
        if self._cut is not None:
            return self._stop(self._cut)
        emit, self._held, self._state = self._held, "", 0
        return emit

    def _advance(self, char: str) -> None:
        state = self._state
        while char not in self._goto[state] and state:
            state = self._fail[state]
        self._state = self._goto[state].get(char, 0)

    def _stop(self, cut: int) -> str:
        self.stopped, self.matched = True, self._candidate
        emit, self._held = self._held[:cut], ""
        return emit


def _checked(stops: Sequence[object]) -> tuple[str, ...]:
    checked = []
    for stop in [stops] if isinstance(stops, str) else stops:
        if not isinstance(stop, str) or not stop:
            raise UsageError("not a stop string", allowed="a text of at least one character", got=repr(stop))
        checked.append(stop)
    return tuple(checked)


def _automaton(
    stops: tuple[str, ...],
) -> tuple[list[dict[str, int]], list[int], list[int], list[str | None]]:
    """Per state: its edges, the longest proper suffix state, its depth, the longest stop that ends here."""
    goto: list[dict[str, int]] = [{}]
    depth = [0]
    ends: list[str | None] = [None]
    for stop in stops:
        state = 0
        for char in stop:
            if char not in goto[state]:
                goto[state][char] = len(goto)
                goto.append({})
                depth.append(depth[state] + 1)
                ends.append(None)
            state = goto[state][char]
        ends[state] = stop
    fail = [0] * len(goto)
    queue = deque(goto[0].values())
    while queue:  # breadth first: a suffix is shorter, so its state is finished before
        state = queue.popleft()
        if ends[state] is None:
            ends[state] = ends[fail[state]]
        for char, child in goto[state].items():
            suffix = fail[state]
            while char not in goto[suffix] and suffix:
                suffix = fail[suffix]
            fail[child] = goto[suffix].get(char, 0)
            queue.append(child)
    return goto, fail, depth, ends
