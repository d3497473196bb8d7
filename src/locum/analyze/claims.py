"""A trace held against published figures: what each figure means here, and whether the trace has it.

The first rows of the trace are the sample: whole requests one after the other, as `locum trace synth` writes
them. Requests differ, so pairs and loads that are pooled over a few of them seem to be more uneven: the
sample always has the size with which the profiles were fitted, and a shorter trace tells nothing.

Axes: t rows, D domains, L MoE layers, K chosen, E experts, R ranks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.analyze.affinity import Transitions, top_mass
from locum.analyze.base import count_choices, count_pairs
from locum.analyze.locality import best_f1, by_length
from locum.analyze.segments import Segments
from locum.trace import Rows, Trace, TraceMeta
from locum.trace.columns import cut, join
from locum.trace.profiles import Claim, Measure

SAMPLE = 32_768
"""Rows of a trace that are looked at, and that it must have: 64 requests of 512 tokens."""
RANKS = 32
_WINDOW = 16
_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a trace has of one claim; `got` is None where the trace cannot tell."""

    claim: Claim
    got: float | None

    @property
    def met(self) -> bool | None:
        """None where the trace cannot tell."""
        return None if self.got is None else self.claim.met(self.got)

    def to_json(self) -> dict[str, Any]:
        """The claim, what was found and whether that meets it."""
        return asdict(self.claim) | {"got": self.got, "met": self.met}

    def words(self) -> tuple[str, str, str, str]:
        """Name, what was published, what was found, and the verdict."""
        claim = self.claim
        ends = f"{claim.low:.3f}" + (f" to {claim.high:.3f}" if claim.high > claim.low else "")
        got = "-" if self.got is None else f"{self.got:.3f}"
        verdict = {None: "too short", True: "met", False: "missed"}[self.met]
        return claim.name, f"{ends} (±{claim.tolerance:.3g})", got, verdict


def judge(trace: Trace, claims: Sequence[Claim]) -> list[Verdict]:
    """A verdict per claim. Nothing is told by a trace of fewer rows than `SAMPLE`."""
    if trace.rows < SAMPLE:
        return [Verdict(claim, None) for claim in claims]
    parts, held = list[Rows](), 0
    for rows in trace.batches([name for name in ("weights", "domain") if name in trace.meta.columns]):
        parts.append(cut(rows, 0, SAMPLE - held))
        held += len(parts[-1])
        if held == SAMPLE:
            break
    sample = join(parts)
    return [Verdict(claim, measure(sample, trace.meta, claim)) for claim in claims]


def measure(rows: Rows, meta: TraceMeta, claim: Claim) -> float:
    """The figure that the claim is about, of these rows."""
    return MEASURES[claim.measure](rows, meta, claim.layer)


def _srp(rows: Rows, meta: TraceMeta, layer: int | None) -> float:
    """SRP of windows of 16 tokens, all layers pooled: `analyze.locality`."""
    segments = Segments(limit=SAMPLE)
    segments.add(rows)
    counts = by_length(segments.finish().found, meta, (_WINDOW,))[_WINDOW]
    return float(best_f1(np.sum(counts, axis=(0, 1)))[0])


def _next_layer(rows: Rows, meta: TraceMeta, layer: int | None) -> float:
    """`Transitions.top_mass`, mean over the steps from layer to layer."""
    metric = Transitions(meta)
    for start in range(0, len(rows), _CHUNK):
        metric.update(cut(rows, start, start + _CHUNK))
    return float(np.mean(metric.result()["top_mass"]))


def _next_token(rows: Rows, meta: TraceMeta, layer: int | None) -> float:
    """The same from a token to the next of its request, within a layer; mean over layers."""
    old_tLK, new_tLK = _consecutive(rows, rows.experts)
    experts = max(meta.experts)
    counts_LEE = np.zeros((len(meta.experts), experts, experts), np.int64)
    for start in range(0, len(old_tLK), _CHUNK):
        counts_LEE += count_pairs(old_tLK[start : start + _CHUNK], new_tLK[start : start + _CHUNK], experts)
    return float(np.mean(list(map(top_mass, counts_LEE, meta.experts))))


def _same_first(rows: Rows, meta: TraceMeta, layer: int | None) -> float:
    """The share of tokens whose expert of largest weight is that of the token before."""
    assert rows.weights is not None
    first_tL1 = rows.weights.argmax(2)[:, :, None]
    old_tL1, new_tL1 = _consecutive(rows, np.take_along_axis(rows.experts, first_tL1, axis=2))
    return float((old_tL1 == new_tL1)[:, _layers(layer)].mean())


def _same_of_two(rows: Rows, meta: TraceMeta, layer: int | None) -> float:
    """The share of tokens that choose an expert which the token before chose too."""
    old_tLK, new_tLK = _consecutive(rows, rows.experts[:, _layers(layer)])
    return float((new_tLK[:, :, :, None] == old_tLK[:, :, None, :]).any((2, 3)).mean())


def _layers(layer: int | None) -> slice:
    return slice(None) if layer is None else slice(layer, layer + 1)


def _consecutive(rows: Rows, array_t: NDArray[np.int16]) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """(of the token before, of the token) for all tokens that have one before them."""
    order = np.lexsort((rows.position, rows.request))
    request, position = rows.request[order], rows.position[order]
    follows = np.flatnonzero((request[1:] == request[:-1]) & (position[1:] == position[:-1] + 1))
    return array_t[order[follows]], array_t[order[follows + 1]]


def _loads(rows: Rows, meta: TraceMeta) -> NDArray[np.int64]:
    """[D, L, E]: choices in text of one kind, kind by kind."""
    assert rows.domain is not None
    kinds = sorted(set(rows.domain))
    return np.stack([count_choices(rows.experts[rows.domain == kind], max(meta.experts)) for kind in kinds])


def _rank_loads(rows: Rows, meta: TraceMeta) -> NDArray[np.int64]:
    """[D, L, R]: the same by ranks that hold neighbours in number."""
    loads_DLE = _loads(rows, meta)
    found: NDArray[np.int64] = loads_DLE.reshape(*loads_DLE.shape[:2], RANKS, -1).sum(3)
    return found


def _peak(loads_DLE: NDArray[np.int64]) -> float:
    """(max - mean) / mean, mean over layers and kinds of text."""
    return float((loads_DLE.max(2) / loads_DLE.mean(2) - 1).mean())


def _spread(loads_DLE: NDArray[np.int64]) -> float:
    """Standard deviation / mean, likewise."""
    return float((loads_DLE.std(2) / loads_DLE.mean(2)).mean())


MEASURES: Mapping[Measure, Callable[[Rows, TraceMeta, int | None], float]] = {
    "srp": _srp,
    "next layer": _next_layer,
    "next token": _next_token,
    "same first": _same_first,
    "same of two": _same_of_two,
    "expert peak": lambda rows, meta, _: _peak(_loads(rows, meta)),
    "expert spread": lambda rows, meta, _: _spread(_loads(rows, meta)),
    "rank peak": lambda rows, meta, _: _peak(_rank_loads(rows, meta)),
    "rank spread": lambda rows, meta, _: _spread(_rank_loads(rows, meta)),
}
"""By the names that claims use."""
