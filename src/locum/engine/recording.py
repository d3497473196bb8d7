"""What a recording says of the model it is of, and how one begins and ends."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from locum.backbone.routers import find_routers
from locum.engine.recorder import Recorder
from locum.errors import UsageError
from locum.trace import TraceMeta, TraceWriter
from locum.trace.events import EventRow
from locum.trace.snapshot import Snapshot

if TYPE_CHECKING:
    from locum.engine.engine import Engine
    from locum.engine.residents import Residents
    from locum.residency.decision import Event
    from locum.residency.ledger import Ledger

DISTANCES = 3
"""Layers that the routers are asked ahead."""


@contextmanager
def recording(
    engine: "Engine",
    folder: Path,
    *,
    distances: int = DISTANCES,
    scores: bool = True,
    tokens: bool = True,
    events: bool = False,
) -> Iterator[Recorder]:
    """Record everything that `engine` does inside the block into a new `folder`.

    The setting and the cache, as it is now, are kept with it.

    `distances`: layers ahead that the routers are asked, where this model's can be. `scores`: the best router
    scores, margin and entropy. `tokens`: the token ids too; leave them out where texts are private. `events`:
    what the experts' memory was told and did, for an exact replay whatever else happens. Raises `UsageError`
    when the folder exists or the engine is being recorded already.
    """
    residents = engine.residents
    if residents.recorder is not None:
        raise UsageError("this engine is being recorded already", todo="End that recording first")
    routers = find_routers(engine.model)
    heard = all(router is not None for router in routers)
    meta = meta_of(engine, distances=distances if heard else 0, scores=scores and heard, tokens=tokens)
    with TraceWriter(folder, meta) as writer:
        snapshot_of(residents).write(folder)
        recorder = residents.recorder = Recorder(writer, residents.counts)
        stop = recorder.listen(routers)
        unheard = _hear(residents.residency.ledger, writer) if events else lambda: None
        try:
            yield recorder
        finally:
            stop()
            unheard()
            residents.recorder = None


def _hear(ledger: "Ledger", writer: TraceWriter) -> Callable[[], None]:
    """Write the Ledger's events down, whoever else hears them. Returns the function that stops it."""
    others = ledger.log

    def hear(event: "Event") -> None:
        writer.event(EventRow.of(event))
        if others is not None:
            others(event)

    def stop() -> None:
        ledger.log = others

    ledger.log = hear
    return stop


def snapshot_of(residents: "Residents") -> Snapshot:
    """The experts' memory as it is between two steps."""
    options, ledger = residents.options, residents.residency.ledger
    return Snapshot(
        eviction=options.eviction, prefetch=residents.prefetch, wave=options.wave,
        arena_bytes=options.arena_bytes, ledger=ledger.state() if ledger.stats.requests else None,
        eviction_params=dict(options.eviction_params), prefetch_params=dict(options.prefetch_params),
    )  # fmt: skip


def meta_of(engine: "Engine", *, distances: int, scores: bool, tokens: bool) -> TraceMeta:
    """What the trace will say of itself."""
    residents, spec = engine.residents, engine.spec
    layers = residents.index.layers
    top_k = [layer.top_k for layer in spec.moe]
    columns = ["weights", "domain"] + ["token"] * tokens
    distances = min(distances, len(layers) - 1)
    if distances:
        columns += ["next_ids", "next_scores"]
    if scores:
        columns += ["top_ids", "top_scores", "margin", "entropy"]
    return TraceMeta(
        model=engine.path.name,
        moe_layers=tuple(layer.layer for layer in layers),
        experts=tuple(len(layer.experts) for layer in layers),
        top_k=tuple(top_k),
        family=spec.family,
        config_hash=engine.config_hash,
        tokenizer_hash=_hash(engine.path / "tokenizer.json"),
        shared_experts=spec.shared_experts,
        dtype=str(engine.model.dtype).removeprefix("torch."),
        distances=distances,
        predicted=max(top_k) if distances else 0,
        scored=2 * max(top_k) if scores else 0,
        columns=tuple(columns),
        expert_bytes=tuple(sum(span.length for span in layer.experts[0]) for layer in layers),
        slot_bytes=tuple(residents.layout.slot_bytes(number) for number in range(len(layers))),
        backbone_bytes=spec.backbone_bytes_per_token,
    )


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
