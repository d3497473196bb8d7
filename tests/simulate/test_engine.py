"""The simulator, told only what the trace holds, does what the engine did: every hit, miss and eviction."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import locum
from locum.engine.recording import recording
from locum.errors import TraceError, UsageError
from locum.model.shipped import shipped_model
from locum.simulate import Device, Setting, simulate
from locum.simulate.events import replay_events
from locum.synth.shapes import shape
from locum.synth.writer import write_checkpoint
from locum.trace import Trace
from locum.trace.events import KINDS, to_table
from locum.trace.parts import write_part

PROMPTS = [list(range(3, 60)), [7], list(range(200, 170, -1))]
SETTINGS = [
    (eviction, prefetch, wave, share)
    for eviction, prefetch, wave in [
        ("lru", "none", "rank"), ("lru", "next-gate", "rank"), ("lru", "next-gate", "bypass"),
        ("lfu", "none", "bypass"), ("lfu", "next-gate:distance=2", "rank"),
        ("lfu-aging:period=8", "next-gate", "rank"), ("arc", "next-gate:distance=3", "bypass"),
    ]
    for share in ("12%", "30%", "70%")
]  # fmt: skip


def recorded(path: Path, folder: Path, **options: Any) -> tuple[Trace, list[Any], Any, Any]:
    log: list[Any] = []
    with locum.load(path, context=128, **options) as engine:
        engine.residents.residency.ledger.log = log.append
        with recording(engine, folder):
            for prompt in PROMPTS:
                engine.generate(prompt, max_tokens=12, seed=1, ignore_eos=True)
        stats = engine.residents.residency.ledger.stats
        return Trace(folder), log, stats, engine.residents.split


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One with random weights, one that was trained, one with groups, a dense layer and a shared expert."""
    random = tmp_path_factory.mktemp("simulate") / "tiny"
    write_checkpoint(shape("tiny-olmoe"), random, seed=3)
    shared = Path(__file__).parents[1] / "models" / "locum-tiny-shared"
    return {"random": random, "trained": shipped_model(), "shared": shared}


@pytest.mark.parametrize("name", ["random", "trained", "shared"])
@pytest.mark.parametrize(("eviction", "prefetch", "wave", "share"), SETTINGS)
def test_decisions_are_the_engines(
    models: dict[str, Path], tmp_path: Path, name: str, eviction: str, prefetch: str, wave: Any, share: str
) -> None:
    trace, log, stats, split = recorded(
        models[name], tmp_path / "t", eviction=eviction, prefetch=prefetch, expert_memory=share,
        residents_options={"wave": wave},
    )  # fmt: skip
    mine: list[Any] = []
    arena = split.cache + split.speculation + max(trace.meta.slot_bytes)
    setting = Setting(arena_bytes=arena, eviction=eviction, prefetch=prefetch, wave=wave)
    found = simulate(trace, setting, Device(1e9, channels=4), log=mine)
    assert mine == log
    assert len(log) > 50
    assert found.decode.hits + found.prefill.hits == stats.hits
    assert found.decode.evicted + found.prefill.evicted == stats.evicted
    assert bool(stats.staged) == bool(split.speculation), "prefetching is put to the test"
    steps = trace.steps()
    for stretch, phase in ((found.prefill, 0), (found.decode, 1)):
        assert stretch.hits == steps["hits"][steps["phase"] == phase].sum()
        assert stretch.misses == steps["misses"][steps["phase"] == phase].sum()
        assert stretch.staged == steps["staged"][steps["phase"] == phase].sum()


@pytest.mark.parametrize(
    ("eviction", "prefetch", "wave"),
    [
        ("lru", "next-gate", "rank"), ("lfu", "none", "bypass"), ("lfu-aging:period=40", "none", "rank"),
        ("fifo", "next-gate:distance=2", "bypass"), ("arc", "next-gate", "rank"),
    ],
)  # fmt: skip
def test_a_recording_that_begins_with_a_full_cache(
    models: dict[str, Path], tmp_path: Path, eviction: str, prefetch: str, wave: Any
) -> None:
    log: list[Any] = []
    with locum.load(
        models["trained"], context=128, eviction=eviction, prefetch=prefetch, expert_memory="20%",
        residents_options={"wave": wave, "log": log.append},
    ) as engine:  # fmt: skip
        engine.generate(PROMPTS[0], max_tokens=20, seed=1, ignore_eos=True)
        before = engine.residents.counts()
        log.clear()
        with recording(engine, tmp_path / "t"):
            engine.generate(PROMPTS[2], max_tokens=20, seed=2, ignore_eos=True)
        after = engine.residents.counts() - before
    trace = Trace(tmp_path / "t")
    assert trace.snapshot is not None
    setting = Setting.of(trace.snapshot)
    mine: list[Any] = []
    found = simulate(trace, setting, Device(1e9), log=mine, snapshot=trace.snapshot)
    assert mine == log
    assert found.prefill.hits + found.decode.hits == after.hits
    cold: list[Any] = []
    simulate(trace, setting, Device(1e9), log=cold)
    assert cold != log, "the cache made a difference"
    other = replace(setting, wave="rank" if wave == "bypass" else "bypass")
    with pytest.raises(UsageError, match="only by the setting that it had; expected wave"):
        simulate(trace, other, Device(1e9), snapshot=trace.snapshot)
    broken = replace(trace.snapshot, ledger={**trace.snapshot.ledger, "groups": [{"capacity": 3}]})
    with pytest.raises((TraceError, UsageError), match=r"another size|damaged"):
        simulate(trace, setting, Device(1e9), snapshot=broken)
    (group,) = trace.snapshot.ledger["groups"]
    strange = {**group, "cached": [9999, *group["cached"][1:]]}
    with pytest.raises(TraceError, match="the snapshot is damaged"):
        simulate(trace, setting, Device(1e9), snapshot=replace(
            trace.snapshot, ledger={**trace.snapshot.ledger, "groups": [strange]}))  # fmt: skip


def test_a_recording_that_begins_with_an_empty_cache(models: dict[str, Path], tmp_path: Path) -> None:
    trace, log, *_ = recorded(models["random"], tmp_path / "t", expert_memory="30%", eviction="arc")
    assert trace.snapshot is not None
    assert trace.snapshot.ledger is None
    mine: list[Any] = []
    simulate(trace, Setting.of(trace.snapshot), Device(1e9), log=mine, snapshot=trace.snapshot)
    assert mine == log


def test_events_replay_through_changed_budgets(models: dict[str, Path], tmp_path: Path) -> None:
    with locum.load(
        models["trained"], context=128, eviction="arc", prefetch="next-gate", expert_memory="30%"
    ) as engine:
        residency = engine.residents.residency
        engine.generate(PROMPTS[0], max_tokens=8, seed=1, ignore_eos=True)
        heard: list[Any] = []
        residency.ledger.log = heard.append
        with recording(engine, tmp_path / "t", events=True):
            engine.generate(PROMPTS[2], max_tokens=8, seed=2, ignore_eos=True)
            residency.set_budget(0, residency.ledger.capacities[0] // 2)
            residency.set_speculation(residency.ledger.speculation // 2)
            residency.discard(sorted(residency.ledger.cached(0))[:3])
            engine.generate(PROMPTS[1], max_tokens=8, seed=3, ignore_eos=True)
        told = len(heard)
        engine.generate(PROMPTS[1], max_tokens=2, seed=3, ignore_eos=True)
        assert len(heard) > told, "who heard before hears on"
    trace = Trace(tmp_path / "t")
    assert replay_events(trace) == told == len(list(trace.events()))
    assert {event.kind for event in trace.events()} == set(KINDS) - {"forecast"}
    assert [event[0] for event in heard[:told]] == [event.kind for event in trace.events()]
    # rows alone cannot know of the budget
    mine: list[Any] = []
    assert trace.snapshot is not None
    simulate(trace, Setting.of(trace.snapshot), Device(1e9), log=mine, snapshot=trace.snapshot)
    assert mine != heard[:told]


def test_an_event_that_was_changed_is_found(models: dict[str, Path], tmp_path: Path) -> None:
    with (
        locum.load(models["random"], context=128, expert_memory="30%") as engine,
        recording(engine, tmp_path / "t", events=True),
    ):
        engine.generate(PROMPTS[0], max_tokens=8, seed=1, ignore_eos=True)
    rows = list(Trace(tmp_path / "t").events())
    number = next(n for n, row in enumerate(rows) if row.evicted)
    rows[number] = replace(rows[number], evicted=[*rows[number].evicted[1:], 63])
    write_part(tmp_path / "t", "events", 0, to_table(rows))
    with pytest.raises(TraceError, match=f"decides differently from the recording .*event {number + 1}"):
        replay_events(Trace(tmp_path / "t"))
    (tmp_path / "t" / "events-00000.parquet").unlink()
    with pytest.raises(TraceError, match="holds no events"):
        replay_events(Trace(tmp_path / "t"))
