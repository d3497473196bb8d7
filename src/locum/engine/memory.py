"""How the engine divides `--memory`: figures it can measure are measured, the rest is bounded from above."""

import math
from dataclasses import dataclass, replace
from typing import Any

from locum.engine.steps import PREFILL_CHUNK
from locum.machine.limits import current_rss, memory_limit
from locum.model.budget import AUTO_SHARE, MemorySplit, fixed_parts, split, workspace_estimate
from locum.model.spec import MoESpec
from locum.store.layout import READERS, STAGING_BYTES
from locum.units import MIB, parse_bytes

CONTEXT = 4096
"""Tokens the KV cache is reserved for when nobody says otherwise (or the model's context, if shorter)."""
WARM_UP_BYTES = 96 * MIB
"""What the first forward passes allocate for good: library pools, kernels' scratch space, compiled code."""
SCORES_BYTES = 256 * MIB
"""Eager attention keeps [heads, chunk, context] scores; the prefill chunk is halved until they fit."""
SCORE_BYTES_EACH = 12
"""Bytes per attention score while eager attention runs: the scores, their float32 softmax, and the copy
back.
"""
SMALLEST_CHUNK = 32


@dataclass(frozen=True, slots=True)
class MemoryRequest:
    """What the user asked for: `--memory`, `--expert-memory` and `--context` as given."""

    memory: str | int | None = None
    expert_memory: str | int | None = None
    context: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The division in force, the bound it keeps, the context it was made for and the prefill chunk it
    allows.
    """

    split: MemorySplit
    limit: int
    context: int
    chunk: int


@dataclass(frozen=True, slots=True)
class Attention:
    """What attention needs memory for: `heads` of `head_dim`; `eager` keeps every score."""

    heads: int
    head_dim: int
    eager: bool

    @classmethod
    def of(cls, config: Any, *, eager: bool) -> "Attention":
        """Read a transformers config: the layer with the most heads times their size, where layers differ."""
        text = config.get_text_config()
        layers = text.per_layer_config if text.is_heterogeneous else [text]
        heads, head_dim = max(map(_heads, layers), key=math.prod)
        return cls(heads, head_dim, eager)

    def chunk(self, context: int) -> int:
        """The prefill chunk: `PREFILL_CHUNK`, halved while eager scores would not fit."""
        chunk = PREFILL_CHUNK
        while self.eager and chunk > SMALLEST_CHUNK and self._scores(chunk, context) > SCORES_BYTES:
            chunk //= 2
        return chunk

    def workspace(self, chunk: int, context: int) -> int:
        """Bytes of one layer's attention: keys and values repeated for every head, the mask, eager scores."""
        repeated = 2 * self.heads * self.head_dim * 4 * context
        mask = 16 * chunk * context
        return repeated + mask + (self._scores(chunk, context) if self.eager else 0)

    def _scores(self, chunk: int, context: int) -> int:
        return self.heads * chunk * context * SCORE_BYTES_EACH


def _heads(layer: Any) -> tuple[int, int]:
    """(heads, size of a head) by the config of one layer."""
    heads = int(layer.num_attention_heads)
    compressed = getattr(layer, "qk_nope_head_dim", None)
    head_dim = compressed + layer.qk_rope_head_dim if compressed else getattr(layer, "head_dim", None)
    return heads, int(head_dim or layer.hidden_size // heads)


def plan_memory(
    spec: MoESpec,
    attention: Attention,
    asked: MemoryRequest,
    *,
    made_bytes: int = 0,
    loading_bytes: int = 0,
    readers: int = READERS,
) -> MemoryPlan:
    """Divide the budget before anything is loaded.

    `made_bytes`: what it takes to make an expert's largest parameter of what is stored. `loading_bytes`: what
    loading the backbone takes beside it for a while, when there are no activations yet.

    Raises `BudgetError`, `UsageError`.
    """
    context = asked.context or min(CONTEXT, spec.context_length)
    chunk = attention.chunk(context)
    activations = workspace_estimate(spec, chunk) + attention.workspace(chunk, context)
    fixed = fixed_parts(
        spec,
        context=context,
        runtime_bytes=current_rss() + WARM_UP_BYTES,
        staging_bytes=readers * STAGING_BYTES,
        workspace_bytes=max(activations + made_bytes, loading_bytes),
    )
    return MemoryPlan(_divide(spec, fixed, asked), _limit(asked), context, chunk)


def replan(spec: MoESpec, plan: MemoryPlan, asked: MemoryRequest) -> MemoryPlan:
    """Divide again with the backbone in memory: the runtime is now measured, no longer guessed."""
    runtime = max(0, current_rss() - plan.split.backbone) + WARM_UP_BYTES
    return replace(plan, split=_divide(spec, replace(plan.split, runtime=runtime, experts=0), asked))


def in_dtype(spec: MoESpec, dtype: str) -> MoESpec:
    """The same model computed in another dtype (torch's name): its backbone takes other memory."""
    moved = replace(spec, dtype=dtype)
    return replace(moved, backbone_resident_bytes=spec.backbone_params * moved.dtype_bytes)


def _limit(asked: MemoryRequest) -> int:
    if asked.memory is None or asked.memory == "auto":
        return int(memory_limit() * AUTO_SHARE)
    return parse_bytes(asked.memory)


def _divide(spec: MoESpec, fixed: MemorySplit, asked: MemoryRequest) -> MemorySplit:
    return split(
        spec, fixed, available=memory_limit(), memory=asked.memory, expert_memory=asked.expert_memory
    )
