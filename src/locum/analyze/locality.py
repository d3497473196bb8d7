"""Local routing consistency: SRP and SCH.

Source: "Not All Models Suit Expert Offloading", 2025 (arXiv 2505.16056).

SRP(m), segment routing best performance: an expert is to be kept or left for m tokens in a row; the best F1
that any rule reaches, which keeps it when it is chosen at least t times in those m, for the best t. Windows
overlap: one begins at each token. For a group of experts the counts are added up before t is chosen.

SCH(m, n), segment cache best hit rate: a cache of n experts that sees the next m tokens and lets go of the
expert they choose least, the longest unused among equals.

A first request is a miss here. The authors count it as a hit while the cache has free room, which flatters
short texts; `cold` says how much that would be.

Axes: T tokens of a segment, L MoE layers, K chosen, E experts, W windows, C counts 0 to m.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.analyze.base import divide, plain
from locum.analyze.segments import Segments, bootstrap, layer_acquires
from locum.native.replay import WINDOW, score_depths
from locum.trace import TraceMeta

LENGTHS = (4, 16, 64, 256)


def segment_routing(
    segments: Segments, meta: TraceMeta, lengths: tuple[int, ...] = LENGTHS
) -> dict[str, Any]:
    """SRP per segment length: `model` with its interval, `layers`, and `kept`: how many experts the best rule
    keeps, over those chosen per token. `random` is SRP of the same tokens in random order.
    """
    found: dict[str, Any] = {}
    for m in lengths:
        windows = [ids for ids in segments.found if len(ids) >= m]
        if not windows:
            continue
        counts_nLC = np.stack([window_counts(ids, meta, m) for ids in windows])
        model, kept, threshold = best_f1(counts_nLC.sum((0, 1)))
        low, high = _interval(counts_nLC.sum(1))
        mixed_LC = sum(window_counts(ids, meta, m) for ids in _shuffled(windows))
        found[str(m)] = {
            "model": model, "ci": (low, high), "kept": kept, "threshold": threshold,
            "layers": [best_f1(counts_C)[0] for counts_C in counts_nLC.sum(0)],
            "random": best_f1(np.asarray(mixed_LC).sum(0))[0],
        }  # fmt: skip
    return plain(found)


def _shuffled(windows: list[NDArray[np.int16]]) -> list[NDArray[np.int16]]:
    """All tokens of the sample in random order, cut as before: what remains without any locality."""
    tokens = np.concatenate(windows)
    mixed = tokens[np.random.default_rng(0).permutation(len(tokens))]
    return np.split(mixed, np.cumsum([len(ids) for ids in windows])[:-1])


def window_counts(ids_TLK: NDArray[np.int16], meta: TraceMeta, m: int) -> NDArray[np.int64]:
    """[L, C]: in how many windows of m tokens an expert of layer l was chosen c times, experts added up."""
    tokens, layers, _ = ids_TLK.shape
    experts = max(meta.experts)
    chosen_TLE = np.zeros((tokens + 1, layers, experts + 1), np.int32)
    place_TL1 = np.arange(1, tokens + 1)[:, None, None], np.arange(layers)[:, None]
    chosen_TLE[(*place_TL1, ids_TLK)] = 1  # -1 is the last place, which is nobody's
    total_TLE = chosen_TLE[:, :, :-1].cumsum(0)
    count_WLE = total_TLE[m:] - total_TLE[:-m]
    flat = count_WLE + (np.arange(layers) * (m + 1))[:, None]
    counts = np.bincount(flat.reshape(-1), minlength=layers * (m + 1)).reshape(layers, m + 1)
    counts[:, 0] -= (experts - np.array(meta.experts)) * (tokens - m + 1)  # those that layer l does not have
    return counts


def best_f1(counts_C: NDArray[Any]) -> tuple[float, float, int]:
    """(best F1, tokens predicted over tokens chosen there, threshold) from a histogram of window counts."""
    m = len(counts_C) - 1
    number_C = np.arange(m + 1)
    right_C = np.cumsum((counts_C * number_C)[::-1])[::-1]
    predicted_C = m * np.cumsum(counts_C[::-1])[::-1]
    f1_C = divide(2 * right_C, predicted_C + right_C[0])
    if np.isnan(f1_C).all():
        return float("nan"), float("nan"), 0
    best = int(np.nanargmax(f1_C))
    return float(f1_C[best]), float(divide(predicted_C[best], right_C[0])[()]), best


def _interval(counts_nC: NDArray[np.int64], draws: int = 1000) -> tuple[float, float]:
    """95% bootstrap interval of the best F1, over segments; the threshold is chosen anew each time."""
    if len(counts_nC) < 2:
        return float("nan"), float("nan")
    even = np.full(len(counts_nC), 1 / len(counts_nC))
    picked = np.random.default_rng(0).multinomial(len(counts_nC), even, draws)
    low, high = np.quantile([best_f1(counts_C)[0] for counts_C in picked @ counts_nC], [0.025, 0.975])
    return float(low), float(high)


def segment_cache(segments: Segments, meta: TraceMeta, lengths: tuple[int, ...] = LENGTHS) -> dict[str, Any]:
    """SCH per look-ahead: `rate` by cache size 1 to E, mean of the layers and tokens, with `low` and `high`;
    None below the experts of one token. `cold`: the rate that first requests would add.
    """
    return plain({str(m): hit_curve(segments, meta, WINDOW, m) for m in lengths})


def hit_curve(segments: Segments, meta: TraceMeta, kind: int, window: int = 0) -> dict[str, Any]:
    """Hit rates by size of a cache per layer, each segment from an empty one, interval over segments."""
    experts = max(meta.experts)
    depths_nE = depths_of(segments, lambda keys, starts: score_depths(keys, starts, experts, kind, window))
    return rates(depths_nE, max(meta.top_k), first_requests(segments, experts))


def depths_of(segments: Segments, count: Callable[..., NDArray[np.int64]]) -> NDArray[np.int64]:
    """[n, E + 1]: `count(keys, starts)` per segment, its layers added up."""
    layers = [[count(*layer_acquires(ids_TK)) for ids_TK in ids.swapaxes(0, 1)] for ids in segments.found]
    found: NDArray[np.int64] = np.array(layers).sum(1)
    return found


def first_requests(segments: Segments, experts: int) -> NDArray[np.int64]:
    """[E]: how many first requests a cache of n experts meets while it has free room, layers and segments
    added up.
    """
    layers = [ids_TK for ids in segments.found for ids_TK in ids.swapaxes(0, 1)]
    distinct = [len(np.unique(ids_TK[ids_TK >= 0])) for ids_TK in layers]
    found: NDArray[np.int64] = np.minimum(np.array(distinct)[:, None], np.arange(1, experts + 1)).sum(0)
    return found


def rates(depths_nE: NDArray[np.int64], least: int, first_E: NDArray[np.int64]) -> dict[str, Any]:
    """Histograms of depths to hit rates by size."""
    hits_nE, asked_n = depths_nE[:, 1:].cumsum(1), depths_nE.sum(1)
    rate_E = hits_nE.sum(0) / asked_n.sum()
    bands = [bootstrap(hits, asked_n) for hits in hits_nE.T]
    rate_E[: least - 1] = np.nan
    return {
        "rate": rate_E, "low": [low for low, _ in bands], "high": [high for _, high in bands],
        "cold": first_E / asked_n.sum(),
    }  # fmt: skip
