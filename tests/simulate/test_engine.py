"""The simulator, told only what the trace holds, does what the engine did: every hit, miss and eviction."""

from pathlib import Path
from typing import Any

import pytest

import locum
from locum.engine.recording import recording
from locum.model.shipped import shipped_model
from locum.simulate import Device, Setting, simulate
from locum.synth.shapes import shape
from locum.synth.writer import write_checkpoint
from locum.trace import Trace

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
        engine.residents.residency._log = log.append
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
