"""The index against a full load by transformers, and the checkpoints it must refuse."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers_models import FAMILIES, reference_model
from locum.backbone.experts import expert_shapes, experts_modules
from locum.backbone.index import expert_index
from locum.errors import CheckpointError, UnsupportedError
from locum.kernels.stored import torch_dtype
from locum.model.checkpoint import Checkpoint
from locum.store.index import ExpertIndex


def read_expert(index: ExpertIndex, key: int) -> dict[str, torch.Tensor]:
    """Brute force: an expert's tensors straight from the files, span by span."""
    number, _ = index.expert_of(key)
    layer = index.layers[number]
    image = bytearray(layer.image_bytes)
    for span in index.spans(key):
        with open(index.files[span.file].path, "rb") as file:
            file.seek(span.offset)
            image[span.at : span.at + span.length] = file.read(span.length)
    return {
        view.name: torch.frombuffer(
            image, dtype=torch_dtype(piece.dtype), count=torch.Size(view.shape).numel(), offset=piece.at
        ).view(view.shape)
        for view in layer.tensors
        for matrix in view.matrices
        for piece in matrix.pieces
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_expert_is_what_transformers_loads(
    checkpoints: Callable[..., Path], family: str, dtype: str
) -> None:
    path = checkpoints(family, dtype)
    index = expert_index(Checkpoint.open(path))
    full = reference_model(path)
    modules = list(experts_modules(full))
    assert [layer.module for layer in index.layers] == [name for name, _ in modules]
    for number, (_, module) in enumerate(modules):
        shapes = expert_shapes(module)
        assert {view.name for view in index.layers[number].tensors} == set(shapes)
        for expert in range(len(index.layers[number].experts)):
            got = read_expert(index, index.key_of(number, expert))
            for name, tensor in shapes.items():
                assert torch.equal(got[name], tensor[expert]), (family, number, expert, name)


def test_neighbours_in_the_file_are_one_read(checkpoints: Callable[..., Path]) -> None:
    # one shard, and sizes that leave no padding between the matrices of an expert
    index = expert_index(Checkpoint.open(checkpoints("olmoe", "float32", shard="10MB")))
    assert all(len(spans) == 1 for layer in index.layers for spans in layer.experts)


def test_a_cached_index_follows_a_folder_that_was_moved(
    checkpoints: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(checkpoints("olmoe", "bfloat16"), tmp_path / "here" / "model")
    monkeypatch.chdir(tmp_path / "here")
    cache = tmp_path / "index.json"
    expert_index(Checkpoint.open("model"), cache)
    (tmp_path / "here" / "model").rename(tmp_path / "there")
    moved = Checkpoint.open(tmp_path / "there")
    found = expert_index(moved, cache)
    assert found == expert_index(moved)
    assert all(Path(file.path).parent == tmp_path / "there" for file in found.files)


def test_cache_is_used_and_refreshed(checkpoints: Callable[..., Path], tmp_path: Path) -> None:
    path = shutil.copytree(checkpoints("olmoe"), tmp_path / "model")
    cache = tmp_path / "index.json"
    first = expert_index(Checkpoint.open(path), cache)
    assert ExpertIndex.load(cache) == first
    document = json.loads(cache.read_text())
    document["layers"][0]["module"] = "marked"
    cache.write_text(json.dumps(document))
    assert expert_index(Checkpoint.open(path), cache).layers[0].module == "marked"
    shard = next(path.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes())  # same bytes, newer file
    assert expert_index(Checkpoint.open(path), cache).layers[0].module != "marked"
    cache.write_text("{")
    assert expert_index(Checkpoint.open(path), cache) == expert_index(Checkpoint.open(path))


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """Merge the shards into one file and let `change` edit the tensors."""
    tensors: dict[str, torch.Tensor] = {}
    for shard in path.glob("*.safetensors"):
        tensors |= load_file(shard)
        shard.unlink()
    (path / "model.safetensors.index.json").unlink(missing_ok=True)
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("model.layers.1.mlp.experts.3.up_proj.weight"), "expert"),
        (lambda t: [t.pop(n) for n in list(t) if ".layers.2.mlp.experts." in n], "experts are missing"),
        (
            lambda t: t.update({"model.layers.1.mlp.experts.3.up_proj.weight": torch.zeros(31, 64)}),
            "expert 3",
        ),
        (
            lambda t: t.update({"model.layers.1.mlp.experts.9.up_proj.weight": torch.zeros(32, 64)}),
            "disagree",
        ),
    ],
    ids=["one matrix gone", "a layer gone", "a wrong shape", "an expert too many"],
)
def test_experts_at_odds_with_the_config_are_refused(
    checkpoints: Callable[..., Path], tmp_path: Path, change: Callable[..., None], says: str
) -> None:
    path = rewrite(shutil.copytree(checkpoints("olmoe"), tmp_path / "model"), change)
    with pytest.raises(CheckpointError, match=says):
        expert_index(Checkpoint.open(path))


def test_a_dtype_without_arithmetic_is_refused(checkpoints: Callable[..., Path], tmp_path: Path) -> None:
    def to_int8(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            if ".experts." in name:
                tensors[name] = tensors[name].to(torch.int8)

    path = rewrite(shutil.copytree(checkpoints("olmoe"), tmp_path / "model"), to_int8)
    with pytest.raises(UnsupportedError, match="I8"):
        expert_index(Checkpoint.open(path))


def test_extra_prediction_layers_are_left_alone(checkpoints: Callable[..., Path], tmp_path: Path) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        for name in [n for n in tensors if ".layers.2." in n]:
            tensors[name.replace(".layers.2.", ".layers.3.")] = tensors[name].clone()

    path = rewrite(shutil.copytree(checkpoints("deepseek_v3"), tmp_path / "model"), add)
    index = expert_index(Checkpoint.open(path))
    assert [layer.layer for layer in index.layers] == [1, 2]
