"""Bit for bit: the calls one model made, made again by transformers with everything in memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from locum.backbone.family import quiet_transformers
from locum.backbone.load import own_memory
from locum.engine.steps import Context, Part, forward

Call = tuple[list[int], Tensor]
"""The token ids of one forward call and the logits [V] of its last token."""


@contextmanager
def recorded(model: Any) -> Iterator[list[Call]]:
    """Remember every forward call of `model` in the list that is yielded."""
    calls: list[Call] = []

    def note(_: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        calls.append((kwargs["input_ids"][0].tolist(), output.logits[0, -1].clone()))

    hook = model.register_forward_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


def replay(path: Path, calls: Sequence[Call]) -> list[Call]:
    """The same calls by transformers itself: all experts in memory, its own eager implementation."""
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype="auto", experts_implementation="eager", local_files_only=True
        ).eval()
    own_memory(model)
    context = Context(DynamicCache(config=model.config))
    return [(ids, forward(model, [Part(context, ids)])[0]) for ids, _ in calls]


def same_bits(one: Sequence[Call], other: Sequence[Call]) -> bool:
    """True when both made the same calls and every logit has the same bits."""
    return len(one) == len(other) > 0 and all(
        a_ids == b_ids and a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))
        for (a_ids, a), (b_ids, b) in zip(one, other, strict=True)
    )
