"""`locum simulate`: what the engine would do with a trace, by policy and memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from locum.cli.flags import number
from locum.cli.output import DEFAULT, Output, OutputOptions, table
from locum.cli.traces import open_traces
from locum.errors import UsageError
from locum.policy import EVICTION
from locum.policy.prefetch import PREFETCH
from locum.policy.registry import parse
from locum.units import format_bytes, parse_bytes, parse_share

if TYPE_CHECKING:
    from locum.machine.profile import MachineProfile
    from locum.simulate import Device, Setting, Simulated
    from locum.trace import Trace

_WHAT = Group("What is tried", sort_key=5)
_MACHINE = Group("The machine", sort_key=10)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateOptions:
    """What `locum simulate` was asked to do; fields are named as the flags. Lists are written `a,b`."""

    eviction: Annotated[str, Parameter(group=_WHAT, metavar="NAME,...")] = "lru,lfu"
    """Eviction policies. Belady's choice, which knows the future, is always beside them, with the same memory
    and prefetching. Without prefetching no policy needs fewer reads than it; with prefetching one may hit
    more."""

    prefetch: Annotated[str, Parameter(group=_WHAT, metavar="NAME,...")] = "none"
    """Prefetch policies. `next-gate` needs a trace with predictions, which `locum trace` makes; it looks one
    layer ahead, `next-gate:distance=3` three."""

    expert_memory: Annotated[str, Parameter(group=_WHAT, metavar="SIZE,...")] = "10%,25%,50%,75%"
    """Expert arenas, as sizes or as shares of all routed experts."""

    as_recorded: Annotated[bool, Parameter(group=_WHAT, show_default=False)] = False
    """Only the setting that the trace was recorded with, from the cache as it was when the recording began,
    beside the speed that was recorded: to see how far the clock can be trusted here."""

    expert_size: Annotated[str | None, Parameter(group=_MACHINE, metavar="SIZE")] = None
    """Bytes of one expert, for an imported trace, which does not know it."""

    disk: Annotated[str | None, Parameter(group=_MACHINE, metavar="SIZE/S")] = None
    """Rate at which experts are read, such as 2GiB (a second). Left out, this machine's own for experts of
    this size, where the trace lies; it is measured if it never was, which takes 15 seconds."""

    workers: Annotated[int | None, number(_MACHINE, "N", gte=1)] = None
    """Processes that simulate; left out, one per core."""


def simulate(
    trace: Path, /, *, options: SimulateOptions = SimulateOptions(), output_options: OutputOptions = DEFAULT
) -> None:
    """Replay a trace through the engine's own decisions, with a clock instead of a disk.

    Hits, misses and evictions are exactly what the engine would do, from an empty cache. Times are as good as
    the recorded ones: computing takes as long as it took, reading as long as the disk's rate says.

    The table is about decoding. "of Belady's" is a row's hits over those of Belady's choice with the same
    memory and prefetching. "of the ceiling" is its tokens/s over what the disk's rate alone would allow for
    the bytes it read, or the recorded computing alone where that takes longer: the rest is waiting.

    Parameters
    ----------
    trace
        A trace: the folder, or a file that was exported from one.
    """
    with Output(output_options) as output:
        from locum.simulate.events import replay_events
        from locum.simulate.sweep import sized, sweep

        (found,) = open_traces([trace], output)
        size = None if options.expert_size is None else _size("--expert-size", options.expert_size)
        if size is not None:
            found.meta = sized(found.meta, size)
        settings = _settings(options, found)
        device = _device(options, found, output)
        with output.counting("simulating", len(settings)) as heard:
            results = sweep(
                trace, settings, device, expert_bytes=size, as_recorded=options.as_recorded,
                workers=options.workers, progress=heard,
            )  # fmt: skip
        rows = _rows(results, device)
        if options.as_recorded:
            rows[0]["recorded_tok_s"] = found.decode_tok_s
            if found.has_events:
                rows[0]["events"] = replay_events(found)
                output.note(f"{rows[0]['events']:,} events of the recording replayed: all decided alike")
        output.result(
            {
                "trace": str(found.path), "digest": found.digest, "tokens": found.rows,
                "disk_bytes_s": device.bytes_per_second, "rows": rows,
            }
        )  # fmt: skip
        output.show(table(*_columns(rows), title=f"{found.rows:,} tokens of {found.meta.model or 'a model'}"))


def _settings(options: SimulateOptions, trace: "Trace") -> "list[Setting]":
    from locum.simulate import Setting
    from locum.simulate.replay import key_space
    from locum.simulate.sweep import routed_bytes

    key_space(trace.meta)  # says what is missing
    if options.as_recorded:
        if trace.snapshot is None:
            raise UsageError(
                "the trace does not say how it was recorded", where="--as-recorded",
                got=f"a trace of {trace.meta.engine}", todo="Record one with `locum trace`",
            )  # fmt: skip
        return [Setting.of(trace.snapshot)]
    whole = routed_bytes(trace.meta)
    evictions = _list("--eviction", options.eviction, EVICTION)
    prefetches = _list("--prefetch", options.prefetch, PREFETCH)
    arenas = [
        _size("--expert-memory", text, partial(parse_share, whole=whole))
        for text in options.expert_memory.split(",")
    ]
    asked = [*(e for e in evictions if e != "belady"), "belady"]
    return [
        Setting(arena_bytes=arena, eviction=eviction, prefetch=prefetch)
        for arena, prefetch, eviction in product(arenas, prefetches, asked)
    ]


def _list(flag: str, text: str, known: Any) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("no policy is named", where=flag, allowed=", ".join(known), got=repr(text))
    if unknown := [name for name in names if parse(name)[0] not in known]:
        raise UsageError("no such policy", where=flag, allowed=", ".join(known), got=", ".join(unknown))
    return names


def _size(flag: str, text: str, measure: Callable[[str], int] = parse_bytes) -> int:
    """What `measure` makes of a size. Raises `UsageError` naming the flag."""
    try:
        size = measure(text)
    except UsageError as error:
        raise UsageError(error.what, where=flag, allowed=error.allowed, got=error.got) from error
    if size < 1:
        raise UsageError("a size must be more than nothing", where=flag, got=repr(text))
    return size


def _device(options: SimulateOptions, trace: "Trace", output: Output) -> "Device":
    from locum.simulate import Device

    if options.disk is not None:
        return Device(_size("--disk", options.disk.removesuffix("/s")))
    from locum.machine.measuring import complete, lacks
    from locum.machine.profile import load_cached

    profile = load_cached(trace.path)
    if profile is None or lacks(profile, kernels_too=False):
        with output.counting("measuring this machine's disk (once)", 100) as heard:
            profile = complete(trace.path, lambda what, share: heard(int(share * 100)))
    return measured_device(profile, trace.meta.expert_bytes)


def measured_device(profile: "MachineProfile", sizes: Sequence[int]) -> "Device":
    """This machine's disk as the engine reads experts of these sizes: whole, the large ones in blocks.

    Many loads at once get what all reader threads get. One load alone gets what one thread gets, or as many
    as it has blocks: where that is less, the device has channels, of which a load has one.
    """
    from locum.simulate import Device
    from locum.store.layout import BLOCK_BYTES, READERS

    largest = max(sizes)
    read = min(largest, BLOCK_BYTES)
    rate = profile.disk_rate(read, READERS)
    alone = profile.disk_rate(read, min(READERS, -(-largest // BLOCK_BYTES)))
    channels = min(READERS, max(1, round(rate / alone)))
    return Device(rate, channels=channels)


def _rows(results: "list[Simulated]", device: "Device") -> list[dict[str, Any]]:
    from locum.simulate.ceiling import ceiling_tok_s

    best = {
        (r.setting.arena_bytes, r.setting.prefetch): r.decode.hit_rate
        for r in results if r.setting.eviction == "belady"
    }  # fmt: skip
    return [
        {
            "eviction": r.setting.eviction,
            "prefetch": r.setting.prefetch,
            "budget": r.setting.arena_bytes,
            "hit_rate": r.decode.hit_rate,
            "belady_hit_rate": best.get((r.setting.arena_bytes, r.setting.prefetch)),
            "decode_tok_s": r.decode.tok_s,
            "ceiling_tok_s": ceiling_tok_s(r.decode, device),
            "stall_s": r.decode.stall_s,
            "bytes": r.decode.bytes_read,
            "hits": r.decode.hits,
            "staged": r.decode.staged,
            "misses": r.decode.misses,
            "late": r.decode.late,
            "evicted": r.decode.evicted,
            "prefill_s": r.prefill.seconds,
            "prefill_bytes": r.prefill.bytes_read,
        }
        for r in results
    ]


def _columns(rows: list[dict[str, Any]]) -> tuple[list[list[str]], list[str]]:
    heads = [
        "memory", "eviction", "prefetch", "hits", "of Belady's", "tokens/s", "of the ceiling",
        "read per request", *(["recorded"] if "recorded_tok_s" in rows[0] else []),
    ]  # fmt: skip
    asked = [row["hits"] + row["staged"] + row["misses"] for row in rows]
    lines = []
    for row, requests in zip(rows, asked, strict=True):
        rate, best = row["hit_rate"], row["belady_hit_rate"]
        speed, most = row["decode_tok_s"], row["ceiling_tok_s"]
        lines.append([
            format_bytes(row["budget"]), row["eviction"], row["prefetch"],
            "none" if rate is None else f"{rate:.1%}",
            f"{rate / best:.0%}" if rate is not None and best else "",
            "" if speed is None else f"{speed:.2f}",
            f"{speed / most:.0%}" if speed is not None and most else "",
            format_bytes(row["bytes"] / requests) if requests else "",
        ])  # fmt: skip
        if "recorded_tok_s" in row:
            lines[-1].append("" if row["recorded_tok_s"] is None else f"{row['recorded_tok_s']:.2f}")
    return lines, heads
