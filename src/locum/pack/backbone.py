"""The backbone of a packed folder: one safetensors file, written tensor by tensor."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from locum.backbone.lazy import LazyTensor
from locum.backbone.routers import router_modules
from locum.files import settle
from locum.kernels.quantise import group_size, quantise
from locum.kernels.stored import holds
from locum.pack.images import BITS, FLOATS, as_numbers
from locum.store.checks import backbone_checksum

_CODES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip
Report = Callable[[int], None]
_RUN_BYTES = 64 << 20  # of a tensor that is copied as it is


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor of the new file, before it is written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def length(self) -> int:
        """Bytes in the file."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def linear_names(skeleton: PreTrainedModel, names: Iterator[str]) -> set[str]:
    """Those of `names` (in the files) that are the weight of a linear layer, and of nothing else.

    The output head is left out: its rounding errors go straight into the answer. So are routers: theirs
    decide who is asked.
    """
    spared = {part for router in router_modules(skeleton) for part in router.modules()}
    spared.add(skeleton.get_output_embeddings())
    layers = {
        f"{path}.weight"
        for path, module in skeleton.named_modules()
        if type(module) is nn.Linear and module not in spared
    }
    transforms = get_model_conversion_mapping(skeleton)
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    state = skeleton.state_dict()
    found = set()
    for name in names:
        target, pattern = rename_source_key(name, renamings, converters, skeleton.base_model_prefix, state)
        if pattern is None and target in layers:
            found.add(name)
    return found


class BackboneWriter:
    """Writes the tensors `state` in `precision`; those in `linear` are quantised where that is asked for.

    `main`: the dtype that most of the source is in.
    """

    def __init__(
        self, state: dict[str, LazyTensor], linear: set[str], precision: str, group: int, main: torch.dtype
    ) -> None:
        self._state, self._linear, self._precision = state, linear, precision
        self._group, self._main = group, main
        self.plan = {name: list(self._planned(name)) for name in sorted(state)}

    @property
    def length(self) -> int:
        """Bytes of all tensors."""
        return sum(planned.length for plans in self.plan.values() for planned in plans)

    @property
    def lossless(self) -> bool:
        """Whether it keeps every number."""
        return all(
            len(plans) == 1 and holds(plans[0].dtype, self._main if tensor.made else tensor.dtype)
            for tensor, plans in ((self._state[name], plans) for name, plans in self.plan.items())
        )

    def _planned(self, name: str) -> Iterator[Planned]:
        tensor = self._state[name]
        dtype, shape = self._float(tensor.dtype, tensor.made), tensor.shape
        size = self._size(name, shape)
        if size is None:
            yield Planned(name, dtype, shape)
            return
        bits = BITS[self._precision]
        codes = torch.int8 if bits == 8 else torch.uint8
        yield Planned(f"{name}.codes", codes, (shape[0], shape[1] * bits // 8))
        yield Planned(f"{name}.scales", torch.bfloat16, (shape[0], shape[1] // size))

    def _size(self, name: str, shape: tuple[int, ...]) -> int | None:
        if self._precision not in BITS or name not in self._linear or len(shape) != 2:
            return None
        return group_size(shape[1], self._group)

    def _float(self, stored: torch.dtype, made: bool) -> torch.dtype:
        """The dtype in the new file of a tensor that is not quantised there."""
        if not stored.is_floating_point:
            return stored
        if self._precision in FLOATS and (made or stored == self._main):
            return FLOATS[self._precision]  # what is kept in another dtype than the rest has its reasons
        return self._main if made else stored

    def write(self, path: Path, report: Report) -> dict[str, str]:
        """Write the file; the checksum of each tensor in it. Raises `OSError`, `CheckpointError` for pieces
        that do not fit or are damaged, `NumericsError` for weights that are, or would become, no numbers.
        """
        checksums = {}
        with path.open("wb") as out:
            out.write(self._header())
            for name, plans in self.plan.items():
                for planned, runs in zip(plans, self._runs(name), strict=True):
                    digest = backbone_checksum(_CODES[planned.dtype], planned.shape)
                    for run in runs:
                        digest.update(run)
                        report(out.write(run))
                    checksums[planned.name] = digest.hexdigest()
            settle(out)
        return checksums

    def _runs(self, name: str) -> Iterator[Iterable[memoryview]]:
        """The bytes of each tensor that `name` becomes."""
        stored, plans = self._state[name], self.plan[name]
        if not stored.made and plans[0].dtype == stored.dtype:
            yield (run.data for run in stored.runs(_RUN_BYTES))
            return
        for planned, tensor in zip(plans, self._tensors(name, plans[0].dtype), strict=True):
            assert (tuple(tensor.shape), tensor.dtype) == (planned.shape, planned.dtype), name
            yield [tensor.contiguous().view(-1).view(torch.uint8).numpy().data]

    def _tensors(self, name: str, dtype: torch.dtype) -> list[Tensor]:
        tensor = self._state[name][...]
        size = self._size(name, tuple(tensor.shape))
        if size is None:
            return [as_numbers(tensor, dtype, name)]
        return list(quantise(as_numbers(tensor, tensor.dtype, name), BITS[self._precision], size))

    def _header(self) -> bytes:
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for plans in self.plan.values():
            for planned in plans:
                entries[planned.name] = {
                    "dtype": _CODES[planned.dtype],
                    "shape": list(planned.shape),
                    "data_offsets": [at, at + planned.length],
                }
                at += planned.length
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text
