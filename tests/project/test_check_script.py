"""The long form's runner, on a small project made for it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/check.py"

TESTS = """
import pathlib, pytest
LOG = pathlib.Path(__file__).parent.parent / "log"

@pytest.mark.check
def test_it():
    with LOG.open("a") as log: log.write(pathlib.Path(__file__).stem + " ")
    assert {outcome}

def test_not_marked():
    assert False
"""
BENCH = """
import pathlib, sys
with open("log", "a") as log: log.write("bench ")
print("measured | it")
sys.exit(pathlib.Path("break").exists())
"""


@pytest.fixture
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_script"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\ntestpaths = ["tests"]\nmarkers = ["check: long"]\n'
    )
    (tmp_path / "src").mkdir()
    (tmp_path / "src/code.py").write_text("x = 1\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_good.py").write_text(TESTS.format(outcome=True))
    (tmp_path / "tests/test_bad.py").write_text(TESTS.format(outcome=False))
    (tmp_path / "bench.py").write_text(BENCH)
    return tmp_path


def ran(project: Path) -> list[str]:
    """What has run since this was last asked."""
    log = project / "log"
    words = sorted(log.read_text().split()) if log.exists() else []
    log.unlink(missing_ok=True)
    return words


def test_pieces_that_passed_are_not_run_again(check: ModuleType, project: Path) -> None:
    bench = [sys.executable, "bench.py"]
    (project / "break").touch()
    assert check.main([], project, bench) == 1
    assert ran(project) == ["bench", "test_bad", "test_good"]
    table = (project / "benchmarks/check.md").read_text()
    assert "| tests/test_good.py | passed |" in table
    assert "| tests/test_bad.py | **failed** |" in table
    assert "| measurements | **failed** |" in table
    assert "| measured / it |" in table

    (project / "break").unlink()
    assert check.main([], project, bench) == 1
    assert ran(project) == ["bench", "test_bad"]

    (project / "tests/test_bad.py").unlink()  # a changed tree: everything runs again
    assert check.main([], project, bench) == 0
    assert ran(project) == ["bench", "test_good"]
    assert check.main([], project, bench) == 0
    assert ran(project) == ["bench"]  # it keeps its own records
    (project / "src/code.py").write_text("x = 2\n")
    assert check.main(["good"], project, bench) == 0
    assert ran(project) == ["test_good"]
    assert "1 more were not run" in (project / "benchmarks/check.md").read_text()
    assert check.main(["--again", "good"], project, bench) == 0
    assert ran(project) == ["test_good"]


def test_a_test_file_that_cannot_be_collected_is_an_error(check: ModuleType, project: Path) -> None:
    (project / "tests/test_broken.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(SystemExit, match="nothing_of_that_name"):
        check.main([], project, [sys.executable, "bench.py"])


def test_without_marked_tests_the_measurements_still_run(check: ModuleType, project: Path) -> None:
    for name in ("good", "bad"):
        (project / f"tests/test_{name}.py").write_text("def test_it(): pass\n")
    assert check.main([], project, [sys.executable, "bench.py"]) == 0
    assert ran(project) == ["bench"]
