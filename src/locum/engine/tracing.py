"""`locum trace`: run a model over prompts and record what its routers do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locum.engine.engine import Engine
from locum.engine.recording import DISTANCES, recording
from locum.errors import PromptError
from locum.trace import Trace


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text to go on from, or a chat, and what to call its kind."""

    text: str
    domain: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """How to record. `max_tokens` are generated after each prompt, sampled as the model's own settings say,
    from `seed` on; of a longer prompt the first `prompt_tokens` are taken.
    """

    max_tokens: int = 64
    prompt_tokens: int | None = None
    seed: int = 0
    distances: int = DISTANCES
    scores: bool = True
    tokens: bool = True
    events: bool = False


def record(
    engine: Engine,
    prompts: Sequence[Prompt],
    folder: Path,
    asked: Recording,
    progress: Callable[[int], Any] | None = None,
) -> Trace:
    """Record `prompts` one after the other; `progress` hears how many are done.

    Raises `PromptError` when there is none, `UsageError` when the folder exists. What was recorded before an
    error or an interruption can be read.
    """
    if not prompts:
        raise PromptError("there are no prompts")
    room = engine.plan.context - asked.max_tokens
    most = room if asked.prompt_tokens is None else min(room, asked.prompt_tokens)
    if most < 1:
        raise PromptError(
            "no room for a prompt", allowed=f"fewer than {engine.plan.context} tokens to generate",
            got=asked.max_tokens, todo="Generate less, or load with more --context",
        )  # fmt: skip
    with recording(
        engine,
        folder,
        distances=asked.distances,
        scores=asked.scores,
        tokens=asked.tokens,
        events=asked.events,
    ) as recorder:
        for number, prompt in enumerate(prompts):
            recorder.domain = prompt.domain
            tokens = engine.encode(prompt.text)[:most]
            engine.generate(tokens, max_tokens=asked.max_tokens, seed=asked.seed + number, ignore_eos=True)
            if progress is not None:
                progress(number + 1)
    return Trace(folder)
