"""Generated tasks put to a model: the share of answers that are exactly right."""

from collections.abc import Callable
from itertools import islice

from locum.engine.engine import Engine
from locum.evaluate.tasks import Task, examination, tasks

SHOTS = 4
"""Solved tasks of the same kind before the question, as the model has seen them in training."""
QUESTION_CONTEXT = 512
"""Tokens that a question with its solved ones and its answer fit in, whatever the tokenizer."""
_SPARE_TOKENS = 4


def prompt(task: Task) -> str:
    """The question after some solved ones, none of them held out."""
    solved = islice(tasks(task.kind, seed=1, held_out=False), SHOTS)
    return "".join(f"{shown.prompt} {shown.answer}\n" for shown in solved) + task.prompt


def answer(engine: Engine, task: Task) -> str:
    """What the model writes up to the end of the line, likeliest token by token."""
    tokenizer = engine.tokenizer
    first = tokenizer.hf.bos_token_id
    ids = tokenizer.encode(prompt(task))
    if first is not None and ids[0] != first:
        ids = [first, *ids]
    most = len(tokenizer.encode(f" {task.answer}\n", add_special_tokens=False)) + _SPARE_TOKENS
    return engine.generate(ids, max_tokens=most, temperature=0, stop=("\n",)).text.strip()


def examine(
    engine: Engine, count: int, heard: Callable[[], None] = lambda: None
) -> dict[str, tuple[int, int]]:
    """(right, asked) for each kind of task, `count` held-out questions of each; `heard` hears each answer."""
    found: dict[str, tuple[int, int]] = {}
    for task in examination(count):
        right, asked = found.get(task.kind, (0, 0))
        found[task.kind] = right + (answer(engine, task) == task.answer), asked + 1
        heard()
    return found
