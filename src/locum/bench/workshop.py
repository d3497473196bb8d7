"""The folder a benchmark works in: big checkpoints made when first asked for, gone at the end unless kept."""

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from locum.bench.roofline import Traffic
from locum.synth.names import Config, tensors
from locum.synth.noise import DTYPES
from locum.synth.shapes import shape
from locum.synth.writer import write_checkpoint
from locum.units import format_bytes

_DTYPE = "bf16"


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint on disk and what a row says about it."""

    name: str
    path: Path
    config: Config

    @property
    def traffic(self) -> Traffic:
        """What a decoded token needs."""
        return Traffic.of(self.config, _DTYPE)

    def facts(self) -> dict[str, Any]:
        """Shape, sizes and bytes per weight."""
        size = DTYPES[_DTYPE].size
        experts = sum(spec.elements for spec in tensors(self.config) if spec.is_expert) * size
        total = sum(spec.elements for spec in tensors(self.config)) * size
        return {
            "shape": self.name,
            "weights": "random",
            "expert_bytes": experts,
            "backbone_bytes": total - experts,
            "expert_bytes_per_weight": size,
            "backbone_bytes_per_weight": size,
        }


class Workshop:
    """Makes models in `keep`, which stays, or in a temporary folder (TMPDIR says where), which goes."""

    def __init__(self, keep: Path | None = None) -> None:
        self._keep = keep

    def __enter__(self) -> Self:
        if self._keep is not None:
            self._keep.mkdir(parents=True, exist_ok=True)
            self.folder = self._keep
        else:
            self.folder = Path(tempfile.mkdtemp(prefix="locum-bench-"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keep is None:
            shutil.rmtree(self.folder)

    def model(
        self, shape_name: str, label: str = "", *, locality: float | None = None, **overrides: object
    ) -> Model:
        """The checkpoint of a shape with some fields replaced; `label` tells variants of a shape apart, also
        those of another `locality`.
        """
        config = shape(shape_name, **overrides)
        name = f"{shape_name}-{label}" if label else shape_name
        path = self.folder / name
        model = Model(name, path, config)
        if not self._is(path, config):
            say(f"writing {name} with {format_bytes(model.facts()['expert_bytes'])} of experts")
            write_checkpoint(
                config, path, dtype=_DTYPE, locality=locality
            )  # refuses to touch anything else that lies there
        return model

    @staticmethod
    def _is(path: Path, config: Config) -> bool:
        """A checkpoint of this very config lies there. Writing renames at the end, so it is whole."""
        try:
            found = json.loads((path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return all(found.get(key) == value for key, value in config.items())

    def discard(self, model: Model) -> None:
        """Remove a model that no other piece uses, unless models are kept."""
        if self._keep is None:
            shutil.rmtree(model.path)


def say(line: str) -> None:
    """A line about the progress of a long measurement."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
