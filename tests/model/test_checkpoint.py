"""`Checkpoint.open`: which files are taken, and what each kind of damage is called."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from helpers_checkpoint import Shapes, qwen3_moe, write_checkpoint, write_file
from locum.errors import CheckpointError
from locum.model import Checkpoint

INDEX = "model.safetensors.index.json"


def shards(folder: Path) -> Path:
    config, tensors = qwen3_moe()
    return write_checkpoint(folder, config, tensors, shards=3)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_sharded_single_and_unindexed_hold_the_same_tensors(tmp_path: Path) -> None:
    config, tensors = qwen3_moe()
    sharded = Checkpoint.open(write_checkpoint(tmp_path / "sharded", config, tensors, shards=3))
    single = Checkpoint.open(write_checkpoint(tmp_path / "single", config, tensors))
    shards(tmp_path / "loose")
    (tmp_path / "loose" / INDEX).unlink()
    loose = Checkpoint.open(tmp_path / "loose")
    for checkpoint in (sharded, single, loose):
        found = {name: (info.dtype, info.shape) for name, info in checkpoint.tensors.items()}
        assert found == tensors
    assert [file.name for file in sharded.files] == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert sharded.files == loose.files or [f.size for f in sharded.files] == [f.size for f in loose.files]
    for name in tensors:
        assert sharded.path(name).parent == tmp_path / "sharded"
        assert sharded.path(name).is_file()


def test_the_single_file_wins_over_an_index_as_in_transformers(tmp_path: Path) -> None:
    shards(tmp_path)
    write_file(tmp_path / "model.safetensors", {"only": ("F32", (1,))})
    assert set(Checkpoint.open(tmp_path).tensors) == {"only"}


def test_links_into_a_cache_are_followed(tmp_path: Path) -> None:
    shards(tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for path in (tmp_path / "blobs").iterdir():
        os.symlink(path, tmp_path / "snapshot" / path.name)
    assert Checkpoint.open(tmp_path / "snapshot").tensors == Checkpoint.open(tmp_path / "blobs").tensors


def test_generation_config_is_optional(tmp_path: Path) -> None:
    shards(tmp_path)
    assert Checkpoint.open(tmp_path).generation_config is None
    (tmp_path / "generation_config.json").write_text('{"top_k": 20}')
    assert Checkpoint.open(tmp_path).generation_config == {"top_k": 20}
    (tmp_path / "generation_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"not an object in .*generation_config\.json"):
        Checkpoint.open(tmp_path)


def test_config_hash_is_of_the_content(tmp_path: Path) -> None:
    shards(tmp_path)
    before = Checkpoint.open(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(dict(reversed(config.items())), indent=4))
    after = Checkpoint.open(tmp_path)
    assert after.config_hash == before.config_hash
    assert after.identity == before.identity
    edit(tmp_path / "config.json", rope_theta=1)
    assert Checkpoint.open(tmp_path).config_hash != before.config_hash
    assert Checkpoint.open(tmp_path).identity != before.identity


def test_identity_changes_with_any_file(tmp_path: Path) -> None:
    before = Checkpoint.open(shards(tmp_path)).identity
    file = tmp_path / "model-00002-of-00003.safetensors"
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert Checkpoint.open(tmp_path).identity != before


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    for word in words:
        assert word in str(caught.value)


def test_no_folder_no_config_no_weights(tmp_path: Path) -> None:
    refused(tmp_path / "absent", "no such model folder", "absent")
    refused(tmp_path, "no config.json")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, "no weight files")


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000, b"{} {}"])
def test_a_config_that_is_no_json_object(text: bytes, tmp_path: Path) -> None:
    shards(tmp_path)
    (tmp_path / "config.json").write_bytes(text)
    refused(tmp_path, "config.json")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "pytorch_model-00001-of-00002.bin"])
def test_pickles_are_refused_unopened(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    os.mkfifo(tmp_path / name)  # opening it would hang
    refused(tmp_path, "pickle", name, "safetensors")


def test_an_index_of_pickles_or_of_other_folders_is_refused(tmp_path: Path) -> None:
    shards(tmp_path)
    for bad in (
        "pytorch_model.bin",
        "../x.safetensors",
        "/etc/x.safetensors",
        "a\\b.safetensors",
        5,
        ["x"],
        None,
    ):
        edit(tmp_path / INDEX, weight_map={"a": bad})
        refused(tmp_path, INDEX, "the index names something")


@pytest.mark.parametrize("weight_map", [None, [], {}, "x"])
def test_an_index_without_a_map(weight_map: object, tmp_path: Path) -> None:
    shards(tmp_path)
    edit(tmp_path / INDEX, weight_map=weight_map)
    refused(tmp_path, INDEX, "no weight_map")


def test_an_index_with_a_name_twice(tmp_path: Path) -> None:
    shards(tmp_path)
    (tmp_path / INDEX).write_text('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}')
    refused(tmp_path, "'a' twice")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shards(tmp_path)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    refused(tmp_path, "missing", "model-00002-of-00003.safetensors")


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    shards(tmp_path)
    path = tmp_path / "model-00003-of-00003.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    refused(tmp_path, "truncated inside tensor", path.name)


def test_a_tensor_of_the_index_that_no_shard_holds(tmp_path: Path) -> None:
    shards(tmp_path)
    weight_map = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    edit(tmp_path / INDEX, weight_map={**weight_map, "ghost": "model-00001-of-00003.safetensors"})
    refused(tmp_path, "'ghost'", "no such tensor")


def test_a_tensor_that_the_index_assigns_elsewhere(tmp_path: Path) -> None:
    shards(tmp_path)
    weight_map = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    name = next(iter(weight_map))
    edit(tmp_path / INDEX, weight_map={**weight_map, name: "model-00002-of-00003.safetensors"})
    refused(tmp_path, repr(name), "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors")


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    one: Shapes = {"a": ("F32", (2,))}
    (tmp_path / "config.json").write_text("{}")
    write_file(tmp_path / "x.safetensors", one)
    write_file(tmp_path / "y.safetensors", one)
    refused(tmp_path, "'a' is stored twice", "x.safetensors", "y.safetensors")
