"""`inspect`: the keys that others rely on, and a 60 GB checkpoint read without torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers_checkpoint import qwen3_moe, write_checkpoint
from locum.errors import CheckpointError, UsageError
from locum.model import inspect

RELIED_ON = [
    "family",
    "moe_layers",
    "experts",
    "top_k",
    "expert_bytes",
    "routed_bytes",
    "backbone_bytes",
    "min_memory",
    "ceilings",
]


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen3-30B-A3B's shapes, bf16, 16 shards: 61 GB, all of them holes."""
    config, tensors = qwen3_moe(
        layers=48,
        hidden=2048,
        experts=128,
        width=768,
        vocab=151936,
        heads=32,
        kv_heads=4,
        head_dim=128,
        top_k=8,
    )
    return write_checkpoint(tmp_path_factory.mktemp("qwen3-30b-a3b"), config, tensors, shards=16)


def test_sixty_gigabytes_without_torch(big: Path) -> None:
    stored = sum(path.stat().st_size for path in big.glob("*.safetensors"))
    used = sum(path.stat().st_blocks * 512 for path in big.glob("*.safetensors"))
    assert stored > 60e9 > 1e8 > used
    code = (
        "import json, sys\n"
        "from locum.model import inspect\n"
        "found = inspect(sys.argv[1]).to_json()\n"
        "heavy = sorted({'torch', 'transformers', 'numpy', 'huggingface_hub'} & set(sys.modules))\n"
        "print(json.dumps([found, heavy]))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(big)], capture_output=True, text=True, check=True, timeout=60
    )
    found, heavy = json.loads(run.stdout)
    assert heavy == []
    expert = 3 * 2048 * 768 * 2
    assert found["family"] == "qwen3_moe"
    assert found["moe_layers"] == list(range(48))
    assert (found["experts"], found["top_k"], found["expert_bytes"]) == (128, 8, expert)
    assert found["routed_bytes"] == 48 * 128 * expert
    assert found["params"] == 30_532_122_624  # what the model's card calls 30.5B
    assert found["active_params"] == found["params"] - 48 * (128 - 8) * expert // 2
    assert found["kv_bytes_per_token"] == 48 * 2 * 4 * 128 * 2
    assert found["ceilings"] is None


def test_what_others_rely_on(tmp_path: Path) -> None:
    config, tensors = qwen3_moe()
    folder = write_checkpoint(tmp_path, config, tensors)
    ceilings = {"decode_tok_s": [1.0, 2.0, 10.0]}
    found = inspect(folder, ceilings=ceilings)
    document: dict[str, Any] = json.loads(json.dumps(found.to_json()))
    assert set(RELIED_ON) <= document.keys()
    assert document["ceilings"] == ceilings
    assert document["min_memory"] == sum(document["min_memory_parts"].values()) == found.minimum.total
    assert document["runnable"] is True
    assert document["stored_bytes"] == sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert document["context"] == 128  # the model has no more
    assert [row["share"] for row in document["useful"]] == [0.25, 0.5, 1.0]
    assert all(row["memory"] >= document["min_memory"] for row in document["useful"])
    assert inspect(folder, context=10).minimum.kv < found.minimum.kv


def test_figures_that_differ_between_layers_are_lists(tmp_path: Path) -> None:
    config, tensors = qwen3_moe()
    pruned = {n: e for n, e in tensors.items() if "layers.1.mlp.experts.3." not in n}
    config |= {"model_type": "pruned_moe", "num_experts": [4, 3], "num_experts_per_tok": [2, 1]}
    document = inspect(write_checkpoint(tmp_path, config, pruned)).to_json()
    assert (document["experts"], document["top_k"]) == ([4, 3], [2, 1])
    assert document["runnable"] is False
    assert "pruned_moe" in document["reason"]


def test_errors_come_through(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        inspect(tmp_path)
    config, tensors = qwen3_moe()
    write_checkpoint(tmp_path, config, tensors)
    with pytest.raises(UsageError, match="context out of range"):
        inspect(tmp_path, context=1000)
