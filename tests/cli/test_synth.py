"""`locum synth` as people run it."""

import json
import sys
from pathlib import Path

import pytest

from helpers_cli import locum
from locum.bench.cgroup import run_limited
from locum.errors import LocumError
from locum.units import GIB


def test_a_checkpoint_that_runs(tmp_path: Path) -> None:
    made = locum("synth", "tiny-qwen3", "-o", "m", "--layers", "2", "--seed", "5", "--json", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "will be written to m" in made.stderr
    document = json.loads(made.stdout)
    files = sum(path.stat().st_size for path in (tmp_path / "m").glob("*.safetensors"))
    assert document["bytes"] <= files < document["bytes"] + 100_000
    run = locum("run", "m", "hello", "--max-tokens", "3", "--ignore-eos", "--json", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["tokens"] == 3
    again = locum("synth", str(tmp_path / "m"), "-o", "n", "--seed", "5", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    name = "model.safetensors"
    assert (tmp_path / "m" / name).read_bytes() == (tmp_path / "n" / name).read_bytes()
    assert "parameters" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["gpt-5", "-o", "x"], "olmoe-1b-7b"),
        (["demo"], "output"),
        (["demo", "-o", "taken"], "exists"),
        (["demo", "-o", "x", "--layers", "0"], "layers"),
        (["demo", "-o", "x", "--dtype", "int3"], "dtype"),
        (["qwen3-30b-a3b", "-o", "/proc/x"], "/proc"),
        (["demo", "-o", "x", "--locality", "9"], "locality"),
        (["demo", "-o", "x", "--locality", "nan"], "finite"),
        (["demo", "-o", "x", "--gguf", "--bits", "int3"], "bits"),
        (["demo", "-o", "taken", "--gguf"], "exists"),
        (["gpt-oss-20b", "-o", "x", "--gguf"], "biases"),
        (["qwen3-30b-a3b", "-o", "/proc/x", "--gguf"], "/proc"),
    ],
)
def test_wrong_input(tmp_path: Path, arguments: list[str], says: str) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    result = locum("synth", *arguments, cwd=tmp_path)
    assert result.returncode in (1, 2)
    assert says in result.stderr.lower()
    assert "traceback" not in result.stderr.lower()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]


GRANITE = {
    "model_type": "granitemoe", "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 8, "num_experts_per_tok": 3,
    "vocab_size": 320, "tie_word_embeddings": False,
    "layer_types": ["full_attention"] * 3,
    "quantization_config": {"quant_method": "fp8"},
}  # fmt: skip


def test_a_config_of_another_family(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GRANITE))
    made = locum("synth", "config.json", "-o", "m", "--layers", "2", "--json", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    written = json.loads((tmp_path / "m/config.json").read_text())
    assert written["architectures"] == ["GraniteMoeForCausalLM"]
    assert (written["num_hidden_layers"], len(written["layer_types"])) == (2, 2)
    assert "quantization_config" not in written
    run = locum("run", "m", "hello", "--max-tokens", "3", "--ignore-eos", "--json", cwd=tmp_path)
    assert json.loads(run.stdout)["tokens"] == 3, run.stderr
    refused = locum("synth", "config.json", "-o", "n", "--locality", "1", cwd=tmp_path)
    assert refused.returncode == 1
    assert "granitemoe" in refused.stderr
    longer = locum("synth", "config.json", "-o", "n", "--layers", "4", cwd=tmp_path)
    assert longer.returncode == 2
    assert "at most 3 layers" in longer.stderr
    assert not (tmp_path / "n").exists()


@pytest.mark.parametrize("bits", [[], ["--bits", "int4"]], ids=["plain", "int4"])
@pytest.mark.parametrize("what", ["demo", "config.json"])
def test_a_gguf_that_runs(tmp_path: Path, what: str, bits: list[str]) -> None:
    config = {**GRANITE, "model_type": "minimax_m2", "head_dim": 32, "rope_parameters": None}
    (tmp_path / "config.json").write_text(json.dumps({**config, "layer_types": None}))
    words = ["synth", what, "-o", "m", "--layers", "2", "--locality", "1", "--gguf", *bits, "--json"]
    made = locum(*words, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "will be written to m" in made.stderr
    document = json.loads(made.stdout)
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["model.gguf"]
    assert document["bytes"] == (tmp_path / "m/model.gguf").stat().st_size
    assert document["expert_bytes"] < document["bytes"]
    run = locum("run", "m", "hello", "--max-tokens", "3", "--ignore-eos", "--json", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["tokens"] == 3


def test_one_seed_in_three_forms_says_the_same(tmp_path: Path) -> None:
    # plain, packed and GGUF: the same weights from the same stream, so the same greedy text
    said = []
    for form in ([], ["--bits", "bf16"], ["--gguf"]):
        folder = "m" + "".join(form)
        made = locum("synth", "demo", "-o", folder, "--seed", "5", *form, "--json", cwd=tmp_path)
        assert made.returncode == 0, made.stderr
        flags = ("--max-tokens", "8", "--ignore-eos", "--temperature", "0", "--dtype", "bf16", "--json")
        run = locum("run", folder, "hello", *flags, cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        said.append(json.loads(run.stdout)["text"])
    assert said[0] == said[1] == said[2]
    assert (tmp_path / "m--bitsbf16" / "experts-00000.bin").exists()


@pytest.mark.check
@pytest.mark.parametrize("extra", [[], ["--locality", "1"]], ids=["plain", "dial"])
def test_tensors_larger_than_the_memory(tmp_path: Path, extra: list[str]) -> None:
    """Single tensors of 1 to 2 GiB, under a limit of 1 GiB that the kernel holds."""
    wide = {"hidden_size": 2048, "intermediate_size": 4096, "num_hidden_layers": 1, "vocab_size": 262_144}
    if extra:  # a family of the dial, with its embedding and its head as the large tensors
        config = {**GRANITE, **wide, "model_type": "minimax_m2", "intermediate_size": 64, "head_dim": 64}
    else:
        config = {**GRANITE, **wide, "num_local_experts": 64}
    (tmp_path / "config.json").write_text(json.dumps({**config, "layer_types": None}))
    target = tmp_path / "m"
    words = [sys.executable, "-m", "locum", "synth", str(tmp_path), "-o", str(target), *extra, "--json"]
    try:
        outcome = run_limited(words, limit=GIB, timeout=250)
    except LocumError as error:
        pytest.skip(f"no limit can be set: {error}")
    assert outcome.failure is None, outcome.stderr
    document = json.loads(outcome.stdout)
    assert document["bytes"] > 2 * GIB
    assert outcome.peak_anonymous < GIB
    for path in target.iterdir():
        path.unlink()
