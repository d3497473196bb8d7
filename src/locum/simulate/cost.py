"""What computing and reading cost, in seconds, for the simulator's clock."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locum.errors import UsageError
from locum.residency.keys import KeySpace
from locum.residency.mover.throttled import BLOCK
from locum.residency.mover.virtual import VirtualMover
from locum.trace import Trace, TraceMeta

EXPERT_SHARE = 0.5
"""Of a step's computing that its experts do, where a trace does not know the backbone's size."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where experts come from: `bytes_per_second` in all, `channels` blocks of `block` bytes at a time.

    A load has one block under way, so one alone gets the rate over the channels. An expert that is no
    whole number of blocks takes as long as if it were: for experts below a MiB whose rate is known at their
    own size, `block` is that size.
    """

    bytes_per_second: float
    channels: int = 1
    block: int = BLOCK

    def mover(self, keys: KeySpace) -> VirtualMover:
        """A fresh Mover for these experts, as `ThrottledMover` models one. Raises `UsageError`."""
        if self.bytes_per_second <= 0 or self.channels < 1 or self.block < 1:
            raise UsageError(
                "a device needs a rate, a channel and a block",
                got=f"{self.bytes_per_second} B/s, {self.channels} channels, {self.block} B",
            )
        seconds = self.block * self.channels / self.bytes_per_second
        return VirtualMover(
            seconds, channels=self.channels, blocks_of=lambda key: max(1, -(-keys.stored[key] // self.block))
        )


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
