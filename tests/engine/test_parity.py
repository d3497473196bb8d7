"""The same requests under the real Movers and in virtual time: identical decisions, event by event."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers_laws import Subject, drive
from locum.engine.cache import request_cache
from locum.engine.residents import Residents
from locum.policy import create
from locum.policy.future import Future
from locum.residency.ledger import Ledger
from locum.residency.mover.base import Mover
from locum.residency.mover.faulty import FaultyMover
from locum.residency.mover.virtual import VirtualMover
from locum.residency.residency import Residency
from locum.residency.slots import ArenaSlots, NullBacking

EVENTS = ("request", "step", "forecast", "acquire", "want")
Script = list[tuple[str, tuple[Any, ...]]]


class Recorder:
    """Writes down, in program order, everything an engine tells its Residency."""

    def __init__(self, residents: Residents, monkeypatch: pytest.MonkeyPatch) -> None:
        self.script: Script = []
        for name in EVENTS:
            original = getattr(residents.residency, name)
            monkeypatch.setattr(residents.residency, name, self._noting(name, original))

    def _noting(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.script.append((name, args))
            return original(*args)

        return call


def run_real(
    subject: Subject,
    slots: int,
    monkeypatch: pytest.MonkeyPatch,
    wrap: Callable[[Mover], Mover],
    **options: Any,
) -> tuple[Script, list[Any], Residents]:
    log: list[Any] = []
    with monkeypatch.context() as patch, subject.residents(slots, log=log, **options) as residents:
        residents.residency.mover = wrap(residents.residency.mover)
        recorder = Recorder(residents, patch)
        residents.request(0, True)
        drive(subject.model, request_cache(subject.model.config))
        residents.request(0, False)
    return recorder.script, log, residents


def run_virtual(script: Script, twin: Residents, mover: Mover) -> list[Any]:
    """Replay a script through the same Ledger settings with no memory and no disk."""
    log: list[Any] = []
    keys, options, split = twin.residency.keys, twin.options, twin.split
    provides = {"counts"} | ({"next"} if options.future else set())
    ledger = Ledger(
        keys,
        [split.cache],
        create(options.eviction),
        speculation=split.speculation,
        wave=options.wave,
        provides=provides,
    )
    places = ArenaSlots(keys.classes, split.budget, NullBacking())
    residency = Residency(ledger, mover, places, log=log)
    for name, args in script:
        result = getattr(residency, name)(*args)
        if name == "acquire":
            with result as lease:
                for _ in lease:
                    mover.advance(1e-4)
    residency.check_integrity()
    residency.close()
    return log


@pytest.mark.parametrize("wave", ["rank", "bypass"])
@pytest.mark.parametrize("prefetch", ["none", "next-gate", "next-gate:distance=2"])
@pytest.mark.parametrize("eviction", ["lru", "lfu", "lfu-aging", "belady"])
def test_real_movers_decide_as_virtual_time_does(
    checkpoints: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    eviction: str,
    prefetch: str,
    wave: str,
) -> None:
    subject = Subject(checkpoints("olmoe"))
    for slots in (2, 9, 16):
        future: Future | None = subject.run(slots).future if eviction == "belady" else None
        settings: dict[str, Any] = {
            "eviction": eviction,
            "prefetch": prefetch,
            "wave": wave,
            "future": future,
        }
        logs, retries = [], 0
        for number, (mover, faulty) in enumerate(itertools.product(("direct", "pagecache"), (False, True))):
            wrap = (lambda m, n=number: FaultyMover(m, failures=0.1, seed=n)) if faulty else (lambda m: m)
            script, log, twin = run_real(subject, slots, monkeypatch, wrap, mover=mover, **settings)
            logs.append(log)
            assert faulty or not twin.residency.physical.retries
            retries += twin.residency.physical.retries
        for channels, jitter in ((1, 0.0), (3, 4.0)):
            logs.append(run_virtual(script, twin, VirtualMover(channels=channels, jitter=jitter, seed=slots)))
        assert len(logs[0]) > 30
        assert retries > 0
        assert all(log == logs[0] for log in logs[1:])


def test_another_budget_decides_otherwise(
    checkpoints: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Subject(checkpoints("olmoe"))
    logs = [run_real(subject, slots, monkeypatch, lambda m: m)[1] for slots in (9, 10)]
    assert logs[0] != logs[1]
