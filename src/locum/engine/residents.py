"""The experts of one model in memory: arena, Mover, Ledger and Residency put together, as the backbone sees
them.

Axes: T tokens, H hidden, K chosen.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from torch import Tensor, nn
from transformers import PreTrainedModel

from locum.backbone.routers import find_routers, predict
from locum.engine.account import ExpertCounts
from locum.engine.recorder import Foreseen, Recorder
from locum.errors import UsageError
from locum.kernels.stored import StoredExpert, StoredParameter
from locum.policy import create as create_eviction
from locum.policy.future import Future
from locum.policy.prefetch import Prefetcher, confidence
from locum.policy.prefetch import create_for as create_prefetch
from locum.residency.decision import Log
from locum.residency.driver import Driver
from locum.residency.keys import KeyRange, KeySpace
from locum.residency.lease import Lease
from locum.residency.ledger import Ledger, Wave
from locum.residency.mover.base import Slot
from locum.residency.residency import Residency
from locum.residency.slots import ArenaSlots
from locum.residency.split import split_arena
from locum.store.arena import Arena
from locum.store.checks import Verify
from locum.store.direct import DirectMover
from locum.store.index import ALIGN, ExpertIndex
from locum.store.layout import READERS, Layout
from locum.store.movers import Kind, open_mover


@dataclass(frozen=True, kw_only=True)
class ResidentsOptions:
    """How experts are kept. `arena_bytes` is all the memory for experts; the rest as the command line's
    flags.

    `align` is what expert weights need to keep torch's bits, see `kernels.alignment`. `prefetch` "auto" is
    "next-gate" where the model's routers can be asked ahead of time, else "none".
    `future` is what `belady` needs; `log` hears every decision.
    """

    arena_bytes: int
    eviction: str = "lru"
    prefetch: str = "none"
    mover: Kind = "auto"
    wave: Wave = "rank"
    readers: int = READERS
    verify: Verify = "first"
    align: int = ALIGN
    future: Future | None = None
    log: Log | None = None
    eviction_params: Mapping[str, object] = field(default_factory=dict)
    prefetch_params: Mapping[str, object] = field(default_factory=dict)


def key_space(index: ExpertIndex, layout: Layout) -> KeySpace:
    """One ledger layer per MoE layer, keys as the index numbers them, all in one budget."""
    return KeySpace(
        [
            KeyRange(
                layer=number,
                first=index.key_of(number, 0),
                resident=layout.slot_bytes(number),
                stored=tuple(sum(span.length for span in spans) for spans in layer.experts),
            )
            for number, layer in enumerate(index.layers)
        ]
    )


class Residents:
    """The lessor of one model's experts. One thread calls it; `close` gives the memory back."""

    def __init__(
        self,
        index: ExpertIndex,
        model: PreTrainedModel,
        top_k: int,
        options: ResidentsOptions,
    ) -> None:
        self.index, self.options = index, options
        self._dtype, self._stride = model.dtype, index.stride
        routers = find_routers(model)
        self._prefetcher = _prefetcher(options, routers, top_k)
        self._routers = routers
        layout = Layout(index, options.align)
        keys = key_space(index, layout)
        self.split = split_arena(keys, options.arena_bytes, top_k * self._prefetcher.distance)
        policy = create_eviction(options.eviction, **options.eviction_params)
        provides = {"counts"} | ({"next"} if options.future else set())
        ledger = Ledger(
            keys,
            [self.split.cache],
            policy,
            speculation=self.split.speculation,
            wave=options.wave,
            provides=provides,
        )
        self.arena = Arena(len(keys.classes) * self.split.budget)
        places = ArenaSlots(keys.classes, self.split.budget, self.arena)
        assert places.span <= self.arena.size, "the arena is shorter than its slots"
        try:
            self.mover = open_mover(
                index,
                self.arena,
                kind=_mover_kind(options.mover),
                threads=options.readers,
                layout=layout,
                verify=options.verify,
            )
        except BaseException:
            self.arena.close()
            raise
        self.residency = Residency(ledger, self.mover, places, log=options.log)
        self.driver = Driver(self.residency, self._prefetcher, options.future)
        self.recorder: Recorder | None = None
        self.layout = layout
        self._views: dict[int, tuple[int, dict[str, Tensor]]] = {}
        self._plans = [[StoredParameter(view) for view in layer.tensors] for layer in index.layers]
        self._steps = 0
        self._last: dict[int, list[int]] = {}
        self._request = 0
        self._closed = False

    # what the backbone calls

    def step(self, inputs: Tensor, given: Mapping[str, Any]) -> None:
        """A forward pass over `inputs`, [B, T], begins. `given` is what the model was called with."""
        number, self._steps = self._steps, self._steps + 1
        phase = 1 if inputs.numel() == 1 else 0
        if self.recorder is not None:
            self.recorder.begin(number, phase, self._request, inputs, given)
        self.driver.step(number, phase, inputs.numel())

    def stepped(self) -> None:
        """The forward pass is over."""
        if self.recorder is not None:
            self.recorder.end()

    def chosen(self, layer: int, ids_TK: Tensor, weights_TK: Tensor) -> None:
        """MoE layer number `layer` will use these experts with these weights."""
        if self.recorder is not None:
            self.recorder.chosen(layer, ids_TK, weights_TK)

    def acquire(self, layer: int, counts: Mapping[int, int], x_TH: Tensor) -> Lease:
        """A lease on the experts of MoE layer number `layer`, and reads ahead for the layers that follow."""
        first = layer * self._stride
        self._last[layer] = [first + expert for expert in counts]
        distance = self._prefetcher.distance
        recorded = 0 if self.recorder is None else self.recorder.distance
        began = time.perf_counter()
        foreseen = self._foresee(layer, x_TH, max(distance, recorded)) if distance or recorded else []
        if self.recorder is not None and recorded:
            self.recorder.foreseen(layer, foreseen, time.perf_counter() - began)
        return self.driver.acquire(layer, counts, [confidence(*ahead) for ahead in foreseen[:distance]])

    def weights(self, key: int, slot: Slot) -> Mapping[str, Tensor]:
        """The tensors of the expert in `slot`: views of the arena, or made anew whenever asked for."""
        known = self._views.get(slot.offset)
        if known is not None and known[0] == key:
            return known[1]
        base = slot.offset + self.layout.image_start(key)
        layer, expert = divmod(key, self._stride)
        plan, called = self._plans[layer], f"expert {expert} of {self.index.layers[layer].module}"
        stored = StoredExpert(plan, self.arena.memory, base, self._dtype, called)
        if not all(part.in_place(self._dtype) for part in plan):
            return stored
        views = dict(stored)
        self._views[slot.offset] = (key, views)
        return views

    def expert_of(self, key: int) -> int:
        """The expert's number in its layer."""
        return key % self._stride

    # what the engine calls

    @property
    def prefetch(self) -> str:
        """The prefetcher in use, by name."""
        if self.options.prefetch != "auto":
            return self.options.prefetch
        return "next-gate" if self._prefetcher.distance else "none"

    @property
    def mover_kind(self) -> str:
        """`direct` or `pagecache`: how experts are really read."""
        return "direct" if isinstance(self.mover, DirectMover) else "pagecache"

    def request(self, number: int, begin: bool) -> None:
        """A request begins or ends."""
        self._request = number
        self.driver.request(number, begin)

    def counts(self) -> ExpertCounts:
        """The running account since the start."""
        stats, physical, read = self.residency.ledger.stats, self.residency.physical, self.mover.counters
        return ExpertCounts(
            hits=stats.hits,
            staged=stats.staged,
            misses=stats.misses,
            late=physical.late,
            bytes_read=read.bytes_read,
            bytes_copied=read.bytes_copied,
            stall=physical.stall_s,
            evicted=stats.evicted,
        )

    def find_nan(self) -> str | None:
        """Look for NaN in the experts that the last step used. Returns `...experts.7.down_proj` or None."""
        for layer, keys in sorted(self._last.items()):
            with self.residency.acquire(layer, keys, {"counts": [1] * len(keys)}) as lease:
                bad = [
                    f"{self.index.layers[layer].module}.{self.expert_of(key)}.{name}"
                    for key, slot in lease
                    for name, tensor in self.weights(key, slot).items()
                    if bool(tensor.isnan().any())
                ]
            if bad:
                return min(bad)
        return None

    def close(self) -> None:
        """Stop every read and give the memory back. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self.residency.close()
        self.mover.close()
        self._views.clear()
        self.arena.close()

    def _foresee(self, layer: int, x_TH: Tensor, distance: int) -> list[Foreseen]:
        """What the routers of the next layers make of this layer's input, nearest first."""
        found = []
        for ahead in range(layer + 1, min(layer + 1 + distance, len(self._routers))):
            router = self._routers[ahead]
            assert router is not None
            weights_TK, ids_TK = predict(router, x_TH)
            weights, ids = weights_TK.float().numpy(), ids_TK.numpy()
            nobody = (ids >= len(self.index.layers[ahead].experts)) | (weights == 0)
            # rounded to the trace's types, so that a replay of the trace decides alike
            found.append((np.where(nobody, -1, ids).astype(np.int16), weights.astype(np.float16)))
        return found


def _prefetcher(options: ResidentsOptions, routers: Sequence[nn.Module | None], top_k: int) -> Prefetcher:
    params, name = dict(options.prefetch_params), options.prefetch
    mute = any(router is None for router in routers)
    if name == "auto":
        name = "none" if mute else "next-gate"
    prefetcher = create_prefetch(name, top_k, **params)
    if prefetcher.distance and mute:
        raise UsageError(
            f"prefetch {name} cannot ask this model's routers ahead of time",
            got="routers that need more than the hidden states",
            todo="Use --prefetch none",
        )
    return prefetcher


def _mover_kind(asked: Kind) -> Kind:
    """`LOCUM_MOVER` decides where nobody else did."""
    return cast("Kind", os.environ.get("LOCUM_MOVER", "auto")) if asked == "auto" else asked
