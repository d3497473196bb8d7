"""Generated tasks whose answers can be checked, one per line, as a small model can learn them.

A task line is `question = answer`. Whether a question belongs to training or to the held-out set is decided
by its hash, so no held-out question is ever trained on, whatever the seeds.
"""

import hashlib
import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass

HELD_OUT_ONE_IN = 8
LINES = 12
"""Lines of one kind that make a document."""


@dataclass(frozen=True, slots=True)
class Task:
    """One question with its answer: the line is `question = answer`."""

    kind: str
    question: str
    answer: str

    @property
    def prompt(self) -> str:
        """What a model is given; the answer and a line break should follow."""
        return f"{self.question} ="

    @property
    def held_out(self) -> bool:
        """True for questions that are never trained on."""
        digest = hashlib.sha256(f"{self.kind}\n{self.question}".encode()).digest()
        return digest[0] % HELD_OUT_ONE_IN == 0


def _add(random_: random.Random) -> Task:
    a, b = random_.randrange(100), random_.randrange(100)
    return Task("add", f"add {a} + {b}", str(a + b))


def _sort(random_: random.Random) -> Task:
    digits = [str(random_.randrange(10)) for _ in range(random_.randint(3, 7))]
    return Task("sort", "sort " + " ".join(digits), " ".join(sorted(digits)))


def _copy(random_: random.Random) -> Task:
    letters = " ".join(random_.choice(string.ascii_lowercase) for _ in range(random_.randint(3, 9)))
    return Task("copy", f"copy {letters}", letters)


def _reverse(random_: random.Random) -> Task:
    letters = [random_.choice(string.ascii_lowercase) for _ in range(random_.randint(3, 7))]
    return Task("reverse", "reverse " + " ".join(letters), " ".join(reversed(letters)))


def _close(random_: random.Random) -> Task:
    pairs = {"(": ")", "[": "]", "{": "}"}
    shown, open_ = list[str](), list[str]()
    for _ in range(random_.randint(3, 9)):
        if open_ and random_.random() < 0.35:
            shown.append(open_.pop())
        else:
            bracket = random_.choice("([{")
            shown.append(bracket)
            open_.append(pairs[bracket])
    if not open_:
        shown.append("(")
        open_.append(")")
    return Task("close", "close " + " ".join(shown), " ".join(reversed(open_)))


def _recall(random_: random.Random) -> Task:
    names = random_.sample(string.ascii_lowercase, random_.randint(3, 7))
    values = [str(random_.randrange(10)) for _ in names]
    asked = random_.randrange(len(names))
    shown = " ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
    return Task("recall", f"recall {shown} ; {names[asked]}", values[asked])


_MAKERS: dict[str, Callable[[random.Random], Task]] = {
    "add": _add, "sort": _sort, "copy": _copy, "reverse": _reverse, "close": _close, "recall": _recall,
}  # fmt: skip
KINDS = tuple(_MAKERS)


def tasks(kind: str, seed: int, *, held_out: bool) -> Iterator[Task]:
    """Tasks of one kind without end, all held out or all not."""
    source = random.Random(f"{kind} {seed}")  # noqa: S311 - nothing secret
    while True:
        task = _MAKERS[kind](source)
        if task.held_out == held_out:
            yield task


def examination(count: int, seed: int = 0) -> list[Task]:
    """`count` different held-out tasks of each kind, always the same ones."""
    chosen: list[Task] = []
    for kind in KINDS:
        found: dict[str, Task] = {}
        for task in tasks(kind, seed, held_out=True):
            found.setdefault(task.question, task)
            if len(found) == count:
                break
        chosen += found.values()
    return chosen
