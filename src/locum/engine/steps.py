"""One forward pass, and what it works on.

A `Step` is a list of parts: (request, new tokens). Each request owns a real transformers cache object, so a
step of one part is transformers' ordinary forward, bit for bit (law B), and several parts can later be
packed into one sequence without another design: parts, per-request caches and per-request logits stay as
they are.

Axes: V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from locum.errors import LocumError, NumericsError

PREFILL_CHUNK = 512
"""Tokens per prefill step. Chunks end at multiples of this, whatever else runs: a prompt's bits are fixed."""


@dataclass
class Context:
    """What the model remembers of one request: its cache and how many tokens are in it."""

    cache: Any
    past: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """New tokens of one request, to be run in one step."""

    context: Context
    tokens: Sequence[int]


class BrokenContextError(LocumError):
    """A step failed half-way: this request's cache holds the step for some layers only."""


def prefill_chunks(
    tokens: Sequence[int], past: int = 0, chunk: int = PREFILL_CHUNK
) -> Iterator[Sequence[int]]:
    """Cut a prompt so that every piece ends at a multiple of `chunk` tokens, or at the prompt's end."""
    start = 0
    while start < len(tokens):
        stop = min(len(tokens), (past + start) // chunk * chunk + chunk - past)
        yield tokens[start:stop]
        start = stop


@torch.inference_mode()
def forward(model: PreTrainedModel, parts: Sequence[Part]) -> list[Tensor]:
    """Run one step. Returns, per part, the logits [V] of its last token, and moves each context on.

    Raises `NumericsError` for NaN logits. After any error the contexts of this step cannot be used again.
    """
    logits = []
    for part in parts:
        context = part.context
        if context.past < 0:
            raise BrokenContextError("an earlier step of this request failed", todo="Start the request again")
        past, context.past = context.past, -1
        positions = torch.arange(past, past + len(part.tokens))[None]
        output = model(
            input_ids=torch.tensor(part.tokens)[None],
            position_ids=positions,
            past_key_values=context.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_V = output.logits[0, -1]
        if bool(logits_V.isnan().any()):
            raise NumericsError(
                "the model's logits are NaN",
                where=f"the step over positions {past} to {past + len(part.tokens) - 1}",
                todo="A weight is NaN or infinite: check the checkpoint, or run it in another dtype",
            )
        context.past = past + len(part.tokens)
        logits.append(logits_V)
    return logits
