"""What is neither a routed expert nor left in the files by transformers: the backbone, counted."""

from collections.abc import Mapping

from locum.model.checkpoint import Checkpoint
from locum.model.header import TensorInfo
from locum.model.names import ExpertGroup, is_ignored
from locum.model.quant import DTYPE_BYTES

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

    def parameters(self, counts: Mapping[str, int]) -> int:
        """Parameters of the backbone; `counts` as `schemes.parameter_counts` gives them."""
        return sum(counts[name] for name in self.backbone)

    def resident(self, counts: Mapping[str, int], dtype: str) -> int:
        """Bytes of the backbone in memory once loaded in `dtype`."""
        return sum(self._resident(name, counts[name], dtype) for name in self.backbone)

    def _resident(self, name: str, count: int, dtype: str) -> int:
        if self.backbone[name].dtype == "I64":  # tables of ids stay whole numbers
            return 8 * count
        return count * (4 if name.endswith(_FP32) else DTYPE_BYTES[dtype])
