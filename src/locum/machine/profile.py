"""The machine profile: what was measured, kept as JSON in the cache folder.

One file per file system, processor model and number of processors to use, so a checkpoint on another disk is
measured on its own, and a look from a smaller container does not undo what was measured outside of it.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from locum.files import write_json
from locum.machine.curve import DiskPoint, best_rate, rate_at
from locum.machine.fingerprint import differences, fingerprint
from locum.machine.kernels import MOST, KernelRate

SCHEMA = "locum.machine/2"


@dataclass(frozen=True, slots=True)
class MachineProfile:
    """Rates in bytes per second, sizes in bytes, `when` in UTC (ISO 8601).

    `disk_read_bytes_s` is the rate of 8 MiB blocks read by 2 threads into huge pages, measured far
    longer than a point of the curve: such blocks are near the best of any disk, and 2 threads keep it busy.
    `disk_mode` is `direct`, or `buffered` where the file system refuses direct I/O. `memory_read_bytes_s` is
    by number of threads. `fingerprint` is what all this depends on.

    `curve` and `kernels` are empty in a quick profile, which is all that a run waits for; `disk_rate` and
    `best_disk_rate` then know the one figure.
    """

    disk_read_bytes_s: float
    disk_block: int
    disk_threads: int
    disk_mode: str
    memory_read_bytes_s: dict[int, float]
    fingerprint: dict[str, str]
    when: str
    curve: tuple[DiskPoint, ...] = ()
    kernels: tuple[KernelRate, ...] = ()
    schema: str = SCHEMA

    @property
    def memory_bytes_s(self) -> float:
        """The best memory rate at any number of threads."""
        return max(self.memory_read_bytes_s.values())

    def disk_rate(self, block: float, threads: float) -> float:
        """The rate of reads of `block` bytes by `threads`, from the curve, see `rate_at`."""
        return rate_at(self.curve, block, threads) if self.curve else self.disk_read_bytes_s

    def best_disk_rate(self, expert_bytes: float) -> float:
        """The most that this disk gives for experts of this size, each read on its own, whole or in parts.

        What a bound on speed needs: by threads that read, as many as were measured, see `best_rate`.
        """
        return best_rate(self.curve, expert_bytes) if self.curve else self.disk_read_bytes_s

    def save(self, path: Path) -> None:
        """Write as JSON. Raises `OSError`."""
        write_json(path, asdict(self), indent=1)

    @classmethod
    def load(cls, path: Path) -> "MachineProfile | None":
        """What `save` wrote; None when there is none, or it is damaged or of another schema."""
        try:
            document: Any = json.loads(path.read_text(encoding="utf-8"))
            rates = {int(threads): rate for threads, rate in document["memory_read_bytes_s"].items()}
            curve = tuple(DiskPoint(**point) for point in document["curve"])
            kernels = tuple(KernelRate(**rate) for rate in document["kernels"])
            changes = {"memory_read_bytes_s": rates, "curve": curve, "kernels": kernels}
            profile = cls(**{**document, **changes})
            return profile if profile._sane() else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None

    def _sane(self) -> bool:
        texts = (self.disk_mode, self.when, *self.fingerprint, *self.fingerprint.values())
        counts = [self.disk_block, self.disk_threads, *self.memory_read_bytes_s]
        counts += [count for point in self.curve for count in (point.block, point.threads)]
        rates = [self.disk_read_bytes_s, *self.memory_read_bytes_s.values()]
        rates += [point.bytes_s for point in self.curve]
        return (
            self.schema == SCHEMA
            and len(self.memory_read_bytes_s) > 0
            and all(type(text) is str for text in texts)
            and all(type(count) is int and 0 < count < MOST for count in counts)
            and all(type(rate) in (int, float) and 0 < rate < MOST for rate in rates)
            and _whole(self.curve)
            and all(rate.sane() for rate in self.kernels)
        )


def _whole(curve: Iterable[DiskPoint]) -> bool:
    """Whether every block was read with every number of threads into either kind of pages, each once."""
    found = [(point.block, point.threads, point.huge_pages) for point in curve]
    blocks, threads, pages = (set(part) for part in zip(*found, strict=True)) if found else ((), (), ())
    return (
        all(type(huge) is bool for huge in pages)
        and len(found) == len(set(found)) == len(blocks) * len(threads) * len(pages)
        and (not found or len(pages) == 2)
    )


def cache_folder() -> Path:
    """Where locum keeps what it can measure or build again: `$LOCUM_CACHE`, else `$XDG_CACHE_HOME/locum`."""
    if own := os.environ.get("LOCUM_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME", "")
    # the XDG specification: a path that is not absolute is to be ignored
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "locum"


def profile_path(path: Path) -> Path:
    """The cache file for the file system that holds `path` (which exists) and the processors to use."""
    now = fingerprint(path)
    name = "\n".join(now[part] for part in ("device", "processor", "processors to use"))
    return cache_folder() / f"machine-{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"


def load_cached(path: Path) -> MachineProfile | None:
    """The profile measured before for the file system that holds `path`.

    None when there is no sound one, or when something that it depends on has changed since.
    """
    try:
        profile = MachineProfile.load(profile_path(path))
        return profile if profile is not None and profile.fingerprint == fingerprint(path) else None
    except OSError:
        return None


def changes(path: Path) -> list[str]:
    """Why `load_cached` finds nothing although something was measured before, for people; else nothing.

    Where this machine, as it is, has no profile of its own, it is held against the newest one of the device.
    """
    try:
        now, own = fingerprint(path), profile_path(path)
        files = sorted(
            cache_folder().glob("machine-*.json"), key=lambda file: file.stat().st_mtime, reverse=True
        )
    except OSError:
        return []
    kept = MachineProfile.load(own)
    if kept is not None:
        return differences(kept.fingerprint, now)
    if own in files:
        return ["what was kept is damaged, or of another version of locum"]
    for other in map(MachineProfile.load, files):
        if other is not None and other.fingerprint.get("device") == now["device"]:
            return differences(other.fingerprint, now)
    return []
