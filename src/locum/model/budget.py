"""Arithmetic of the memory budget: what a process needs at least, and how a given budget is divided.

Nothing is measured here. The caller brings the figures that depend on the machine and on the engine (runtime,
staging, workspace, available memory); the rest follows from the `MoESpec`.
"""

from dataclasses import dataclass, fields, replace

from locum.errors import BudgetError, UsageError
from locum.model.spec import MoELayer, MoESpec
from locum.units import MIB, format_bytes, parse_bytes, parse_share

PAGE = 4096
"""Direct I/O reads whole blocks of this many bytes, at multiples of it."""
SLAB = 2 * MIB
"""The arena is committed in huge pages of this size."""
RUNTIME_BYTES = 512 * MIB
"""A process that has imported torch and transformers and done nothing else (measured: about half a GiB)."""
AUTO_SHARE = 0.9
"""`--memory auto` leaves a tenth of the available memory alone."""


@dataclass(frozen=True, slots=True)
class MemorySplit:
    """How the memory of a process is divided. All parts in bytes; `total` is what `--memory` bounds."""

    runtime: int
    """The interpreter, torch and transformers themselves."""
    backbone: int
    """Everything of the model but the routed experts, in the dtype it computes in."""
    kv: int
    """The KV cache at the context asked for."""
    staging: int
    """Buffers between disk and arena."""
    workspace: int
    """Activations and logits."""
    experts: int
    """The expert arena."""

    @property
    def total(self) -> int:
        """The whole process."""
        return self.fixed + self.experts

    @property
    def fixed(self) -> int:
        """Everything but the experts."""
        return self.runtime + self.backbone + self.kv + self.staging + self.workspace

    def text(self) -> str:
        """For people: `runtime 512 MiB + backbone 1.20 GiB + ...`, parts of zero bytes left out."""
        parts = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return " + ".join(f"{name} {format_bytes(size)}" for name, size in parts if size)


def slot_bytes(layer: MoELayer) -> int:
    """Room for one expert of a layer, wherever its tensors lie in the files.

    Each stored tensor is read as the blocks that enclose it, so it may need one block more than its length.
    """
    return sum(round_up(length, PAGE) + PAGE for _, length in layer.pieces)


def smallest_arena(spec: MoESpec, slots: int = 1) -> int:
    """The arena for `slots` experts of the largest size, in whole slabs. With one slot everything works:
    experts are then read one after the other.
    """
    return round_up(slots * max(slot_bytes(layer) for layer in spec.moe), SLAB)


def full_arena(spec: MoESpec, share: float = 1.0) -> int:
    """The arena for a share (0 to 1) of all routed experts, at least the smallest one, in whole slabs."""
    whole = sum(layer.experts * slot_bytes(layer) for layer in spec.moe)
    return max(smallest_arena(spec), round_up(int(whole * share), SLAB))


def workspace_estimate(spec: MoESpec, chunk: int = 256) -> int:
    """Bytes of activations for a forward pass over `chunk` tokens, in float32, and the logits of one token.

    Counts the residual stream and seven tensors of its size, the experts' outputs `[chunk, k, hidden]` and
    four copies of the logits (penalties, sorting, probabilities). Attention scores are not counted: the
    engine knows its attention and brings its own figure.
    """
    rows = 8 + max(spec.top_k)
    return 4 * (chunk * spec.hidden_size * rows + 4 * spec.vocab_size)


def fixed_parts(
    spec: MoESpec,
    *,
    context: int,
    runtime_bytes: int = RUNTIME_BYTES,
    staging_bytes: int | None = None,
    workspace_bytes: int | None = None,
    requests: int = 1,
) -> MemorySplit:
    """What is needed beside the experts for `requests` requests of `context` tokens (`experts` is 0).

    Without a figure, staging is two of the largest slots and the workspace is `workspace_estimate`.
    """
    if context < 1 or context > spec.context_length:
        raise UsageError("context out of range", allowed=f"1 to {spec.context_length} tokens", got=context)
    return MemorySplit(
        runtime=runtime_bytes,
        backbone=spec.backbone_resident_bytes,
        kv=requests * spec.kv_bytes(context, spec.dtype_bytes),
        staging=smallest_arena(spec, 2) if staging_bytes is None else staging_bytes,
        workspace=workspace_estimate(spec) if workspace_bytes is None else workspace_bytes,
        experts=0,
    )


def minimum_memory(spec: MoESpec, fixed: MemorySplit, slots: int = 1) -> MemorySplit:
    """The least memory that works: the fixed parts and an arena of `slots` experts."""
    return replace(fixed, experts=smallest_arena(spec, slots))


def split(
    spec: MoESpec,
    fixed: MemorySplit,
    *,
    available: int,
    memory: str | int | None = None,
    expert_memory: str | int | None = None,
    slots: int = 1,
) -> MemorySplit:
    """Divide a budget as `--memory` and `--expert-memory` ask.

    `memory` bounds the whole process; None or `auto` is nine tenths of `available` (bytes: the smaller of the
    cgroup's limit and what is free). `expert_memory` (bytes, or a share such as `25%` of the routed experts'
    stored bytes) sets the arena exactly, and the rest must fit; without it the arena takes what is left, at
    most what all experts need. `slots` is the least arena in experts.

    Raises `BudgetError` carrying the minimum and saying what it is made of, `UsageError` for a malformed
    size.
    """
    automatic = memory is None or (isinstance(memory, str) and memory.strip().lower() == "auto")
    limit = int(available * AUTO_SHARE) if automatic or memory is None else parse_bytes(memory)
    source = "--memory auto" if automatic else "--memory"
    least = smallest_arena(spec, slots)
    if expert_memory is not None:
        arena = parse_share(expert_memory, spec.routed_bytes)
        exact = slots * max(slot_bytes(layer) for layer in spec.moe)
        if arena < exact:
            parts = f"{slots} of the largest expert{'s' if slots > 1 else ''}"
            raise _below("--expert-memory is below the minimum", exact, parts, got=arena)
        asked = replace(fixed, experts=arena)
        if asked.total > limit:
            todo = f"Give a smaller --expert-memory (at least {format_bytes(least)}) or more memory"
            raise _below(
                f"{source} is too small for this --expert-memory", asked.total, asked.text(), limit, todo
            )
        return asked
    minimum = minimum_memory(spec, fixed, slots)
    if limit < minimum.total:
        todo = "Give more memory or a shorter context"
        raise _below(f"{source} is below the minimum", minimum.total, minimum.text(), limit, todo)
    left = (limit - fixed.fixed) // SLAB * SLAB
    return replace(fixed, experts=max(least, min(left, full_arena(spec))))


def _below(what: str, minimum: int, parts: str, got: int, todo: str | None = None) -> BudgetError:
    allowed = f"at least {format_bytes(minimum)} ({minimum} bytes): {parts}"
    return BudgetError(
        what, minimum=minimum, allowed=allowed, got=f"{format_bytes(got)} ({got} bytes)", todo=todo
    )


def round_up(size: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-size // step) * step
