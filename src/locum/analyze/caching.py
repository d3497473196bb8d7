"""Hit rates of LRU, LFU and Belady's rule by cache size, all sizes in one pass each.

Every layer has a cache of its own, every token asks for its experts at once, every segment begins with an
empty cache. What an engine does with whole prompts, shared budgets and prefetching, `simulate` says.

Axes: E experts, n segments.
"""

from typing import Any

import numpy as np

from locum.analyze.base import plain
from locum.analyze.locality import depths_of, first_requests, hit_curve, rates
from locum.analyze.segments import Segments
from locum.native.replay import NEXT, USES, lru_depths
from locum.trace import TraceMeta


def hit_curves(segments: Segments, meta: TraceMeta) -> dict[str, Any]:
    """`lru`, `lfu` and `belady`: `rate` [E] for caches of 1 to E experts per layer, `low`, `high`; None below
    the experts of one token. `random`: the rate if choices were independent and even.
    """
    experts = max(meta.experts)
    lru_nE = depths_of(segments, lambda keys, starts: lru_depths(keys, starts, experts))
    first_E = first_requests(segments, experts)
    return plain({
        "lru": rates(lru_nE, max(meta.top_k), first_E),
        "lfu": hit_curve(segments, meta, USES),
        "belady": hit_curve(segments, meta, NEXT),
        "random": np.mean([np.minimum(np.arange(1, experts + 1) / e, 1) for e in meta.experts], axis=0),
    })  # fmt: skip
