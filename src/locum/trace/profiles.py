"""What synthetic routing can be like: dials by model, and beside them the published figures they follow.

Nothing here measures anything: `locum.analyze.claims` holds a made trace against the claims of its profile.
The dials are the outcome of Gauss-Newton steps on those figures; what no claim names is not fitted.

Figures of one model come from different text, and pull at the same dials. Two such conflicts are settled by
how a figure is read. DeepSeek-R1's loads are so uneven that, if they were log-normal, the best fifth of its
experts alone would hold 58% of them, more than the 50% and 47% published for pairs: the loads are of one data
set, the pairs of many, so the spread is mostly between kinds of text. The loads of all its text together are
therefore more even: 4.8, 0.83, 0.80 and 0.31 for the four figures claimed. Mixtral's first layer repeats
itself hardly more than by chance, its last one in first choices only, while its SRP asks for more: both ends
follow the text less than the layers between.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from locum.errors import UsageError

Measure = Literal[
    "srp", "next layer", "next token", "same first", "same of two",
    "expert peak", "expert spread", "rank peak", "rank spread",
]  # fmt: skip
"""The keys of `analyze.claims.MEASURES`, where each is defined."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A published figure that a profile is to reproduce. Shares are between 0 and 1."""

    name: str
    measure: Measure
    low: float
    high: float
    """Equal to `low` where one figure was published, not a range."""
    tolerance: float
    """How far outside of `low` to `high` a trace may be and still meet the claim."""
    source: str
    """Where it was published, and how it is read here where that leaves room."""
    layer: int | None = None
    """The MoE layer it is about, from 0; None: all of them."""

    def met(self, got: float) -> bool:
        """Whether that figure is near enough."""
        return self.low - self.tolerance <= got <= self.high + self.tolerance


@dataclass(frozen=True, slots=True)
class Profile:
    """A model's shape and its dials. Spreads are standard deviations of log-popularity."""

    layers: int
    experts: int
    top_k: int
    spread: float
    """Of the experts' popularity in all text."""
    stay: float
    """Probability that an expert's luck of a token is its luck of the next too. The first layer, which sees
    hardly more than the token, has none of it.
    """
    text_ends: float = 0.5
    """What the first and the last layer have of the two spreads by text."""
    repeat_last: float | None = None
    """Probability that in the last layer the luck of all experts stays, instead of each expert's own."""
    link: float = 0.0
    """What each chosen expert adds to the log-popularity of the next layer's experts it is linked to."""
    domain_spread: float = 0.3
    """Of what a kind of text adds to that."""
    request_spread: float = 0.3
    """Of what a single text adds to that."""
    domains: int = 4
    groups: int = 1
    """Equal groups, neighbours in number, of which `groups_kept` are chosen first (DeepSeek-V3's router)."""
    groups_kept: int = 1
    weighted: bool = False
    """Whether the trace tells weights, and so who was chosen first."""
    dense_first: int = 0
    shared: int = 0
    claims: tuple[Claim, ...] = ()


def _shares(low: float, high: float) -> tuple[float, float]:
    """Of percent."""
    return round(low / 100, 4), round(high / 100, 4)


def _srp(percent: float) -> Claim:
    source = "arXiv 2505.16056, table 1; its definition of SRP is ours, its text is not ours"
    return Claim("SRP of 16 tokens", "srp", *_shares(percent, percent), 0.01, source)


_CHAOS = (
    "'Orders in Chaos' (data set core12345/MoE_expert_selection_trace), quoted second-hand, for {}; read as "
    "the mean over experts, weighed by load, of the mass on their own best fifth, all kinds of text together"
)
_QWEN = _CHAOS.format("Qwen3-235B-A22B, which also chooses 8 of 128 but has 94 layers")
_DEEPSEEK = _CHAOS.format("DeepSeek-V3")
_EPLB = (
    "TensorRT-LLM, tech blog 4, table 1, without its balancer: mean over layers and steps of 4096 tokens of "
    "one data set; read as loads of one kind of text at a time, of all its tokens"
)
_MIXTRAL = "arXiv 2401.04088, table 5, the range of its data sets; {}"
_FIRST = _MIXTRAL.format("the expert of the largest weight is first; evenly chosen ones would give 12.5%")
_EITHER = _MIXTRAL.format("any expert of the token before; evenly chosen ones would give 46%")


def _mass(measure: Literal["next layer", "next token"], percent: float, source: str) -> Claim:
    return Claim(f"best fifth, {measure}", measure, *_shares(percent, percent), 0.015, source)


def _load(name: str, measure: Measure, figure: float) -> Claim:
    return Claim(name, measure, figure, figure, round(figure / 10, 3), _EPLB)


def _repeats(layer: int, first: tuple[float, float], either: tuple[float, float]) -> tuple[Claim, Claim]:
    """Of the layer with that number; the paper gives the ranges in percent."""
    return (
        Claim(f"same first, layer {layer}", "same first", *_shares(*first), 0.01, _FIRST, layer),
        Claim(f"same of two, layer {layer}", "same of two", *_shares(*either), 0.01, _EITHER, layer),
    )


PROFILES: Mapping[str, Profile] = {
    "uniform": Profile(16, 64, 8, spread=0.0, stay=0.0, domain_spread=0.0, request_spread=0.0),
    "olmoe": Profile(
        16, 64, 8, spread=0.4, stay=0.35, domain_spread=0.4, request_spread=1.15, claims=(_srp(50.9),)
    ),
    "qwen3-30b-a3b": Profile(
        48, 128, 8, spread=1.617, stay=0.12, domain_spread=0.5, request_spread=1.664, link=0.65,
        claims=(_srp(54.1), _mass("next layer", 65, _QWEN), _mass("next token", 62, _QWEN)),
    ),
    "mixtral": Profile(
        32, 8, 2, spread=0.1, stay=0.195, repeat_last=0.078, text_ends=0.65, domain_spread=0.1,
        request_spread=0.39, weighted=True,
        claims=(
            _srp(49.4),
            *_repeats(0, (13.6, 14.9), (45, 50)),
            *_repeats(15, (23.6, 28.4), (62, 67)),
            *_repeats(31, (19.7, 26.3), (44, 54)),
        ),
    ),
    "deepseek-v2-lite": Profile(
        26, 64, 6, spread=0.3, stay=0.2, domain_spread=0.3, request_spread=0.75, dense_first=1, shared=2,
        claims=(_srp(37.9),),
    ),
    "deepseek-r1": Profile(
        58, 256, 8, spread=0.755, stay=0.04, domain_spread=0.91, request_spread=0.25, link=0.42, domains=16,
        groups=8, groups_kept=4, dense_first=3, shared=1,
        claims=(
            _load("expert load, (max - mean) / mean", "expert peak", 10.95),
            _load("expert load, deviation / mean", "expert spread", 1.282),
            _load("load of 32 ranks, (max - mean) / mean", "rank peak", 1.564),
            _load("load of 32 ranks, deviation / mean", "rank spread", 0.48),
            _mass("next layer", 50, _DEEPSEEK),
            _mass("next token", 47, _DEEPSEEK),
        ),
    ),
}  # fmt: skip
"""By name."""


def find(name: str) -> Profile:
    """The profile of that name. Raises `UsageError`."""
    if name not in PROFILES:
        raise UsageError("no such profile", allowed=", ".join(PROFILES), got=name)
    return PROFILES[name]
