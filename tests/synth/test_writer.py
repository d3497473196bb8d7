"""The writer against safetensors and transformers: same header, same layout, every tensor loads."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from locum import files
from locum.errors import LocumError, UsageError
from locum.synth.names import TensorSpec, tensors
from locum.synth.noise import Noise, dtype_of, scale
from locum.synth.shapes import shape
from locum.synth.writer import write_checkpoint

SMALL_SHARD = 150_000


def header_of(path: Path) -> tuple[bytes, dict]:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return content[: 8 + length], json.loads(content[8 : 8 + length])


SMALLER: dict[str, dict[str, object]] = {
    "mixtral-8x7b": {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 512},
    "deepseek-v2-lite": {
        "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32, "num_hidden_layers": 2,
        "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16,
        "vocab_size": 512,
    },
    "gpt-oss-20b": {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 512},
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("name", ["tiny-olmoe", "tiny-qwen3", *SMALLER])
def test_transformers_consumes_every_tensor(tmp_path: Path, name: str, dtype: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    config = shape(name, **SMALLER.get(name, {}))
    written = write_checkpoint(config, tmp_path / "m", dtype=dtype, shard_bytes=SMALL_SHARD)
    model, info = AutoModelForCausalLM.from_pretrained(written.path, dtype="auto", output_loading_info=True)
    assert not any(info.values()), info
    assert model.dtype == {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    assert sum(p.numel() for p in model.parameters()) == written.parameters
    with torch.no_grad():
        logits = model(torch.arange(5, 25)[None]).logits
    assert torch.isfinite(logits).all()
    assert logits.float().std() > 0.3
    for parameter in model.parameters():
        assert (parameter != 0).all()


@pytest.mark.parametrize("shard_bytes", [SMALL_SHARD, 10**9])
def test_files_are_byte_for_byte_what_safetensors_writes(tmp_path: Path, shard_bytes: int) -> None:
    """Read our shard with the library, write the same tensors with the library: the same file."""
    from safetensors.torch import load_file, save_file

    folder = write_checkpoint(shape("tiny-olmoe"), tmp_path / "m", shard_bytes=shard_bytes).path
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) == (1 if shard_bytes > SMALL_SHARD else 4)
    for shard in shards:
        save_file(load_file(shard), tmp_path / "again", metadata={"format": "pt"})
        assert (tmp_path / "again").read_bytes() == shard.read_bytes()


def test_data_begin_where_real_files_have_them(tmp_path: Path) -> None:
    """Offsets in the file are multiples of 8 and, for most tensors, of nothing more useful."""
    folder = write_checkpoint(shape("demo", num_hidden_layers=3), tmp_path / "m", shard_bytes=8_000_000).path
    offsets = []
    for shard in folder.glob("*.safetensors"):
        raw, entries = header_of(shard)
        offsets += [len(raw) + entry["data_offsets"][0] for key, entry in entries.items() if key[0] != "_"]
    assert all(offset % 8 == 0 for offset in offsets)
    assert sum(offset % 4096 == 0 for offset in offsets) < len(offsets) / 10


def test_shards_hold_every_tensor_once_and_the_index_says_where(tmp_path: Path) -> None:
    config = shape("tiny-olmoe")
    written = write_checkpoint(config, tmp_path / "m", shard_bytes=SMALL_SHARD)
    index = json.loads((written.path / "model.safetensors.index.json").read_text())
    seen = {}
    for shard in written.path.glob("*.safetensors"):
        raw, entries = header_of(shard)
        del entries["__metadata__"]
        end = 0
        for name, entry in entries.items():
            assert entry["data_offsets"][0] == end
            end = entry["data_offsets"][1]
            seen[name] = shard.name
        assert shard.stat().st_size == len(raw) + end
        assert end <= SMALL_SHARD
    assert seen == index["weight_map"]
    assert set(seen) == {spec.name for spec in tensors(config)}
    assert index["metadata"]["total_size"] == written.bytes == written.parameters * 2
    assert len(set(seen.values())) == written.shards


def test_the_seed_decides_the_bytes(tmp_path: Path) -> None:
    def content(name: str, seed: int) -> dict[str, bytes]:
        folder = write_checkpoint(shape("tiny-olmoe"), tmp_path / name, seed=seed).path
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    one, same, other = content("a", 1), content("b", 1), content("c", 2)
    assert one == same
    assert one["model.safetensors"] != other["model.safetensors"]


def test_weights_have_the_scale_they_should(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = write_checkpoint(shape("demo", num_hidden_layers=2), tmp_path / "m", dtype="fp32").path
    weights = load_file(folder / "model.safetensors")
    for name, tensor in weights.items():
        mean, std = scale(TensorSpec(name, tuple(tensor.shape)))
        error = 6 * std / tensor.numel() ** 0.5
        assert abs(tensor.mean().item() - mean) < error, name
        assert abs(tensor.std().item() - std) < 2 * error, name
    assert 0.05 < scale(TensorSpec("model.layers.0.self_attn.q_proj.weight", (256, 256)))[1] < 0.07


def test_experts_and_rows_differ(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    weights = load_file(write_checkpoint(shape("demo"), tmp_path / "m").path / "model.safetensors")
    experts = [tensor.view(torch.int16).numpy() for name, tensor in weights.items() if ".experts." in name]
    assert len({value.tobytes() for value in experts}) == len(experts) == 8 * 32 * 3
    embedding = weights["model.embed_tokens.weight"].view(torch.int16).numpy()
    assert len(np.unique(embedding, axis=0)) == len(embedding)


def test_long_tensors_have_no_two_equal_rows() -> None:
    """With a pool far smaller than the tensor, the windows still start at different places within a row."""
    noise = Noise(3, dtype_of("bf16"), pool_bytes=4096)
    spec = TensorSpec("lm_head.weight", (500, 64))
    rows = np.concatenate([piece.view("<u2") for piece in noise.pieces(spec)]).reshape(spec.shape)
    assert len(np.unique(rows, axis=0)) == 500


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    written = write_checkpoint(
        shape("tiny-olmoe"), tmp_path / "m", progress=lambda done, total: calls.append((done, total))
    )
    assert calls[-1] == (written.bytes, written.bytes)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


def test_fewer_layers_on_request(tmp_path: Path) -> None:
    folder = write_checkpoint(shape("tiny-olmoe"), tmp_path / "m", layers=1).path
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 1
    _, entries = header_of(folder / "model.safetensors")
    assert not [name for name in entries if name.startswith("model.layers.1.")]


def test_a_full_disk_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=13_000_000_000))
    with pytest.raises(LocumError, match=r"12\.9 GiB free at the peak.*got 12\.1 GiB"):
        write_checkpoint(shape("olmoe-1b-7b"), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interruption_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    calls = 0

    def fail(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise failure

    monkeypatch.setattr(files.os, "fsync", fail)
    wanted = LocumError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(wanted):
        write_checkpoint(shape("tiny-olmoe"), tmp_path / "m", shard_bytes=SMALL_SHARD)
    assert calls == 3
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    """The kernel itself refuses to let the file grow, in the middle of a tensor."""
    code = (
        "import resource\n"
        "from locum.synth.shapes import shape\nfrom locum.synth.writer import write_checkpoint\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        f"write_checkpoint(shape('tiny-olmoe'), {str(tmp_path / 'm')!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_existing_checkpoint_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        write_checkpoint(shape("tiny-olmoe"), tmp_path / "m")
    assert [p.name for p in tmp_path.rglob("*")] == ["m", "notes.txt"]


@pytest.mark.parametrize("bad", [{"layers": 0}, {"dtype": "int3"}, {"shard_bytes": 0}])
def test_wrong_arguments_are_refused(tmp_path: Path, bad: dict) -> None:
    with pytest.raises(UsageError):
        write_checkpoint(shape("tiny-olmoe"), tmp_path / "m", **bad)
    assert list(tmp_path.iterdir()) == []


def test_memory_stays_small_and_torch_away(tmp_path: Path) -> None:
    """0.9 GB of weights from a fresh process: its peak stays below 200 MB."""
    code = (
        "import re, sys\n"
        "from locum.synth.shapes import shape\nfrom locum.synth.writer import write_checkpoint\n"
        f"write_checkpoint(shape('olmoe-1b-7b', num_experts=32), {str(tmp_path / 'm')!r}, layers=1)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        # not ru_maxrss, which a child inherits from whoever forked it
        "print(re.search(r'VmHWM:\\s+([0-9]+) kB', open('/proc/self/status').read())[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert int(done.stdout) * 1024 < 200_000_000
    shutil.rmtree(tmp_path / "m")
