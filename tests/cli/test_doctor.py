"""`locum doctor`: each check on a made-up system, and the whole on this one."""

import dataclasses
import json
from importlib import metadata
from pathlib import Path

import pytest

from helpers_cli import locum
from helpers_machine import made_curve
from locum.cli import checks
from locum.cli import doctor as verb
from locum.cli.measured import measured_pages
from locum.cli.output import Output, OutputOptions
from locum.errors import LocumError
from locum.machine.fingerprint import fingerprint
from locum.machine.kernels import KernelRate
from locum.machine.measuring import Progress
from locum.machine.profile import MachineProfile, profile_path
from locum.native import Native

QUICK = MachineProfile(
    disk_read_bytes_s=2e9, disk_block=1 << 20, disk_threads=2, disk_mode="direct",
    memory_read_bytes_s={1: 5e9, 2: 1e10}, fingerprint={"processor": "x"}, when="2026-01-01",
)  # fmt: skip
PROFILE = dataclasses.replace(
    QUICK,
    curve=made_curve(lambda x, y: 1e8 * (2 + x + (y if y < 2 else -1))),
    kernels=(KernelRate("native", "bf16", 1, 4e9), KernelRate("torch", "fp32", 7, 2.5e9)),
)


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


def test_rates_come_from_the_profile(tmp_path: Path) -> None:
    found = named(checks.rates(PROFILE, tmp_path))
    assert {check.status for check in found.values()} == {"ok"}
    assert "2.00 GB/s" in found["disk"].value
    assert found["memory bandwidth"].value == "5.00 GB/s with 1 thread, 10.00 GB/s with 2 threads"


def test_a_slow_disk_without_direct_reads(tmp_path: Path) -> None:
    slow = dataclasses.replace(PROFILE, disk_read_bytes_s=1e8, disk_mode="buffered")
    found = named(checks.rates(slow, tmp_path))
    assert (found["disk"].status, found["direct I/O"].status) == ("warn", "warn")
    assert all(found[name].todo for name in ("disk", "direct I/O"))


def test_a_disk_that_cannot_be_measured(tmp_path: Path) -> None:
    assert [(c.name, c.status) for c in checks.rates(LocumError("nothing to read"), tmp_path)] == [
        ("disk", "warn")
    ]


def test_the_tables_as_they_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    """The made-up curve: 100 MB/s times (2 + log2 of the block in 64 KiB, + 1 with 2 threads, - 1 with 8)."""
    with Output(OutputOptions()) as output:
        output.show(*measured_pages(PROFILE))
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "",
        "Disk, by random reads into huge pages (* the best)",
        "read in blocks of    1 thread   2 threads   8 threads",
        "64.0 KiB             200 MB/s    300 MB/s    100 MB/s",
        "1.00 MiB             600 MB/s    700 MB/s    500 MB/s",
        "16.0 MiB            1.00 GB/s  1.10 GB/s*    900 MB/s",
        "huge pages make reads of 1.00 MiB or more 2.00 times as fast (2.00 to 2.00)",
        "",
        "Products of one row with expert weights",
        "product      threads  weights read  of the memory's rate",
        "native bf16        1     4.00 GB/s                   80%",
        "torch fp32         7     2.50 GB/s",
        "",
    ]


def test_a_quick_profile_has_no_tables() -> None:
    assert measured_pages(QUICK) == []


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MachineProfile:
    """A whole profile that counts for `tmp_path`, in the cache `tmp_path`/cache."""
    monkeypatch.setenv("LOCUM_CACHE", str(tmp_path / "cache"))
    kept = dataclasses.replace(PROFILE, fingerprint=fingerprint(tmp_path))
    kept.save(profile_path(tmp_path))
    return kept


def test_the_verb_says_what_is_known(tmp_path: Path, whole: MachineProfile) -> None:
    """With a whole profile nothing is measured, so this takes no time."""
    env = {"LOCUM_CACHE": str(tmp_path / "cache")}
    result = locum("doctor", str(tmp_path), "--json", cwd=tmp_path, env=env)
    document = json.loads(result.stdout)
    assert set(document) == {"checks", "machine"}
    found = document["checks"]
    assert {"python", "processor", "threads", "memory", "huge pages", "disk"} <= {c["name"] for c in found}
    assert all(set(c) == {"name", "status", "value", "todo"} for c in found)
    assert result.returncode == int(any(c["status"] == "bad" for c in found))
    assert document["machine"] == json.loads(profile_path(tmp_path).read_text())
    assert "measuring" not in result.stderr
    people = locum("doctor", str(tmp_path), cwd=tmp_path, env=env)
    assert people.returncode == result.returncode
    for said in (*(check["name"] for check in found), "1.10 GB/s*", "native bf16"):
        assert said in people.stdout


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Measuring takes no time, and its `again` is noted."""
    calls: list[bool] = []

    def complete(folder: Path, progress: Progress, *, again: bool, other_kernels: object) -> MachineProfile:
        assert callable(other_kernels)
        calls.append(again)
        for done in range(5):
            progress("a part", done / 4)
        return PROFILE

    monkeypatch.setattr(verb, "complete", complete)
    return calls


def test_what_is_known_is_measured_when_asked_only(
    tmp_path: Path, whole: MachineProfile, measured: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    verb.doctor(tmp_path)
    assert measured == []
    verb.doctor(tmp_path, again=True)
    assert measured == [True]
    assert "but not as it is now" not in capsys.readouterr().err


def test_what_lacks_is_measured_with_progress(
    tmp_path: Path, whole: MachineProfile, measured: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    dataclasses.replace(whole, kernels=()).save(profile_path(tmp_path))
    verb.doctor(tmp_path)
    assert measured == [False]
    said = capsys.readouterr().err
    assert "measuring disk, memory and kernels" in said
    assert [f"{share}%" in said for share in (25, 50, 75, 100)] == [True] * 4


def test_it_says_why_it_measures_again(
    tmp_path: Path, whole: MachineProfile, measured: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    changed = {**whole.fingerprint, "processor": "an abacus"}
    dataclasses.replace(whole, fingerprint=changed).save(profile_path(tmp_path))
    verb.doctor(tmp_path)
    assert measured == [False]
    assert "measured before, but not as it is now: processor: was an abacus, is " in capsys.readouterr().err


def test_a_disk_that_refuses_is_a_finding_and_null(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> MachineProfile:
        raise LocumError("nothing to read")

    monkeypatch.setenv("LOCUM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(verb, "complete", refuse)
    verb.doctor(tmp_path, output_options=OutputOptions(json=True))
    document = json.loads(capfd.readouterr().out)
    assert document["machine"] is None
    assert named([checks.Check(**check) for check in document["checks"]])["disk"].value == "nothing to read."


@pytest.mark.check
def test_the_verb_measures_for_real(tmp_path: Path) -> None:
    """Everything measured on this machine, half a minute: nothing is left in the folder, and it is kept."""
    folder, cache = tmp_path / "models", tmp_path / "cache"
    folder.mkdir()
    env = {"LOCUM_CACHE": str(cache)}
    result = locum("doctor", str(folder), "--json", cwd=tmp_path, env=env)
    machine = json.loads(result.stdout)["machine"]
    assert len(machine["curve"]) == 5 * 4 * 2
    assert {rate["kernel"] for rate in machine["kernels"]} >= {"torch"}
    assert list(folder.iterdir()) == []
    assert (
        json.loads(locum("doctor", str(folder), "--json", cwd=tmp_path, env=env).stdout)["machine"] == machine
    )


def test_no_such_folder(tmp_path: Path) -> None:
    result = locum("doctor", "nowhere", cwd=tmp_path)
    assert result.returncode == 2
    assert "nowhere" in result.stderr
