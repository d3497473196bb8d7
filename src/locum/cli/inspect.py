"""`locum inspect`: what a checkpoint is and what it takes to run it. Reads headers, no weights."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from locum.cli.output import DEFAULT, Output, OutputOptions, facts, table
from locum.units import format_bytes, format_rate

if TYPE_CHECKING:
    from locum.machine.profile import MachineProfile
    from locum.model.inspect import Inspection
    from locum.model.spec import MoESpec


def inspect(
    model: str,
    /,
    *,
    output_options: OutputOptions = DEFAULT,
) -> None:
    """Say what a model is made of, and what it takes to run it here. Reads no weights.

    Parameters
    ----------
    model
        A folder in Hugging Face format, a packed folder, a GGUF file, or a hub id, of which only the headers
        are fetched.
    """
    with Output(output_options) as output:
        from locum.machine.profile import cache_folder, load_cached
        from locum.model.glance import glance
        from locum.model.inspect import inspect as look

        found = look(glance(model, cache_folder() / "headers"))
        profile = load_cached(found.path)
        found = replace(found, ceilings=None if profile is None else ceilings_of(found.spec, profile))
        output.result(found.to_json())
        output.show(*_pages(found))


def ceilings_of(spec: "MoESpec", profile: "MachineProfile") -> dict[str, Any]:
    """The most tokens per second that this machine's disk and memory allow, at 0, 50 and 90% hits.

    Counts the bytes that one decoded token cannot do without: its experts and the backbone, of which an
    embedding table apart from the output matrix gives one row only. The disk's rate is the best it has for
    experts of this size, where its curve is known.
    """
    from locum.machine.ceiling import ceilings

    disk = profile.best_disk_rate(max(spec.expert_bytes))
    rows = ceilings(
        expert_bytes=spec.active_bytes_per_token,
        backbone_bytes=spec.backbone_bytes_per_token,
        disk_bytes_s=disk,
        memory_bytes_s=profile.memory_bytes_s,
    )
    return {
        "disk_bytes_s": disk,
        "memory_bytes_s": profile.memory_bytes_s,
        "measured": profile.when,
        "decode": [asdict(row) for row in rows],
    }


def _pages(found: "Inspection") -> list[RenderableType]:
    spec = found.spec
    quantised = f", {spec.quantization}" if spec.quantization else ""
    kv, one = format_bytes(spec.kv_bytes_per_token), _span(spec.expert_bytes, format_bytes)
    stored, resident = format_bytes(spec.backbone_bytes), format_bytes(spec.backbone_resident_bytes)
    what = [
        ("family", f"{spec.family} ({spec.architecture})" if spec.architecture else spec.family),
        ("parameters", f"{_count(spec.params)}, {_count(spec.active_params)} of them used per token"),
        ("layers", f"{spec.layers}, {len(spec.moe)} of them with routed experts"),
        ("experts", f"{_span(spec.experts)} per layer, {_span(spec.top_k)} used per token{_shared(spec)}"),
        ("router", spec.router),
        ("stored as", f"{spec.dtype}{quantised}, experts {spec.layout}"),
        ("context", f"{spec.context_length} tokens, {kv} of KV cache each"),
    ]
    if not spec.runnable:
        what.append(("locum cannot run it", str(spec.unrunnable)))
    sizes = [
        ("files", f"{format_bytes(found.stored_bytes)} in {found.files}"),
        ("routed experts", f"{format_bytes(spec.routed_bytes)}, one is {one}"),
        ("used per token", f"{format_bytes(spec.active_bytes_per_token)} of experts"),
        ("backbone", f"{stored}, {resident} in memory"),
    ]
    if spec.ignored_bytes:
        sizes.append(("never read", f"{format_bytes(spec.ignored_bytes)} of extra prediction layers"))
    return [facts(what, str(found.path)), facts(sizes, "Sizes"), _budgets(found), _ceilings(found.ceilings)]


def _budgets(found: "Inspection") -> RenderableType:
    rows = [("minimum", format_bytes(found.minimum.experts), format_bytes(found.minimum.total))]
    rows += [
        (f"{row.share:.0%} of the experts", format_bytes(row.expert_memory), format_bytes(row.memory))
        for row in found.useful
    ]
    return table(
        rows, ["", "--expert-memory", "--memory"], f"Memory it takes, with {found.context} tokens of context"
    )


def _ceilings(ceilings: Mapping[str, Any] | None) -> RenderableType:
    if ceilings is None:
        nothing = [("not measured", "`locum doctor FOLDER` measures the disk of FOLDER in half a minute")]
        return facts(nothing, "What this machine allows")
    rows = [
        (f"{row['hit_rate']:.0%}", f"{_rate(row['tokens_per_s'])} tokens/s", f"the {row['bound']}")
        for row in ceilings["decode"]
    ]
    rates = f"disk {format_rate(ceilings['disk_bytes_s'])}, memory {format_rate(ceilings['memory_bytes_s'])}"
    return table(rows, ["hit rate", "at most", "bound by"], f"What this machine allows ({rates})")


def _rate(tokens_per_s: float) -> str:
    return f"{tokens_per_s:.3g}" if tokens_per_s < 1000 else f"{tokens_per_s:.0f}"


def _shared(spec: "MoESpec") -> str:
    return f", and {spec.shared_experts} shared" if spec.shared_experts else ""


def _span(values: Sequence[int], show: Any = str) -> str:
    low, high = min(values), max(values)
    return str(show(low)) if low == high else f"{show(low)} to {show(high)}"


def _count(number: float) -> str:
    for unit, size in (("trillion", 1e12), ("billion", 1e9), ("million", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"
