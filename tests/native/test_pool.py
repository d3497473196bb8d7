"""The thread pool alone, in a program of its own, and under the compiler's race detector."""

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NATIVE = HERE.parents[1] / "src/locum/native"


@pytest.mark.parametrize(
    ("options", "threads", "rounds"),
    [
        pytest.param(["-O2"], "2", "300000", id="two threads"),
        pytest.param(["-O2"], "2", "20000000", id="two threads, long", marks=pytest.mark.check),
        pytest.param(["-O1", "-g", "-fsanitize=thread"], "4", "50000", id="races", marks=pytest.mark.check),
    ],
)
def test_every_chunk_is_done_once(tmp_path: Path, options: list[str], threads: str, rounds: str) -> None:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    program = tmp_path / "stress"
    sources = [str(HERE / "pool_stress.cpp"), str(NATIVE / "pool.cpp")]
    build = [compiler, "-std=c++20", *options, f"-I{NATIVE}", *sources, "-o", str(program), "-pthread"]
    subprocess.run(build, check=True, timeout=120)
    run = subprocess.run([program, threads, rounds], capture_output=True, text=True, timeout=250, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "WARNING: ThreadSanitizer" not in run.stderr
