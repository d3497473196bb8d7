"""Traces made up of random numbers, with dials for load, domains, locality and affinity.

A choice is made like this. Every layer has a popularity per expert, log-normal; the text's domain and the
request tilt it. To its logarithm each token adds luck, which follows Gumbel's distribution: the K largest
sums are then a draw without replacement by popularity. An expert's luck of the token before stays with a
probability, or is drawn anew. Experts are linked to those of their class in the next layer, a fifth of all,
which they lift when they are chosen. So load, domains, locality and affinity can be set one by one.

Sources: Yellott, 1977, and Kool et al., 2019 (arXiv 1903.06059), the K largest sums; DeepSeek-AI, 2024 (arXiv
2412.19437), choice within the groups whose two best sum to most.

Axes: r requests, T tokens, t tokens of a block, L layers, E experts, K chosen, G groups, n choices,
C classes.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from locum.trace.columns import DECODE, PREFILL, Rows
from locum.trace.meta import TraceMeta
from locum.trace.profiles import Profile

PROMPT = 128
"""Tokens of a prompt, in one step; the rest of a request is decoded one by one."""
CLASSES = 5
"""Of a layer's experts, drawn at random; one is linked to those of its class in the next layer."""
_REQUESTS = 32  # made side by side
_BLOCK = 1 << 22  # scores at a time: memory stays flat

Floats = NDArray[np.float32]


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
        columns=("weights", "domain") if profile.weighted else ("domain",),
    )


def synthesise(profile: Profile, tokens: int, *, length: int = 512, seed: int = 0) -> Iterator[Rows]:
    """`tokens` rows in requests of `length` tokens, one after the other; the same for the same arguments."""
    random = np.random.default_rng(seed)
    world = _World(profile, random)
    request = step = made = 0
    while made < tokens:
        count = min(_REQUESTS, -(-(tokens - made) // length))
        domain_r = random.integers(0, profile.domains, count)
        ids_rTLK, weights_rTLK = world.requests(domain_r, length, random)
        for place, domain in enumerate(domain_r):
            ids_TLK = ids_rTLK[place, : tokens - made]
            weights_TLK = None if weights_rTLK is None else weights_rTLK[place, : tokens - made]
            yield _rows(ids_TLK, weights_TLK, request, step, f"domain {domain}")
            request, made = request + 1, made + len(ids_TLK)
            step += 1 + max(0, len(ids_TLK) - PROMPT)


def _rows(
    ids_TLK: NDArray[np.int16], weights_TLK: NDArray[np.float16] | None, request: int, step: int, domain: str
) -> Rows:
    position_T = np.arange(len(ids_TLK), dtype=np.int32)
    decoding_T = position_T >= PROMPT
    return Rows(
        request=np.full(len(ids_TLK), request, np.int32),
        position=position_T,
        step=step + np.maximum(0, position_T - PROMPT + 1).astype(np.int64),
        phase=np.where(decoding_T, DECODE, PREFILL).astype(np.uint8),
        experts=ids_TLK,
        weights=weights_TLK,
        domain=np.full(len(ids_TLK), domain, object),
    )


class _World:
    """What stays the same for all requests: popularity, domains, links."""

    def __init__(self, profile: Profile, random: np.random.Generator) -> None:
        self.profile = p = profile
        shape = p.layers, p.experts
        self.popular_LE = p.spread * random.standard_normal(shape)
        self.domain_DLE = p.domain_spread * random.standard_normal((p.domains, *shape))
        evenly_LE = np.broadcast_to(np.arange(p.experts) % CLASSES, shape)
        self.class_LE = random.permuted(evenly_LE, axis=1)
        self.stay_L = np.full(p.layers, p.stay, np.float32)
        self.stay_L[0] = 0
        self.text_L1 = np.ones((p.layers, 1))
        self.text_L1[[0, -1]] = p.text_ends

    def requests(
        self, domain_r: NDArray[np.int64], length: int, random: np.random.Generator
    ) -> tuple[NDArray[np.int16], NDArray[np.float16] | None]:
        """Ids [r, T, L, K], ascending in K, and their weights if the profile has any."""
        p, count = self.profile, len(domain_r)
        request_rLE = p.request_spread * random.standard_normal((count, p.layers, p.experts))
        tilt_rLE = self.popular_LE + self.text_L1 * (request_rLE + self.domain_DLE[domain_r])
        tilt_LrE = tilt_rLE.swapaxes(0, 1).astype(np.float32)
        shape = count, length, p.layers, p.top_k
        ids_rTLK = np.empty(shape, np.int16)
        weights_rTLK = np.empty(shape, np.float16) if p.weighted else None
        luck_LrE = _gumbel(random, tilt_LrE.shape)
        for start in range(0, length, block := max(1, _BLOCK // tilt_LrE.size)):
            stop = min(length, start + block)
            score_LtrE = np.empty((p.layers, stop - start, count, p.experts), np.float32)
            for token in range(start, stop):
                np.add(tilt_LrE, luck_LrE, out=score_LtrE[:, token - start])
                self._renew(luck_LrE, random)
            ids_LtrK = self._choose(score_LtrE)
            ids_rTLK[:, start:stop] = ids_LtrK.transpose(2, 1, 0, 3)
            if weights_rTLK is not None:
                chosen_LtrK = np.take_along_axis(score_LtrE, ids_LtrK, axis=3)
                weights_rTLK[:, start:stop] = _softmax(chosen_LtrK).transpose(2, 1, 0, 3)
        return ids_rTLK, weights_rTLK

    def _renew(self, luck_LrE: Floats, random: np.random.Generator) -> None:
        """The next token's luck in place of this one's."""
        fresh_LrE = _gumbel(random, luck_LrE.shape)
        goes_LrE = random.random(luck_LrE.shape, np.float32) >= self.stay_L[:, None, None]
        if self.profile.repeat_last is not None:
            goes_LrE[-1] = random.random((luck_LrE.shape[1], 1)) >= self.profile.repeat_last
        np.copyto(luck_LrE, fresh_LrE, where=goes_LrE)

    def _choose(self, score_LtrE: Floats) -> NDArray[np.int64]:
        """[L, t, r, K], layer by layer. What the links add is added to the scores."""
        p = self.profile
        flat_LnE = score_LtrE.reshape(p.layers, -1, p.experts)
        ids_LnK = np.empty((*flat_LnE.shape[:2], p.top_k), np.int64)
        for layer, score_nE in enumerate(flat_LnE):
            if p.link and layer:
                self._lift(score_nE, ids_LnK[layer - 1], layer)
            ids_LnK[layer] = best(score_nE, p.top_k, p.groups, p.groups_kept)
        return ids_LnK.reshape(*score_LtrE.shape[:3], p.top_k)

    def _lift(self, score_nE: Floats, before_nK: NDArray[np.int64], layer: int) -> None:
        class_nK = self.class_LE[layer - 1][before_nK]
        count_nC = np.stack([(class_nK == number).sum(1) for number in range(CLASSES)], axis=1)
        score_nE += (self.profile.link * count_nC).astype(np.float32)[:, self.class_LE[layer]]


def best(score_nE: Floats, top_k: int, groups: int = 1, groups_kept: int = 1) -> NDArray[np.int64]:
    """[n, K] ascending: where the `top_k` largest scores are, in those `groups_kept` groups whose two largest
    sum to most.
    """
    if groups_kept < groups:
        score_nGE = score_nE.reshape(len(score_nE), groups, -1)
        sum_nG = np.partition(score_nGE, -2, axis=2)[:, :, -2:].sum(2)
        out_nG = np.argpartition(-sum_nG, groups_kept, axis=1)[:, groups_kept:]
        score_nGE = score_nGE.copy()
        score_nGE[np.arange(len(score_nE))[:, None], out_nG] = -np.inf
        score_nE = score_nGE.reshape(score_nE.shape)
    place = score_nE.shape[1] - top_k
    return np.sort(np.argpartition(score_nE, place, axis=1)[:, place:], axis=1)


def _gumbel(random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    found = random.standard_exponential(shape, np.float32)
    np.maximum(found, np.float32(1e-30), out=found)  # a draw may be 0, whose logarithm is none
    return np.negative(np.log(found, out=found), out=found)


def _softmax(score_LtrK: Floats) -> NDArray[np.float16]:
    power_LtrK = np.exp(score_LtrK - score_LtrK.max(3, keepdims=True))
    found: NDArray[np.float16] = (power_LtrK / power_LtrK.sum(3, keepdims=True)).astype(np.float16)
    return found
