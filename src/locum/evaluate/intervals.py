"""How sure a figure is: percentile bootstrap over pieces, and Wilson's interval for shares.

Pieces of text are drawn whole, since tokens of one piece are alike. Sources: Efron and Tibshirani, "An
Introduction to the Bootstrap", 1993, chapter 13; Wilson, "Probable inference", 1927.

Axes: N pieces, D draws.
"""

import math
from collections.abc import Sequence

import numpy as np

Interval = tuple[float, float]
DRAWS = 2000
LEVEL = 0.95
_Z = 1.959963984540054  # of a normal distribution lies within this many deviations: LEVEL


def bootstrap_ratio(parts: Sequence[float], wholes: Sequence[float], *, seed: int = 0) -> Interval:
    """Interval of sum(parts) / sum(wholes), where piece n gives parts[n] and wholes[n]."""
    assert len(parts) == len(wholes) > 0, "a ratio of nothing"
    part_N, whole_N = np.asarray(parts, np.float64), np.asarray(wholes, np.float64)
    drawn_DN = np.random.default_rng(seed).integers(len(part_N), size=(DRAWS, len(part_N)))
    ratio_D = part_N[drawn_DN].sum(1) / whole_N[drawn_DN].sum(1)
    low, high = np.quantile(ratio_D, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def wilson(hits: int, tries: int) -> Interval:
    """Interval of a share; also where all or none were right it has a width."""
    assert 0 <= hits <= tries > 0, "a share of nothing"
    share, z2 = hits / tries, _Z * _Z
    middle = (share + z2 / (2 * tries)) / (1 + z2 / tries)
    half = _Z / (1 + z2 / tries) * math.sqrt(share * (1 - share) / tries + z2 / (4 * tries * tries))
    return max(0.0, middle - half), min(1.0, middle + half)
