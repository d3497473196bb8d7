"""The verbs on a GGUF file: each in a process of its own."""

import json
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind

from helpers_cli import locum
from helpers_gguf import write_fields, write_gguf


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf("qwen3_moe", folder, Kind.Q4_0, max_position_embeddings=1024)
    (folder / "text.txt").write_text("he said hello, and then hello again" * 4)
    write_fields(folder / "dense.gguf", "qwen3", {"qwen3.block_count": 1}, {"token_embd.weight": (32, 16)})
    return folder


@pytest.mark.parametrize("model", ["model.gguf", "alone"])
def test_run_answers_and_chats(place: Path, model: str) -> None:
    alone = place / "alone"
    alone.mkdir(exist_ok=True)
    if not (alone / "model.gguf").exists():
        (alone / "model.gguf").hardlink_to(place / "model.gguf")
    env = {"LOCUM_CACHE": str(place / "cache")}
    few = ("--expert-memory", "50%", "--threads", "1", "--max-tokens", "4", "--ignore-eos", "--json")
    done = locum("run", *few, model, "hello", cwd=place, env=env)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["tokens"] == 4
    assert found["prompt_tokens"] == 6  # the chat template's marks included


def test_inspect_describes_it(place: Path) -> None:
    done = locum("inspect", "--json", "model.gguf", cwd=place, env={"LOCUM_CACHE": str(place / "cache")})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["family"], found["quantization"], found["runnable"]) == ("qwen3_moe", "gguf", True)
    assert found["model"] == "model.gguf"


def test_eval_judges_it(place: Path) -> None:
    env = {"LOCUM_CACHE": str(place / "cache")}
    done = locum("eval", "--json", "--window", "32", "--data", "text.txt", "model.gguf", cwd=place, env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "model.gguf"


def test_a_dense_model_is_refused_in_one_paragraph(place: Path) -> None:
    for verb in ("run", "inspect", "eval"):
        done = locum(verb, "dense.gguf", cwd=place, env={"LOCUM_CACHE": str(place / "cache")})
        assert done.returncode == 1
        assert "dense model" in done.stderr
        assert "Traceback" not in done.stderr
