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

    A step's time is spread evenly over its layers, and in a layer over its experts and the rest. `extra`:
    seconds that a step takes beside, such as asking the next layers' routers.
    """

    def __init__(
        self, seconds: Mapping[int, float], expert_share: float, extra: Mapping[int, float] | None = None
    ) -> None:
        self._seconds, self._extra, self._share = seconds, extra or {}, expert_share
        self._usual = float(np.median(list(seconds.values()))) if seconds else 0.0

    @classmethod
    def recorded(cls, trace: Trace, distance: int = 0) -> "Compute":
        """From the trace's own clock, with what looking `distance` layers ahead took of it.

        No time passes for steps that it did not measure.
        """
        steps, meta = trace.steps(), trace.meta
        numbers = steps["step"].tolist()
        seconds = dict(zip(numbers, steps["compute_s"].tolist(), strict=True))
        part = min(1.0, distance / meta.distances) if meta.distances else 0.0
        extra = dict(zip(numbers, (part * steps["predict_s"]).tolist(), strict=True))
        return cls(seconds, expert_share(meta), extra)

    def of(self, step: int) -> tuple[float, float]:
        """Seconds of one step: in its experts, and in the rest."""
        whole = self._seconds.get(step, self._usual)
        return whole * self._share, whole * (1 - self._share) + self._extra.get(step, 0.0)


def expert_share(meta: TraceMeta) -> float:
    """The experts' part of what a token reads from memory, which is what bounds computing it."""
    if meta.backbone_bytes is None or not meta.expert_bytes:
        return EXPERT_SHARE
    experts: NDArray[np.int64] = np.array(meta.expert_bytes) * np.array(meta.top_k)
    return float(experts.sum() / (experts.sum() + meta.backbone_bytes))
