"""`locum doctor`: each check on a made-up system, and the whole on this one."""

import dataclasses
import json
from importlib import metadata
from pathlib import Path

import pytest

from helpers_cli import locum
from locum.cli import checks
from locum.errors import LocumError
from locum.machine.profile import MachineProfile
from locum.native import Native

PROFILE = MachineProfile(
    disk_read_bytes_s=2e9, disk_block=1 << 20, disk_threads=2, disk_mode="direct",
    memory_read_bytes_s={1: 5e9, 2: 1e10}, cpu_model="x", cores=2, device="0:0", when="2026-01-01",
)  # fmt: skip


def system(root: Path, **files: str) -> Path:
    """A made-up /proc and /sys: `proc__cpuinfo="..."` is the file proc/cpuinfo."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("missing", "status", "todo"),
    [
        (None, "ok", None),
        ("the package was built without a C++ compiler", "warn", "install locum again"),
        ("this processor has no AVX-512 BF16", "warn", "torch computes everything"),
    ],
)
def test_the_native_library(
    monkeypatch: pytest.MonkeyPatch, missing: str | None, status: str, todo: str | None
) -> None:
    monkeypatch.setattr(checks, "load_native", lambda: Native(missing))
    check = checks.native_library()
    assert check.status == status
    assert (todo or "") in (check.todo or "")


@pytest.mark.parametrize(
    ("cpuinfo", "status", "said"),
    [
        ("model name : A\nflags : fpu avx2 avx512f amx_bf16\n", "ok", "avx2, avx512f, amx_bf16"),
        ("model name : A\nflags : fpu sse4_2 avx\n", "warn", "no vector instructions"),
        ("Features : fp asimd sve bf16\n", "ok", "asimd, sve, bf16"),
    ],
)
def test_the_processor(tmp_path: Path, cpuinfo: str, status: str, said: str) -> None:
    check = checks.processor(system(tmp_path, proc__cpuinfo=cpuinfo))
    assert check.status == status
    assert said in check.value


@pytest.mark.parametrize(
    ("setting", "status"),
    [("always [madvise] never", "ok"), ("[always] madvise never", "ok"), ("always madvise [never]", "warn")],
)
def test_huge_pages(tmp_path: Path, setting: str, status: str) -> None:
    root = system(tmp_path, sys__kernel__mm__transparent_hugepage__enabled=setting + "\n")
    check = checks.huge_pages(root)
    assert check.status == status
    assert (check.todo is None) == (status == "ok")


def test_huge_pages_on_a_system_without_them(tmp_path: Path) -> None:
    check = checks.huge_pages(tmp_path)
    assert (check.status, check.todo) == ("warn", None)


def test_memory(tmp_path: Path) -> None:
    check = checks.memory(system(tmp_path, proc__meminfo="MemAvailable:   8388608 kB\n"))
    assert (check.status, check.value) == ("ok", "8.00 GiB to use (8.00 GiB available, no cgroup limit)")
    check = checks.memory(system(tmp_path, proc__meminfo="MemAvailable:   1048576 kB\n"))
    assert check.status == "warn"


def test_memory_in_a_cgroup(tmp_path: Path) -> None:
    root = system(
        tmp_path,
        proc__meminfo="MemAvailable:   8388608 kB\n",
        proc__self__cgroup="0::/\n",
        proc__self__mountinfo="1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
        sys__fs__cgroup__memory="",
    )
    (root / "sys/fs/cgroup/memory").unlink()
    (root / "sys/fs/cgroup/memory.max").write_text(f"{4 << 30}\n")
    check = checks.memory(root)
    assert check.value == "4.00 GiB to use (8.00 GiB available, cgroup limit 4.00 GiB)"


def test_threads(tmp_path: Path) -> None:
    assert checks.threads(tmp_path, {}).status == "ok"
    check = checks.threads(tmp_path, {"OMP_NUM_THREADS": "999"})
    assert check.status == "warn"
    assert "999" in check.value


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"locum": "1", "torch": "2.10.0+cpu", "transformers": "5.22.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(checks.metadata, "version", version)
    needs = ["torch>=2.9", "transformers==5.23.*", "rich>=13"]
    monkeypatch.setattr(checks.metadata, "requires", lambda name: needs)
    found = {check.name: check for check in checks.packages()}
    assert {name: check.status for name, check in found.items()} == {
        "locum": "ok", "torch": "ok", "transformers": "bad", "rich": "bad",
    }  # fmt: skip
    assert found["transformers"].todo == "pip install 'transformers==5.23.*'"
    assert found["rich"].value == "not installed"


def test_running_without_being_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(checks.metadata, "requires", requires)
    assert [check.status for check in checks.packages()] == ["bad"]


def named(found: list[checks.Check]) -> dict[str, checks.Check]:
    return {check.name: check for check in found}


def test_rates_come_from_the_cache_when_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measured: list[Path] = []
    monkeypatch.setattr(checks, "load_cached", lambda folder: PROFILE)
    monkeypatch.setattr(checks, "measure", lambda folder: measured.append(folder) or PROFILE)
    found = named(checks.rates(tmp_path))
    assert measured == []
    assert {check.status for check in found.values()} == {"ok"}
    assert "2.00 GB/s" in found["disk"].value
    assert found["memory bandwidth"].value == "5.00 GB/s with 1 thread, 10.00 GB/s with 2 threads"
    monkeypatch.setattr(checks, "load_cached", lambda folder: None)
    checks.rates(tmp_path)
    assert measured == [tmp_path]


def test_a_slow_disk_without_direct_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = dataclasses.replace(PROFILE, disk_read_bytes_s=1e8, disk_mode="buffered")
    monkeypatch.setattr(checks, "load_cached", lambda folder: slow)
    found = named(checks.rates(tmp_path))
    assert (found["disk"].status, found["direct I/O"].status) == ("warn", "warn")
    assert all(found[name].todo for name in ("disk", "direct I/O"))


def test_a_disk_that_cannot_be_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(folder: Path) -> MachineProfile:
        raise LocumError("nothing to read")

    monkeypatch.setattr(checks, "load_cached", lambda folder: None)
    monkeypatch.setattr(checks, "measure", refuse)
    assert [(c.name, c.status) for c in checks.rates(tmp_path)] == [("disk", "warn")]


def test_the_verb(tmp_path: Path) -> None:
    folder, cache = tmp_path / "models", tmp_path / "cache"
    folder.mkdir()
    result = locum("doctor", str(folder), "--json", cwd=tmp_path, env={"LOCUM_CACHE": str(cache)})
    found = json.loads(result.stdout)["checks"]
    assert {"python", "processor", "threads", "memory", "huge pages", "disk"} <= {c["name"] for c in found}
    assert all(set(c) == {"name", "status", "value", "todo"} for c in found)
    assert result.returncode == int(any(c["status"] == "bad" for c in found))
    assert list(folder.iterdir()) == []
    again = locum("doctor", str(folder), cwd=tmp_path, env={"LOCUM_CACHE": str(cache)})
    assert again.returncode == result.returncode
    for check in found:
        assert check["name"] in again.stdout


def test_no_such_folder(tmp_path: Path) -> None:
    result = locum("doctor", "nowhere", cwd=tmp_path)
    assert result.returncode == 2
    assert "nowhere" in result.stderr
