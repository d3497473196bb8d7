"""The environment that `make` makes: found Pythons, refused ones, and environments that are there already."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts/new_venv.sh"


def new_venv(target: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), str(target)], env={**os.environ, **env}, capture_output=True, text=True, check=False
    )


def fake_python(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_an_old_python_is_refused(tmp_path: Path) -> None:
    old = fake_python(tmp_path / "old", "exit 1")  # what the version check ends with
    result = new_venv(tmp_path / "venv", PYTHON=str(old))
    assert result.returncode == 1
    assert "Python 3.11" in result.stderr
    assert not (tmp_path / "venv").exists()


def test_a_python_without_venv_says_what_to_install(tmp_path: Path) -> None:
    bare = fake_python(tmp_path / "bare", f'[ "$1" = -m ] && exit 1\nexec {sys.executable} "$@"')
    result = new_venv(tmp_path / "venv", PYTHON=str(bare))
    assert result.returncode == 1
    assert "python3-venv" in result.stderr


def test_an_environment_that_works_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "venv/bin").mkdir(parents=True)
    there = fake_python(tmp_path / "venv/bin/python", "exit 0")  # has a pip that answers
    before = there.read_text()
    result = new_venv(tmp_path / "venv", PYTHON=sys.executable)
    assert result.returncode == 0
    assert there.read_text() == before
    assert sorted(p.name for p in (tmp_path / "venv").iterdir()) == ["bin"]


def test_half_an_environment_is_completed(tmp_path: Path) -> None:
    (tmp_path / "venv/bin").mkdir(parents=True)
    result = new_venv(tmp_path / "venv", PYTHON=sys.executable)
    assert result.returncode == 0, result.stderr
    python = tmp_path / "venv/bin/python"
    assert (
        subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    )
