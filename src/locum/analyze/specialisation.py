"""What an expert's work tells: the domain of the text, or the token itself.

Sources: "Not All Models Suit Expert Offloading", 2025 (arXiv 2505.16056), variation over domains; Muennighoff
et al., "OLMoE", 2024 (arXiv 2409.02060), vocabulary specialisation. Both with minimum counts, because a token
seen once seems to be a specialist's, and beside what chance alone gives.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.analyze.base import Metric, count_choices, divide, plain
from locum.trace import Rows, TraceMeta

LEAST_TOKENS = 500
"""Tokens below which a domain is left out."""
LEAST_SEEN = 20
"""Occurrences below which a token is left out."""
TOKENS = 1024
"""Different tokens that are followed: the first ones, among which the frequent ones are."""


class Domains(Metric):
    """Load per domain. `bits`: how much a choice tells about the domain, on average; exact but for the bias
    that counting has, which `bits_by_chance` states.
    """

    needs = ("experts", "domain")

    def __init__(self, meta: TraceMeta) -> None:
        super().__init__(meta)
        self.counts: dict[str, NDArray[np.int64]] = {}
        self.rows: dict[str, int] = {}

    def update(self, rows: Rows) -> None:
        """Count by domain; rows without one are left out."""
        assert rows.domain is not None
        for name in sorted({name for name in rows.domain if name is not None}):
            chosen = rows.domain == name
            found = count_choices(rows.experts[chosen], self.experts)
            self.counts[name] = self.counts.get(name, 0) + found
            self.rows[name] = self.rows.get(name, 0) + int(chosen.sum())

    def result(self) -> dict[str, Any]:
        """`domains` with their rows, those `left_out`, `rates` [domain][L][E] of tokens that chose an expert,
        and per layer `variation` (mean over experts of deviation over mean), `bits`, `bits_by_chance`.
        """
        names = [name for name, rows in self.rows.items() if rows >= LEAST_TOKENS]
        document: dict[str, Any] = {
            "domains": {name: self.rows[name] for name in names},
            "left_out": sorted(set(self.rows).difference(names)),
        }
        if len(names) < 2:
            return document | {"why": f"fewer than two domains of {LEAST_TOKENS} tokens"}
        counts_DLE = np.stack([self.counts[name] for name in names])
        rates_DLE = counts_DLE / np.array([self.rows[name] for name in names])[:, None, None]
        variation_LE = divide(rates_DLE.std(0), rates_DLE.mean(0))
        told = [told_bits(counts_DLE[:, layer]) for layer in range(self.layers)]
        return plain(document | {
            "rates": dict(zip(names, rates_DLE, strict=True)),
            "variation": np.nanmean(variation_LE, axis=1),
            "bits": [bits for bits, _ in told],
            "bits_by_chance": [chance for _, chance in told],
        })  # fmt: skip


def told_bits(counts_DE: NDArray[np.int64]) -> tuple[float, float]:
    """(mutual information of row and column in bits, what independent ones would seem to have).

    Every domain counts alike, however much there is of it. Source of the bias: Miller, 1955.
    """
    shares_DE = divide(counts_DE, counts_DE.sum(1, keepdims=True)) / len(counts_DE)
    both = divide(shares_DE, shares_DE.sum(1, keepdims=True) * shares_DE.sum(0, keepdims=True))
    bits = np.nansum(shares_DE * np.log2(both, out=np.zeros_like(both), where=both > 0))
    used, total = (counts_DE.sum(0) > 0).sum(), counts_DE.sum()
    return float(bits), float((len(counts_DE) - 1) * (used - 1) / (2 * total * np.log(2)))


class Vocabulary(Metric):
    """How much a token id alone says of its experts: the share of a token's occurrences that its most usual
    expert takes part in, mean over tokens seen at least 20 times.
    """

    needs = ("experts", "token")

    def __init__(self, meta: TraceMeta) -> None:
        super().__init__(meta)
        self._place: dict[int, int] = {}
        self._seen = np.zeros(TOKENS, np.int64)
        self._counts_VLE = np.zeros((TOKENS, self.layers, self.experts), np.int32)
        self._load_LE = np.zeros((self.layers, self.experts), np.int64)
        self._rows = 0

    def update(self, rows: Rows) -> None:
        """Count the followed tokens' choices."""
        assert rows.token is not None
        self._load_LE += count_choices(rows.experts, self.experts)
        self._rows += len(rows)
        tokens, which_t = np.unique(rows.token, return_inverse=True)
        for token in tokens.tolist():
            if token not in self._place and len(self._place) < TOKENS:
                self._place[token] = len(self._place)
        place_t = np.array([self._place.get(token, -1) for token in tokens.tolist()])[which_t]
        followed = place_t >= 0
        place_t, ids_tLK = place_t[followed], rows.experts[followed].astype(np.int64)
        self._seen += np.bincount(place_t, minlength=TOKENS)
        first = (place_t[:, None, None] * self.layers + np.arange(self.layers)[:, None]) * self.experts
        np.add.at(self._counts_VLE.reshape(-1), (first + ids_tLK)[ids_tLK >= 0], np.int32(1))

    def result(self) -> dict[str, Any]:
        """`tokens` counted, per layer the mean `share` and what the load alone gives `by_chance`."""
        often = [place for _, place in sorted(self._place.items()) if self._seen[place] >= LEAST_SEEN]
        if not often:
            return {"tokens": 0, "why": f"no followed token was seen {LEAST_SEEN} times"}
        seen_V = self._seen[often]
        share_VL = self._counts_VLE[often].max(2) / seen_V[:, None]
        chance = np.random.default_rng(0)
        rate_LE = self._load_LE / self._rows
        by_chance = [
            np.mean([chance.binomial(seen, np.minimum(rate, 1)).max() / seen for seen in seen_V])
            for rate in rate_LE
        ]
        return plain({"tokens": len(often), "share": share_VL.mean(0), "by_chance": by_chance})
