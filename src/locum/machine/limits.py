"""How much memory and how many processors this process may use, and how much memory it does use.

`root` is where /proc and /sys are looked for; tests put a made-up tree there.
"""

import os
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
_UNLIMITED = 1 << 60
"""cgroup v1 writes "no limit" as a number near 2**63, rounded to pages."""


def memory_limit(root: Path = _ROOT) -> int:
    """Bytes this process may count on: the smaller of its cgroups' limit and the memory that is available."""
    limits = [limit for limit in (cgroup_memory_limit(root), available_memory(root)) if limit is not None]
    return min(limits, default=_physical_memory())


def available_memory(root: Path = _ROOT) -> int | None:
    """`MemAvailable` of /proc/meminfo in bytes: what can be had without swapping. None where unknown."""
    return _kib_field(root / "proc/meminfo", "MemAvailable")


def cgroup_memory_limit(root: Path = _ROOT) -> int | None:
    """The smallest memory limit in bytes of this process's cgroups and all their ancestors, v1 and v2.

    None where there is none.
    """
    found = [_number(folder / "memory.max") for folder in _cgroup_folders(root, "")]
    found += [_number(folder / "memory.limit_in_bytes") for folder in _cgroup_folders(root, "memory")]
    return min((limit for limit in found if limit is not None and limit < _UNLIMITED), default=None)


def cpu_count(root: Path = _ROOT) -> int:
    """Processors this process may keep busy: its affinity, cut down to its cgroups' quota; at least 1.

    A quota of 2.5 counts as 2: a third thread would be stopped half of the time and the others wait for it.
    """
    count = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for folder in _cgroup_folders(root, ""):
        words = _text(folder / "cpu.max").split()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
            count = min(count, int(words[0]) / int(words[1]))
    for folder in _cgroup_folders(root, "cpu"):
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota is not None and quota > 0 and period:
            count = min(count, quota / period)
    return max(1, int(count))


def current_rss(root: Path = _ROOT) -> int:
    """Bytes of memory this process occupies now; 0 where the system does not tell."""
    return _kib_field(root / "proc/self/status", "VmRSS") or 0


def peak_rss(root: Path = _ROOT) -> int:
    """The most bytes of memory this process has occupied.

    From VmHWM, because `getrusage` also counts what the parent occupied before the fork.
    """
    peak = _kib_field(root / "proc/self/status", "VmHWM")
    if peak is not None:
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else None


def _kib_field(path: Path, name: str) -> int | None:
    match = re.search(rf"^{name}:\s*([0-9]+) kB$", _text(path), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """This process's folder under a controller's mount (`""`: the v2 tree) and its ancestors up to the mount.

    Inside a container the process's path may lie above the mount's root; then only the mount itself is seen.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, names, path = [*line.split(":", 2), "", "", ""][:3]
        if (controller == "" and number != "0") or controller not in names.split(","):
            continue
        for top, mount in _cgroup_mounts(root, controller):
            inside = os.path.relpath(path, top)
            folder = mount if inside.startswith("..") else mount / inside
            yield folder
            while folder != mount:
                folder = folder.parent
                yield folder


def _cgroup_mounts(root: Path, controller: str) -> Iterator[tuple[str, Path]]:
    """(root of the mount inside the cgroup tree, where it is mounted) of a controller; see proc(5)."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        place, kind = before.split(), after.split()
        if len(place) < 5 or len(kind) < 3:
            continue
        wanted = (
            kind[0] == "cgroup2"
            if controller == ""
            else kind[0] == "cgroup" and controller in kind[2].split(",")
        )
        if wanted:
            yield _unescape(place[3]), root / _unescape(place[4]).lstrip("/")


def _unescape(text: str) -> str:
    """Mount tables write blanks and backslashes as octal, such as `\\040`."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
