"""From logits to the next token: greedy, or drawn from a filtered distribution.

Filters and their order are those of transformers 5 `generate`, in float32: repetition penalty (Keskar et al.,
CTRL, 2019), temperature, top-k (Fan et al., 2018), top-p (Holtzman et al., 2020), min-p (Nguyen et al.,
2024).
Every request has its own random generator, so what it draws does not depend on other requests.

Axes: V vocabulary, N the tokens that are left.
"""

import math
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from locum.errors import NumericsError, PromptError, UsageError

_MAX_SEED = 2**63 - 1
_SORT_ALL = 2048  # tokens; sorting a vocabulary of 150k costs 14 ms, sorting its likely part 1


@dataclass(frozen=True)
class SamplingParams:
    """How one request chooses its tokens. Raises `UsageError` for a value outside its range.

    `temperature` 0 is greedy; then only `repetition_penalty` has an effect. `top_k` 0 (or -1), `top_p` 1 and
    `min_p` 0 keep every token. `repetition_penalty` 1 changes nothing; the prompt's tokens count as well.
    `seed` None is drawn anew for each request. At most `max_tokens` are generated; any of `stop` ends the
    text before it; `ignore_eos` goes on after an end token.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, "0 (greedy) or more", lambda x: x >= 0)
        _number("top_p", self.top_p, "more than 0, at most 1", lambda x: 0 < x <= 1)
        _number("min_p", self.min_p, "0 to 1", lambda x: 0 <= x <= 1)
        _number("repetition_penalty", self.repetition_penalty, "more than 0", lambda x: x > 0)
        _integer("top_k", self.top_k, "1 or more, or 0 for all tokens", -1, None)
        _integer("max_tokens", self.max_tokens, "1 or more", 1, None)
        if self.seed is not None:
            _integer("seed", self.seed, f"0 to {_MAX_SEED}", 0, _MAX_SEED)
        if self.ignore_eos not in (True, False):
            raise UsageError("bad ignore_eos", allowed="true or false", got=repr(self.ignore_eos))
        object.__setattr__(self, "stop", _texts("stop", self.stop))
        object.__setattr__(self, "top_k", max(self.top_k, 0))

    @property
    def greedy(self) -> bool:
        """The likeliest token is taken; nothing is drawn."""
        return self.temperature == 0


def _number(name: str, value: Any, allowed: str, fits: Callable[[float], bool]) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not fits(value):
        raise UsageError(f"bad {name}", allowed=allowed, got=repr(value))


def _integer(name: str, value: Any, allowed: str, low: int, high: int | None) -> None:
    integer = isinstance(value, int) and not isinstance(value, bool)
    if not integer or value < low or (high is not None and value > high):
        raise UsageError(f"bad {name}", allowed=f"an integer, {allowed}", got=repr(value))


def _texts(name: str, value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise UsageError(f"bad {name}", allowed="texts of at least one character", got=repr(value))
    return tuple(texts)


class Sampler:
    """Chooses the tokens of one request. `seed` is the one in use, also when none was asked for."""

    def __init__(self, params: SamplingParams, prompt: Iterable[int] = ()) -> None:
        self.params = params
        self.seed = secrets.randbits(63) if params.seed is None else params.seed
        self._random = torch.Generator().manual_seed(self.seed)
        self._seen = _Seen(prompt, params.repetition_penalty)

    def sample(self, logits_V: Tensor) -> int:
        """The next token, given the logits [V] (any float dtype) after the last one. It counts as seen.

        Greedy ties go to the lowest id. Raises `NumericsError` for NaN, +inf, or no finite logit.
        """
        if self.params.greedy:
            token = int(self._scores(logits_V).argmax())  # documented: the first of equal maxima
        else:
            probabilities_N, ids_N = self.distribution(logits_V)
            token = int(ids_N[_draw(probabilities_N, self._random)])
        self._seen.add(token)
        return token

    def observe(self, token: int) -> None:
        """Count a token that was chosen elsewhere as seen."""
        self._seen.add(token)

    def distribution(self, logits_V: Tensor) -> tuple[Tensor, Tensor]:
        """What `sample` draws from: probabilities [N] (float32, sum 1) and their token ids [N], ascending.

        Greedy parameters give the one token that would be taken. Raises `NumericsError` like `sample`.
        """
        params = self.params
        scores_V = self._scores(logits_V)
        if params.greedy:
            return torch.ones(1), scores_V.argmax()[None]
        scores_N, ids_N = _top_k(_heated(scores_V, params.temperature), params.top_k)
        if params.top_p < 1:
            keep_N = _in_nucleus(scores_N, params.top_p)
            scores_N, ids_N = scores_N[keep_N], ids_N[keep_N]
        if params.min_p > 0:
            keep_N = _likely_enough(scores_N, params.min_p)
            scores_N, ids_N = scores_N[keep_N], ids_N[keep_N]
        return scores_N.softmax(-1), ids_N

    def _scores(self, logits_V: Tensor) -> Tensor:
        scores_V = self._seen.penalise(logits_V.to(torch.float32))
        highest = float(scores_V.max())  # NaN if there is one
        if not math.isfinite(highest):
            raise NumericsError(
                "no token can be chosen from these logits",
                allowed="numbers below infinity, at least one above minus infinity",
                got=f"a highest logit of {highest}",
                todo="A weight is NaN or infinite: check the checkpoint, or run it in another dtype",
            )
        return scores_V


def log_probability(logits_V: Tensor, token: int) -> float:
    """The natural logarithm of the model's own probability of `token`: no penalty, temperature or filter.

    `logits_V`: [V], any float dtype. Raises `NumericsError` when the logits give no distribution.
    """
    logits_V = logits_V.double()
    value = float(logits_V[token] - logits_V.logsumexp(-1))
    if math.isnan(value):
        raise NumericsError("these logits give no distribution", got="NaN, +inf, or nothing but -inf")
    return value


class _Seen:
    """The distinct tokens of prompt and answer, and their penalty."""

    def __init__(self, prompt: Iterable[int], penalty: float) -> None:
        self._penalty, self._known = penalty, set[int]()
        self._ids_N = torch.empty(256, dtype=torch.long)  # grows by doubling
        for token in prompt if penalty != 1 else ():
            self.add(token)

    def add(self, token: int) -> None:
        if self._penalty == 1 or token in self._known:
            return
        if token < 0:
            raise PromptError("not a token id", allowed="0 or more", got=token)
        count = len(self._known)
        if count == len(self._ids_N):
            self._ids_N = torch.cat([self._ids_N, torch.empty_like(self._ids_N)])
        self._ids_N[count] = token
        self._known.add(token)

    def penalise(self, scores_V: Tensor) -> Tensor:
        """Seen tokens lose: a positive score is divided by the penalty, a negative one multiplied."""
        if not self._known:
            return scores_V
        ids_N = self._ids_N[: len(self._known)]
        ids_N = ids_N[ids_N < len(scores_V)]  # an embedding may have rows that the head does not
        scores_N = scores_V[ids_N]
        scores_N = torch.where(scores_N < 0, scores_N * self._penalty, scores_N / self._penalty)
        return scores_V.index_copy(0, ids_N, scores_N)


def _heated(scores_V: Tensor, temperature: float) -> Tensor:
    if temperature == 1:
        return scores_V
    heated_V = scores_V / temperature
    if math.isfinite(float(heated_V.max())):
        return heated_V
    # so cold that float32 overflows: differences to the highest score, in float64, say the same
    scores_V = scores_V.double()
    return ((scores_V - scores_V.max()) / temperature).float()


def _top_k(scores_V: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest scores with whatever ties with the last of them, and their ids, ascending."""
    if not 0 < k < len(scores_V):
        return scores_V, torch.arange(len(scores_V))
    threshold = scores_V.topk(k).values[-1]
    ids_N = (scores_V >= threshold).nonzero().squeeze(-1)
    return scores_V[ids_N], ids_N


def _in_nucleus(scores_N: Tensor, p: float) -> Tensor:
    """Mask [N] of the fewest likeliest tokens that together reach `p`; among ties the higher ids stay."""
    if len(scores_N) <= _SORT_ALL:
        ascending_N, order_N = scores_N.sort(stable=True)
        mass_N = ascending_N.softmax(-1).cumsum(-1)
    else:
        # all that is less likely than this adds up to less than half of what may go: it goes unsorted
        probabilities_V = scores_N.softmax(-1)
        hopeless_V = probabilities_V < (1 - p) / (2 * len(scores_N))
        candidates_N = hopeless_V.logical_not().nonzero().squeeze(-1)
        order_N = candidates_N[scores_N[candidates_N].sort(stable=True).indices]
        gone = probabilities_V.masked_fill(~hopeless_V, 0).sum(-1, keepdim=True)
        mass_N = torch.cat([gone, probabilities_V[order_N]]).cumsum(-1)[1:]
    keep_N = mass_N > 1 - p
    keep_N[-1] = True
    return torch.zeros(len(scores_N), dtype=torch.bool).index_copy(0, order_N, keep_N)


def _likely_enough(scores_N: Tensor, share: float) -> Tensor:
    """Mask [N] of the tokens at least `share` times as likely as the likeliest."""
    probabilities_N = scores_N.softmax(-1)
    return probabilities_N >= share * probabilities_N.max()


def _draw(probabilities_N: Tensor, random: torch.Generator) -> int:
    """An index drawn by inverting the distribution function: one uniform number, whatever N."""
    cumulative_N = probabilities_N.cumsum(-1, dtype=torch.float64)
    point = torch.rand((), dtype=torch.float64, generator=random) * cumulative_N[-1]
    index = int(torch.searchsorted(cumulative_N, point, right=True))
    if index == len(cumulative_N):  # rounding put the point on the very end
        index = int(probabilities_N.nonzero()[-1])
    return index
