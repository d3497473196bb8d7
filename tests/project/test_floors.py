"""The light rooms stay light when they really run: no torch, no transformers, no accelerate in the process.

import-linter reads the import statements; this loads every module and looks at what came along.
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "accelerate")


def contract(name: str) -> dict[str, list[str]]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    found: dict[str, list[str]] = next(c for c in contracts if c["id"] == name)
    return found


def heavy_after(script: str) -> list[str]:
    """Which heavy packages are loaded after `script` has run in a fresh process."""
    tail = f"\nimport json, sys; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    command = [sys.executable, "-c", script + tail]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found: list[str] = json.loads(result.stdout.splitlines()[-1])
    return found


EVERYTHING_IN = """
import importlib, pkgutil
for name in {rooms!r}:
    module = importlib.import_module(name)
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), name + "."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
"""


def test_the_check_itself_sees_torch() -> None:
    assert heavy_after("import torch") == ["torch"]


@pytest.mark.parametrize("room", contract("light")["source_modules"])
def test_light_rooms(room: str) -> None:
    assert heavy_after(EVERYTHING_IN.format(rooms=[room])) == []


def test_the_command_line_and_the_top() -> None:
    assert heavy_after(EVERYTHING_IN.format(rooms=["locum.cli"])) == []
    assert heavy_after("import locum; dir(locum); locum.LocumError, locum.__version__") == []
    assert heavy_after("import locum; locum.inspect") == []


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["run", "--help"], ["run", "--top-p", "9"], ["run", "/nowhere"]]
)
def test_help_and_mistakes(arguments: list[str]) -> None:
    assert heavy_after(f"from locum.cli import main; main({arguments!r})") == []


def test_every_room_has_its_floor() -> None:
    placed = {layer.strip("()") for layer in contract("floors")["layers"]}
    source = ROOT / "src/locum"
    rooms = {
        path.stem for path in source.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert rooms - {"__init__"} <= placed


def test_light_rooms_are_rooms() -> None:
    placed = {layer.strip("()") for layer in contract("floors")["layers"]}
    assert {name.removeprefix("locum.") for name in contract("light")["source_modules"]} <= placed
