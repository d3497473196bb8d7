"""The checks of `locum doctor`: one function each, on what the system says of itself."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from locum.errors import LocumError
from locum.machine.fingerprint import cpu_model
from locum.machine.limits import available_memory, cgroup_memory_limit, cpu_count, memory_limit
from locum.machine.profile import MachineProfile
from locum.native import load as load_native
from locum.units import GIB, format_bytes, format_rate

_ROOT = Path("/")
_VECTORS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
"""Instruction sets worth knowing about, as /proc/cpuinfo spells them."""
_LEAST = ("avx2", "asimd")
_SLOW_DISK = 300e6


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `todo` says what to do where the status is not `ok`."""

    name: str
    status: Literal["ok", "warn", "bad"]
    value: str
    todo: str | None = None


def all_checks(
    folder: Path,
    profile: MachineProfile | LocumError,
    root: Path = _ROOT,
    env: Mapping[str, str] = os.environ,
) -> list[Check]:
    """Every check, `folder` being where models lie and `profile` what was measured there.

    `root` is where /proc and /sys are looked for.
    """
    return [
        Check("python", "ok", platform.python_version()),
        *packages(),
        processor(root),
        native_library(),
        threads(root, env),
        memory(root),
        huge_pages(root),
        *rates(profile, folder),
    ]


def packages() -> list[Check]:
    """What locum requires: installed, and in a version it works with. Nothing is imported."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in metadata.requires("locum") or []]
    except metadata.PackageNotFoundError:
        return [Check("locum", "bad", "running, but not installed", "pip install locum, or pip install -e .")]
    checks = [Check("locum", "ok", metadata.version("locum"))]
    for need in wanted:
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            checks.append(Check(need.name, "bad", "not installed", f"pip install '{need}'"))
            continue
        if need.specifier.contains(version, prereleases=True):
            checks.append(Check(need.name, "ok", version))
        else:
            value = f"{version}, but locum works with {need.specifier}"
            checks.append(Check(need.name, "bad", value, f"pip install '{need}'"))
    return checks


def processor(root: Path = _ROOT) -> Check:
    """The processor and its vector instructions."""
    words = set(_read(root / "proc/cpuinfo").split())
    found = [name for name in _VECTORS if name in words]
    value = f"{cpu_model(root)}: {', '.join(found) or 'no vector instructions known'}"
    if words and not any(name in found for name in _LEAST):
        return Check("processor", "warn", value, "Without AVX2 or Advanced SIMD computing is slow")
    return Check("processor", "ok", value)


def native_library() -> Check:
    """Locum's own compiled code: here, and for this processor."""
    missing = load_native().missing
    if missing is None:
        return Check("native library", "ok", "works")
    todo = "torch computes everything, more slowly in bfloat16"
    if "compiler" in missing:
        todo += "; with a C++20 compiler installed, install locum again"
    return Check("native library", "warn", missing, todo)


def threads(root: Path = _ROOT, env: Mapping[str, str] = os.environ) -> Check:
    """How many threads compute, and a setting that would change that."""
    cores = cpu_count(root)
    set_to = env.get("OMP_NUM_THREADS")
    if set_to and set_to != str(cores):
        value = f"{cores} processors to use, OMP_NUM_THREADS={set_to}"
        return Check("threads", "warn", value, "--threads decides for locum; unset it for the rest")
    return Check("threads", "ok", f"{cores} processors to use")


def memory(root: Path = _ROOT) -> Check:
    """The memory that `--memory auto` starts from."""
    available, limit = available_memory(root), cgroup_memory_limit(root)
    value = f"{format_bytes(memory_limit(root))} to use"
    if available is not None:
        value += f" ({format_bytes(available)} available, "
        value += f"cgroup limit {format_bytes(limit)})" if limit is not None else "no cgroup limit)"
    if memory_limit(root) < 2 * GIB:
        return Check("memory", "warn", value, "torch alone takes half a GiB; close other programs")
    return Check("memory", "ok", value)


def huge_pages(root: Path = _ROOT) -> Check:
    """Transparent huge pages: the arena asks for them."""
    setting = root / "sys/kernel/mm/transparent_hugepage/enabled"
    text = _read(setting)
    chosen = text.partition("[")[2].partition("]")[0]
    if chosen in ("always", "madvise"):
        return Check("huge pages", "ok", chosen)
    todo = f"Reads are faster with them: echo madvise | sudo tee /{setting.relative_to(root)}"
    return Check("huge pages", "warn", chosen or "not offered by this system", todo if chosen else None)


def rates(profile: MachineProfile | LocumError, folder: Path) -> list[Check]:
    """Memory bandwidth, disk rate and direct I/O from the profile, or why there is none."""
    if isinstance(profile, LocumError):
        todo = "Name a folder that holds a model, or that can be written"
        return [Check("disk", "warn", str(profile), todo)]
    return [_bandwidth(profile), *_disk(profile, folder)]


def _bandwidth(profile: MachineProfile) -> Check:
    by_threads = ", ".join(
        f"{format_rate(rate)} with {count} thread{'s' if count > 1 else ''}"
        for count, rate in sorted(profile.memory_read_bytes_s.items())
    )
    return Check("memory bandwidth", "ok", by_threads)


def _disk(profile: MachineProfile, folder: Path) -> list[Check]:
    where = folder.resolve()
    rate = f"{format_rate(profile.disk_read_bytes_s)} at {where} ({profile.when})"
    slow = profile.disk_read_bytes_s < _SLOW_DISK
    todo = "Every expert that is not in memory comes from here: a faster disk would help"
    speed = Check("disk", "warn", rate, todo) if slow else Check("disk", "ok", rate)
    if profile.disk_mode == "direct":
        return [Check("direct I/O", "ok", f"works at {where}"), speed]
    todo = "locum reads through the page cache there, which costs memory; local ext4 or xfs would do better"
    return [Check("direct I/O", "warn", f"refused at {where}", todo), speed]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
