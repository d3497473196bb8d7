"""Intervals against closed forms and against how often they hold."""

import math

import numpy as np
import pytest

from locum.evaluate.intervals import bootstrap_ratio, wilson


@pytest.mark.parametrize(
    ("hits", "tries", "low", "high"),
    # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_published(hits: int, tries: int, low: float, high: float) -> None:
    got = wilson(hits, tries)
    assert got == pytest.approx((low, high), abs=6e-5)


def test_all_right_still_has_a_width() -> None:
    low, high = wilson(20, 20)
    assert 0.8 < low < 0.9
    assert high == pytest.approx(1.0)


def test_bootstrap_near_the_normal_interval() -> None:
    # of a mean of many pieces of equal size the interval is known
    random = np.random.default_rng(0)
    parts = random.normal(3.0, 1.0, 400).tolist()
    low, high = bootstrap_ratio(parts, [1.0] * 400)
    mean, half = np.mean(parts), 1.96 * np.std(parts) / math.sqrt(400)
    assert low == pytest.approx(mean - half, abs=0.02)
    assert high == pytest.approx(mean + half, abs=0.02)


def test_bootstrap_holds_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    held = 0
    for seed in range(200):
        sizes = random.integers(1, 50, 60).astype(float)
        losses = sizes * random.normal(2.0, 0.5, 60)  # pieces of different size, alike within
        low, high = bootstrap_ratio(losses.tolist(), sizes.tolist(), seed=seed)
        held += low <= 2.0 <= high
    assert 176 <= held <= 200  # 95% of 200 is 190; four deviations


def test_the_same_seed_gives_the_same_interval() -> None:
    parts, wholes = [1.0, 5.0, 2.0], [2.0, 3.0, 2.0]
    assert bootstrap_ratio(parts, wholes) == bootstrap_ratio(parts, wholes)
