"""What `locum inspect` says about a checkpoint. Reads headers only: under a second for tens of gigabytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locum.model import budget
from locum.model.budget import MemorySplit
from locum.model.checkpoint import Checkpoint
from locum.model.spec import MoESpec

CONTEXT = 4096
"""Tokens of context for which budgets are stated, where the model allows as many."""
SHARES = (0.25, 0.5, 1.0)
"""Shares of the experts for which budgets are stated."""


@dataclass(frozen=True, slots=True)
class UsefulBudget:
    """A budget that holds `share` of the routed experts: the arena alone, and the whole process (bytes)."""

    share: float
    expert_memory: int
    memory: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """A checkpoint described, with what it takes to run it."""

    path: Path
    spec: MoESpec
    config_hash: str
    files: int
    stored_bytes: int
    """Bytes of all weight files, headers included."""
    context: int
    """Tokens of context in `minimum` and `useful`."""
    minimum: MemorySplit
    useful: tuple[UsefulBudget, ...]
    ceilings: Mapping[str, Any] | None
    """What this machine's disk and memory allow, None where it has not been measured."""

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints. Sizes in bytes; a figure that differs between layers is a list."""
        spec, minimum = self.spec, self.minimum
        return {
            "model": str(self.path),
            "config_hash": self.config_hash,
            "family": spec.family,
            "architecture": spec.architecture,
            "runnable": spec.runnable,
            "reason": spec.unrunnable,
            "layers": spec.layers,
            "moe_layers": list(spec.moe_layers),
            "experts": one_or_each(spec.experts),
            "top_k": one_or_each(spec.top_k),
            "shared_experts": spec.shared_experts,
            "router": spec.router,
            "layout": spec.layout,
            "dtype": spec.dtype,
            "quantization": spec.quantization,
            "hidden_size": spec.hidden_size,
            "vocab_size": spec.vocab_size,
            "context_length": spec.context_length,
            "tied_embeddings": spec.tied_embeddings,
            "remote_code": spec.remote_code,
            "params": spec.params,
            "active_params": spec.active_params,
            "files": self.files,
            "stored_bytes": self.stored_bytes,
            "expert_bytes": one_or_each(spec.expert_bytes),
            "routed_bytes": spec.routed_bytes,
            "active_bytes_per_token": spec.active_bytes_per_token,
            "backbone_bytes": spec.backbone_bytes,
            "backbone_resident_bytes": spec.backbone_resident_bytes,
            "ignored_bytes": spec.ignored_bytes,
            "kv_bytes_per_token": spec.kv_bytes_per_token,
            "context": self.context,
            "min_memory": minimum.total,
            "min_memory_parts": {
                name: getattr(minimum, name)
                for name in ("runtime", "backbone", "kv", "staging", "workspace", "experts")
            },
            "useful": [
                {"share": row.share, "expert_memory": row.expert_memory, "memory": row.memory}
                for row in self.useful
            ],
            "ceilings": None if self.ceilings is None else dict(self.ceilings),
        }


def inspect(
    path: str | Path,
    *,
    fixed: MemorySplit | None = None,
    context: int | None = None,
    ceilings: Mapping[str, Any] | None = None,
) -> Inspection:
    """Describe the checkpoint in a folder, of a family that locum runs or of any other MoE family.

    `fixed`: what the engine needs beside the experts at `context` tokens, the estimates of
    `budget.fixed_parts` where not given. `ceilings`: this machine's figures, from whoever has measured them.

    Raises the `ModelError`s of `Checkpoint.open` and `MoESpec.of`, and `UsageError` for an impossible
    context.
    """
    checkpoint = Checkpoint.open(path)
    spec = MoESpec.of(checkpoint)
    tokens = context or min(CONTEXT, spec.context_length)
    fixed = fixed or budget.fixed_parts(spec, context=tokens)
    return Inspection(
        path=Path(path),
        spec=spec,
        config_hash=checkpoint.config_hash,
        files=len(checkpoint.files),
        stored_bytes=sum(file.size for file in checkpoint.files),
        context=tokens,
        minimum=budget.minimum_memory(spec, fixed),
        useful=tuple(
            UsefulBudget(share, arena := budget.full_arena(spec, share), fixed.fixed + arena)
            for share in SHARES
        ),
        ceilings=ceilings,
    )


def one_or_each(values: Sequence[int]) -> int | list[int]:
    """One number where all are equal, else the list."""
    return values[0] if len(set(values)) == 1 else list(values)
