"""What a stretch of work cost in experts."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class ExpertCounts:
    """What the experts cost over some stretch of work. A request is one distinct expert of one layer in one
    step.

    `hits`, `staged` and `misses` as the Ledger counts them; `late` are hits or staged experts that had not
    landed; `bytes_read` from disk; `bytes_copied` to align what was read; `stall` seconds spent waiting for
    reads; `evicted` experts left the cache.
    """

    hits: int = 0
    staged: int = 0
    misses: int = 0
    late: int = 0
    bytes_read: int = 0
    bytes_copied: int = 0
    stall: float = 0.0
    evicted: int = 0

    def __sub__(self, other: "ExpertCounts") -> "ExpertCounts":
        mine, theirs = asdict(self), asdict(other)
        return ExpertCounts(**{name: mine[name] - theirs[name] for name in mine})

    @property
    def requests(self) -> int:
        """Experts asked for."""
        return self.hits + self.staged + self.misses

    @property
    def hit_rate(self) -> float | None:
        """(hits + staged) / requests; None when nothing was asked for."""
        return (self.hits + self.staged) / self.requests if self.requests else None

    @property
    def kept_rate(self) -> float | None:
        """hits / requests: what did not have to come from disk at all. It sets the disk bound."""
        return self.hits / self.requests if self.requests else None

    def to_json(self) -> dict[str, object]:
        """All counts, with `hit_rate`, `kept_rate` and `stall_s`."""
        counts: dict[str, object] = asdict(self)
        counts["stall_s"] = counts.pop("stall")
        return counts | {"hit_rate": self.hit_rate, "kept_rate": self.kept_rate}
