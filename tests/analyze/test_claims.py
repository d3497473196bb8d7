"""The figures that are claimed, against their definitions in plain loops."""

from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from helpers_trace import meta_of, random_rows, rows_of, write_trace
from locum.analyze import claims
from locum.analyze.claims import MEASURES, judge, measure
from locum.trace.profiles import Claim, Measure

SRP = Claim("srp", "srp", 0.3, 0.5, 0.1, "nowhere")


def pairs(rows: Any) -> list[tuple[int, int]]:
    places = {(r, p): n for n, (r, p) in enumerate(zip(rows.request, rows.position, strict=True))}
    return [(places[r, p - 1], n) for (r, p), n in places.items() if (r, p - 1) in places]


def mixed(meta: Any) -> Any:
    """Two requests, interleaved, one with a gap."""
    position = np.array([0, 0, 1, 1, 2, 2, 3, 5, 4, 6] * 20) + np.repeat(np.arange(20) * 10, 10)
    base = random_rows(meta, 200)
    return rows_of(
        base.experts, meta, request=np.array([0, 1] * 100, np.int32), position=position.astype(np.int32),
        **{name: getattr(base, name) for name in meta.columns},
    )  # fmt: skip


def test_every_measure_has_a_meaning() -> None:
    assert set(MEASURES) == set(get_args(Measure))


def test_the_next_token() -> None:
    meta = meta_of(layers=2, experts=10, top_k=3)
    rows = mixed(meta)
    shares = []
    for layer in range(2):
        counts = np.zeros((10, 10))
        for old, new in pairs(rows):
            for i in rows.experts[old, layer]:
                for j in rows.experts[new, layer]:
                    counts[i, j] += 1
        shares.append(sum(sum(sorted(row)[-2:]) for row in counts) / counts.sum())
    assert MEASURES["next token"](rows, meta, None) == pytest.approx(np.mean(shares))


@pytest.mark.parametrize("layer", [None, 1])
def test_repeated_choices(layer: int | None) -> None:
    meta = meta_of(layers=2, experts=6, top_k=2, columns=("weights",))
    rows = mixed(meta)
    first, either = [], []
    for old, new in pairs(rows):
        for place in range(2) if layer is None else [layer]:
            ids, before = rows.experts[new, place].tolist(), rows.experts[old, place].tolist()
            one, two = rows.weights[new, place].argmax(), rows.weights[old, place].argmax()
            first.append(ids[one] == before[two])
            either.append(bool({*ids} & {*before}))
    assert MEASURES["same first"](rows, meta, layer) == pytest.approx(np.mean(first))
    assert MEASURES["same of two"](rows, meta, layer) == pytest.approx(np.mean(either))


def test_the_next_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks make no difference; a layer that copies the last one is told wholly."""
    meta = meta_of(layers=3, experts=10, top_k=2)
    rows = random_rows(meta, 300)
    whole = MEASURES["next layer"](rows, meta, None)
    monkeypatch.setattr(claims, "_CHUNK", 7)
    assert MEASURES["next layer"](rows, meta, None) == whole
    copied = rows_of(np.repeat(rows.experts[:, :1], 3, axis=1), meta)
    assert MEASURES["next layer"](copied, meta, None) > whole + 0.1


def test_loads_are_of_one_kind_of_text() -> None:
    meta = meta_of(layers=1, experts=64, top_k=1, columns=("domain",))
    ids = np.r_[np.zeros(10), np.arange(64)].astype(int)[:, None, None]
    rows = rows_of(ids, meta, domain=np.array(["a"] * 10 + ["b"] * 64, object))
    assert MEASURES["expert peak"](rows, meta, None) == pytest.approx(63 / 2)
    assert MEASURES["expert spread"](rows, meta, None) == pytest.approx(np.sqrt(63) / 2)
    assert MEASURES["rank peak"](rows, meta, None) == pytest.approx(31 / 2)
    assert MEASURES["rank spread"](rows, meta, None) == pytest.approx(np.sqrt(31) / 2)


def test_srp_is_that_of_the_report() -> None:
    from locum.analyze.locality import segment_routing
    from locum.analyze.segments import Segments

    meta = meta_of(layers=2, experts=8, top_k=2)
    rows = random_rows(meta, 600)
    segments = Segments()
    segments.add(rows)
    expected = segment_routing(segments.finish(), meta, (16,))["16"]["model"]
    assert measure(rows, meta, SRP) == pytest.approx(expected)


def test_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meta = meta_of(layers=2, experts=8, top_k=2)
    rows = random_rows(meta, 600)
    trace = write_trace(tmp_path / "t", meta, rows)
    (short,) = judge(trace, [SRP])
    assert (short.got, short.met, short.words()[3]) == (None, None, "too short")
    monkeypatch.setattr(claims, "SAMPLE", 600)
    (whole,) = judge(trace, [SRP])
    assert whole.got == measure(rows, meta, SRP)
    monkeypatch.setattr(claims, "SAMPLE", 512)
    (part,) = judge(trace, [SRP])
    assert part.got != whole.got
    assert part.to_json()["met"] is part.met


def test_what_is_met() -> None:
    edges = (0.19, 0.21, 0.3, 0.4, 0.59, 0.61)
    assert [SRP.met(got) for got in edges] == [False, True, True, True, True, False]
    assert all(a != b for a, b in pairwise(MEASURES))
