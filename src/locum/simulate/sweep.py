"""Many settings over one trace, in parallel processes."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from locum.simulate.cost import Device
from locum.simulate.replay import Setting, Simulated, simulate
from locum.trace import Trace
from locum.trace.meta import TraceMeta


def sweep(
    path: Path,
    settings: Sequence[Setting],
    device: Device,
    *,
    expert_bytes: int | None = None,
    as_recorded: bool = False,
    workers: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[Simulated]:
    """`simulate` each of `settings` over the trace at `path`; results in their order.

    `expert_bytes`: how large an expert is, for a trace that does not know. `as_recorded`: from the trace's
    snapshot, whose setting they must have. `progress` hears how many are done. Raises what `simulate` raises,
    of the first setting that fails.
    """
    found: dict[int, Simulated] = {}
    one = partial(_one, expert_bytes=expert_bytes, as_recorded=as_recorded)
    if len(settings) == 1 or workers == 1:
        for place, setting in enumerate(settings):
            found[place] = one(path, setting, device)
            if progress is not None:
                progress(len(found))
        return [found[place] for place in range(len(settings))]
    # processes of their own, not copies of this one: it may have threads
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(one, path, s, device): place for place, s in enumerate(settings)}
        try:
            for done in as_completed(running):
                found[running[done]] = done.result()
                if progress is not None:
                    progress(len(found))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [found[place] for place in range(len(settings))]


def _one(
    path: Path, setting: Setting, device: Device, *, expert_bytes: int | None, as_recorded: bool
) -> Simulated:
    trace = Trace(path)
    if expert_bytes is not None:
        trace.meta = sized(trace.meta, expert_bytes)
    return simulate(trace, setting, device, snapshot=trace.snapshot if as_recorded else None)


def sized(meta: TraceMeta, expert_bytes: int) -> TraceMeta:
    """`meta` with all experts of one size, in slots of whole grains."""
    from locum.residency.keys import GRAIN

    layers = len(meta.experts)
    slot = -(-expert_bytes // GRAIN) * GRAIN
    return replace(meta, expert_bytes=(expert_bytes,) * layers, slot_bytes=(slot,) * layers)


def routed_bytes(meta: TraceMeta) -> int:
    """Slots for all experts, in bytes."""
    return sum(experts * size for experts, size in zip(meta.experts, meta.slot_bytes, strict=True))
