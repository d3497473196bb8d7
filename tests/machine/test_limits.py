"""Limits read from made-up /proc and /sys trees, and the figures of this very process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from locum.machine import cpu_count, current_rss, memory_limit, peak_rss
from locum.machine.limits import available_memory, cgroup_memory_limit

MIB, GIB = 1 << 20, 1 << 30
V1_NONE = "9223372036854771712"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = f"MemTotal:       {24 * MIB} kB\nMemFree:         1 kB\nMemAvailable:   {10 * MIB} kB\n"
V2 = {
    "proc/meminfo": MEMINFO,
    "proc/self/cgroup": "0::/user.slice/app.scope\n",
    "proc/self/mountinfo": "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n",
}
V1 = {
    "proc/meminfo": MEMINFO,
    "proc/self/cgroup": "5:cpu,cpuacct:/a/b\n4:memory:/a/b\n0::/\n",
    "proc/self/mountinfo": (
        "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
        "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    ),
}


@pytest.mark.parametrize(
    ("files", "want"),
    [
        ({"user.slice/app.scope/memory.max": f"{4 * GIB}\n", "user.slice/memory.max": "max\n"}, 4 * GIB),
        (
            {"user.slice/app.scope/memory.max": f"{4 * GIB}\n", "user.slice/memory.max": f"{2 * GIB}\n"},
            2 * GIB,
        ),
        ({"user.slice/app.scope/memory.max": "max\n", "memory.max": f"{3 * GIB}\n"}, 3 * GIB),
        ({"user.slice/app.scope/memory.max": "max\n"}, None),
        ({"other.slice/memory.max": "1\n"}, None),
        ({"user.slice/app.scope/memory.max": "nonsense\n"}, None),
    ],
)
def test_cgroup_v2(tmp_path: Path, files: dict[str, str], want: int | None) -> None:
    root = tree(tmp_path, V2 | {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert cgroup_memory_limit(root) == want
    assert memory_limit(root) == min(want or 10 * GIB, 10 * GIB)


@pytest.mark.parametrize(
    ("own", "parent", "top", "want"),
    [
        (str(8 * GIB), V1_NONE, V1_NONE, 8 * GIB),
        (V1_NONE, str(6 * GIB), V1_NONE, 6 * GIB),
        (str(8 * GIB), str(6 * GIB), str(5 * GIB), 5 * GIB),
        (V1_NONE, V1_NONE, V1_NONE, None),
    ],
)
def test_cgroup_v1(tmp_path: Path, own: str, parent: str, top: str, want: int | None) -> None:
    base = "sys/fs/cgroup/memory"
    root = tree(
        tmp_path,
        V1
        | {
            f"{base}/a/b/memory.limit_in_bytes": own,
            f"{base}/a/memory.limit_in_bytes": parent,
            f"{base}/memory.limit_in_bytes": top,
        },
    )
    assert cgroup_memory_limit(root) == want


@pytest.mark.parametrize(
    ("path", "top", "folder"),
    [
        ("/docker/abc", "/docker/abc", ""),  # a container without its own cgroup namespace
        ("/docker/abc/sub", "/docker/abc", "sub/"),
        ("/", "/", ""),  # with one
        ("/../outside", "/", ""),  # moved out of the namespace's root
        ("/other", "/docker/abc", ""),
    ],
)
def test_containers(tmp_path: Path, path: str, top: str, folder: str) -> None:
    root = tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": f"4:memory:{path}\n",
            "proc/self/mountinfo": f"35 31 0:32 {top} /sys/fs/my\\040cgroups rw - cgroup cgroup rw,memory\n",
            f"sys/fs/my cgroups/{folder}memory.limit_in_bytes": str(GIB),
        },
    )
    assert cgroup_memory_limit(root) == GIB


def test_nothing_known_is_no_error(tmp_path: Path) -> None:
    assert cgroup_memory_limit(tmp_path) is None
    assert available_memory(tmp_path) is None
    assert memory_limit(tmp_path) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert current_rss(tmp_path) == 0
    assert peak_rss(tmp_path) > MIB
    junk = tree(
        tmp_path,
        {"proc/self/cgroup": "x\n::\n\n4\n", "proc/self/mountinfo": "a b\n - \n", "proc/meminfo": "?"},
    )
    assert cgroup_memory_limit(junk) is None


@pytest.mark.parametrize(
    ("quota", "want"),
    [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 8), ("?", 8)],
)
def test_cpu_quota_v2(tmp_path: Path, quota: str, want: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    root = tree(tmp_path, V2 | {"sys/fs/cgroup/user.slice/cpu.max": quota})
    assert cpu_count(root) == want


@pytest.mark.parametrize(
    ("quota", "period", "want"), [(-1, 100000, 8), (300000, 100000, 3), (150000, 100000, 1)]
)
def test_cpu_quota_v1(
    tmp_path: Path, quota: int, period: int, want: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    base = "sys/fs/cgroup/cpu,cpuacct/a"
    root = tree(
        tmp_path, V1 | {f"{base}/cpu.cfs_quota_us": str(quota), f"{base}/cpu.cfs_period_us": str(period)}
    )
    assert cpu_count(root) == want


def test_affinity_counts() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cpu_count() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert 1 <= cpu_count() <= len(allowed)


def test_resident_memory_follows_what_is_touched() -> None:
    before, size = current_rss(), 64 * MIB
    data = bytearray(b"\1") * size
    grown = current_rss()
    assert grown - before > size * 0.9
    assert peak_rss() >= grown * 0.99
    del data
    assert current_rss() < grown - size * 0.9
    assert peak_rss() >= grown * 0.99


def test_the_peak_is_this_process_alone() -> None:
    """A child forked from a big process must not inherit its peak, as getrusage would have it."""
    ballast = bytearray(b"\1") * (256 * MIB)
    code = "from locum.machine.limits import peak_rss; print(peak_rss())"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, close_fds=False
    )
    assert int(out.stdout) < 200 * MIB
    assert len(ballast)
