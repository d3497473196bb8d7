"""An evaluation: figures with their intervals, for people and for programs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from locum.evaluate.intervals import Interval, bootstrap_ratio, wilson
from locum.evaluate.likelihood import Score


@dataclass(frozen=True, slots=True)
class Figure:
    """A value and the interval in which it lies with 95% certainty."""

    value: float
    low: float
    high: float

    @classmethod
    def ratio(cls, parts: Sequence[float], wholes: Sequence[float]) -> "Figure":
        """sum(parts) / sum(wholes), a pair for each piece of text."""
        return cls._of(sum(parts) / sum(wholes), bootstrap_ratio(parts, wholes))

    @classmethod
    def share(cls, hits: int, tries: int) -> "Figure":
        """hits / tries."""
        return cls._of(hits / tries, wilson(hits, tries))

    @classmethod
    def _of(cls, value: float, interval: Interval) -> "Figure":
        return cls(value, *interval)

    def to_json(self) -> dict[str, Any]:
        """The figure for programs."""
        return {"value": round(self.value, 5), "ci": [round(self.low, 5), round(self.high, 5)]}

    def __str__(self) -> str:
        return f"{self.value:.3f}  ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything measured of one model; `against` names the reference, if there was one."""

    model: str
    scores: Sequence[Score]
    tasks: Mapping[str, tuple[int, int]]
    against: str | None = None

    @property
    def domains(self) -> dict[str, list[Score]]:
        """The scores by domain, in order of appearance."""
        found: dict[str, list[Score]] = {}
        for score in self.scores:
            found.setdefault(score.domain, []).append(score)
        return found

    def to_json(self) -> dict[str, Any]:
        """For programs. `nll` in nats per token; `kl` and `top1` beside a reference, else null."""
        nll = Figure.ratio([s.nats for s in self.scores], [s.tokens for s in self.scores]).to_json()
        beside = self._beside(self.scores) if self.against is not None else {"kl": None, "top1": None}
        return {
            "model": self.model,
            "against": self.against,
            "nll": nll["value"],
            "ci": nll["ci"],
            "bits_per_byte": bits_per_byte(self.scores).to_json(),
            **beside,
            "tokens": sum(s.tokens for s in self.scores),
            "bytes": sum(s.size for s in self.scores),
            "domains": {name: self._domain(scores) for name, scores in self.domains.items()},
            "tasks": {
                kind: {"right": right, "asked": asked, **Figure.share(right, asked).to_json()}
                for kind, (right, asked) in self.tasks.items()
            },
        }

    def _domain(self, scores: Sequence[Score]) -> dict[str, Any]:
        return {
            "texts": len(scores),
            "tokens": sum(s.tokens for s in scores),
            "bytes": sum(s.size for s in scores),
            "bits_per_byte": bits_per_byte(scores).to_json(),
            **(self._beside(scores) if self.against is not None else {}),
        }

    @staticmethod
    def _beside(scores: Sequence[Score]) -> dict[str, Any]:
        tokens = [s.tokens for s in scores]
        return {
            "kl": Figure.ratio([s.kl for s in scores], tokens).to_json(),
            "top1": Figure.ratio([s.same_top for s in scores], tokens).to_json(),
        }

    def rows(self) -> list[tuple[str, str]]:
        """(name, value) lines for people."""
        rows = [("text, all", f"{bits_per_byte(self.scores)} bits per byte")]
        rows += [(f"text, {name}", f"{bits_per_byte(s)} bits per byte") for name, s in self.domains.items()]
        if self.against is not None:
            tokens = [s.tokens for s in self.scores]
            kl = Figure.ratio([s.kl for s in self.scores], tokens)
            top = Figure.ratio([s.same_top for s in self.scores], tokens)
            rows += [("KL from the reference", f"{kl} nats per token"), ("same likeliest token", str(top))]
        rows += [
            (f"task, {kind}", f"{Figure.share(*counts)} exactly right, of {counts[1]}")
            for kind, counts in self.tasks.items()
        ]
        return rows


def bits_per_byte(scores: Sequence[Score]) -> Figure:
    """The loss in bits for each byte of text."""
    return Figure.ratio([s.nats / math.log(2) for s in scores], [s.size for s in scores])
