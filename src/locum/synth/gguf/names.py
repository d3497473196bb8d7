"""From a checkpoint's names of tensors to llama.cpp's: `model.gguf.names` the other way round. No torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from locum.errors import UnsupportedError
from locum.model.gguf.names import WHOLE

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_EXPERT = re.compile(r"(mlp\.experts)\.(\d+)\.(\w+)\.weight")
_MATRIX = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
_HALVED = "self_attn.kv_b_proj"
_ONE_ROW = "mlp.shared_expert_gate"
_TO_WHOLE = {target: name for name, target in WHOLE.items()}


@dataclass(frozen=True, slots=True)
class Place:
    """The tensor of the file that a tensor of the checkpoint becomes, or becomes part of."""

    names: tuple[str, ...]
    """One; of a matrix that lies in two `halves`, first the keys', then the values'."""
    expert: int | None = None
    """Its place along the first axis."""
    halves: bool = False
    one_row: bool = False
    """A matrix of one row, which is a vector in the file."""

    @property
    def name(self) -> str:
        """Where it is but one."""
        (name,) = self.names
        return name


def place_of(name: str, block: Mapping[str, str], architecture: str) -> Place:
    """Where the tensor `name` goes; `block`: the architecture's row in `model.gguf.architectures`.

    Raises `UnsupportedError` where it has no place.
    """
    if name in _TO_WHOLE:
        return Place((_TO_WHOLE[name],))
    modules = {module: ours for ours, module in block.items()}
    layer, inside = match.groups() if (match := _LAYER.fullmatch(name)) else ("", "")
    inside = inside.replace("block_sparse_moe.", "mlp.")
    if match := _EXPERT.fullmatch(inside):
        module = f"{match[1]}.{_MATRIX.get(match[3], match[3])}"
        if module in modules:
            return Place((f"blk.{layer}.{modules[module]}.weight",), expert=int(match[2]))
    if inside in modules:  # a parameter of its own, where all others belong to a module
        return Place((f"blk.{layer}.{modules[inside]}.bias",))
    module, _, kind = inside.rpartition(".")
    if module == _HALVED and f"{_HALVED}.keys" in modules and kind == "weight":
        halves = (modules[f"{_HALVED}.{half}"] for half in ("keys", "values"))
        return Place(tuple(f"blk.{layer}.{half}.weight" for half in halves), halves=True)
    if module not in modules or kind not in ("weight", "bias"):
        raise UnsupportedError(
            f"a GGUF of the architecture {architecture} has no place for the tensor {name!r}",
            todo="Leave --gguf out",
        )
    return Place((f"blk.{layer}.{modules[module]}.{kind}",), one_row=module == _ONE_ROW)
