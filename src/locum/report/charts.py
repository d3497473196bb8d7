"""The charts of a report, each a Vega-Lite specification: plain data, to be looked at and tested.

Colours carry over to the dark page: they are set by the page's configuration, not here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Spec = dict[str, Any]
Table = Mapping[str, Any]

_POLICIES = {
    "belady": "Belady (no policy can do better)", "sch": "sees the next 16 tokens",
    "lru": "LRU", "lfu": "LFU", "random": "random choices, any policy",
}  # fmt: skip

_DASHES = [[1, 0], [7, 3], [2, 2], [9, 3, 2, 3]]


def _spec(values: Sequence[Mapping[str, Any]], **rest: Any) -> Spec:
    return {"$schema": "vega-lite", "data": {"values": list(values)}, "width": "container", **rest}


def load_heatmap(load: Table, moe_layers: Sequence[int]) -> Spec:
    """Layer by expert: the load over what an even load would be, each layer's experts in order of load."""
    rows: list[dict[str, Any]] = []
    for layer, counts in zip(moe_layers, load["counts"], strict=True):
        mean = sum(counts) / len(counts) or 1
        order = sorted(range(len(counts)), key=lambda expert: -counts[expert])
        rows.append({"l": layer, "e": order, "v": [round(counts[expert] / mean, 3) for expert in order]})
    most = max((value for row in rows for value in row["v"]), default=1)
    return _spec(
        rows,
        height={"step": max(6, min(18, 420 // len(rows)))},
        transform=[
            {"flatten": ["e", "v"]},
            {"window": [{"op": "row_number", "as": "r"}], "groupby": ["l"]},
        ],
        mark={"type": "rect", "tooltip": True},
        encoding={
            "x": {"field": "r", "type": "ordinal", "title": "experts of the layer, the busiest first",
                  "axis": {"labels": False, "ticks": False}},
            "y": {"field": "l", "type": "ordinal", "title": "layer"},
            "color": {"field": "v", "type": "quantitative", "title": "load (1: even)",
                      "scale": {"domain": [0, 1, max(2, most)], "range": ["#fdf3d8", "#7fb7a4", "#123a5e"]}},
            "tooltip": [{"field": "l", "title": "layer"}, {"field": "e", "title": "expert"},
                        {"field": "v", "title": "load", "format": ".2f"}],
        },
    )  # fmt: skip


def hit_curves(caching: Table, sch: Table | None, *, layers: int, slot_bytes: float | None) -> Spec:
    """Hit rate by cache size per layer; against memory where the size of an expert is known."""
    curves = {name: caching[name]["rate"] for name in ("belady", "lru", "lfu")} | {
        "random": caching["random"]
    }
    if sch is not None and "16" in sch:
        curves["sch"] = sch["16"]["rate"]
    whole = layers * slot_bytes * len(curves["random"]) if slot_bytes else 0
    unit, name_of_unit = (1 << 30, "GiB") if whole >= 1 << 30 else (1 << 20, "MiB")
    size = layers * slot_bytes / unit if slot_bytes else None
    values = [
        {"n": n, "x": n * size if size else n, "p": _POLICIES[name], "h": round(rate, 4)}
        for name in _POLICIES if name in curves
        for n, rate in enumerate(curves[name], 1) if rate is not None
    ]  # fmt: skip
    bands = [
        {"n": n, "x": n * size if size else n, "p": _POLICIES[name], "low": low, "high": high}
        for name in ("belady", "lru", "lfu")
        for n, (rate, low, high) in enumerate(
            zip(caching[name]["rate"], caching[name]["low"], caching[name]["high"], strict=True), 1
        )
        if None not in (rate, low, high)
    ]  # fmt: skip
    title = f"memory for experts, {name_of_unit}" if size else "experts kept per layer"
    x = {"field": "x", "type": "quantitative", "title": title}
    colour = {"field": "p", "type": "nominal", "title": None, "sort": list(_POLICIES.values()),
              "legend": {"orient": "bottom", "labelLimit": 0, "symbolType": "stroke",
                         "symbolOpacity": 1, "symbolStrokeWidth": 3}}  # fmt: skip
    line = {
        "data": {"values": values},
        "mark": {"type": "line", "tooltip": True},
        "encoding": {
            "x": x, "color": colour,
            "y": {"field": "h", "type": "quantitative", "title": "hit rate", "scale": {"domain": [0, 1]},
                  "axis": {"format": "%"}},
            "strokeDash": {"condition": {"test": f"datum.p == '{_POLICIES['random']}'", "value": [4, 4]},
                           "value": [1, 0]},
            "tooltip": [{"field": "p", "title": " "}, {"field": "n", "title": "experts per layer"},
                        {"field": "x", "title": title, "format": ".3~g"},
                        {"field": "h", "title": "hit rate", "format": ".1%"}],
        },
    }  # fmt: skip
    band = {
        "data": {"values": bands},
        "mark": {"type": "area", "opacity": 0.2},
        "encoding": {
            "x": x,
            "y": {"field": "low", "type": "quantitative"},
            "y2": {"field": "high"},
            "color": colour,
        },
    }
    return {"$schema": "vega-lite", "width": "container", "height": 300, "layer": [band, line]}


def coverage(table: Table) -> Spec:
    """Share of the experts needed at all by so many tokens: all of them, and the layers' range."""
    rows = [
        {"t": tokens, "all": everyone, "low": min(shares), "high": max(shares)}
        for tokens, everyone, *shares in zip(table["tokens"], table["all"], *table["share"], strict=True)
    ]
    x = {
        "field": "t",
        "type": "quantitative",
        "title": "tokens",
        "scale": {"type": "log"},
        "axis": {"format": "~s"},
    }
    y = {
        "type": "quantitative",
        "title": "experts needed so far",
        "scale": {"domain": [0, 1]},
        "axis": {"format": "%"},
    }
    return _spec(
        rows, height=240,
        layer=[
            {"mark": {"type": "area", "opacity": 0.2},
             "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}}},
            {"mark": {"type": "line", "point": True},
             "encoding": {"x": x, "y": {**y, "field": "all"},
                          "tooltip": [{"field": "t", "title": "tokens", "format": ","},
                                      {"field": "all", "title": "of all experts", "format": ".1%"},
                                      {"field": "low", "title": "least in a layer", "format": ".1%"},
                                      {"field": "high", "title": "most in a layer", "format": ".1%"}]}},
        ],
    )  # fmt: skip


def recall(predictions: Table) -> Spec:
    """Prediction recall by distance, in all and by the layer that was foreseen."""
    rows = [
        {"d": f"{distance} ahead", "l": layer, "r": value}
        for distance, layers in enumerate(predictions["recall_by_layer"], 1)
        for layer, value in enumerate(layers)
        if value is not None
    ]
    names = [f"{distance} ahead" for distance in range(1, len(predictions["recall"]) + 1)]
    y = {"type": "quantitative", "title": "recall", "scale": {"domain": [0, 1]}, "axis": {"format": "%"}}
    return _spec(
        rows, height=240,
        layer=[
            {"mark": {"type": "line", "point": True},
             "encoding": {
                 "x": {"field": "l", "type": "quantitative", "title": "the MoE layer that was foreseen",
                       "axis": {"tickMinStep": 1}},
                 "y": {**y, "field": "r"},
                 "color": {"field": "d", "type": "nominal", "title": None, "sort": names,
                           "legend": {"orient": "bottom"}},
                 "tooltip": [{"field": "d", "title": " "}, {"field": "l", "title": "MoE layer"},
                             {"field": "r", "title": "recall", "format": ".1%"}]}},
            {"data": {"values": [{"p": predictions["popular"]}]},
             "mark": {"type": "rule", "strokeDash": [4, 4], "tooltip": "always naming the busiest experts"},
             "encoding": {"y": {**y, "field": "p"}}},
        ],
    )  # fmt: skip


def consistency(srp: Table) -> Spec:
    """SRP by segment length, beside the same tokens in random order."""
    rows = [
        {"m": int(length), "who": who, "f1": figure}
        for length, found in srp.items()
        for who, figure in (("as written", found["model"]), ("tokens shuffled", found["random"]))
        if figure is not None
    ]
    return _spec(
        rows, height=240,
        mark={"type": "line", "point": True, "tooltip": True},
        encoding={
            "x": {"field": "m", "type": "quantitative", "title": "tokens that keep one choice",
                  "scale": {"type": "log", "base": 4}, "axis": {"values": [row["m"] for row in rows]}},
            "y": {"field": "f1", "type": "quantitative", "title": "best F1 (SRP)",
                  "scale": {"domain": [0, 1]}},
            "color": {"field": "who", "type": "nominal", "title": None, "legend": {"orient": "bottom"}},
        },
    )  # fmt: skip


def beside(
    values: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    *,
    x: Mapping[str, Any],
    y: str,
    tooltip: Sequence[tuple[str, str, str]],
    dots: bool = True,
    share: bool = True,
) -> Spec:
    """A line per trace, and a band where values have `low` and `high`. A trace keeps its colour from chart to
    chart: `names` are all of them, in order. `tooltip`: (field, title, format). `share`: y is a part
    of a whole.
    """
    there = [name for name in names if any(value["t"] == name for value in values)]
    colour = {"field": "t", "type": "nominal", "title": None, "scale": {"domain": list(names)},
              "legend": {"orient": "bottom", "values": there, "labelLimit": 290, "symbolType": "stroke",
                         "symbolOpacity": 1, "symbolStrokeWidth": 2, "symbolSize": 300}}  # fmt: skip
    # dashes, so that a line under another one is seen
    dashes = [_DASHES[number % len(_DASHES)] for number in range(len(names))]
    across = {"field": "x", "type": "quantitative", **x}
    up: Spec = {"type": "quantitative", "title": y}
    up |= {"scale": {"domain": [0, 1]}, "axis": {"format": "%"}} if share else {}
    line = {
        "mark": {"type": "line", "point": dots},
        "encoding": {
            "x": across, "y": {**up, "field": "y"}, "color": colour,
            "strokeDash": {**colour, "scale": {"domain": list(names), "range": dashes}},
            "tooltip": [{"field": "t", "title": " "},
                        *({"field": f, "title": title, "format": form} for f, title, form in tooltip)],
        },
    }  # fmt: skip
    banded = [value for value in values if value.get("low") is not None and value.get("high") is not None]
    band = {
        "data": {"values": banded},
        "mark": {"type": "area", "opacity": 0.2},
        "encoding": {"x": across, "y": {**up, "field": "low"}, "y2": {"field": "high"}, "color": colour},
    }
    return _spec(values, height=300 if banded else 240, layer=[band, line] if banded else [line])
