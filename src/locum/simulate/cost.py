"""What computing and reading cost, in seconds, for the simulator's clock."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locum.residency.keys import KeySpace
from locum.residency.mover.throttled import modelled
from locum.residency.mover.virtual import VirtualMover
from locum.trace import Trace, TraceMeta

EXPERT_SHARE = 0.5
"""Of a step's computing that its experts do, where a trace does not know the backbone's size."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where experts come from: `bytes_per_second` in all, `channels` blocks of a MiB at a time."""

    bytes_per_second: float
    channels: int = 1

    def mover(self, keys: KeySpace) -> VirtualMover:
        """A fresh Mover for these experts, as `ThrottledMover` models one. Raises `UsageError`."""
        return modelled(self.bytes_per_second, self.channels, keys.stored.__getitem__)


class Compute:
    """Seconds of computing per step, as they were measured when the trace was recorded, by step number.

    A step's time is spread evenly over its layers, and in a layer over its experts and the rest.
    """

    def __init__(self, seconds: Mapping[int, float], expert_share: float) -> None:
        self._seconds, self.expert_share = seconds, expert_share
        self._usual = float(np.median(list(seconds.values()))) if seconds else 0.0

    @classmethod
    def recorded(cls, trace: Trace) -> "Compute":
        """From the trace's own clock; no time passes for steps that it did not measure."""
        steps = trace.steps()
        seconds = dict(zip(steps["step"].tolist(), steps["compute_s"].tolist(), strict=True))
        return cls(seconds, expert_share(trace.meta))

    def of(self, step: int) -> float:
        """Seconds of one step."""
        return self._seconds.get(step, self._usual)


def expert_share(meta: TraceMeta) -> float:
    """The experts' part of what a token reads from memory, which is what bounds computing it."""
    if meta.backbone_bytes is None or not meta.expert_bytes:
        return EXPERT_SHARE
    experts: NDArray[np.int64] = np.array(meta.expert_bytes) * np.array(meta.top_k)
    return float(experts.sum() / (experts.sum() + meta.backbone_bytes))
