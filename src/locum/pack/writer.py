"""`locum pack`: a checkpoint of any kind that locum runs into a packed folder."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
import xxhash
from transformers import PreTrainedModel

from locum.backbone.experts import experts_modules
from locum.backbone.family import build_skeleton
from locum.backbone.index import expert_index, parts_by_parameter, transforms_of
from locum.backbone.lazy import LazyTensor, lazy_state
from locum.engine.chat import find_templates
from locum.engine.tokenizer import load_tokenizer
from locum.errors import UsageError
from locum.files import new_folder, settle, write_json, write_text
from locum.kernels.stored import holds, torch_dtype
from locum.model.checkpoint import Checkpoint
from locum.model.image import RAW, TensorView
from locum.model.names import is_ignored, layer_of
from locum.model.packed import BACKBONE, INDEX, PAGE, SCHEMA, index_digest
from locum.model.schemes import stored_tensors
from locum.model.spec import MoESpec
from locum.pack.backbone import BackboneWriter, Report, linear_names
from locum.pack.images import BITS, FLOATS, STORED, Image, Target, convert
from locum.pack.source import Reader, Source, folder_source
from locum.store.checks import require_intact
from locum.store.index import ExpertIndex, LayerIndex
from locum.units import MIB

PRECISIONS = (STORED, *FLOATS, *BITS)
FILE_BYTES = 16 << 30
"""A file with experts is closed once it is as long as this."""
_SMALL_FILES = 256 * MIB
"""Room for config, tokenizer and index, generously."""
_COPIED = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".md", "")
_NAMES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp64"}
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackOptions:
    """How to pack. `experts` and `backbone` are one of `PRECISIONS`; None for the backbone follows the
    experts where they become floats, and is `stored` otherwise. `group`: weights that share a scale.
    """

    experts: str = STORED
    backbone: str | None = None
    group: int = 64
    file_bytes: int = FILE_BYTES


@dataclass(frozen=True, slots=True)
class PackResult:
    """A packed folder: bytes in all and of experts, how many experts, how they are stored, and whether every
    number is what it was.
    """

    path: Path
    bytes: int
    expert_bytes: int
    experts: int
    precision: str
    backbone: str
    lossless: bool
    seconds: float


def pack(
    model: Path | Source, target: Path, options: PackOptions | None = None, progress: Progress | None = None
) -> PackResult:
    """Pack the checkpoint `model`, a folder or a source, into the folder `target`: see `Packing`."""
    return Packing(model, options).write(target, progress)


def _checked(options: PackOptions) -> PackOptions:
    for flag, value in (("bits", options.experts), ("backbone", options.backbone or STORED)):
        if value not in PRECISIONS:
            raise UsageError(f"no such precision for {flag}", allowed=", ".join(PRECISIONS), got=repr(value))
    group = options.group
    if group < 8 or group & (group - 1):
        raise UsageError(
            "a group has a power of two of weights", allowed="8, 16, 32, 64, 128, ...", got=group
        )
    return options


class ImageShape(NamedTuple):
    """An image but for its bytes: how many, and where the parameters lie in them."""

    length: int
    tensors: tuple[TensorView, ...]


class Packing:
    """One checkpoint on its way to a packed folder.

    `total`: bytes that `write` will write, which is also the most it takes at any time (but for some
    megabytes). Raises the `ModelError`s of a checkpoint that locum does not run, `UsageError` for bad
    options.
    """

    def __init__(self, model: Path | Source, options: PackOptions | None = None) -> None:
        origin = model if isinstance(model, Source) else folder_source(model)
        self.origin, self.options = origin, _checked(options or PackOptions())
        options = self.options
        self.checkpoint = checkpoint = origin.checkpoint
        self.spec = MoESpec.of(checkpoint).require_runnable()
        self.source = expert_index(checkpoint)
        self.skeleton = build_skeleton(checkpoint)
        self.dtype = FLOATS.get(options.experts, torch_dtype(self.spec.dtype))
        _, module = next(experts_modules(self.skeleton))
        self.target = Target(options.experts, options.group, bool(module.is_transposed))
        self.images = self._shapes()
        self.expert_bytes = sum(
            len(layer.experts) * _padded(image.length)
            for layer, image in zip(self.source.layers, self.images, strict=True)
        )
        follows = options.experts if options.experts in FLOATS else STORED
        self.backbone_precision = options.backbone or follows
        self.backbone = self._backbone()
        self.total = self.expert_bytes + self.backbone.length

    def write(self, target: Path, progress: Progress | None = None) -> PackResult:
        """Write the folder `target`, which must not exist. `progress(done, total)` is called in bytes.

        Everything is written beside `target` and renamed at the end. Raises `NumericsError` for weights that
        are, or would become, no numbers, `LoadError` and `CheckpointError` for damage in a packed source, and
        what `files.new_folder` raises.
        """
        started, done = time.monotonic(), 0

        def tell(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, self.total)

        with new_folder(target, self.total + _SMALL_FILES) as folder:
            layers, files = self.write_experts(folder, tell)
            checksums = self.write_backbone(folder / BACKBONE, tell)
            self.write_config(folder)
            write_json(folder / INDEX, self.index(layers, files, checksums))  # last: without it nothing loads
        return PackResult(
            path=target,
            bytes=self.total,
            expert_bytes=self.expert_bytes,
            experts=sum(len(layer.experts) for layer in self.source.layers),
            precision=self.precision,
            backbone=self.backbone_precision,
            lossless=self.lossless,
            seconds=time.monotonic() - started,
        )

    @property
    def precision(self) -> str:
        """How the experts are stored, by name."""
        forms = {
            matrix.form.split("+")[0]
            for image in self.images
            for view in image.tensors
            for matrix in view.matrices
        }
        if quantised := sorted(forms - {RAW}):
            return ", ".join(quantised)
        dtypes = {piece.dtype for view in self.images[0].tensors for m in view.matrices for piece in m.pieces}
        return ", ".join(sorted(_NAMES.get(dtype, dtype) for dtype in dtypes))

    @property
    def lossless(self) -> bool:
        """Whether every number stays what it is."""
        own = self.spec.dtype  # of what is made at each use
        return self.backbone.lossless and all(
            new == old
            or (new.raw_dtype and holds(torch_dtype(new.raw_dtype), torch_dtype(old.raw_dtype or own)))
            for layer, image in zip(self.source.layers, self.images, strict=True)
            for old, new in zip(layer.tensors, image.tensors, strict=True)
        )

    def _shapes(self) -> list[ImageShape]:
        """What each layer's images will be, by way of one made from nothing."""
        known: dict[tuple[int, tuple[TensorView, ...]], ImageShape] = {}
        for layer in self.source.layers:
            kind = layer.image_bytes, layer.tensors
            if kind not in known:
                image = self._convert(layer, 0, memoryview(bytearray(layer.image_bytes)))
                known[kind] = ImageShape(len(image.data), image.tensors)
        return [known[layer.image_bytes, layer.tensors] for layer in self.source.layers]

    def _convert(self, layer: LayerIndex, expert: int, image: memoryview) -> Image:
        return convert(layer, expert, image, self.target)

    def write_experts(self, folder: Path, tell: Report) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Write every expert; (layers, files) as the index has them."""
        reader = self.origin.open(self.source)
        try:
            out = _ExpertFiles(folder, self.options.file_bytes)
            layers = [
                self._write_layer(number, reader, out, tell) for number in range(len(self.source.layers))
            ]
            return layers, out.close()
        finally:
            reader.close()

    def _write_layer(self, number: int, reader: Reader, out: "_ExpertFiles", tell: Report) -> dict[str, Any]:
        layer, planned, experts = self.source.layers[number], self.images[number], []
        for expert in range(len(layer.experts)):
            image = self._convert(layer, expert, _read(self.source, number, expert, reader))
            assert image.tensors == planned.tensors, "an expert's places depend on its numbers"
            file, offset = out.add(image.data)
            digest = xxhash.xxh3_64_hexdigest(image.data)
            experts.append({"file": file, "offset": offset, "length": len(image.data), "xxh3": digest})
            tell(_padded(len(image.data)))
        return {
            "module": layer.module,
            "origin": self.spec.moe[number].module,
            "layer": layer.layer,
            "image_bytes": planned.length,
            "tensors": [asdict(view) for view in planned.tensors],
            "experts": experts,
        }

    def _backbone(self) -> BackboneWriter:
        state = dict(_backbone_state(self.origin, self.skeleton, self.spec, self.dtype))
        linear = linear_names(self.skeleton, iter(state))
        return BackboneWriter(
            state, linear, self.backbone_precision, self.options.group, torch_dtype(self.spec.dtype)
        )

    def write_backbone(self, path: Path, tell: Report) -> dict[str, str]:
        """Write everything else of the model; its checksums."""
        return self.backbone.write(path, tell)

    def write_config(self, folder: Path) -> None:
        """The config, without quantisation, the tokenizer, and every small file beside them."""
        if self.checkpoint.is_gguf:
            _unfold(self.checkpoint, folder)
        else:
            _copy_small_files(self.checkpoint.folder, folder)
        config = deepcopy(dict(self.checkpoint.config))
        for part in (config, config.get("text_config")):
            if isinstance(part, dict):
                for key in ("quantization_config", "compression_config", "torch_dtype"):
                    part.pop(key, None)
                part["dtype"] = str(self.dtype).removeprefix("torch.")
        write_json(folder / "config.json", config, indent=2)

    def index(
        self, layers: list[dict[str, Any]], files: list[dict[str, Any]], backbone: dict[str, str]
    ) -> dict[str, Any]:
        """`index.json`."""
        packed = self.checkpoint.packed
        document = {
            "schema": SCHEMA,
            "locum": metadata.version("locum"),
            "source": {
                "model": self.origin.name,
                "config_hash": self.checkpoint.config_hash,
                "quantization": self.spec.quantization,
            },
            "precision": {"experts": self.precision, "backbone": self.backbone_precision},
            "lossless": self.lossless and (packed is None or packed.lossless),
            "files": files,
            "layers": layers,
            "backbone": backbone,
        }
        return document | {"sha256": index_digest(document)}


def _copy_small_files(source: Path, folder: Path) -> None:
    for path in sorted(source.iterdir()):
        weights = path.name.endswith(".index.json") or path.name == INDEX
        if path.is_file() and path.suffix in _COPIED and not weights:
            shutil.copyfile(path, folder / path.name)
    templates = source / "additional_chat_templates"
    if templates.is_dir():
        shutil.copytree(templates, folder / templates.name)


def _unfold(checkpoint: Checkpoint, folder: Path) -> None:
    """The files that a GGUF holds in its metadata."""
    path = checkpoint.config_path
    load_tokenizer(path).hf.save_pretrained(folder)
    templates = find_templates(path)
    if templates:
        (folder / "additional_chat_templates").mkdir()
    for name, text in templates.items():
        file = "chat_template.jinja" if name == "default" else f"additional_chat_templates/{name}.jinja"
        write_text(folder / file, text)
    if checkpoint.generation_config is not None:
        write_json(folder / "generation_config.json", checkpoint.generation_config, indent=2)


class _ExpertFiles:
    """`experts-00000.bin` and on: runs at multiples of 4096, the files closed when long enough."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._sizes: list[int] = []
        self._begin()

    def _begin(self) -> None:
        self._sizes.append(0)
        self._file = (self._folder / self._name(len(self._sizes) - 1)).open("xb")

    @staticmethod
    def _name(number: int) -> str:
        return f"experts-{number:05d}.bin"

    def add(self, data: memoryview) -> tuple[int, int]:
        """Write an image; (file number, offset)."""
        if self._sizes[-1] and self._sizes[-1] + len(data) > self._limit:
            self._end()
            self._begin()
        offset = self._sizes[-1]
        self._file.write(data)
        self._file.write(bytes(_padded(len(data)) - len(data)))
        self._sizes[-1] += _padded(len(data))
        return len(self._sizes) - 1, offset

    def _end(self) -> None:
        settle(self._file)
        self._file.close()

    def close(self) -> list[dict[str, Any]]:
        """Bring the last file to the disk; the files as the index has them."""
        self._end()
        return [{"name": self._name(n), "bytes": size} for n, size in enumerate(self._sizes)]


def _read(index: ExpertIndex, number: int, expert: int, reader: Reader) -> memoryview:
    """The stored image of one expert of layer `number`."""
    layer = index.layers[number]
    image = memoryview(bytearray(layer.image_bytes))
    for span in layer.experts[expert]:
        reader.read(span.file, image[span.at : span.at + span.length], span.offset, span.length)
        reader.forget(span.file, span.offset, span.length)
    require_intact(index, number, expert, image)
    return image


def _backbone_state(
    origin: Source, skeleton: PreTrainedModel, spec: MoESpec, dtype: torch.dtype
) -> Iterator[tuple[str, LazyTensor]]:
    """What is neither a routed expert nor left in the files by transformers."""
    checkpoint = origin.checkpoint
    stored = {} if checkpoint.packed else stored_tensors(checkpoint)
    parts = parts_by_parameter(stored, skeleton, transforms_of(checkpoint, skeleton))
    routed = {part.stored.name for found in parts.values() for part in found}
    stack = (layer_of(spec.moe[0].module + ".") or ("", 0))[0]
    for name, tensor in lazy_state(checkpoint, dtype, origin.tensors).items():
        if name not in routed and not is_ignored(name, spec.layers, stack):
            yield name, tensor


def _padded(length: int) -> int:
    return -(-length // PAGE) * PAGE


__all__: Sequence[str] = ["PRECISIONS", "PackOptions", "PackResult", "Packing", "pack"]
