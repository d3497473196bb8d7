"""Typed look-ups in a GGUF's metadata, under the key prefix of its architecture."""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from locum.errors import CheckpointError
from locum.model.header import TensorInfo

_MOST = 1 << 40


class Metadata:
    """The metadata and tensors of a model, asked by whoever writes its config.

    Every method raises `CheckpointError` for a value that makes no sense, and for one that is missing without
    a default.
    """

    def __init__(
        self, architecture: str, values: Mapping[str, Any], tensors: Mapping[str, TensorInfo], where: Path
    ) -> None:
        self.architecture, self.values, self.tensors, self.where = architecture, values, tensors, where

    def has(self, key: str) -> bool:
        """Whether the architecture's `key` is there."""
        return f"{self.architecture}.{key}" in self.values

    def count(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        """A whole number of at least `least`; of a list with one for each layer, the one that all share."""
        value = self._get(key, default)
        if isinstance(value, list) and len(set(value)) == 1:
            value = value[0]
        if type(value) is not int or not least <= value < _MOST:
            raise self.bad(key, f"a whole number of at least {least}", value)
        return value

    def each(self, key: str, layers: int) -> list[int]:
        """A whole number, 0 or more, or truth value for each of `layers` layers; one for all is repeated."""
        value = self._get(key, None)
        found = value if isinstance(value, list) else [value] * min(layers, len(self.tensors))
        if len(found) < layers or any(not isinstance(one, int) or not 0 <= one < _MOST for one in found):
            raise self.bad(key, f"a whole number for each of {layers} layers", value)
        return [int(one) for one in found[:layers]]

    def real(self, key: str, default: float | None = None) -> float:
        """A number. What a file stores as float32 is given as the shortest decimal that means it."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.bad(key, "a number", value)
        return shortest(float(value))

    def flag(self, key: str, default: bool) -> bool:
        """A truth value."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.bad(key, "true or false", value)
        return value

    def text(self, key: str, default: str) -> str:
        """A text."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.bad(key, "a text", value)
        return value

    def token(self, name: str) -> int | None:
        """The id of a special token such as `eos`, None where the file names none."""
        value = self.values.get(f"tokenizer.ggml.{name}_token_id")
        return value if type(value) is int and 0 <= value < _MOST else None

    def side(self, tensor: str, place: int) -> int:
        """A side of the first tensor with this name in any block (`ffn_down_exps.weight`), slowest first."""
        for name, info in self.tensors.items():
            if name.partition(".")[0] == "blk" and name.split(".", 2)[-1] == tensor:
                if len(info.shape) < max(place + 1, -place):
                    break
                return info.shape[place]
        raise CheckpointError(f"no tensor blk.N.{tensor} of a sensible shape", where=self.where)

    def some(self, tensor: str) -> bool:
        """Whether any block has this tensor."""
        return any(name.startswith("blk.") and name.split(".", 2)[-1] == tensor for name in self.tensors)

    def blocks_without(self, tensor: str, layers: int) -> list[int]:
        """The layers that lack this tensor."""
        if layers > len(self.tensors):  # each has some; also bounds what a senseless number makes us allocate
            raise self.bad("block_count", f"at most the {len(self.tensors)} tensors in the file", layers)
        return [layer for layer in range(layers) if f"blk.{layer}.{tensor}" not in self.tensors]

    def bad(self, key: str, allowed: str, got: object) -> CheckpointError:
        """The error for a senseless value of the architecture's `key`."""
        return CheckpointError(
            f"{self.architecture}.{key} makes no sense",
            where=self.where,
            allowed=allowed,
            got=ascii(got)[:80],
        )

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(f"{self.architecture}.{key}", default)
        if value is None:
            raise CheckpointError(f"the metadata lacks {self.architecture}.{key}", where=self.where)
        return value


def shortest(value: float) -> float:
    """The decimal that a float32 was written as: 1e-06 for 9.999999974752427e-07.

    A value that is no float32 stays as it is.
    """
    for digits in range(1, 10):
        short = float(f"{value:.{digits}g}")
        try:
            if struct.unpack("<f", struct.pack("<f", short))[0] == value:
                return short
        except OverflowError:
            return value
    return value
