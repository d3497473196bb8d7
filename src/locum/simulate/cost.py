"""What computing and reading cost, in seconds, for the simulator's clock."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.residency.keys import KeySpace
from locum.residency.mover.throttled import modelled
from locum.residency.mover.virtual import VirtualMover
from locum.trace import Trace, TraceMeta
from locum.trace.columns import DECODE

_LEAST_STEPS = 48
_LEAST_SPREAD = 0.25
EXPERT_SHARE = 0.5
"""Of a step's computing that its experts do, where a trace does not know the backbone's size."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where experts come from: `bytes_per_second` in all, `channels` blocks at a time.

    A load has one block under way, so one alone gets the rate over the channels.
    """

    bytes_per_second: float
    channels: int = 1

    def mover(self, keys: KeySpace) -> VirtualMover:
        """A fresh Mover for these experts, as `ThrottledMover` models one. Raises `UsageError`."""
        return modelled(self.bytes_per_second, self.channels, keys.stored.__getitem__)


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds of one step's computing: in its experts, in the rest, and per load that is begun."""

    experts_s: float
    rest_s: float
    load_s: float


class Compute:
    """What computing takes, step by step, as it was measured when the trace was recorded.

    A step's time is spread evenly over its layers, and in a layer over its experts and the rest. What the
    processor does for each load is told apart from it, because another setting loads more or less.
    """

    def __init__(self, steps: Mapping[str, NDArray[Any]], meta: TraceMeta, distance: int = 0) -> None:
        """`steps` as `Trace.steps` gives them; `distance`: layers that the setting looks ahead."""
        self._share = expert_share(meta)
        loads = steps["bytes_read"] / np.mean(meta.expert_bytes) if meta.expert_bytes else 0.0 * steps["step"]
        decoding = steps["phase"] == DECODE
        self.load_s = max(0.0, resistant_slope(loads[decoding], steps["compute_s"][decoding]))
        own = np.maximum(0.0, steps["compute_s"] - self.load_s * loads)
        part = min(1.0, distance / meta.distances) if meta.distances else 0.0
        numbers = steps["step"].tolist()
        self._own = dict(zip(numbers, own.tolist(), strict=True))
        self._ahead = dict(zip(numbers, (part * steps["predict_s"]).tolist(), strict=True))
        self._usual = float(np.median(own)) if len(own) else 0.0

    @classmethod
    def recorded(cls, trace: Trace, distance: int = 0) -> "Compute":
        """From the trace's own clock. No time passes where it has none."""
        return cls(trace.steps(), trace.meta, distance)

    def of(self, step: int) -> StepCost:
        """What step number `step` takes; the median of the others where the trace did not measure it."""
        own = self._own.get(step, self._usual)
        return StepCost(own * self._share, own * (1 - self._share) + self._ahead.get(step, 0.0), self.load_s)


def resistant_slope(x: NDArray[Any], y: NDArray[Any]) -> float:
    """How y grows with x: between the medians of the outer thirds, which no outlier moves.

    0 where that tells nothing: fewer than 48 points, or medians of x less than 1 or a quarter of x apart,
    because noise over a small difference is a steep slope. J. W. Tukey, "Exploratory Data Analysis", 1977,
    the resistant line.
    """
    if len(x) < _LEAST_STEPS:
        return 0.0
    order = np.argsort(x, kind="stable")
    third = len(x) // 3
    low, high = order[:third], order[-third:]
    run = float(np.median(x[high]) - np.median(x[low]))
    far = run >= max(1.0, _LEAST_SPREAD * float(np.median(x)))
    return float(np.median(y[high]) - np.median(y[low])) / run if far else 0.0


def expert_share(meta: TraceMeta) -> float:
    """The experts' part of what a token reads from memory, which is what bounds computing it."""
    if meta.backbone_bytes is None or not meta.expert_bytes:
        return EXPERT_SHARE
    experts: NDArray[np.int64] = np.array(meta.expert_bytes) * np.array(meta.top_k)
    return float(experts.sum() / (experts.sum() + meta.backbone_bytes))
