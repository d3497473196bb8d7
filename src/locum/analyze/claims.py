"""Published figures about routing, measured on a trace: how near a made-up one comes.

Each statistic is defined as its source defines it; see `trace.synthetic` for who claims what.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from locum.analyze.analysis import analyze
from locum.analyze.base import divide
from locum.trace import Trace
from locum.trace.synthetic import Claim

Tables = Mapping[str, Mapping[str, object]]


def _counts(tables: Tables) -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
    counts = tables["load"]["counts"]
    assert isinstance(counts, list)
    return [np.array(layer, float) for layer in counts]


def _imbalance(tables: Tables) -> float:
    """(largest - mean) / mean of the loads of a layer's experts, mean over layers."""
    return float(np.mean([(loads.max() - loads.mean()) / loads.mean() for loads in _counts(tables)]))


def _spread(tables: Tables) -> float:
    """Standard deviation over mean of the loads of a layer's experts, mean over layers."""
    return float(np.mean([divide(loads.std(), loads.mean())[()] for loads in _counts(tables)]))


def _srp16(tables: Tables) -> float:
    """SRP over 16 tokens, all experts of the model together."""
    found = tables["srp"]["16"]
    assert isinstance(found, dict)
    return float(found["model"])


def _next_layer(tables: Tables) -> float:
    """The share of the next layer's choices that fall on the fifth of its experts most linked, mean."""
    found = tables["transitions"]["top_mass"]
    assert isinstance(found, list)
    return float(np.mean(found))


STATISTICS: Mapping[str, tuple[str, Callable[[Tables], float]]] = {
    "imbalance": ("load", _imbalance),
    "spread": ("load", _spread),
    "srp16": ("srp", _srp16),
    "next layer": ("transitions", _next_layer),
}
"""By name: the metric it is taken from, and how."""


def measure(trace: Trace, claims: Sequence[Claim]) -> list[tuple[Claim, float]]:
    """Each claim beside what the trace gives."""
    metrics = sorted({STATISTICS[claim.statistic][0] for claim in claims})
    tables = analyze(trace, metrics).tables if metrics else {}
    return [(claim, STATISTICS[claim.statistic][1](tables)) for claim in claims]
