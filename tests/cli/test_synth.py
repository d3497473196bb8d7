"""`locum synth` as people run it."""

import json
from pathlib import Path

import pytest

from helpers_cli import locum


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
