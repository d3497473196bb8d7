"""Generated tasks: the answers are right by other means, and held-out questions stay held out."""

import itertools
from collections import Counter

import pytest

from locum.evaluate.tasks import HELD_OUT_ONE_IN, KINDS, Task, examination, tasks


def solve(task: Task) -> str:
    """The answer, worked out from the question's text alone."""
    kind, _, rest = task.question.partition(" ")
    words = rest.split()
    if kind == "add":
        return str(sum(map(int, rest.split(" + "))))
    if kind == "sort":
        counts = Counter(words)
        return " ".join(digit for digit in "0123456789" for _ in range(counts[digit]))
    if kind in ("copy", "reverse"):
        return " ".join(words if kind == "copy" else words[::-1])
    if kind == "recall":
        shown, asked = rest.split(" ; ")
        pairs = shown.split()
        return pairs[pairs.index(asked) + 1]
    while True:  # close: take matched pairs out until none is left
        text = " ".join(words)
        for pair in ("( )", "[ ]", "{ }"):
            text = text.replace(pair, "")
        if text.split() == words:
            break
        words = text.split()
    return " ".join({"(": ")", "[": "]", "{": "}"}[bracket] for bracket in reversed(words))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("held_out", [False, True])
def test_answers(kind: str, held_out: bool) -> None:
    for task in itertools.islice(tasks(kind, 7, held_out=held_out), 300):
        assert task.kind == kind
        assert task.held_out == held_out
        assert task.answer == solve(task)
        assert task.prompt == task.question + " ="


def test_an_examination_is_always_the_same_and_never_repeats() -> None:
    exam = examination(20)
    assert exam == examination(20)
    assert Counter(task.kind for task in exam) == dict.fromkeys(KINDS, 20)
    assert len({task.question for task in exam}) == len(exam)
    assert all(task.held_out for task in exam)


def test_no_question_is_on_both_sides() -> None:
    for kind in KINDS:
        train = {t.question for t in itertools.islice(tasks(kind, 0, held_out=False), 2000)}
        held = {t.question for t in itertools.islice(tasks(kind, 0, held_out=True), 400)}
        assert not train & held


def test_the_share_that_is_held_out() -> None:
    every = [Task("add", f"add {a} + {b}", str(a + b)).held_out for a in range(100) for b in range(100)]
    assert abs(sum(every) / len(every) - 1 / HELD_OUT_ONE_IN) < 0.02
