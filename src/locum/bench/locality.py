"""How alike neighbouring tokens choose experts: measured through the engine, and what the dial promises.

Axes: T topics, E experts, L layers.
"""

import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.bench.facts import circumstances
from locum.bench.record import Result, Row, Target
from locum.bench.workshop import Workshop, say
from locum.engine.engine import load
from locum.engine.recording import recording
from locum.simulate import Device, Setting, simulate
from locum.simulate.replay import key_space, ledger_of
from locum.simulate.sweep import routed_bytes
from locum.synth.locality import STAY, TOPICS
from locum.trace import Trace
from locum.trace.columns import DECODE

SHARES = {"hits_half": 2, "hits_quarter": 4, "hits_eighth": 8}
"""Sizes of the cache: one part in this many of the experts."""
_SKIPPED = 0.25
"""Share of a text that is left out: the cache is still filling."""

Choose = Callable[[NDArray[np.float64]], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Routing:
    """`reuse`: the share of a token's experts that the token before had chosen in the same layer; `hits`: the
    share of requests that LRU keeps, by the names in `SHARES`, with `slots` experts in memory. Means over
    layers and texts.
    """

    reuse: float
    hits: dict[str, float]
    slots: dict[str, int]

    def to_row(self) -> dict[str, float]:
        """For a benchmark's row."""
        return {"reuse": self.reuse, **self.hits}


def expected(
    experts: int,
    top_k: int,
    gamma: float,
    *,
    layers: int = 1,
    topics: int = TOPICS,
    steps: int = 3000,
    choose: Choose | None = None,
    slots: Mapping[str, int] = MappingProxyType({}),
    seed: int = 0,
) -> Routing:
    """What `synth.locality` promises, simulated without any model.

    In each layer a token draws the logits of its own, N(0, 1), and adds gamma times those of its topic, which
    is the one before's with probability `STAY`. `choose` picks the experts from logits [E]; None: the `top_k`
    best. LRU is the engine's: one cache for all layers, asked for a layer's experts together. `slots` is how
    many experts it holds, by the names in `SHARES`; what is not named holds its share.
    """
    random = np.random.default_rng(seed)
    topic_LTE = random.standard_normal((layers, topics, experts))
    topic, texts = 0, []
    for _ in range(steps):
        if random.random() > STAY:
            topic = (topic + int(random.integers(1, max(2, topics)))) % topics
        logits_LE = gamma * topic_LTE[:, topic] + random.standard_normal((layers, experts))
        best = np.argsort(-logits_LE)[:, :top_k] if choose is None else [choose(row) for row in logits_LE]
        texts.append([sorted(int(expert) for expert in row) for row in best])
    late = texts[int(steps * _SKIPPED) :]
    reuse = float(np.mean([_reuse([step[layer] for step in late]) for layer in range(layers)]))
    held = {name: slots.get(name, experts * layers // parts) for name, parts in SHARES.items()}
    return Routing(reuse, {name: _lru(texts, count) for name, count in held.items()}, held)


def _reuse(chosen: Sequence[Sequence[int]]) -> float:
    return float(np.mean([len(set(now) & set(then)) / len(now) for then, now in pairwise(chosen)]))


def _lru(steps: Sequence[Sequence[Sequence[int]]], slots: int) -> float:
    cache: OrderedDict[tuple[int, int], None] = OrderedDict()
    hits = requests = 0
    for number, step in enumerate(steps):
        for layer, ids in enumerate(step):
            if number >= len(steps) * _SKIPPED:
                hits, requests = hits + sum((layer, expert) in cache for expert in ids), requests + len(ids)
            for expert in ids:
                cache.pop((layer, expert), None)
                cache[layer, expert] = None
            while len(cache) > slots:
                cache.popitem(last=False)
    return hits / requests


def measured(
    model: Path, *, tokens: int, seeds: Sequence[int], prompt: str, shares: Sequence[str] = tuple(SHARES)
) -> Routing:
    """The same figures of a checkpoint's own sampled text (temperature 1, no end), for the engine's own LRU.

    `tokens` for each of `seeds`, which start from the same prompt. Nothing is read ahead. The text is
    generated once; what caches of other sizes do with it, the simulator says, whose decisions are the
    engine's.
    """
    reuse: list[float] = []
    hits: dict[str, list[float]] = {name: [] for name in shares}
    slots: dict[str, int] = {}
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="locum-locality-") as folder:
            trace = _text(model, tokens, seed, prompt, Path(folder) / "trace")
            for name in shares:
                steps, slots[name] = _decode(trace, SHARES[name])
                late = steps[int(len(steps) * _SKIPPED) :]
                asked = sum(len(ids) for step in late for ids, _ in step)
                hits[name].append(sum(found for step in late for _, found in step) / asked)
        reuse += [_reuse([step[layer][0] for step in late]) for layer in range(len(late[0]))]
    means = {name: float(np.mean(rates)) for name, rates in hits.items()}
    return Routing(float(np.mean(reuse)), means, slots)


_Step = list[tuple[tuple[int, ...], int]]


def _text(model: Path, tokens: int, seed: int, prompt: str, into: Path) -> Trace:
    """A recording of sampled text."""
    with (
        load(model, expert_memory="100%", prefetch="none", threads=1, context=tokens + 64) as engine,
        recording(engine, into, distances=0, scores=False),
    ):
        engine.generate(prompt, max_tokens=tokens, temperature=1.0, seed=seed, ignore_eos=True)
    return Trace(into)


def _decode(trace: Trace, parts: int) -> tuple[list[_Step], int]:
    """LRU with one part in `parts` of the experts in memory: per step of one token, per layer, (experts asked
    for, how many of them were there); then the slots.
    """
    log: list[Any] = []
    setting = Setting(arena_bytes=routed_bytes(trace.meta) // parts)
    simulate(trace, setting, Device(1e9), log=log)
    layers = len(trace.meta.experts)
    decoding = int((trace.steps()["phase"] == DECODE).sum())
    own = [event for event in log if event[0] == "acquire"][-decoding * layers :]
    calls = [(tuple(ids), len(decision.hits)) for _, _, ids, decision, _ in own]
    _, split = ledger_of(key_space(trace.meta), setting, 0)
    return [calls[at : at + layers] for at in range(0, len(calls), layers)], split.cache // max(
        trace.meta.slot_bytes
    )


SHAPE: dict[str, Any] = {"num_hidden_layers": 4, "intermediate_size": 256}
"""Of the OLMoE shape: fewer layers, and experts a quarter as wide, which routing does not see."""
GAMMAS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
TOKENS, SEEDS = 400, (0, 1, 2)
WITHIN, WITHIN_SMALL = 0.05, 0.1
"""How far a figure may be from what is expected. A cache that holds hardly one token's experts is at the edge
where a slot more or less counts, and may be further."""
_SMALL_CACHE = "hits_eighth"
PROMPT = "The function returns a list of the names in the current module, sorted in ascending order."


def dial(workshop: Workshop) -> Result:
    """Reuse and LRU hits of sampled text at several gammas, beside what the dial promises."""
    rows, targets = [], []
    for gamma in GAMMAS:
        model = workshop.model("olmoe-1b-7b", f"locality-{gamma:g}", locality=gamma, **SHAPE)
        experts, top_k = model.config["num_experts"], model.config["num_experts_per_tok"]
        found = measured(model.path, tokens=TOKENS, seeds=SEEDS, prompt=PROMPT)
        seeds = range(8)  # one simulation has no more topics than one text
        theories = [
            expected(experts, top_k, gamma, layers=SHAPE["num_hidden_layers"], slots=found.slots, seed=seed)
            for seed in seeds
        ]
        theory = {name: float(np.mean([each.to_row()[name] for each in theories])) for name in found.to_row()}
        row: Row = {
            "engine": "locum",
            "what": f"gamma {gamma:g}",
            "command": "python -m locum.bench.check locality",
            **circumstances(model.path),
            "model": model.facts(),
            **found.to_row(),
            "slots": found.slots,
            "expected": theory,
            "text": {"tokens": TOKENS, "seeds": list(SEEDS), "temperature": 1.0},
        }
        workshop.discard(model)
        say(f"gamma {gamma:g}: {found.to_row()}, expected {theory}")
        rows.append(row)
        targets += _targets(gamma, row)
    return Result(rows, targets)


def _targets(gamma: float, row: Row) -> list[Target]:
    targets = []
    for name, wanted in row["expected"].items():
        within = WITHIN_SMALL if name == _SMALL_CACHE else WITHIN
        met = abs(row[name] - wanted) <= within
        what = f"gamma {gamma:g}, {name.replace('_', ', ')}"
        targets.append(Target(what, f"{wanted:.3f} within {within}", f"{row[name]:.3f}", met))
    return targets
