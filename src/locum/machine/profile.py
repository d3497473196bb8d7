"""The machine profile: what was measured, kept as JSON in the cache folder.

One file per file system and processor model, so a checkpoint on another disk is measured on its own.
"""

import hashlib
import json
import logging
import math
import os
import platform
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from locum.files import write_json
from locum.machine.disk import measure_disk
from locum.machine.limits import cpu_count
from locum.machine.memory import measure_memory

SCHEMA = "locum.machine/1"
_log = logging.getLogger("locum")

Progress = Callable[[str, float], None]
"""Told what is being measured and the share done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class MachineProfile:
    """Rates in bytes per second, sizes in bytes, `when` in UTC (ISO 8601).

    `disk_mode` is `direct`, or `buffered` where the file system refuses direct I/O. `memory_read_bytes_s` is
    by number of threads. `device` names the file system that was measured.
    """

    disk_read_bytes_s: float
    disk_block: int
    disk_threads: int
    disk_mode: str
    memory_read_bytes_s: dict[int, float]
    cpu_model: str
    cores: int
    device: str
    when: str
    schema: str = SCHEMA

    @property
    def memory_bytes_s(self) -> float:
        """The best memory rate at any number of threads."""
        return max(self.memory_read_bytes_s.values())

    def save(self, path: Path) -> None:
        """Write as JSON. Raises `OSError`."""
        write_json(path, asdict(self), indent=1)

    @classmethod
    def load(cls, path: Path) -> "MachineProfile | None":
        """What `save` wrote; None when there is none, or it is damaged or of another schema."""
        try:
            document: Any = json.loads(path.read_text(encoding="utf-8"))
            rates = {int(threads): float(rate) for threads, rate in document["memory_read_bytes_s"].items()}
            profile = cls(**{**document, "memory_read_bytes_s": rates})
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        return profile if profile._sane() else None

    def _sane(self) -> bool:
        texts = (self.disk_mode, self.cpu_model, self.device, self.when)
        counts = (self.disk_block, self.disk_threads, self.cores, *self.memory_read_bytes_s)
        rates = (self.disk_read_bytes_s, *self.memory_read_bytes_s.values())
        return (
            self.schema == SCHEMA
            and len(rates) > 1
            and all(type(text) is str for text in texts)
            and all(type(count) is int and count > 0 for count in counts)
            and all(type(rate) in (int, float) and 0 < rate < math.inf for rate in rates)
        )


def cache_folder() -> Path:
    """Where locum keeps what it can measure or build again: `$LOCUM_CACHE`, else `$XDG_CACHE_HOME/locum`."""
    if own := os.environ.get("LOCUM_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME", "")
    # the XDG specification: a path that is not absolute is to be ignored
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "locum"


def profile_path(path: Path) -> Path:
    """The cache file for the file system that holds `path` (which exists) and this processor."""
    key = hashlib.sha256(f"{device_of(path)}\n{cpu_model()}".encode()).hexdigest()[:16]
    return cache_folder() / f"machine-{key}.json"


def device_of(path: Path) -> str:
    """The file system's device number, `major:minor`."""
    number = os.stat(path).st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def cpu_model(root: Path = Path("/")) -> str:
    """The processor's name as /proc/cpuinfo gives it, else what Python knows."""
    try:
        text = (root / "proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    match = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def load_cached(path: Path) -> MachineProfile | None:
    """The profile measured before for the file system that holds `path`; None when there is no sound one."""
    try:
        return MachineProfile.load(profile_path(path))
    except OSError:
        return None


def measure(path: Path, progress: Progress | None = None) -> MachineProfile:
    """Measure memory (a second) and the disk that holds `path` (two seconds), and keep the result.

    `path` is a checkpoint's folder or a file, see `measure_disk`. Raises `LocumError` when the disk cannot be
    measured. A cache that cannot be written is logged, no error.
    """
    tell = progress or (lambda what, share: None)
    tell("memory", 0.0)
    memory = measure_memory()
    tell("disk", 0.35)
    disk = measure_disk(path)
    profile = MachineProfile(
        disk_read_bytes_s=disk.bytes_s,
        disk_block=disk.block,
        disk_threads=disk.threads,
        disk_mode=disk.mode,
        memory_read_bytes_s=memory,
        cpu_model=cpu_model(),
        cores=cpu_count(),
        device=device_of(path),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    try:
        profile.save(profile_path(path))
    except OSError as error:
        _log.warning("The machine profile could not be kept in %s: %s", cache_folder(), error)
    tell("done", 1.0)
    return profile
