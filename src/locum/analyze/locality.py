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
    lengths = tuple(m for m in lengths if any(len(ids) >= m for ids in segments.found))
    counts = by_length(segments.found, meta, lengths)
    mixed = by_length(_shuffled(segments.found), meta, lengths)
    found: dict[str, Any] = {}
    for m in lengths:
        counts_nLC = np.stack(counts[m])
        model, kept, threshold = (figure[()] for figure in best_f1(counts_nLC.sum((0, 1))))
        layers_L, _, _ = best_f1(counts_nLC.sum(0))
        random, _, _ = best_f1(np.sum(mixed[m], axis=(0, 1)))
        found[str(m)] = {
            "model": model, "ci": _interval(counts_nLC.sum(1)), "kept": kept, "threshold": threshold,
            "layers": layers_L, "random": random,
        }  # fmt: skip
    return plain(found)


def by_length(
    texts: list[NDArray[np.int16]], meta: TraceMeta, lengths: tuple[int, ...]
) -> dict[int, list[NDArray[np.int64]]]:
    """Per length, `window_counts` of each text that is as long."""
    found: dict[int, list[NDArray[np.int64]]] = {m: [] for m in lengths}
    for ids_TLK in texts:
        total_TLE = _running(ids_TLK, max(meta.experts))
        for m in lengths:
            if len(ids_TLK) >= m:
                found[m].append(window_counts(total_TLE, meta, m))
    return found


def _shuffled(texts: list[NDArray[np.int16]]) -> list[NDArray[np.int16]]:
    """All tokens of the sample in random order, cut as before: what remains without any locality."""
    tokens = np.concatenate(texts)
    mixed = tokens[np.random.default_rng(0).permutation(len(tokens))]
    return np.split(mixed, np.cumsum([len(ids) for ids in texts])[:-1])


def _running(ids_TLK: NDArray[np.int16], experts: int) -> NDArray[np.int32]:
    """[T + 1, L, E]: how many of the tokens before chose each expert."""
    tokens, layers, _ = ids_TLK.shape
    chosen_TLE = np.zeros((tokens + 1, layers, experts + 1), np.int32)
    place_TL1 = np.arange(1, tokens + 1)[:, None, None], np.arange(layers)[:, None]
    chosen_TLE[(*place_TL1, ids_TLK)] = 1  # -1 is the last place, which is nobody's
    total_TLE: NDArray[np.int32] = chosen_TLE[:, :, :-1].cumsum(0, dtype=np.int32)
    return total_TLE


def window_counts(total_TLE: NDArray[np.int32], meta: TraceMeta, m: int) -> NDArray[np.int64]:
    """[L, C]: in how many windows of m tokens an expert of layer l was chosen c times, experts added up.

    `total_TLE` as `_running` gives it.
    """
    tokens, layers, experts = len(total_TLE) - 1, *total_TLE.shape[1:]
    count_WLE = total_TLE[m:] - total_TLE[:-m]
    count_WLE += (np.arange(layers, dtype=np.int32) * (m + 1))[:, None]
    counts = np.bincount(count_WLE.reshape(-1), minlength=layers * (m + 1)).reshape(layers, m + 1)
    counts[:, 0] -= (experts - np.array(meta.experts)) * (tokens - m + 1)  # those that layer l does not have
    return counts


def best_f1(counts_XC: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """(best F1, tokens predicted over tokens chosen there, threshold) from histograms of window counts.

    NaN, NaN, 0 where nobody was chosen.
    """
    m = counts_XC.shape[-1] - 1
    right_XC = np.cumsum((counts_XC * np.arange(m + 1))[..., ::-1], axis=-1)[..., ::-1]
    predicted_XC = m * np.cumsum(counts_XC[..., ::-1], axis=-1)[..., ::-1]
    f1_XC = divide(2 * right_XC, predicted_XC + right_XC[..., :1])
    best_X1 = np.argmax(np.nan_to_num(f1_XC, nan=-1.0), axis=-1, keepdims=True)
    nobody_X = right_XC[..., 0] == 0

    def there(figure_XC: NDArray[Any]) -> NDArray[np.float64]:
        return np.where(nobody_X, np.nan, np.take_along_axis(figure_XC, best_X1, -1)[..., 0])

    kept_XC = divide(predicted_XC, right_XC[..., :1])
    return there(f1_XC), there(kept_XC), np.where(nobody_X, 0, best_X1[..., 0])


def _interval(counts_nC: NDArray[np.int64], draws: int = 1000) -> tuple[float, float]:
    """95% bootstrap interval of the best F1, over segments; the threshold is chosen anew each time."""
    if len(counts_nC) < 2:
        return float("nan"), float("nan")
    even = np.full(len(counts_nC), 1 / len(counts_nC))
    picked = np.random.default_rng(0).multinomial(len(counts_nC), even, draws).astype(float)
    low, high = np.quantile(best_f1(picked @ counts_nC)[0], [0.025, 0.975])
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
    low_E, high_E = bootstrap(hits_nE, asked_n)
    rate_E[: least - 1] = np.nan
    return {
        "rate": rate_E, "low": low_E, "high": high_E,
        "cold": first_E / asked_n.sum(),
    }  # fmt: skip
