"""What a measured profile depends on, in words: where one of them has changed, it is measured again."""

import os
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from locum.machine.limits import cpu_count
from locum.native.library import identity

_ROOT = Path("/")


def fingerprint(path: Path, root: Path = _ROOT) -> dict[str, str]:
    """By name, everything that the rates of this machine and of the disk under `path` depend on.

    `root` is where /proc is looked for. Raises `OSError` when there is no such path.
    """
    return {
        "processor": cpu_model(root),
        "processors to use": str(cpu_count(root)),
        "device": device_of(path),
        "file system": file_system_of(path, root),
        "kernel": platform.release(),
        "native library": identity(),
        "locum": ".".join(_version("locum").split(".")[:2]),
        "torch": _version("torch"),
    }


def differences(kept: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """For people, one line for each entry that has changed, gone or come."""
    names = [*now, *(name for name in kept if name not in now)]
    return [
        f"{name}: was {kept.get(name, 'not known')}, is {now.get(name, 'not known')}"
        for name in names
        if kept.get(name) != now.get(name)
    ]


def device_of(path: Path) -> str:
    """The file system's device number, `major:minor`. Raises `OSError`."""
    number = os.stat(path).st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def file_system_of(path: Path, root: Path = _ROOT) -> str:
    """The type of the file system that holds `path`, such as `ext4`.

    By its device number in /proc/self/mountinfo, see proc(5). `unknown` where the system does not tell, as
    for btrfs, whose files have numbers that no mount shows.
    """
    device = device_of(path)
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2:3] == [device] and after.split():
            return after.split()[0]
    return "unknown"


def cpu_model(root: Path = _ROOT) -> str:
    """The processor's name as /proc/cpuinfo gives it, else what Python knows."""
    text = _read(root / "proc/cpuinfo")
    match = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
