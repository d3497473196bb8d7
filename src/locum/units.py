"""Bytes, seconds and rates: parsed and printed here and nowhere else."""

import math
import re

from locum.errors import UsageError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

_UNITS = {
    "": 1,
    "b": 1,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": 1 << 40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "k": KIB,
    "m": MIB,
    "g": GIB,
    "t": 1 << 40,
}
_SIZE = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*$")


def parse_bytes(text: str | int) -> int:
    """`4GiB`, `512MiB`, `1.5g`, `1000` or `2GB` (decimal) as a number of bytes. Raises `UsageError`."""
    if isinstance(text, int):
        return text
    match = _SIZE.match(text)
    if match is None or match[2].lower() not in _UNITS:
        raise UsageError("not a size", allowed="a number with a unit, such as 4GiB or 512MiB", got=repr(text))
    return int(float(match[1]) * _UNITS[match[2].lower()])


def parse_share(text: str | int, whole: int) -> int:
    """A size as `parse_bytes` takes it, or a share of `whole` (`25%`), in bytes. Raises `UsageError`."""
    if isinstance(text, str) and text.strip().endswith("%"):
        try:
            share = float(text.strip()[:-1])
        except ValueError:
            share = -1.0
        if not 0 < share <= 100:
            raise UsageError("not a share", allowed="more than 0% and at most 100%", got=repr(text))
        return math.ceil(whole * share / 100)
    return parse_bytes(text)


def format_bytes(count: float) -> str:
    """A byte count for people: `3.46 GiB`, `12.0 MiB`, `640 B`."""
    for unit, size in (("TiB", 1 << 40), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(count) >= size:
            value = count / size
            return f"{value:.2f} {unit}" if abs(value) < 10 else f"{value:.1f} {unit}"
    return f"{count:.0f} B"


def format_rate(bytes_per_second: float) -> str:
    """A bandwidth for people, decimal as disks are sold: `2.13 GB/s`, `640 MB/s`."""
    if bytes_per_second >= 1e9:
        return f"{bytes_per_second / 1e9:.2f} GB/s"
    return f"{bytes_per_second / 1e6:.0f} MB/s"


def format_seconds(seconds: float) -> str:
    """A duration for people: `1.24 s`, `12.4 ms`, `3 min 20 s`."""
    if seconds >= 60:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    if seconds >= 1:
        return f"{seconds:.2f} s"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds * 1e6:.0f} us"
