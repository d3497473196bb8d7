"""Record a trace of what a model's routers do while it runs.

Everything is kept as the model made it until the step ends, and brought into the trace's form at once: per
layer a recording costs a few references.

Axes: T tokens of a step, L MoE layers, R rows of several layers, K chosen, E experts, D distances,
P predicted, S best scores.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from locum.backbone.routers import router_scores
from locum.engine.account import ExpertCounts
from locum.trace import Rows, StepRow, TraceMeta, TraceWriter

Foreseen = tuple[NDArray[np.int16], NDArray[np.float16]]
"""What one router chose ahead of its time: ids and scores [T, P], -1 for nobody."""


@dataclass
class _Step:
    """One forward step under way."""

    number: int
    phase: int
    requests: NDArray[np.int32]
    positions: NDArray[np.int32]
    tokens: NDArray[np.int32]
    before: ExpertCounts
    began: float
    chosen: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    foreseen: dict[int, Sequence[Foreseen]] = field(default_factory=dict)
    predict_s: float = 0.0
    scores: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


class Recorder:
    """Hears a model's steps and writes rows. `counts` gives the running account of experts.

    `domain` labels the rows that follow. A step that fails half-way leaves no row.
    """

    def __init__(self, writer: TraceWriter, counts: Callable[[], ExpertCounts]) -> None:
        self._writer, self._counts = writer, counts
        self.meta: TraceMeta = writer.meta
        self.domain: str | None = None
        self._step: _Step | None = None
        self._after: ExpertCounts | None = None
        """The account when the last step ended: what is read between two steps counts to the second."""

    @property
    def distance(self) -> int:
        """How many layers ahead the routers are to be asked."""
        return self.meta.distances

    def listen(self, routers: Sequence[nn.Module | None]) -> Callable[[], None]:
        """Hear the scores of `routers`, one per MoE layer. Returns the function that stops it."""
        if not self.meta.scored:
            return lambda: None
        hooks = [
            router.register_forward_hook(self._hearing(layer))
            for layer, router in enumerate(routers)
            if router is not None
        ]

        def stop() -> None:
            for hook in hooks:
                hook.remove()

        return stop

    def _hearing(self, layer: int) -> Callable[..., None]:
        def hear(router: nn.Module, inputs: Any, output: Any) -> None:
            if self._step is not None:
                # most routers return a tuple that begins with the logits, some the logits alone
                logits = output if isinstance(output, Tensor) else output[0]
                self._step.scores[layer] = router_scores(router, logits)

        return hear

    def begin(self, number: int, phase: int, request: int, inputs: Tensor, given: Mapping[str, Any]) -> None:
        """A step begins: over `inputs` [B, T] of `request`; `given` is what the model was called with."""
        if self._step is not None:  # the last one failed half-way, and spent what it spent
            self._after = None
        rows, length = inputs.shape[:2]
        tokens = inputs.reshape(-1).numpy() if "input_ids" in given else np.full(inputs.numel(), -1)
        positions = given.get("position_ids")
        position_BT = np.arange(length)[None] if positions is None else positions.reshape(-1, length).numpy()
        self._step = _Step(
            number, phase, np.repeat(np.arange(request, request + rows, dtype=np.int32), length),
            np.broadcast_to(position_BT[:rows], (rows, length)).reshape(-1).astype(np.int32),
            tokens.astype(np.int32), self._after or self._counts(), time.perf_counter(),
        )  # fmt: skip

    def chosen(self, layer: int, ids_TK: Tensor, weights_TK: Tensor) -> None:
        """What a layer really uses; ids from the number of experts on mean nobody."""
        if self._step is not None:
            self._step.chosen[layer] = ids_TK, weights_TK

    def foreseen(self, layer: int, ahead: Sequence[Foreseen], seconds: float) -> None:
        """What the routers of the next layers say to the present layer's input; asking took `seconds`."""
        if self._step is not None:
            self._step.foreseen[layer] = ahead
            self._step.predict_s += seconds

    def end(self) -> None:
        """The step is over: its rows go to the trace."""
        step, self._step = self._step, None
        if step is None or len(step.chosen) < len(self.meta.experts):
            return
        wall, self._after = time.perf_counter() - step.began, self._counts()
        spent = self._after - step.before
        self._writer.add(self._rows(step))
        self._writer.step(
            StepRow(
                step=step.number,
                phase=step.phase,
                tokens=len(step.tokens),
                wall_s=wall,
                compute_s=max(0.0, wall - spent.stall - step.predict_s),
                stall_s=spent.stall,
                predict_s=step.predict_s,
                bytes_read=spent.bytes_read,
                hits=spent.hits,
                staged=spent.staged,
                misses=spent.misses,
                late=spent.late,
                evicted=spent.evicted,
            )
        )

    def _rows(self, step: _Step) -> Rows:
        tokens, sizes = len(step.tokens), self.meta.sizes
        experts_TLK = np.full((tokens, sizes["L"], sizes["K"]), -1, np.int16)
        weights_TLK = np.full(experts_TLK.shape, np.nan, np.float16)
        for layers in self._alike({layer: ids_TK.shape[1] for layer, (ids_TK, _) in step.chosen.items()}):
            ids, weights = (torch.cat([step.chosen[layer][part] for layer in layers]) for part in (0, 1))
            ids_RK, weights_RK = _choice(ids, weights, self.meta.experts[layers[0]])
            experts_TLK[:, layers, : ids_RK.shape[1]] = _by_token(ids_RK, layers)
            weights_TLK[:, layers, : ids_RK.shape[1]] = _by_token(weights_RK, layers)
        found: dict[str, Any] = {
            "request": step.requests, "position": step.positions,
            "step": np.full(tokens, step.number, np.int64), "phase": np.full(tokens, step.phase, np.uint8),
            "experts": experts_TLK, "token": step.tokens, "weights": weights_TLK,
            "domain": np.full(tokens, self.domain, object),
        }  # fmt: skip
        if self.meta.distances:
            found["next_ids"], found["next_scores"] = self._foreseen(step)
        if self.meta.scored:
            found |= self._scores(step, experts_TLK)
        return Rows(**{name: array for name, array in found.items() if name in self._wanted})

    def _alike(self, widths: Mapping[int, int]) -> list[list[int]]:
        """Layers with as many experts and one width of what is kept of them: they are dealt with at once."""
        groups: dict[tuple[int, int], list[int]] = {}
        for layer, width in widths.items():
            groups.setdefault((width, self.meta.experts[layer]), []).append(layer)
        return list(groups.values())

    @property
    def _wanted(self) -> set[str]:
        return {"request", "position", "step", "phase", "experts", *self.meta.columns}

    def _foreseen(self, step: _Step) -> tuple[NDArray[np.int16], NDArray[np.float16]]:
        sizes = self.meta.sizes
        shape = (len(step.tokens), sizes["L"], sizes["D"], sizes["P"])
        ids, scores = np.full(shape, -1, np.int16), np.full(shape, np.nan, np.float16)
        for layer, ahead in step.foreseen.items():
            for distance, (ids_TP, scores_TP) in enumerate(ahead[: sizes["D"]]):
                width = ids_TP.shape[1]
                ids[:, layer, distance, :width] = ids_TP
                scores[:, layer, distance, :width] = np.where(ids_TP >= 0, scores_TP, np.nan)
        return ids, scores

    def _scores(self, step: _Step, experts_TLK: NDArray[np.int16]) -> dict[str, Any]:
        tokens, layers, best = *experts_TLK.shape[:2], self.meta.scored
        top_ids = np.full((tokens, layers, best), -1, np.int16)
        top_scores = np.full(top_ids.shape, np.nan, np.float16)
        margin, entropy = (np.full((tokens, layers), np.nan, np.float16) for _ in range(2))
        for group in self._alike({layer: all_TE.shape[1] for layer, (_, all_TE) in step.scores.items()}):
            share_RE, all_RE = (torch.cat([step.scores[layer][part] for layer in group]) for part in (0, 1))
            score_RE = all_RE[:, : self.meta.experts[group[0]]]  # what comes after is nobody
            wide = min(best, score_RE.shape[1])
            values_RS, ids_RS = score_RE.topk(wide, dim=1)
            chosen_RK = experts_TLK[:, group].swapaxes(0, 1).reshape(-1, experts_TLK.shape[2])
            even_RE = share_RE / share_RE.sum(1, keepdim=True)
            top_ids[:, group, :wide] = _by_token(ids_RS.to(torch.int16).numpy(), group)
            top_scores[:, group, :wide] = _by_token(values_RS.half().numpy(), group)
            margin[:, group] = _by_token(_margins(chosen_RK, score_RE, values_RS), group)
            entropy[:, group] = _by_token(torch.special.entr(even_RE).sum(1).half().numpy(), group)
        return {"top_ids": top_ids, "top_scores": top_scores, "margin": margin, "entropy": entropy}


def _by_token(rows_RX: NDArray[Any], layers: Sequence[int]) -> NDArray[Any]:
    """[T, L, X] from rows that stand layer by layer."""
    return rows_RX.reshape(len(layers), -1, *rows_RX.shape[1:]).swapaxes(0, 1)


def _choice(
    ids_RK: Tensor, weights_RK: Tensor, experts: int
) -> tuple[NDArray[np.int16], NDArray[np.float16]]:
    """Ids and weights in the trace's form: -1 and NaN for nobody, after everybody."""
    ids, weights = ids_RK.to(torch.int16).numpy(), weights_RK.half().numpy()
    nobody_RK = (ids < 0) | (ids >= experts)
    if not nobody_RK.any():
        return ids, weights
    order_RK = np.argsort(nobody_RK, axis=1, kind="stable")
    ids, weights = np.where(nobody_RK, -1, ids), np.where(nobody_RK, np.float16(np.nan), weights)
    return np.take_along_axis(ids, order_RK, 1), np.take_along_axis(weights, order_RK, 1)


def _margins(experts_RK: NDArray[np.int16], score_RE: Tensor, best_RS: Tensor) -> NDArray[np.float16]:
    """The last chosen score less the first left out; NaN where the scores do not explain the choice, as where
    a router chooses groups first.
    """
    count_R = (experts_RK >= 0).sum(1)
    margins = np.full(len(experts_RK), np.nan, np.float16)
    for count in np.unique(count_R[(count_R > 0) & (count_R < best_RS.shape[1])]).tolist():
        rows = np.flatnonzero(count_R == count)
        chosen = score_RE[rows].gather(1, torch.from_numpy(experts_RK[rows, :count].astype(np.int64)))
        last, left = best_RS[rows, count - 1], best_RS[rows, count]
        explained = (chosen.min(1).values == last).numpy()  # whoever it was among equals
        margins[rows[explained]] = (last - left).half().numpy()[explained]
    return margins
