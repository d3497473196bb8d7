"""`locum inspect` on real files, in a process of its own."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers_cli import locum
from helpers_machine import QUICK, made_curve
from helpers_models import make_checkpoint
from locum.machine.fingerprint import fingerprint
from locum.machine.profile import MachineProfile, profile_path

# what CLI.md promises to programs
RELIED_ON = {
    "family", "moe_layers", "experts", "top_k", "expert_bytes", "routed_bytes", "backbone_bytes",
    "min_memory", "ceilings",
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("qwen3_moe", tmp_path_factory.mktemp("qwen"))


def test_the_json_holds_what_others_rely_on(checkpoint: Path, tmp_path: Path) -> None:
    result = locum("inspect", str(checkpoint), "--json", cwd=tmp_path, env={"LOCUM_CACHE": str(tmp_path)})
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert set(found) >= RELIED_ON
    assert found["ceilings"] is None
    assert (found["family"], found["moe_layers"]) == ("qwen3_moe", [1, 2])
    assert (found["experts"], found["top_k"]) == (8, 3)
    # one expert: gate, up and down of 32 x 64 in float32
    assert found["expert_bytes"] == 3 * 32 * 64 * 4
    assert found["routed_bytes"] == 2 * 8 * found["expert_bytes"]


def test_the_tables_for_people(checkpoint: Path, tmp_path: Path) -> None:
    result = locum("inspect", str(checkpoint), cwd=tmp_path, env={"LOCUM_CACHE": str(tmp_path)})
    assert result.returncode == 0
    assert result.stderr == ""
    for said in ("qwen3_moe", "24.0 KiB", "8 per layer, 3 used per token", "minimum", "locum doctor"):
        assert said in result.stdout


def test_ceilings_come_from_the_measured_profile(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCUM_CACHE", str(tmp_path))
    profile = MachineProfile(
        disk_read_bytes_s=1e6, disk_block=1 << 20, disk_threads=2, disk_mode="direct",
        memory_read_bytes_s={1: 5e6, 2: 1e7}, fingerprint=fingerprint(checkpoint), when="2026-01-01",
    )  # fmt: skip
    profile.save(profile_path(checkpoint))
    result = locum("inspect", str(checkpoint), "--json", cwd=tmp_path, env={"LOCUM_CACHE": str(tmp_path)})
    found = json.loads(result.stdout)
    ceilings = found["ceilings"]
    assert (ceilings["disk_bytes_s"], ceilings["memory_bytes_s"]) == (1e6, 1e7)
    # 2 MoE layers, 3 experts each; the embedding table (256 x 64 float32) is not read whole
    experts = 2 * 3 * found["expert_bytes"]
    rest = found["backbone_resident_bytes"] - 256 * 64 * 4
    assert [row["hit_rate"] for row in ceilings["decode"]] == [0.0, 0.5, 0.9]
    for row in ceilings["decode"]:
        disk, memory = (1 - row["hit_rate"]) * experts / 1e6, (experts + rest) / 1e7
        assert row["tokens_per_s"] == pytest.approx(1 / max(disk, memory))
        assert row["bound"] == ("disk" if disk > memory else "memory")
    people = locum("inspect", str(checkpoint), cwd=tmp_path, env={"LOCUM_CACHE": str(tmp_path)}).stdout
    assert "disk 1 MB/s, memory 10 MB/s" in people


def test_ceilings_count_with_the_disk_at_the_size_of_the_experts(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An expert of 24 KiB comes at the rate of the smallest blocks, with as many threads as serve it best."""
    monkeypatch.setenv("LOCUM_CACHE", str(tmp_path))
    curve = made_curve(lambda x, y: 1e6 * (1 + x + y))
    dataclasses.replace(QUICK, curve=curve, fingerprint=fingerprint(checkpoint)).save(
        profile_path(checkpoint)
    )
    result = locum("inspect", str(checkpoint), "--json", cwd=tmp_path, env={"LOCUM_CACHE": str(tmp_path)})
    assert json.loads(result.stdout)["ceilings"]["disk_bytes_s"] == pytest.approx(1e6 * (1 + 0 + 3))


@pytest.mark.parametrize("model", ["/nowhere/at/all", "not a model", "file"])
def test_no_model_is_an_error(tmp_path: Path, model: str) -> None:
    (tmp_path / "file").write_text("x")
    result = locum("inspect", model, cwd=tmp_path, env={"HF_HUB_OFFLINE": "1"})
    assert result.returncode == 2
    assert (result.stdout, result.stderr.count("\n")) == ("", 1)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    result = locum("inspect", str(tmp_path), cwd=tmp_path)
    assert result.returncode == 1
    assert "config.json" in result.stderr


def test_a_config_cannot_write_to_the_terminal_as_markup(checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in checkpoint.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    config = json.loads((copy / "config.json").read_text())
    config["architectures"] = ["[bold red]x[/]"]
    (copy / "config.json").write_text(json.dumps(config))
    result = locum("inspect", str(copy), cwd=tmp_path)
    assert "[bold red]x[/]" in result.stdout


def test_it_loads_neither_torch_nor_transformers(checkpoint: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from locum.cli import main; status = main(sys.argv[1:])\n"
        "heavy = [m for m in ('torch', 'transformers', 'accelerate') if m in sys.modules]\n"
        "assert not heavy, heavy\nsys.exit(status)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, "inspect", str(checkpoint), "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
