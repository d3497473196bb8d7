"""What is neither a routed expert nor left in the files by transformers: the backbone, counted."""

import math
from collections.abc import Mapping

from locum.model.checkpoint import Checkpoint
from locum.model.header import TensorInfo
from locum.model.names import ExpertGroup, is_ignored
from locum.model.quant import DTYPE_BYTES, packed_bits, parameters
from locum.model.schemes import stored_tensors

_CORRECTION = ("e_score_correction_bias", "expert_bias", "router_bias")
# transformers keeps the routers' correction bias in float32 whatever the model's dtype.
_FP32 = ("e_score_correction_bias",)


class Rest:
    """The tensors that are not routed experts, parted into backbone and ignored.

    `tensors`: those of the checkpoint that number no experts but the routed ones. `stack`: the decoder's
    prefix.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        tensors: Mapping[str, TensorInfo],
        groups: tuple[ExpertGroup, ...],
        *,
        layers: int,
        stack: str,
    ) -> None:
        self._checkpoint = checkpoint
        routed = {name for group in groups for name in group.tensors}
        self.backbone: dict[str, TensorInfo] = {}
        self.ignored_bytes = sum(
            info.length for name, info in checkpoint.tensors.items() if name not in tensors
        )
        for name, info in tensors.items():
            if name in routed:
                continue
            if is_ignored(name, layers, stack):
                self.ignored_bytes += info.length
            else:
                self.backbone[name] = info

    @property
    def bytes(self) -> int:
        """Stored bytes of the backbone."""
        return sum(info.length for info in self.backbone.values())

    def has_correction(self) -> bool:
        """Whether a bias takes part in the routers' selection."""
        return any(name.endswith(_CORRECTION) for name in self.backbone)

    def parameters(self, quantization: str | None) -> dict[str, int]:
        """Parameters of each tensor of the backbone."""
        if self._checkpoint.packed is not None:  # nothing in it is ignored, and how it is stored is known
            stored = stored_tensors(self._checkpoint)
            return {name: math.prod(tensor.shape) for name, tensor in stored.items()}
        bits = packed_bits(self._checkpoint.config)
        return {name: parameters(name, info, quantization, bits) for name, info in self.backbone.items()}

    def resident(self, counts: Mapping[str, int], dtype: str) -> int:
        """Bytes of the backbone in memory once loaded in `dtype`; `counts` as `parameters` gives them."""
        return sum(self._resident(name, count, dtype) for name, count in counts.items())

    def _resident(self, name: str, count: int, dtype: str) -> int:
        info = self.backbone.get(name)
        if info is not None and info.dtype == "I64":  # tables of ids stay whole numbers
            return info.length
        return count * (4 if name.endswith(_FP32) else DTYPE_BYTES[dtype])
