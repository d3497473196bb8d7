"""What this machine can do, measured once and cached: disk read rate, memory bandwidth, limits. No torch."""

from locum.machine.ceiling import Ceiling, ceiling, ceilings
from locum.machine.limits import cpu_count, current_rss, memory_limit, peak_rss
from locum.machine.profile import MachineProfile, load_cached, measure

__all__ = [
    "Ceiling",
    "MachineProfile",
    "ceiling",
    "ceilings",
    "cpu_count",
    "current_rss",
    "load_cached",
    "measure",
    "memory_limit",
    "peak_rss",
]
