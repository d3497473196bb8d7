"""A trace's rows as the engine met them: step by step, layer by layer.

Axes: t rows of a step, L MoE layers, K chosen, D distances, P predicted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locum.policy.future import Future
from locum.policy.prefetch import confidence
from locum.trace import Rows, Trace, TraceMeta
from locum.trace.columns import cut, join


@dataclass(frozen=True, slots=True)
class Step:
    """One forward step."""

    number: int
    phase: int
    requests: tuple[int, ...]
    experts: NDArray[np.int16]
    """[t, L, K]"""
    next_ids: NDArray[np.int16] | None
    """[t, L, D, P]"""
    next_scores: NDArray[np.float16] | None

    @property
    def tokens(self) -> int:
        """Tokens in it."""
        return len(self.experts)

    def counts(self, layer: int) -> dict[int, int]:
        """Tokens per expert that the layer asks for, ascending."""
        ids = self.experts[:, layer].reshape(-1)
        values, counts = np.unique(ids[ids >= 0], return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))

    def foreseen(self, layer: int, distance: int) -> Sequence[Mapping[int, float]]:
        """What the next layers' gates said, nearest first, as far as there are layers."""
        if self.next_ids is None or self.next_scores is None:
            return ()
        reach = min(distance, self.experts.shape[1] - 1 - layer)
        return [confidence(self.next_ids[:, layer, d], self.next_scores[:, layer, d]) for d in range(reach)]


def steps_of(trace: Trace, columns: Sequence[str] = ()) -> Iterator[Step]:
    """The steps of a trace in order, in constant memory."""
    open_rows: list[Rows] = []
    for rows in trace.batches(columns):
        borders = np.flatnonzero(np.diff(rows.step)) + 1
        pieces = [cut(rows, a, b) for a, b in zip([0, *borders], [*borders, len(rows)], strict=True)]
        for piece in pieces:
            if open_rows and open_rows[0].step[0] != piece.step[0]:
                yield _step(open_rows)
                open_rows = []
            open_rows.append(piece)
    if open_rows:
        yield _step(open_rows)


def _step(parts: list[Rows]) -> Step:
    rows = join(parts)
    return Step(
        number=int(rows.step[0]), phase=int(rows.phase[0]),
        requests=tuple(dict.fromkeys(rows.request.tolist())), experts=rows.experts,
        next_ids=rows.next_ids, next_scores=rows.next_scores,
    )  # fmt: skip


def future_of(trace: Trace, meta: TraceMeta) -> Future:
    """When each expert is asked for, for policies that are told the future. Keys as in `replay.key_space`."""
    layers, stride = len(meta.experts), max(meta.experts)
    return Future(
        (step.number * layers + layer, [layer * stride + expert for expert in step.counts(layer)])
        for step in steps_of(trace)
        for layer in range(layers)
    )


def last_steps(trace: Trace) -> dict[int, int]:
    """The last step of each request."""
    found: dict[int, int] = {}
    for rows in trace.batches():
        found.update(zip(rows.request.tolist(), rows.step.tolist(), strict=True))
    return found
