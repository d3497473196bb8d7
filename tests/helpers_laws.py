"""Drive a model with locum's experts, and transformers with its own, through the same sequence of calls."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers_models import reference_model
from locum.backbone.index import expert_index
from locum.backbone.linears import attach_linears
from locum.backbone.load import load_backbone
from locum.backbone.routers import find_routers
from locum.backbone.runtime import attach
from locum.engine.cache import request_cache
from locum.engine.engine import expert_products
from locum.engine.residents import Residents, ResidentsOptions
from locum.engine.steps import Context, Part, forward, prefill_chunks
from locum.model.checkpoint import Checkpoint
from locum.policy.future import Future
from locum.store.index import ExpertIndex
from locum.store.layout import Layout

PROMPT = torch.randint(3, 256, (19,), generator=torch.Generator().manual_seed(5)).tolist()
CHUNK = 8
STEPS = 12


@dataclass(frozen=True)
class Run:
    """What one run of the sequence produced: logits of every call, tokens, and the uses of experts."""

    logits: list[Tensor]
    tokens: list[int]
    future: Future | None = None
    misses: int = 0


def drive(model: Any, cache: Any) -> tuple[list[Tensor], list[int]]:
    """Prefill in chunks, then decode greedily."""
    context, logits, tokens = Context(cache), [], []
    for chunk in prefill_chunks(PROMPT, 0, CHUNK):
        logits += forward(model, [Part(context, chunk)])
    for _ in range(STEPS):
        tokens.append(int(logits[-1].argmax()))
        logits += forward(model, [Part(context, tokens[-1:])])
    return logits, tokens


def reference(path: Path, dtype: torch.dtype | None = None) -> Run:
    """transformers with eager experts and its own cache class."""
    from transformers import DynamicCache

    model = reference_model(path, dtype)
    return Run(*drive(model, DynamicCache(config=model.config)))


def slot_size(index: ExpertIndex) -> int:
    """Bytes of one slot."""
    return Layout(index).slot_bytes(0)


class Subject:
    """One checkpoint with locum's experts; `run` drives it under any arena and policy."""

    def __init__(self, path: Path, dtype: torch.dtype | None = None) -> None:
        checkpoint = Checkpoint.open(path)
        self.index = expert_index(checkpoint)
        self.model = load_backbone(checkpoint, dtype)
        self.products = expert_products(self.index, self.model, (torch.get_num_threads(),))
        self.experts = [len(layer.experts) for layer in self.index.layers]
        self.slot = slot_size(self.index)

    @contextmanager
    def residents(self, slots: int, **options: Any) -> Iterator[Residents]:
        """Residents with room for `slots` experts in all."""
        chosen = ResidentsOptions(arena_bytes=slots * self.slot, **options)
        residents = Residents(self.index, self.model, 3, chosen)
        detach = attach(self.model, residents, self.experts, self.products.linear)
        detach_linears = attach_linears(self.model, self.products, find_routers(self.model))
        try:
            yield residents
        finally:
            detach()
            detach_linears()
            residents.close()

    def run(self, slots: int, **options: Any) -> Run:
        """The whole sequence in an arena of `slots` experts."""
        uses: list[tuple[int, Sequence[int]]] = []
        layers = len(self.index.layers)

        def log(event: tuple[Any, ...]) -> None:
            if event[0] == "acquire":
                uses.append((len(uses) // layers * layers + event[1], event[2]))

        with self.residents(slots, log=log, **options) as residents:
            residents.request(0, True)
            logits, tokens = drive(self.model, request_cache(self.model.config))
            residents.request(0, False)
            residents.residency.check_integrity()
            return Run(logits, tokens, Future(uses), residents.counts().misses)


def same_bits(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """True when every tensor has the same dtype, shape and bits."""
    return len(one) == len(other) and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(torch.uint8), b.view(torch.uint8))
        for a, b in zip(one, other, strict=True)
    )


def swapped(subject: Subject) -> Run:
    """Exchange the bytes of experts 0 and 1 of every layer, as an index gone wrong would."""
    good = subject.index
    layers = tuple(
        replace(layer, experts=(layer.experts[1], layer.experts[0], *layer.experts[2:]))
        for layer in good.layers
    )
    subject.index = replace(good, layers=layers)
    try:
        return subject.run(1000)
    finally:
        subject.index = good
