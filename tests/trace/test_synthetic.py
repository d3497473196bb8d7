"""Made-up routing: what the dials do, closed forms, and each profile beside what was published."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.analyze.base import count_choices
from locum.analyze.claims import MEASURES, SAMPLE, measure
from locum.analyze.locality import best_f1
from locum.trace import Rows
from locum.trace.columns import check_shapes, join
from locum.trace.profiles import PROFILES, Profile
from locum.trace.synthetic import best, synthesise, synthetic_meta
from locum.trace.validate import check_rows

HELD_OUT = 31
"""The dials were fitted with other seeds."""
SLOW = ("qwen3-30b-a3b", "deepseek-r1")
FITTED = [name for name, profile in PROFILES.items() if profile.claims]
SMALL = Profile(3, 16, 2, spread=0.0, stay=0.0, domain_spread=0.0, request_spread=0.0)


def made(profile: Profile, tokens: int, seed: int = 0, length: int = 512) -> Rows:
    return join(list(synthesise(profile, tokens, seed=seed, length=length)))


def figure(profile: Profile, name: Any, tokens: int = 4096, layer: int | None = None) -> float:
    return MEASURES[name](made(profile, tokens), synthetic_meta("x", profile, 0), layer)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.check] * (name in SLOW)) for name in FITTED]
)
def test_what_was_published_is_met_at_another_seed(name: str) -> None:
    profile, meta = PROFILES[name], synthetic_meta(name, PROFILES[name], HELD_OUT)
    rows = made(profile, SAMPLE, HELD_OUT)
    found = {claim.name: (measure(rows, meta, claim), claim) for claim in profile.claims}
    assert {name: got for name, (got, claim) in found.items() if not claim.met(got)} == {}


@pytest.mark.parametrize("name", PROFILES)
def test_the_rows_are_a_trace(name: str) -> None:
    profile, meta = PROFILES[name], synthetic_meta(name, PROFILES[name], 0)
    small = replace(profile, layers=2)
    rows = made(small, 150, length=70)
    check_shapes(rows, synthetic_meta(name, small, 0))
    check_rows(rows, synthetic_meta(name, small, 0), "here")
    assert (rows.experts >= 0).all()
    assert (np.diff(rows.experts, axis=2) > 0).all()
    assert np.bincount(rows.request).tolist() == [70, 70, 10]
    assert len({claim.name for claim in profile.claims}) == len(profile.claims)
    assert meta.moe_layers[0] == profile.dense_first


def test_the_same_seed_makes_the_same_trace() -> None:
    profile = replace(PROFILES["mixtral"], layers=3)
    one, again, other = (made(profile, 700, seed) for seed in (5, 5, 6))
    for column, array in one.columns():
        assert np.array_equal(array, getattr(again, column.name)), column.name
    assert not np.array_equal(one.experts, other.experts)


def test_uniform_is_uniform() -> None:
    """SRP is that of binomial counts, loads differ as chance has it, nothing tells the next choice."""
    profile, meta = PROFILES["uniform"], synthetic_meta("uniform", PROFILES["uniform"], 0)
    rows, rate = made(profile, 8192, 3), profile.top_k / profile.experts
    chances = [1.0]  # of c choices in 16 tokens, Pascal's way
    for _ in range(16):
        chances = [a * rate + b * (1 - rate) for a, b in zip([0, *chances], [*chances, 0], strict=True)]
    assert MEASURES["srp"](rows, meta, None) == pytest.approx(best_f1(np.array(chances))[0], abs=0.002)
    counts_LE = count_choices(rows.experts, profile.experts)
    variance = len(rows) * rate * (1 - rate)
    assert ((counts_LE - len(rows) * rate) ** 2).mean() / variance == pytest.approx(1, abs=0.15)
    assert MEASURES["next token"](rows, meta, None) == pytest.approx(0.2, abs=0.04)


def test_one_choice_follows_popularity() -> None:
    """Gumbel's trick: with K = 1 an expert is chosen as often as its share of all popularity."""
    profile = replace(SMALL, layers=1, top_k=1, spread=1.0)
    rows = made(profile, 60_000, seed=4)
    log_E = np.random.default_rng(4).standard_normal(16)  # the first numbers that the generator draws
    share_E = np.exp(log_E) / np.exp(log_E).sum()
    assert count_choices(rows.experts, 16)[0] / len(rows) == pytest.approx(share_E, abs=0.006)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), groups=st.sampled_from([1, 2, 4]), data=st.data())
def test_groups_are_chosen_first(seed: int, groups: int, data: Any) -> None:
    kept = data.draw(st.integers(1, groups))
    top_k = data.draw(st.integers(1, 16 // groups * kept))
    score_nE = np.random.default_rng(seed).standard_normal((5, 16)).astype(np.float32)
    for score_E, ids_K in zip(score_nE, best(score_nE, top_k, groups, kept), strict=True):
        parts = np.split(np.arange(16), groups)
        parts.sort(key=lambda part: -np.sort(score_E[part])[-2:].sum())
        allowed = np.concatenate(parts[:kept]) if kept < groups else np.arange(16)
        assert ids_K.tolist() == sorted(sorted(allowed, key=lambda e: -score_E[e])[:top_k])


def test_no_choice_is_of_more_groups_than_allowed() -> None:
    profile = replace(PROFILES["deepseek-r1"], layers=3)
    group_tLK = made(profile, 512).experts // (profile.experts // profile.groups)
    distinct_tL = (np.diff(np.sort(group_tLK, axis=2), axis=2) > 0).sum(2) + 1
    assert distinct_tL.max() <= profile.groups_kept
    freely = made(replace(profile, groups=1, groups_kept=1), 512).experts // 32
    assert ((np.diff(np.sort(freely, axis=2), axis=2) > 0).sum(2) + 1).max() > profile.groups_kept


@pytest.mark.parametrize(
    ("dial", "values", "name"),
    [
        ("spread", (0.0, 0.5, 1.0), "expert spread"),
        ("domain_spread", (0.0, 0.5, 1.0), "expert peak"),
        ("request_spread", (0.0, 0.5, 1.0), "srp"),
        ("stay", (0.0, 0.3, 0.8), "same of two"),
        ("stay", (0.0, 0.3, 0.8), "next token"),
        ("link", (0.0, 1.0, 2.0), "next layer"),
    ],
)
def test_dials_move_what_they_should(dial: str, values: tuple[float, ...], name: str) -> None:
    low, middle, high = (figure(replace(SMALL, **{dial: value}), name) for value in values)
    assert low + 0.01 < middle < high - 0.01


def test_dials_of_the_first_and_the_last_layer() -> None:
    even = 1 - 14 * 13 / (16 * 15)  # that two choices of 2 of 16 have one in common
    stays = replace(SMALL, stay=0.5)
    assert figure(stays, "same of two", layer=0) == pytest.approx(even, abs=0.03)
    assert figure(stays, "same of two", layer=1) > even + 0.2
    repeats = replace(stays, repeat_last=0.5, weighted=True)
    assert figure(repeats, "same of two", layer=2) == pytest.approx(0.5 + 0.5 * even, abs=0.03)
    assert figure(repeats, "same first", layer=2) == pytest.approx(0.5 + 0.5 / 16, abs=0.03)
    text = replace(SMALL, request_spread=1.0, text_ends=0.0)
    for layer in (0, 2):
        assert figure(text, "same of two", layer=layer) == pytest.approx(even, abs=0.03)
    assert figure(text, "same of two", layer=1) > even + 0.1


def test_weights_say_who_is_first() -> None:
    rows = made(replace(SMALL, spread=2.0, weighted=True), 2000)
    assert rows.weights is not None
    assert rows.weights.sum(2, dtype=np.float64) == pytest.approx(1, abs=2e-3)
    counts_LE = count_choices(rows.experts, 16)
    first_tL1 = rows.weights.argmax(2)[:, :, None]
    first_LE = count_choices(np.take_along_axis(rows.experts, first_tL1, axis=2), 16)
    for counts_E, first_E in zip(counts_LE, first_LE, strict=True):
        order = np.argsort(counts_E)
        rare, usual = order[:8], order[-1]
        assert first_E[rare].sum() / counts_E[rare].sum() < 0.5 < first_E[usual] / counts_E[usual]
