"""The streaming metrics: closed forms, plain loops, and the same in any batches."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers_trace import meta_of, random_rows, rows_of, write_trace
from locum.analyze import METRICS, analyze
from locum.analyze.affinity import Coactivation
from locum.analyze.load import effective, gini
from locum.analyze.specialisation import told_bits
from locum.errors import TraceError, UsageError
from locum.trace import Trace, TraceMeta
from locum.trace.columns import OPTIONAL as COLUMNS

OPTIONAL = tuple(name for name in COLUMNS if name != "counts")


@pytest.fixture
def trace_of(tmp_path: Path) -> Any:
    return lambda ids, meta, **other: write_trace(tmp_path / "t", meta, rows_of(ids, meta, **other))


def one(trace: Trace, name: str) -> Any:
    return analyze(trace, [name]).tables[name]


def test_gini() -> None:
    assert gini(np.array([5, 5, 5, 5])) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 9])) == pytest.approx(3 / 4)
    assert gini(np.array([1, 3])) == pytest.approx(1 / 4)
    assert math.isnan(gini(np.array([0, 0])))
    loads = np.random.default_rng(0).integers(0, 100, 30)
    by_pairs = np.abs(loads[:, None] - loads[None]).sum() / (2 * 30 * loads.sum())
    assert gini(loads) == pytest.approx(by_pairs)


def test_effective() -> None:
    assert effective(np.array([7, 7, 7])) == pytest.approx(3)
    assert effective(np.array([7, 0, 0])) == pytest.approx(1)


def test_load(trace_of: Any) -> None:
    found = one(trace_of([[[0, 1]], [[0, 2]], [[0, -1]], [[0, 1]]], meta_of(layers=1, experts=4)), "load")
    assert found["counts"] == [[4, 2, 1, 0]]
    assert found["max_over_mean"] == [4 / 1.75]
    assert found["unused"] == [1]


def test_coverage(trace_of: Any) -> None:
    ids = [[[0]], [[0]], [[1]], [[0]], [[-1]], [[2]], [[0]]]
    found = one(trace_of(ids, meta_of(layers=1, experts=4, top_k=1)), "coverage")
    seen = {1: 1, 2: 1, 3: 2, 4: 2, 5: 2, 6: 3, 7: 3}
    assert found["tokens"][0] == 1
    assert found["tokens"][-1] == 7
    assert found["share"][0] == [seen[n] / 4 for n in found["tokens"]]


def test_reuse(trace_of: Any) -> None:
    """Two requests, their tokens one after the other in each step."""
    ids = [[[0, 1]], [[4, 5]], [[0, 2]], [[4, 5]], [[3, 2]], [[0, 1]]]
    trace = trace_of(
        ids, meta_of(layers=1), request=np.array([0, 1] * 3, np.int32),
        position=np.array([0, 0, 1, 1, 2, 7], np.int32), step=np.array([0, 0, 1, 1, 2, 2]),
    )  # fmt: skip
    found = one(trace, "reuse")
    assert found["share"] == [(1 + 2 + 1) / 6]  # the last token follows nothing: its position is 7
    assert found["random"] == [2 / 6]


def test_coactivation(trace_of: Any) -> None:
    trace = trace_of([[[0, 1, 2]], [[0, 1, 3]], [[0, 2, -1]], [[4, 3, 5]]], meta_of(layers=1, top_k=3))
    metric = Coactivation(trace.meta)
    for rows in trace.batches():
        metric.update(rows)
    given_EE = metric.given()[0]
    assert given_EE[0].tolist() == [1, 2 / 3, 2 / 3, 1 / 3, 0, 0]
    assert given_EE[1].tolist() == [1, 1, 1 / 2, 1 / 2, 0, 0]
    assert metric.result()["strongest"][0][0] == [0, 1, pytest.approx(2 / 3), pytest.approx(2 * 4 / (3 * 2))]


def test_transitions(trace_of: Any) -> None:
    """Layer 1 repeats layer 0; layer 2 does not care."""
    random = np.random.default_rng(0)
    first = random.integers(0, 10, 4000)
    ids = np.stack([first, first, random.integers(0, 10, 4000)], axis=1)[:, :, None]
    found = one(trace_of(ids, meta_of(layers=3, experts=10, top_k=1)), "transitions")
    assert found["top_mass"][0] == 1
    assert found["top_mass"][1] == pytest.approx(0.2, abs=0.07)
    assert found["top_mass_of_load"] == pytest.approx([0.2, 0.2], abs=0.03)


def test_domains(trace_of: Any) -> None:
    """Layer 0 knows the domain for sure, layer 1 not at all."""
    random = np.random.default_rng(0)
    domain = random.integers(0, 2, 4000)
    ids = np.stack([domain * 2 + random.integers(0, 2, 4000), random.integers(0, 4, 4000)], axis=1)[
        :, :, None
    ]
    names = np.array(["de", "fr"], object)[domain]
    names[:100] = "rare"
    names[100:200] = None
    found = one(trace_of(ids, meta_of(2, 4, 1, columns=("domain",)), domain=names), "domains")
    assert found["left_out"] == ["rare"]
    assert found["bits"][0] == pytest.approx(1)
    assert found["bits"][1] < 5 * found["bits_by_chance"][1]
    assert found["variation"][0] == pytest.approx(1)
    assert found["rates"]["de"][0][:2] == pytest.approx([0.5, 0.5], abs=0.05)


def test_bits_by_chance() -> None:
    random = np.random.default_rng(0)
    seen = [told_bits(random.multinomial(2000, np.full(16, 1 / 16), 3)) for _ in range(300)]
    assert np.mean([bits for bits, _ in seen]) == pytest.approx(seen[0][1], rel=0.1)


def test_vocabulary(trace_of: Any) -> None:
    """Layer 0 goes by the token alone, layer 1 by nothing."""
    random = np.random.default_rng(0)
    token = random.integers(0, 30, 6000).astype(np.int32)
    token[-3:] = 99  # seen three times
    ids = np.stack([token % 8, random.integers(0, 8, 6000)], axis=1)[:, :, None]
    found = one(trace_of(ids, meta_of(2, 8, 1, columns=("token",)), token=token), "vocabulary")
    assert found["tokens"] == 30
    assert found["share"][0] == pytest.approx(1)
    assert found["share"][1] == pytest.approx(found["by_chance"][1], abs=0.01)


def test_predictions(trace_of: Any) -> None:
    ids = [[[0, 1], [2, 3], [4, 5]], [[0, 1], [2, -1], [4, 5]]]
    foreseen = np.full((2, 3, 2, 3), -1, np.int16)
    foreseen[0, 0, 0] = [2, 3, 1]  # layer 1 from layer 0: both, and one too many
    foreseen[1, 0, 0] = [5, 0, 1]  # none
    foreseen[0, 1, 0, :2] = [4, 0]  # layer 2 from layer 1: one of two
    foreseen[0, 0, 1, :1] = [5]  # layer 2 from layer 0: one
    meta = meta_of(3, 6, 2, columns=("next_ids",), distances=2, predicted=3)
    found = one(trace_of(ids, meta, next_ids=foreseen), "predictions")
    assert found["recall"] == [3 / 7, 1 / 4]
    assert found["precision"] == [3 / 8, 1]
    assert found["f1"] == [6 / 15, 2 / 5]
    assert found["recall_by_layer"] == [[None, 2 / 3, 1 / 4], [None, None, 1 / 4]]


def test_entropy_and_margin(trace_of: Any) -> None:
    random = np.random.default_rng(0)
    entropy = random.uniform(0, np.log(8), (3000, 1)).astype(np.float16)
    margin = np.full((3000, 1), 0.25, np.float16)
    margin[0] = np.nan
    meta = meta_of(1, 8, 1, columns=("margin", "entropy"))
    trace = trace_of(random.integers(0, 8, (3000, 1, 1)), meta, margin=margin, entropy=entropy)
    found = one(trace, "entropy")
    assert found["mean"] == pytest.approx([entropy.astype(float).mean()])
    for q, values in found["quantiles"].items():
        assert values[0] == pytest.approx(np.quantile(entropy.astype(float), float(q)), abs=np.log(8) / 128)
    assert one(trace, "margin")["mean"] == [0.25]


EVERYTHING: TraceMeta = replace(
    meta_of(3, 6, 2), columns=OPTIONAL, distances=2, predicted=3, scored=4, experts=(6, 5, 6)
)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(1, 699), max_size=4, unique=True), seed=st.integers(0, 3))
def test_batches_make_no_difference(cuts: list[int], seed: int) -> None:
    import importlib

    from locum.trace.columns import cut

    rows = random_rows(EVERYTHING, 700, seed, skips=0.1)
    for name, where in METRICS.items():
        module, _, cls = where.partition(".")
        metric = getattr(importlib.import_module(f"locum.analyze.{module}"), cls)
        whole, parts = metric(EVERYTHING), metric(EVERYTHING)
        whole.update(rows)
        for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 700], strict=True):
            parts.update(cut(rows, start, stop))
        assert parts.result() == whole.result(), name


def test_everything_of_a_full_trace_is_json(tmp_path: Path) -> None:
    import json

    found = analyze(write_trace(tmp_path / "t", EVERYTHING, random_rows(EVERYTHING, 900, skips=0.1)))
    assert set(found.tables) == {*METRICS, "caching", "srp", "sch"}
    assert not found.lacking
    json.dumps(found.tables, allow_nan=False)


def test_too_short_for_curves(trace_of: Any) -> None:
    found = analyze(trace_of(np.zeros((63, 1, 1)), meta_of(1, 4, 1)))
    assert "64 tokens" in found.lacking["caching"]
    assert "caching" not in found.tables


def test_what_a_trace_lacks_is_named(trace_of: Any) -> None:
    trace = trace_of(np.zeros((100, 1, 1)), meta_of(1, 4, 1))
    found = analyze(trace)
    assert found.lacking["vocabulary"] == "token"
    assert "load" in found.tables
    with pytest.raises(TraceError, match="vocabulary needs token"):
        analyze(trace, ["vocabulary"])
    with pytest.raises(UsageError, match="no such metric"):
        analyze(trace, ["beauty"])
