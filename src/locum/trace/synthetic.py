"""Traces made up of random numbers, with dials for load, domains, locality and affinity.

A choice is made like this. Every layer has a popularity per expert, log-normal; the text's domain and the
request tilt it. Of the token before, each expert stays with a probability; the rest are drawn without
replacement, by popularity and by the links from the experts that the layer before has chosen. So load,
domains, locality and affinity can be set one by one.

Axes: r requests, T tokens, L layers, E experts, K chosen.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locum.errors import UsageError
from locum.trace.columns import DECODE, PREFILL, Rows
from locum.trace.meta import TraceMeta

PROMPT = 128
"""Tokens of a prompt, in one step; the rest of a request is decoded one by one."""
LINKED = 0.2
"""The share of the next layer's experts that an expert is linked to."""
_REQUESTS = 16  # made side by side


@dataclass(frozen=True, slots=True)
class Profile:
    """A model's shape and its dials. Spreads are standard deviations of log-popularity."""

    layers: int
    experts: int
    top_k: int
    spread: float
    stay: float
    """Probability that an expert stays for the next token, from the second layer on."""
    stay_first: float = 0.0
    """The same in the first layer."""
    link: float = 0.0
    """What a link adds to an expert's log-popularity."""
    domain_spread: float = 0.3
    request_spread: float = 0.3
    domains: int = 4
    dense_first: int = 0
    shared: int = 0


PROFILES: Mapping[str, Profile] = {
    "uniform": Profile(16, 64, 8, spread=0.0, stay=0.0, domain_spread=0.0, request_spread=0.0),
}
"""By name."""


def synthetic_meta(name: str, profile: Profile, seed: int) -> TraceMeta:
    """What a made trace says of itself: no bytes, because it is of no model."""
    return TraceMeta(
        model=f"synthetic/{name}",
        moe_layers=tuple(range(profile.dense_first, profile.dense_first + profile.layers)),
        experts=(profile.experts,) * profile.layers,
        top_k=(profile.top_k,) * profile.layers,
        shared_experts=profile.shared,
        engine="locum synthetic",
        seed=seed,
        columns=("domain",),
    )


def find(name: str) -> Profile:
    """The profile of that name. Raises `UsageError`."""
    if name not in PROFILES:
        raise UsageError("no such profile", allowed=", ".join(PROFILES), got=name)
    return PROFILES[name]


def synthesise(profile: Profile, tokens: int, *, length: int = 512, seed: int = 0) -> Iterator[Rows]:
    """`tokens` rows in requests of `length` tokens, one after the other; the same for the same seed."""
    random = np.random.default_rng(seed)
    world = _World(profile, random)
    request = step = made = 0
    while made < tokens:
        domain_r = random.integers(0, profile.domains, _REQUESTS)
        for domain, whole_TLK in zip(domain_r, world.requests(domain_r, length, random), strict=True):
            ids_TLK = whole_TLK[: tokens - made]
            if not len(ids_TLK):
                return
            yield _rows(ids_TLK, request, step, f"domain {domain}")
            request, made = request + 1, made + len(ids_TLK)
            step += 1 + max(0, len(ids_TLK) - PROMPT)


def _rows(ids_TLK: NDArray[np.int16], request: int, step: int, domain: str) -> Rows:
    position_T = np.arange(len(ids_TLK), dtype=np.int32)
    decoding_T = position_T >= PROMPT
    return Rows(
        request=np.full(len(ids_TLK), request, np.int32),
        position=position_T,
        step=step + np.maximum(0, position_T - PROMPT + 1).astype(np.int64),
        phase=np.where(decoding_T, DECODE, PREFILL).astype(np.uint8),
        experts=ids_TLK,
        domain=np.full(len(ids_TLK), domain, object),
    )


class _World:
    """What stays the same for all requests: popularity, domains, links."""

    def __init__(self, profile: Profile, random: np.random.Generator) -> None:
        self.profile = profile
        shape = profile.layers, profile.experts
        self.popular_LE = profile.spread * random.standard_normal(shape)
        self.domain_DLE = profile.domain_spread * random.standard_normal((profile.domains, *shape))
        linked = max(1, round(LINKED * profile.experts))
        order_LEE = random.random((profile.layers, profile.experts, profile.experts)).argsort(2)
        self.link_LEE = np.where(order_LEE < linked, profile.link, 0.0)
        self.stay_L = np.full(profile.layers, profile.stay)
        self.stay_L[0] = profile.stay_first

    def requests(
        self, domain_r: NDArray[np.int64], length: int, random: np.random.Generator
    ) -> NDArray[np.int16]:
        """[r, T, L, K], ascending in K."""
        p, count = self.profile, len(domain_r)
        tilt_rLE = p.request_spread * random.standard_normal((count, p.layers, p.experts))
        tilt_rLE += self.popular_LE + self.domain_DLE[domain_r]
        found = np.empty((count, length, p.layers, p.top_k), np.int16)
        place_r1 = np.arange(count)[:, None]
        for token in range(length):
            chosen_rK = np.zeros((count, 0), np.int64)
            for layer in range(p.layers):
                score_rE = tilt_rLE[:, layer] + random.gumbel(size=(count, p.experts))
                if p.link and layer:
                    score_rE += self.link_LEE[layer][chosen_rK].sum(1)
                if token:
                    before_rK = found[:, token - 1, layer].astype(np.int64)
                    stays = random.random(before_rK.shape) < self.stay_L[layer]
                    score_rE[np.broadcast_to(place_r1, before_rK.shape)[stays], before_rK[stays]] = np.inf
                chosen_rK = np.sort(np.argpartition(-score_rE, p.top_k - 1, axis=1)[:, : p.top_k], axis=1)
                found[:, token, layer] = chosen_rK
        return found
