"""Replay a trace through the Residency in virtual time.

The Ledger, the Residency and the Driver are the engine's own; only the Mover is another. So what is kept,
missed and evicted is exactly what the engine would have done, and time is as good as the costs are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

from locum.errors import TraceError, UsageError
from locum.policy import create as create_eviction
from locum.policy.prefetch import create_for as create_prefetch
from locum.residency.decision import Log
from locum.residency.driver import Driver
from locum.residency.keys import KeyRange, KeySpace
from locum.residency.ledger import Ledger, Wave
from locum.residency.residency import Residency
from locum.residency.slots import ArenaSlots, NullBacking
from locum.residency.split import ArenaSplit, split_arena
from locum.simulate.cost import Compute, Device
from locum.simulate.steps import Step, future_of, last_steps, steps_of
from locum.trace import Trace, TraceMeta
from locum.trace.columns import DECODE
from locum.trace.snapshot import Snapshot


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is tried: as the engine's own options."""

    arena_bytes: int
    eviction: str = "lru"
    prefetch: str = "none"
    wave: Wave = "rank"
    eviction_params: Mapping[str, object] = field(default_factory=dict)
    prefetch_params: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, snapshot: Snapshot) -> "Setting":
        """The setting that a recording ran with."""
        return cls(**{f.name: getattr(snapshot, f.name) for f in fields(cls)})

    def require(self, snapshot: Snapshot) -> None:
        """Raises `UsageError` unless the snapshot is of an engine with this setting."""
        theirs = Setting.of(snapshot)
        differ = [f.name for f in fields(self) if getattr(self, f.name) != getattr(theirs, f.name)]
        if differ:
            raise UsageError(
                "a cache can be taken up only by the setting that it had",
                allowed=", ".join(f"{name} {getattr(theirs, name)}" for name in differ),
                got=", ".join(f"{name} {getattr(self, name)}" for name in differ),
            )


@dataclass(slots=True)
class Stretch:
    """What one phase cost."""

    tokens: int = 0
    steps: int = 0
    hits: int = 0
    staged: int = 0
    misses: int = 0
    evicted: int = 0
    streamed: int = 0
    late: int = 0
    seconds: float = 0.0
    stall_s: float = 0.0
    bytes_read: int = 0

    @property
    def requests(self) -> int:
        """Experts asked for."""
        return self.hits + self.staged + self.misses

    @property
    def hit_rate(self) -> float | None:
        """(hits + staged) / requests; None when nothing was asked for."""
        return (self.hits + self.staged) / self.requests if self.requests else None

    @property
    def tok_s(self) -> float | None:
        """Tokens per second of the clock; None when no time passed."""
        return self.tokens / self.seconds if self.seconds else None


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a setting would have done with the trace."""

    setting: Setting
    prefill: Stretch
    decode: Stretch


def key_space(meta: TraceMeta) -> KeySpace:
    """The experts of a trace, with their sizes. Raises `TraceError` where it does not know them."""
    if not meta.expert_bytes or not meta.slot_bytes:
        raise TraceError(
            "the trace does not know how large an expert is", where=meta.model,
            todo="Give the model it is of, or a size",
        )  # fmt: skip
    stride = max(meta.experts)
    sizes = zip(meta.experts, meta.slot_bytes, meta.expert_bytes, strict=True)
    return KeySpace([
        KeyRange(layer, layer * stride, slot, (stored,) * experts)
        for layer, (experts, slot, stored) in enumerate(sizes)
    ])  # fmt: skip


def simulate(
    trace: Trace,
    setting: Setting,
    device: Device,
    *,
    compute: Compute | None = None,
    log: Log | None = None,
    progress: Callable[[int], None] | None = None,
    snapshot: Snapshot | None = None,
) -> Simulated:
    """Replay `trace` as `setting`, from an empty cache or from the `snapshot` of an engine with this setting.

    `progress` hears the rows done. Raises `UsageError` for a policy that needs what the trace does not have,
    or a snapshot of another setting; `TraceError` for a prefetcher that needs more, or a damaged snapshot;
    `BudgetError` where no expert fits.
    """
    meta = trace.meta
    keys = key_space(meta)
    prefetcher = create_prefetch(setting.prefetch, max(meta.top_k), **setting.prefetch_params)
    if prefetcher.distance:
        trace.require(f"prefetch {setting.prefetch}", "next_ids", "next_scores")
        if min(prefetcher.distance, len(meta.experts) - 1) > meta.distances:
            raise TraceError(
                f"prefetch {setting.prefetch} looks {prefetcher.distance} layers ahead", where=trace.path,
                got=f"a trace of {meta.distances}", todo="Record one that looks further",
            )  # fmt: skip
    needs = create_eviction(setting.eviction, **setting.eviction_params).needs
    future = future_of(trace, meta) if "next" in needs else None
    ledger, split = ledger_of(keys, setting, max(meta.top_k) * prefetcher.distance, knows_future=bool(future))
    mover = device.mover(keys)
    residency = Residency(ledger, mover, ArenaSlots(keys.classes, split.budget, NullBacking()), log=log)
    compute = compute or Compute.recorded(trace, prefetcher.distance)
    if snapshot is not None:
        setting.require(snapshot)
        take_up(snapshot, ledger)
        residency.adopt()
    replay = _Replay(Driver(residency, prefetcher, future), compute)
    replay.run(trace, ("next_ids", "next_scores") if prefetcher.distance else (), progress)
    residency.close()
    return Simulated(setting, replay.prefill, replay.decode)


def ledger_of(
    keys: KeySpace, setting: Setting, wanted_slots: int, *, knows_future: bool = False
) -> tuple[Ledger, ArenaSplit]:
    """The Ledger that an engine with this setting has, and how its arena is divided.

    `wanted_slots`: how many experts its prefetcher would like to hold. Raises `BudgetError`, `UsageError`.
    """
    split = split_arena(keys, setting.arena_bytes, wanted_slots)
    ledger = Ledger(
        keys, [split.cache], create_eviction(setting.eviction, **setting.eviction_params),
        speculation=split.speculation, wave=setting.wave,
        provides={"counts"} | ({"next"} if knows_future else set()),
    )  # fmt: skip
    return ledger, split


def take_up(snapshot: Snapshot, ledger: Ledger) -> None:
    """Make the Ledger what it was when the recording began. Raises `TraceError` for a damaged snapshot."""
    if snapshot.ledger is None:
        return
    try:
        ledger.restore(snapshot.ledger)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise TraceError("the snapshot is damaged", got=f"{type(error).__name__}: {error}") from error


class _Replay:
    """One pass over a trace."""

    def __init__(self, driver: Driver, compute: Compute) -> None:
        self._driver, self._compute = driver, compute
        self._residency = driver.residency
        self._open: dict[int, None] = {}
        self.prefill, self.decode = Stretch(), Stretch()

    def run(self, trace: Trace, columns: tuple[str, ...], progress: Callable[[int], None] | None) -> None:
        last, done = last_steps(trace), 0
        for step in steps_of(trace, columns):
            self._requests(step, last)
            before = self._counts()
            self._step(step)
            stretch = self.decode if step.phase == DECODE else self.prefill
            for name, count in self._counts().items():
                setattr(stretch, name, getattr(stretch, name) + count - before[name])
            stretch.tokens, stretch.steps, done = (
                stretch.tokens + step.tokens,
                stretch.steps + 1,
                done + step.tokens,
            )
            if progress is not None:
                progress(done)
        for request in self._open:
            self._driver.request(request, False)

    def _requests(self, step: Step, last: Mapping[int, int]) -> None:
        """End the requests that are over, begin those that come."""
        for request in [request for request in self._open if last[request] < step.number]:
            del self._open[request]
            self._driver.request(request, False)
        for request in step.requests:
            if request not in self._open:
                self._open[request] = None
                self._driver.request(request, True)

    def _step(self, step: Step) -> None:
        self._driver.step(step.number, step.phase, step.tokens)
        layers = step.experts.shape[1]
        cost = self._compute.of(step.number)
        physical = self._residency.physical
        distance = self._driver.prefetcher.distance
        advance = self._residency.mover.advance
        for layer in range(layers):
            advance(cost.rest_s / layers)
            before = physical.started
            counts = step.counts(layer)
            with self._driver.acquire(layer, counts, step.foreseen(layer, distance)) as lease:
                missed = set(lease.decision.misses)
                # what is read ahead costs the processor now, what is waited for once it is there
                advance(cost.load_s * max(0, physical.started - before - len(missed)))
                for key, _ in lease:
                    advance(cost.experts_s / layers / len(counts) + (cost.load_s if key in missed else 0.0))

    def _counts(self) -> dict[str, float]:
        stats, physical = self._residency.ledger.stats, self._residency.physical
        return {
            "hits": stats.hits, "staged": stats.staged, "misses": stats.misses, "evicted": stats.evicted,
            "streamed": stats.streamed, "late": physical.late, "stall_s": physical.stall_s,
            "bytes_read": physical.bytes_read, "seconds": self._residency.mover.now(),
        }  # fmt: skip
