"""`locum eval`: load, judge, report."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from locum.engine.engine import Engine, load
from locum.errors import BudgetError, UsageError
from locum.evaluate.evaluation import Evaluation
from locum.evaluate.likelihood import score
from locum.evaluate.questions import QUESTION_CONTEXT, examine
from locum.evaluate.tasks import KINDS
from locum.evaluate.texts import Text, read_texts, shipped_texts
from locum.machine.limits import memory_limit
from locum.model.budget import AUTO_SHARE
from locum.model.checkpoint import Checkpoint
from locum.model.hub import resolve
from locum.model.shipped import shipped_model
from locum.model.spec import MoESpec
from locum.units import format_bytes

_COPIES = 4
"""Of a window's logits, in float32: as they come, as log probabilities, the reference's, and one between."""


class Screen(Protocol):
    """Where words go: `locum.cli.output.Output` in real life."""

    def note(self, message: str) -> None:
        """A line about what is going on."""

    def report(self, rows: Sequence[tuple[str, str]], title: str) -> None:
        """The result for people."""

    def result(self, document: dict[str, object]) -> None:
        """The result for programs."""

    def working(self, label: str) -> Any:
        """A context manager around long work."""

    def counting(self, label: str, total: int) -> Any:
        """A context manager around work of known length; what it gives is called after each part."""


class Options(Protocol):
    """The flags of `locum eval`, see `locum.cli.eval.EvalOptions`."""

    model: str | None
    against: str | None
    data: Path | None
    domain: tuple[str, ...]
    questions: int
    window: int
    memory: int | str
    threads: int | str


def run(options: Options, screen: Screen) -> None:
    """Carry out `locum eval`. Raises `LocumError`s as `load` does, `UsageError` for text it cannot use."""
    texts = _texts(options)
    path = resolve(options.model) if options.model is not None else shipped_model()
    reference = resolve(options.against) if options.against is not None else None
    specs = [MoESpec.of(Checkpoint.open(model)) for model in (path, reference) if model is not None]
    longest = min(spec.context_length for spec in specs)
    window = min(options.window, longest - 1)
    if window < options.window:
        screen.note(f"windows of {window} tokens, because the context has {longest}")
    logits = _COPIES * 4 * window * specs[0].vocab_size  # the engine's own plan has one row only
    limit = _limit(options.memory, logits)
    context = min(max(window + 1, QUESTION_CONTEXT), longest)
    with _engines(path, reference, screen, limit, context=context, threads=options.threads) as both:
        engine, against = both
        with screen.counting("judging text", len(texts)) as heard:
            scores = []
            for text in texts:
                scores.append(score(engine, text, against=against, window=window))
                heard()
        scores = [score for score in scores if score.tokens]
        if not scores:
            raise UsageError("the text is too short to judge", allowed="at least two tokens")
        tasks: dict[str, tuple[int, int]] = {}
        if options.questions:
            with screen.counting("asking questions", options.questions * len(KINDS)) as heard:
                tasks = examine(engine, options.questions, heard)
    evaluation = Evaluation(str(path), scores, tasks, None if reference is None else str(reference))
    screen.result(evaluation.to_json())
    screen.report(evaluation.rows(), path.name + ("" if reference is None else f" beside {reference.name}"))


def _texts(options: Options) -> list[Text]:
    texts = shipped_texts() if options.data is None else read_texts(options.data)
    known = list(dict.fromkeys(text.domain for text in texts))
    for name in options.domain:
        if name not in known:
            raise UsageError("no text of this domain", where="--domain", allowed=", ".join(known), got=name)
    return [text for text in texts if not options.domain or text.domain in options.domain]


def _limit(asked: int | str, logits: int) -> int:
    """The memory for the models beside `logits` bytes. Raises `BudgetError` where there is none."""
    limit = int(memory_limit() * AUTO_SHARE) if isinstance(asked, str) else asked
    if limit <= logits:
        raise BudgetError(
            "not even the logits of a window fit",
            minimum=logits,
            allowed=f"more than {format_bytes(logits)}",
            got=format_bytes(limit),
            todo="Give more memory, or use a smaller --window",
        )
    return limit - logits


@contextmanager
def _engines(
    path: Path, reference: Path | None, screen: Screen, limit: int, **common: Any
) -> Iterator[tuple[Engine, Engine | None]]:
    """The model and the reference, both within `limit` bytes; `common` as `load` takes them."""
    with screen.working(f"loading {path.name}"):
        engine = load(path, memory=limit if reference is None else limit // 2, **common)
    with engine:
        if reference is None:
            yield engine, None
            return
        with screen.working(f"loading {reference.name}"):
            against = load(reference, memory=limit - engine.arena_limit, **common)
        with against:
            yield engine, against
