"""What this machine can do, measured once and cached: disk, memory and kernel rates, limits. No torch."""

from locum.machine.ceiling import Ceiling, ceiling, ceilings
from locum.machine.limits import cpu_count, current_rss, memory_limit, peak_rss
from locum.machine.measuring import complete, measure
from locum.machine.profile import MachineProfile, load_cached

__all__ = [
    "Ceiling",
    "MachineProfile",
    "ceiling",
    "ceilings",
    "complete",
    "cpu_count",
    "current_rss",
    "load_cached",
    "measure",
    "memory_limit",
    "peak_rss",
]
