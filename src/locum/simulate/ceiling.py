"""The speed that reading alone, or computing alone, would allow: what waiting costs is the distance to it."""

from locum.simulate.cost import Device
from locum.simulate.replay import Stretch


def ceiling_tok_s(stretch: Stretch, device: Device) -> float | None:
    """Tokens per second if reading and computing overlapped wholly: bytes over the disk's rate, or the time
    that computing took in the trace, whichever is longer. None where neither takes any time.

    Unlike `machine.ceiling` this takes the bytes as they were read, foreseen in vain or not, and computing as
    it was measured. Reads that began in another phase are counted where they ended, so a short stretch with
    prefetching may be a little above it.
    """
    computing = stretch.seconds - stretch.stall_s
    longest = max(stretch.bytes_read / device.bytes_per_second, computing)
    return stretch.tokens / longest if longest > 0 and stretch.tokens else None
