"""A command under a hard memory limit that the kernel enforces, for control groups of version 1 and 2.

The limit holds for everything the kernel charges to the group: anonymous memory and the page cache of the
files it reads first. Swap is off. Needs the right to make a group, as a rule root.
"""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from locum.errors import LocumError
from locum.units import MIB, format_bytes

_SERIAL = itertools.count()
_SMALLEST = 4 * MIB
_PATIENCE = 10.0
"""Seconds that killed processes and the kernel get to let go of a group."""

# Joins the group before it becomes the command, and dies with us. Whatever the group needs is charged to it.
_LAUNCHER = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
with open(sys.argv[1], "w") as procs:
    procs.write("0")
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"{sys.argv[2]}: {error.strerror}")
"""


class LimitUnavailableError(LocumError):
    """This system does not let us put a memory limit on a process."""

    def __init__(self, where: object, got: object) -> None:
        super().__init__(
            "no memory limit can be set here",
            where=where,
            allowed="a writable memory controller (control groups, version 1 or 2)",
            got=got,
            todo="Run as root, outside of a container that hides the memory controller",
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """Memory charged to a group at one moment, in bytes: the processes' own, and page cache."""

    anonymous: int
    cache: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a command under a limit. Bytes and seconds.

    `exit_code` is negative for a signal. `peak` is the kernel's own maximum and counts page cache, which
    fills whatever the limit leaves when files are read through it; the other two peaks are sampled.
    """

    exit_code: int
    stdout: str
    stderr: str
    seconds: float
    limit: int
    enforced: str
    peak: int
    peak_anonymous: int
    peak_cache: int
    oom_kills: int
    timed_out: bool

    @property
    def failure(self) -> str | None:
        """Why the command did not do its work, in a few words; None when it did."""
        if self.oom_kills:
            return "OOM-killed"
        if self.timed_out:
            return f"not finished within {self.seconds:.0f} s"
        if self.exit_code:
            last = self.stderr.strip().splitlines()
            return f"exit status {self.exit_code}: {last[-1][-300:] if last else 'no message'}"
        return None


@dataclass(frozen=True, slots=True)
class Version:
    """Which file of a group means what."""

    enforced: str
    limit: str
    swap: tuple[tuple[str, int | None], ...]
    """Files that turn swap off, where they exist, and what to write; None: the limit again."""
    peak: str
    anonymous: str
    cache: str
    events: str


V1 = Version(
    enforced="cgroup v1 memory.limit_in_bytes, swap off",
    limit="memory.limit_in_bytes",
    swap=(("memory.swappiness", 0), ("memory.memsw.limit_in_bytes", None)),
    peak="memory.max_usage_in_bytes",
    anonymous="total_rss",
    cache="total_cache",
    events="memory.oom_control",
)
V2 = Version(
    enforced="cgroup v2 memory.max, swap off",
    limit="memory.max",
    swap=(("memory.swap.max", 0),),
    peak="memory.peak",
    anonymous="anon",
    cache="file",
    events="memory.events",
)


class Group:
    """One control group below `mount` with a limit in bytes, made on entry, and removed on exit with all in
    it.

    Raises `LimitUnavailableError` on entry when the system does not let us.
    """

    def __init__(self, version: Version, mount: Path, limit: int) -> None:
        self.version, self.limit = version, limit
        self.folder = mount / f"locum-bench-{os.getpid()}-{next(_SERIAL)}"
        self.procs = self.folder / "cgroup.procs"
        """Takes the ids of the processes that join."""

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir()
        except OSError as error:
            raise LimitUnavailableError(self.folder.parent, error.strerror) from error
        try:
            self._configure()
        except BaseException as error:
            self._remove()
            if isinstance(error, OSError):
                raise LimitUnavailableError(self.folder, error.strerror) from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _configure(self) -> None:
        if self.version is V2 and not (self.folder / V2.limit).exists():
            (self.folder.parent / "cgroup.subtree_control").write_text("+memory")
        (self.folder / self.version.limit).write_text(str(self.limit))
        for name, value in self.version.swap:
            if (self.folder / name).exists():
                (self.folder / name).write_text(str(self.limit if value is None else value))

    def _remove(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while self.folder.exists():
            for process in self._members():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            try:
                self.folder.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)  # a killed process takes a moment to leave

    def _members(self) -> list[int]:
        try:
            return [int(line) for line in self.procs.read_text().split()]
        except FileNotFoundError:
            return []

    def _table(self, name: str) -> dict[str, int]:
        lines = (line.split() for line in (self.folder / name).read_text().splitlines())
        return {words[0]: int(words[1]) for words in lines if len(words) == 2}

    def peak(self) -> int:
        """Most bytes ever charged."""
        return int((self.folder / self.version.peak).read_text())

    def sample(self) -> Sample:
        """What is charged now."""
        table = self._table("memory.stat")
        return Sample(table[self.version.anonymous], table[self.version.cache])

    def oom_kills(self) -> int:
        """Processes the kernel killed for want of memory."""
        return self._table(self.version.events).get("oom_kill", 0)


def limit_group(limit: int, mounts: Path = Path("/proc/self/mounts")) -> Group:
    """A group of the version that this system has, not made yet. Raises `LimitUnavailableError`."""
    if limit < _SMALLEST:
        raise LimitUnavailableError("the limit", f"{format_bytes(limit)}, too little for any process")
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError as error:
        raise LimitUnavailableError(mounts, error.strerror) from error
    for _, mount, kind, options, *_ in lines:
        if kind == "cgroup" and "memory" in options.split(","):
            return Group(V1, Path(mount), limit)
        if kind == "cgroup2" and "memory" in _controllers(Path(mount)):
            return Group(V2, Path(mount), limit)
    raise LimitUnavailableError(mounts, "no memory controller mounted")


def _controllers(mount: Path) -> list[str]:
    try:
        return (mount / "cgroup.controllers").read_text().split()
    except OSError:
        return []


def run_limited(
    command: Sequence[str],
    *,
    limit: int,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    every: float = 0.1,
    group: Group | None = None,
) -> Outcome:
    """Run `command` to its end, or to `timeout` seconds, with at most `limit` bytes of memory.

    `env` is added to the environment. Memory is sampled `every` seconds. The group is gone afterwards, and
    so is every process that was in it. Raises `LimitUnavailableError` when no limit can be set.
    """
    launch = [sys.executable, "-I", "-S", "-c", _LAUNCHER]
    with group or limit_group(limit) as inside, _output() as stdout, _output() as stderr:
        started = time.monotonic()
        process = subprocess.Popen(  # noqa: S603 - our own commands, no shell
            [*launch, str(inside.procs), *command],
            stdin=subprocess.DEVNULL,
            stdout=stdout.fileno(),
            stderr=stderr.fileno(),
            env={**os.environ, **(env or {})},
        )
        try:
            samples, timed_out = _watch(process, inside, started, timeout, every)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        seconds = time.monotonic() - started
        return Outcome(
            exit_code=process.returncode,
            stdout=_read(stdout),
            stderr=_read(stderr),
            seconds=seconds,
            limit=inside.limit,
            enforced=inside.version.enforced,
            peak=inside.peak(),
            peak_anonymous=max((sample.anonymous for sample in samples), default=0),
            peak_cache=max((sample.cache for sample in samples), default=0),
            oom_kills=inside.oom_kills(),
            timed_out=timed_out,
        )


def _watch(
    process: subprocess.Popen[bytes], group: Group, started: float, timeout: float | None, every: float
) -> tuple[list[Sample], bool]:
    samples = []
    while True:
        samples.append(group.sample())
        try:
            process.wait(every)
            return samples, False
        except subprocess.TimeoutExpired:
            if timeout is not None and time.monotonic() - started > timeout:
                return samples, True


@contextlib.contextmanager
def _output() -> "Iterator[tempfile._TemporaryFileWrapper[bytes]]":
    # a file, not a pipe: a chatty command must never wait for us
    with tempfile.NamedTemporaryFile(prefix="locum-bench-") as file:
        yield file


def _read(file: "tempfile._TemporaryFileWrapper[bytes]") -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
