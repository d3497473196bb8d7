from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from locum.engine.stops import StopMatcher
from locum.errors import UsageError


def stream(stops, pieces):
    """Everything printed, and the stop that ended it."""
    matcher, printed = StopMatcher(stops), []
    for piece in pieces:
        emit, stopped = matcher.push(piece)
        printed.append(emit)
        if stopped:
            return "".join(printed), matcher.matched
    printed.append(matcher.flush())
    assert matcher.stopped == (matcher.matched is not None)
    return "".join(printed), matcher.matched


def first_stop(stops, text):
    """The reference: search the whole text."""
    starts = [text.find(stop) for stop in stops if stop in text]
    return min(starts, default=None)


def cuts(text, points):
    edges = sorted({0, len(text), *(p % (len(text) + 1) for p in points)})
    return [text[a:b] for a, b in pairwise(edges)]


letters = st.text(alphabet="ab", min_size=0, max_size=24)
stop_lists = st.lists(st.text(alphabet="ab", min_size=1, max_size=5), max_size=5)


@settings(max_examples=300, deadline=None)
@given(letters, stop_lists, st.lists(st.integers(0, 100), max_size=8))
@example("ab", ["abb", "b"], [1])  # "b" is complete while "abb" is still open
@example("abb", ["abb", "b"], [2])
@example("aab", ["aaa", "ab", "a"], [1, 2])
def test_any_split_prints_the_text_up_to_the_first_stop(text, stops, points):
    start = first_stop(stops, text)
    printed, matched = stream(stops, cuts(text, points))
    assert printed == (text if start is None else text[:start])
    if start is None:
        assert matched is None
    else:
        assert matched in stops
        assert text.startswith(matched, start)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=4), max_size=3), st.integers(0, 30))
def test_any_characters_and_a_stop_planted_in_them(text, stops, place):
    stops = [*stops, "</s>\n🛑"]
    text = text[:place] + stops[-1] + text[place:]
    start = first_stop(stops, text)
    for pieces in (list(text), [text], cuts(text, [3, 7, place + 2])):
        assert stream(stops, pieces)[0] == text[:start]


@settings(max_examples=300, deadline=None)
@given(letters, stop_lists)
def test_nothing_is_held_longer_than_it_must_be(text, stops):
    """Without a complete stop, what is held back is the longest end that could become one."""
    matcher, printed = StopMatcher(stops), ""
    for end in range(1, len(text) + 1):
        emit, stopped = matcher.push(text[end - 1])
        printed += emit
        if stopped:
            return
        seen = text[:end]
        if first_stop(stops, seen) is not None:
            continue  # waiting for an earlier start; the first property covers what is printed
        undecided = max((n for s in stops for n in range(len(s)) if seen.endswith(s[:n])), default=0)
        assert printed == seen[: end - undecided]


def test_after_the_stop_nothing_more_is_printed():
    matcher = StopMatcher(["END"])
    assert matcher.push("text E") == ("text ", False)
    assert matcher.push("ND more") == ("", True)
    assert matcher.push("and more") == ("", True)
    assert matcher.flush() == ""
    assert matcher.matched == "END"


def test_a_long_text_full_of_almost_stops_is_linear():
    """One automaton step a character: counted, not timed."""
    stops = ["a" * 50 + "b", "a" * 40 + "c"]
    matcher = StopMatcher(stops)
    steps = 0
    advance = matcher._advance

    def counting(char):
        nonlocal steps
        steps += 1
        advance(char)

    matcher._advance = counting
    printed = "".join(matcher.push("a" * 100)[0] for _ in range(200))
    printed += matcher.flush()
    assert printed == "a" * 20_000
    assert steps == 20_000


def test_no_stops_pass_everything_and_an_empty_stop_is_refused():
    matcher = StopMatcher([])
    assert matcher.push("x") == ("x", False)
    assert matcher.flush() == ""
    with pytest.raises(UsageError, match="stop string"):
        StopMatcher(["ok", ""])
