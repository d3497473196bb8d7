"""The memory limit, on real control groups where this system has them, and on the files of version 2."""

import contextlib
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from locum.bench import cgroup
from locum.bench.cgroup import V1, V2, Group, LimitUnavailableError, limit_group, run_limited
from locum.units import MIB


def possible() -> bool:
    try:
        with limit_group(64 * MIB):
            return True
    except LimitUnavailableError:
        return False


limited = pytest.mark.skipif(not possible(), reason="no right to make a control group here")
PYTHON = [sys.executable, "-I", "-S", "-c"]
HOLD = "import sys; held = bytearray(int(sys.argv[1])); print(len(held)); print('done', file=sys.stderr)"


def groups_left() -> list[Path]:
    root = limit_group(64 * MIB).folder.parent
    return list(root.glob(f"locum-bench-{os.getpid()}-*"))


@limited
def test_below_the_limit_it_runs_and_is_measured() -> None:
    outcome = run_limited([*PYTHON, HOLD, str(80 * MIB)], limit=160 * MIB, every=0.005)
    assert outcome.failure is None
    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (0, f"{80 * MIB}\n", "done\n")
    assert 80 * MIB < outcome.peak < 120 * MIB
    assert outcome.peak_anonymous <= outcome.peak
    assert outcome.oom_kills == 0
    assert "cgroup" in outcome.enforced
    assert groups_left() == []


@limited
def test_above_the_limit_it_is_killed_and_that_is_said() -> None:
    outcome = run_limited([*PYTHON, HOLD, str(200 * MIB)], limit=64 * MIB)
    assert outcome.oom_kills >= 1
    assert outcome.exit_code == -9
    assert outcome.failure == "OOM-killed"
    assert outcome.peak <= 64 * MIB
    assert groups_left() == []


@limited
def test_a_child_that_is_killed_counts_even_if_its_parent_goes_on() -> None:
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD!r}, sys.argv[1]])"
    outcome = run_limited([*PYTHON, code, str(300 * MIB)], limit=100 * MIB)
    assert outcome.exit_code == 0
    assert outcome.failure == "OOM-killed"


@limited
def test_page_cache_is_charged_but_told_apart(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(MIB) * 96)
    with big.open("rb") as content:
        os.fsync(content.fileno())
        os.posix_fadvise(content.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    code = "import sys\nwith open(sys.argv[1], 'rb') as f:\n while f.read(1 << 20): pass"
    outcome = run_limited([*PYTHON, code, str(big)], limit=64 * MIB, every=0.002)
    assert outcome.failure is None
    assert outcome.peak <= 64 * MIB
    assert outcome.peak_cache > 32 * MIB
    assert outcome.peak_anonymous < 32 * MIB


@limited
def test_a_timeout_ends_everything_in_the_group() -> None:
    code = (
        "import subprocess, time; subprocess.Popen(['sleep', '600'], start_new_session=True); time.sleep(600)"
    )
    outcome = run_limited([*PYTHON, code], limit=64 * MIB, timeout=0.5)
    assert outcome.timed_out
    assert "not finished" in (outcome.failure or "")
    assert groups_left() == []


@limited
def test_failures_of_the_command_itself() -> None:
    outcome = run_limited([*PYTHON, "import sys; sys.exit('no such model')"], limit=64 * MIB)
    assert outcome.failure == "exit status 1: no such model"
    outcome = run_limited(["/nonexistent/program"], limit=64 * MIB)
    assert "No such file" in (outcome.failure or "")
    assert groups_left() == []


@limited
def test_the_group_goes_when_we_are_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cgroup, "_watch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_limited(["sleep", "600"], limit=64 * MIB)
    assert groups_left() == []


@limited
def test_the_command_dies_with_us(tmp_path: Path) -> None:
    """Kill a process that runs a limited command: the command goes too."""
    script = (
        "import sys\nfrom locum.bench.cgroup import run_limited\n"
        "run_limited(['sh', '-c', 'echo up > \"$0\"; exec sleep 600', sys.argv[1]], limit=64 << 20)\n"
    )
    os.mkfifo(tmp_path / "fifo")
    ours = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "fifo")], env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    with (tmp_path / "fifo").open() as fifo:
        assert fifo.read() == "up\n"
    root = limit_group(64 * MIB).folder.parent
    (group,) = root.glob(f"locum-bench-{ours.pid}-*")
    (member,) = (group / "cgroup.procs").read_text().split()
    gone = os.pidfd_open(int(member))
    ours.kill()
    ours.wait()
    assert select.select([gone], [], [], 30)[0], "the command outlived the one who ran it"
    os.close(gone)
    while group.exists():  # nobody was left to remove it
        with contextlib.suppress(OSError):
            group.rmdir()


@limited
def test_the_environment_is_added_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCUM_TEST_A", "a")
    code = "import os; print(os.environ['LOCUM_TEST_A'] + os.environ['LOCUM_TEST_B'])"
    assert run_limited([*PYTHON, code], limit=64 * MIB, env={"LOCUM_TEST_B": "b"}).stdout == "ab\n"


def mounts(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "mounts"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_the_version_is_found(tmp_path: Path) -> None:
    two = tmp_path / "two"
    two.mkdir()
    (two / "cgroup.controllers").write_text("cpu io memory pids\n")
    v1 = "cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0"
    v2 = f"cgroup2 {two} cgroup2 rw,nosuid 0 0"
    without = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0"
    disk = "/dev/vda / ext4 rw,relatime 0 0"
    assert limit_group(MIB * 64, mounts(tmp_path, disk, without, v1)).version is V1
    assert limit_group(MIB * 64, mounts(tmp_path, disk, v2)).version is V2
    for nothing in ([disk], [disk, "cgroup2 /nonexistent cgroup2 rw 0 0"], []):
        with pytest.raises(LimitUnavailableError, match="no memory controller"):
            limit_group(64 * MIB, mounts(tmp_path, *nothing))
    with pytest.raises(LimitUnavailableError, match="No such file"):
        limit_group(64 * MIB, tmp_path / "none")
    with pytest.raises(LimitUnavailableError, match="too little"):
        limit_group(64, mounts(tmp_path, v1))


def test_a_folder_that_refuses_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(LimitUnavailableError, match="No such file"), Group(V2, tmp_path / "gone", MIB):
        pass


def test_version_2_by_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's side played by plain files: what is written where, and what is read from where."""
    made: list[Path] = []

    def make(folder: Path) -> None:
        os.mkdir(folder)
        made.append(folder)
        for name in ("memory.max", "memory.swap.max", "cgroup.procs"):
            (folder / name).write_text("")
        (folder / "memory.peak").write_text("123456\n")
        (folder / "memory.stat").write_text("anon 1000\nfile 2000\nkernel 30\n")
        (folder / "memory.events").write_text("low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 0\n")

    monkeypatch.setattr(Path, "mkdir", make)
    monkeypatch.setattr(Path, "rmdir", shutil.rmtree)
    with Group(V2, tmp_path, 4096 * 1024) as group:
        assert (group.folder / "memory.max").read_text() == str(4096 * 1024)
        assert (group.folder / "memory.swap.max").read_text() == "0"
        assert (group.peak(), group.oom_kills()) == (123456, 1)
        assert (group.sample().anonymous, group.sample().cache) == (1000, 2000)
    assert made
    assert not made[0].exists()


def test_version_2_turns_the_controller_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cgroup.subtree_control").write_text("")
    monkeypatch.setattr(Path, "rmdir", shutil.rmtree)
    with Group(V2, tmp_path, 4096 * 1024):
        assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory"
