"""What a measurement must say about its circumstances: machine, versions, read-ahead, caches."""

import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import locum
from locum.machine.fingerprint import cpu_model, device_of
from locum.machine.limits import cpu_count

_LIBRARIES = ("torch", "transformers", "accelerate", "safetensors", "numpy")


def drop_caches(control: Path = Path("/proc/sys/vm/drop_caches")) -> bool:
    """Write back and drop the page cache, so that files are read from disk. False without the right to."""
    os.sync()
    try:
        control.write_text("3")
    except OSError:
        return False
    return True


def read_ahead_kb(path: Path, blocks: Path = Path("/sys/dev/block")) -> int | None:
    """The read-ahead in KiB of the disk that holds `path`; None where the system does not tell."""
    device = blocks / device_of(path)
    # a partition has no queue of its own: its disk's is one folder up
    for queue in (device / "queue", device / ".." / "queue"):
        try:
            return int((queue / "read_ahead_kb").read_text())
        except (OSError, ValueError):
            continue
    return None


@cache
def sources_hash(package: Path | None = None) -> str:
    """Identity of the code that runs: a hash over the package's files, taken when first asked for."""
    root = package or Path(locum.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


@cache
def commit(package: Path | None = None) -> str | None:
    """The git commit of the sources, marked `-dirty` when they differ from it; None outside a checkout."""
    git = shutil.which("git")
    root = package or Path(locum.__file__).parent
    if git is None:
        return None
    describe = [git, "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(describe, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
    return done.stdout.strip() or None


@cache
def versions() -> dict[str, str]:
    """Versions of what computes. Libraries that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine(path: Path) -> dict[str, Any]:
    """The machine as a row describes it; `path` lies on the disk that is read."""
    return {
        "cpu": cpu_model(),
        "cores": cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "read_ahead_kb": read_ahead_kb(path),
    }


def circumstances(path: Path) -> dict[str, Any]:
    """The part of a row that is the same for a whole piece."""
    return {
        "locum": {"version": locum.__version__, "commit": commit(), "sources": sources_hash()},
        "versions": {**versions()},
        "machine": machine(path),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
