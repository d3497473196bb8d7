"""Measuring this machine: the quick figures that a run waits for, and the rest, which `doctor` asks for.

    quick     memory by threads, half a second each; the disk, 2 s                        about 3 s
    curve     5 block sizes x 4 numbers of threads x 2 kinds of pages x 2 rounds x 0.15 s  12 s
    kernels   the native product with 1 thread and all, then torch's in two formats       about 2 s

Where there is no big file to read, half a GiB is written first, once. With two processors 17 s
of measuring, beside writing that file and loading torch; a machine that is busy takes longer for these.
"""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from locum.machine import curve, disk, kernels
from locum.machine.disk import Source, one_rate, opened
from locum.machine.fingerprint import fingerprint
from locum.machine.kernels import KernelRate, measure_native
from locum.machine.limits import cpu_count
from locum.machine.memory import SECONDS as MEMORY_SECONDS
from locum.machine.memory import measure_memory, thread_counts
from locum.machine.profile import MachineProfile, cache_folder, load_cached, profile_path
from locum.native import load as load_native

_log = logging.getLogger("locum")

Progress = Callable[[str, float], None]
"""Told what is being measured and the share done, 0 to 1."""

OtherKernels = Callable[[], tuple[KernelRate, ...]]
"""Measures kernels that this room knows nothing of, those of torch."""


def planned_seconds(processors: int, *, curve_too: bool = True, kernels_too: bool = True) -> float:
    """What measuring takes on so many processors, less the start of processes and the writing of a file."""
    quick = MEMORY_SECONDS * len(thread_counts(processors)) + disk.SECONDS
    points = len(curve.BLOCKS) * len(curve.THREADS) * 2 * curve.ROUNDS
    # the native product in one format, torch's in two
    rates = 3 * len({1, processors})
    return quick + curve_too * points * curve.PIECE_SECONDS + kernels_too * rates * kernels.SECONDS


def measure(path: Path, progress: Progress | None = None) -> MachineProfile:
    """Measure the quick figures anew, and keep them in place of whatever was kept: about 3 s.

    `path` is a checkpoint's folder or a file, see `measure_disk`. Raises `LocumError` when the disk cannot be
    measured. A cache that cannot be written is logged, no error.
    """
    tell = _Told(progress, planned_seconds(cpu_count(), curve_too=False, kernels_too=False))
    with opened(path) as source:
        return _kept(path, _quick(path, source, tell), tell)


def lacks(profile: MachineProfile | None, *, kernels_too: bool) -> bool:
    """Whether `complete` has something to measure."""
    return profile is None or not profile.curve or (kernels_too and _lacks_kernels(profile))


def complete(
    path: Path,
    progress: Progress | None = None,
    *,
    other_kernels: OtherKernels | None = None,
    again: bool = False,
) -> MachineProfile:
    """The profile with its curve, measured where it is not kept already; `again` measures everything anew.

    Given `other_kernels`, also with the rates of the kernels: the native ones and what it gives. At most half
    a minute in all, see `planned_seconds`. Raises and logs as `measure` does.
    """
    profile = None if again else load_cached(path)
    kernels_too = other_kernels is not None and (profile is None or _lacks_kernels(profile))
    curve_too = profile is None or not profile.curve
    if profile is not None and not curve_too and not kernels_too:
        return profile
    plan = planned_seconds(cpu_count(), curve_too=curve_too, kernels_too=kernels_too)
    known = 0.0 if profile is None else planned_seconds(cpu_count(), curve_too=False, kernels_too=False)
    tell = _Told(progress, plan - known)
    with opened(path) if curve_too else contextlib.nullcontext() as source:
        if source is not None:
            profile = profile or _quick(path, source, tell)
        assert profile is not None, "what lacks its quick figures lacks its curve"
        # right after the memory, because machines that are shared change their speed by the minute
        if kernels_too and other_kernels is not None:
            profile = replace(profile, kernels=_kernels(other_kernels, tell))
        if source is not None:
            profile = replace(profile, curve=_curve(source, tell))
    return _kept(path, profile, tell)


def _lacks_kernels(profile: MachineProfile) -> bool:
    native = any(rate.kernel == "native" for rate in profile.kernels)
    return not profile.kernels or (not native and load_native().missing is None)


def _quick(path: Path, source: Source, tell: "_Told") -> MachineProfile:
    tell("memory", MEMORY_SECONDS * len(thread_counts(cpu_count())))
    memory = measure_memory()
    tell("disk", disk.SECONDS)
    rate = one_rate(source)
    return MachineProfile(
        disk_read_bytes_s=rate.bytes_s,
        disk_block=rate.block,
        disk_threads=rate.threads,
        disk_mode=rate.mode,
        memory_read_bytes_s=memory,
        fingerprint=fingerprint(path),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _kernels(other: OtherKernels, tell: "_Told") -> tuple[KernelRate, ...]:
    counts = len({1, cpu_count()})
    tell("kernels", kernels.SECONDS * counts)
    native = measure_native()
    tell("kernels of torch", 2 * kernels.SECONDS * counts)
    return (*native, *other())


def _curve(source: Source, tell: "_Told") -> tuple[curve.DiskPoint, ...]:
    order = curve.pieces(source.size)
    return curve.measure_curve(source, order, told=lambda: tell("disk by block size", curve.PIECE_SECONDS))


def _kept(path: Path, profile: MachineProfile, tell: "_Told") -> MachineProfile:
    try:
        profile.save(profile_path(path))
    except OSError as error:
        _log.warning("The machine profile could not be kept in %s: %s", cache_folder(), error)
    tell("done", 0.0, share=1.0)
    return profile


class _Told:
    """Says what begins and which share of the planned seconds is over."""

    def __init__(self, progress: Progress | None, planned: float) -> None:
        self._progress, self._planned, self._over = progress, planned, 0.0

    def __call__(self, what: str, seconds: float, *, share: float | None = None) -> None:
        """`what` begins and takes about `seconds`."""
        if self._progress is not None:
            self._progress(what, min(1.0, self._over / self._planned) if share is None else share)
        self._over += seconds
