"""What synthetic routing can be like: dials by model, and beside them the published figures they are fitted to.

Nothing here measures anything: `locum.analyze.claims` holds a made trace against the claims of its profile.
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
    """Probability that an expert's luck of a token is its luck of the next, from the second layer on."""
    stay_first: float = 0.0
    """The same in the first layer."""
    stay_last: float | None = None
    """The same in the last layer, where it is another."""
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


PROFILES: Mapping[str, Profile] = {
    "uniform": Profile(16, 64, 8, spread=0.0, stay=0.0, domain_spread=0.0, request_spread=0.0),
}
"""By name."""


def find(name: str) -> Profile:
    """The profile of that name. Raises `UsageError`."""
    if name not in PROFILES:
        raise UsageError("no such profile", allowed=", ".join(PROFILES), got=name)
    return PROFILES[name]
