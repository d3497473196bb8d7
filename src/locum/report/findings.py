"""What the tables say, in a few sentences: the figures a reader would look for first."""

from collections.abc import Mapping
from typing import Any

from locum.trace import TraceMeta
from locum.units import format_bytes

Tables = Mapping[str, Mapping[str, Any]]


def findings(tables: Tables, meta: TraceMeta) -> list[str]:
    """Sentences, each true of the tables by itself."""
    makers = (_caching, _knee, _locality, _prediction, _coverage, _load, _domains)
    return [sentence for make in makers if (sentence := make(tables, meta)) is not None]


def _rate(curve: Mapping[str, Any], size: int) -> float | None:
    rates = curve["rate"]
    found: float | None = rates[min(size, len(rates)) - 1]
    return found


def _caching(tables: Tables, meta: TraceMeta) -> str | None:
    if "caching" not in tables:
        return None
    size = max(*meta.top_k, max(meta.experts) // 4)
    rates = {name: _rate(tables["caching"][name], size) for name in ("lru", "lfu", "belady")}
    if None in rates.values():
        return None
    memory = ""
    if meta.slot_bytes:
        memory = f" ({format_bytes(size * sum(meta.slot_bytes))} in all)"
    best = max(("lru", "lfu"), key=lambda name: rates[name] or 0)
    return (
        f"A cache of {size} of {max(meta.experts)} experts per layer{memory} hits {rates['lru']:.0%} with "
        f"LRU and {rates['lfu']:.0%} with LFU; no policy could hit more than {rates['belady']:.0%}. "
        f"{best.upper()} reaches {_share(rates[best], rates['belady'])} of what is possible."
    )


def _share(part: float | None, whole: float | None) -> str:
    return f"{part / whole:.0%}" if part is not None and whole else "an unknown share"


def _knee(tables: Tables, meta: TraceMeta) -> str | None:
    if "caching" not in tables:
        return None
    for size, rate in enumerate(tables["caching"]["lru"]["rate"], 1):
        if rate is not None and rate >= 0.9:
            return f"LRU needs {size} of {max(meta.experts)} experts per layer for 90% hits."
    return "LRU does not reach 90% hits with any number of experts: the texts are too short for that."


def _locality(tables: Tables, meta: TraceMeta) -> str | None:
    found = tables.get("srp", {}).get("16")
    if found is None or found["model"] is None:
        return None
    return (
        f"Routing consistency over 16 tokens (SRP) is {found['model']:.1%}; the same tokens shuffled would "
        f"give {found['random']:.1%}. Above 50% counts as well suited to caching (arXiv 2505.16056)."
    )


def _prediction(tables: Tables, meta: TraceMeta) -> str | None:
    found = tables.get("predictions")
    if not found or not found["recall"] or found["recall"][0] is None:
        return None
    return (
        f"The next layer's own gate, asked one layer early, foresees {found['recall'][0]:.0%} of the "
        f"experts; always naming the busiest ones would find {found['popular']:.0%}."
    )


def _coverage(tables: Tables, meta: TraceMeta) -> str | None:
    found = tables.get("coverage")
    if not found:
        return None
    return (
        f"{found['all'][-1]:.0%} of all experts were needed at least once in {found['tokens'][-1]:,} tokens."
    )


def _load(tables: Tables, meta: TraceMeta) -> str | None:
    ratios = [ratio for ratio in tables.get("load", {}).get("max_over_mean", ()) if ratio is not None]
    if not ratios:
        return None
    worst = max(range(len(ratios)), key=ratios.__getitem__)
    return (
        f"The busiest expert of a layer has {sum(ratios) / len(ratios):.1f} times an even load on average, "
        f"{ratios[worst]:.1f} times in layer {meta.moe_layers[worst]}."
    )


def _domains(tables: Tables, meta: TraceMeta) -> str | None:
    found = tables.get("domains")
    if not found or "bits" not in found:
        return None
    most = max(range(len(found["bits"])), key=found["bits"].__getitem__)
    return (
        f"Which expert is chosen tells {found['bits'][most]:.2f} bits about the domain in layer "
        f"{meta.moe_layers[most]}, the most of all layers ({found['bits_by_chance'][most]:.2f} would be "
        "chance)."
    )
