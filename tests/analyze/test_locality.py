"""SRP, SCH and hit curves: closed forms, and a brute force that follows the definitions word by word."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers_cases import few, thousands
from helpers_trace import meta_of, rows_of
from locum.analyze.caching import hit_curves
from locum.analyze.locality import segment_cache, segment_routing
from locum.analyze.segments import Segments

EXPERTS, LAYERS = 5, 2


def sampled(ids: Any, meta: Any, length: int = 512) -> Segments:
    segments = Segments(length=length)
    segments.add(rows_of(ids, meta))
    return segments.finish()


@st.composite
def choices(draw: Any) -> tuple[Any, int, int]:
    """(ids [T, L, K], K, length of a segment)."""
    k = draw(st.integers(1, EXPERTS))
    length = draw(st.integers(4, 12))
    tokens = length * draw(st.integers(1, 3))
    one = st.permutations(range(EXPERTS)).map(lambda order: order[:k])
    layers = st.lists(one, min_size=LAYERS, max_size=LAYERS)
    ids = np.array(draw(st.lists(layers, min_size=tokens, max_size=tokens)))
    skipped = draw(st.booleans())
    if skipped and k > 1:
        ids[:: draw(st.integers(1, 3)), 0, -1] = -1
    return ids, k, length


def pieces(ids: Any, length: int) -> list[Any]:
    return [ids[start : start + length] for start in range(0, len(ids), length)]


def srp_by_definition(ids: Any, length: int, m: int, layers: range) -> float:
    """Try every threshold; walk every window of every expert."""
    best = 0.0
    for threshold in range(m + 1):
        right = predicted = actual = 0
        for piece in pieces(ids, length):
            for layer in layers:
                for expert in range(EXPERTS):
                    for start in range(len(piece) - m + 1):
                        count = sum(expert in token[layer] for token in piece[start : start + m])
                        actual += count
                        if count >= threshold:
                            right, predicted = right + count, predicted + m
        best = max(best, 2 * right / (predicted + actual))
    return best


def srp_is_its_definition(drawn: Any, m: int) -> None:
    ids, k, length = drawn
    found = segment_routing(
        sampled(ids, meta_of(LAYERS, EXPERTS, k), length), meta_of(LAYERS, EXPERTS, k), (m,)
    )
    assert found[str(m)]["model"] == pytest.approx(srp_by_definition(ids, length, m, range(LAYERS)))
    for layer in range(LAYERS):
        expected = srp_by_definition(ids, length, m, range(layer, layer + 1))
        assert found[str(m)]["layers"][layer] == pytest.approx(expected)


@few(60)
@given(drawn=choices(), m=st.sampled_from([1, 2, 3, 4]))
def test_srp_is_its_definition(drawn: Any, m: int) -> None:
    srp_is_its_definition(drawn, m)


@thousands
@given(drawn=choices(), m=st.sampled_from([1, 2, 3, 4]))
def test_srp_is_its_definition_often(drawn: Any, m: int) -> None:
    srp_is_its_definition(drawn, m)


def cache_by_definition(ids: Any, length: int, size: int, kind: str, m: int) -> float:
    hits = asked = 0
    for piece in pieces(ids, length):
        for layer in range(LAYERS):
            tokens = [sorted({e for e in token[layer].tolist() if e >= 0}) for token in piece]
            cached: set[int] = set()
            for now, chosen in enumerate(tokens):
                hits += len(cached.intersection(chosen))
                asked += len(chosen)
                cached.update(chosen)
                while len(cached) > size:
                    cached.remove(
                        min(cached.difference(chosen), key=lambda e: value(tokens, now, e, kind, m))
                    )
    return hits / asked


def value(tokens: list[list[int]], now: int, expert: int, kind: str, m: int) -> Any:
    last = max((n, expert) for n in range(now + 1) if expert in tokens[n])
    coming = [n for n in range(now + 1, len(tokens)) if expert in tokens[n]]
    return {
        "lru": last,
        "lfu": (sum(expert in chosen for chosen in tokens[: now + 1]), last),
        "belady": (-coming[0] if coming else -np.inf, last),
        "sch": (len([n for n in coming if n <= now + m]), last),
    }[kind]


def caches_are_their_definitions(drawn: Any, m: int) -> None:
    ids, k, length = drawn
    meta = meta_of(LAYERS, EXPERTS, k)
    segments = sampled(ids, meta, length)
    curves = hit_curves(segments, meta) | {"sch": segment_cache(segments, meta, (m,))[str(m)]}
    for kind in ("lru", "lfu", "belady", "sch"):
        assert curves[kind]["rate"][: k - 1] == [None] * (k - 1)
        for size in range(k, EXPERTS + 1):
            expected = cache_by_definition(ids, length, size, kind, m)
            assert curves[kind]["rate"][size - 1] == pytest.approx(expected), (kind, size)
        rates = curves[kind]["rate"][k - 1 :]
        assert all(small <= large for small, large in pairwise(rates))
    for other in ("lru", "lfu", "sch"):
        assert all(
            b >= a - 1e-12
            for a, b in zip(curves[other]["rate"][k - 1 :], curves["belady"]["rate"][k - 1 :], strict=True)
        )


@few(60)
@given(drawn=choices(), m=st.sampled_from([1, 2, 4]))
def test_caches_are_their_definitions(drawn: Any, m: int) -> None:
    caches_are_their_definitions(drawn, m)


@thousands
@given(drawn=choices(), m=st.sampled_from([1, 2, 4]))
def test_caches_are_their_definitions_often(drawn: Any, m: int) -> None:
    caches_are_their_definitions(drawn, m)


def test_the_same_experts_for_ever() -> None:
    """Nothing changes: every rule is right, every token after the first hits."""
    meta = meta_of(layers=1, experts=8, top_k=2)
    segments = sampled(np.tile([[[1, 5]]], (512, 1, 1)), meta)
    found = segment_routing(segments, meta)
    assert [found[m]["model"] for m in ("4", "16", "64", "256")] == [1.0] * 4
    assert found["16"]["kept"] == 1.0
    assert segment_cache(segments, meta)["16"]["rate"][1:] == [511 / 512] * 7
    assert segment_cache(segments, meta)["16"]["cold"][1:] == [1 / 512] * 7


def test_independent_choices() -> None:
    """SRP of rate r without locality tends to 2r / (1 + r); caches hit their share of the experts."""
    meta = meta_of(layers=1, experts=8, top_k=2)
    random = np.random.default_rng(0)
    ids = np.stack([random.permutation(8)[:2] for _ in range(100 * 512)])[:, None]
    segments = sampled(ids, meta)
    found = segment_routing(segments, meta, (256,))["256"]
    assert found["model"] == pytest.approx(2 * 0.25 / 1.25, abs=0.01)
    assert found["model"] == pytest.approx(found["random"], abs=0.005)
    curves = hit_curves(segments, meta)
    for size in range(2, 9):
        for kind in ("lru", "lfu"):
            assert curves[kind]["rate"][size - 1] == pytest.approx(curves["random"][size - 1], abs=0.02)
    low, high = curves["lru"]["low"][3], curves["lru"]["high"][3]
    assert low < curves["lru"]["rate"][3] < high
    assert high - low < 0.02


def test_layers_with_fewer_experts_have_no_ghosts() -> None:
    from dataclasses import replace

    meta = replace(meta_of(layers=2), experts=(8, 4), top_k=(2, 2))
    random = np.random.default_rng(0)
    ids = np.stack([[random.permutation(8)[:2], random.permutation(4)[:2]] for _ in range(512)])
    found = segment_routing(sampled(ids, meta), meta, (4,))["4"]
    alone = meta_of(layers=1, experts=4, top_k=2)
    assert found["layers"][1] == pytest.approx(
        segment_routing(sampled(ids[:, 1:], alone), alone, (4,))["4"]["model"]
    )


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    batch=st.integers(1, 17),
    seed=st.integers(0, 5),
)
def test_segments_follow_requests_through_batches(lengths: list[int], batch: int, seed: int) -> None:
    """Requests run interleaved; every segment is a run of one of them."""
    random = np.random.default_rng(seed)
    owner = random.permutation(np.repeat(np.arange(len(lengths)), lengths))
    position = np.array([int((owner[:n] == owner[n]).sum()) for n in range(len(owner))], np.int32)
    ids = (owner * 100 + position)[:, None, None].astype(np.int16)
    meta = meta_of(layers=1, experts=1000, top_k=1)
    segments = Segments(length=8)
    from locum.trace.columns import cut

    rows = rows_of(ids, meta, request=owner.astype(np.int32), position=position)
    for start in range(0, len(owner), batch):
        segments.add(cut(rows, start, start + batch))
    segments.finish()
    expected = sorted(
        tuple(range(100 * r + start, 100 * r + min(start + 8, length)))
        for r, length in enumerate(lengths)
        for start in range(0, length - 7, 8)
    )
    assert sorted(tuple(found[:, 0, 0].tolist()) for found in segments.found) == expected
    assert segments.total == len(expected)


def test_the_sample_is_bounded_and_even() -> None:
    meta = meta_of(layers=1, experts=1000, top_k=1)
    times = np.zeros(40)
    for seed in range(300):
        segments = Segments(limit=10, length=4, seed=seed)
        segments.add(rows_of((np.arange(160) // 4)[:, None, None], meta))
        segments.finish()
        assert (len(segments.found), segments.total) == (10, 40)
        times[[int(found[0, 0, 0]) for found in segments.found]] += 1
    assert times.min() > 45
    assert times.max() < 105
