"""The locality of sampled text: theory against closed forms, then the engine against theory."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers_families import FAMILIES as TINY
from locum.backbone.outline import completed, outline
from locum.bench.locality import SHARES, Choose, expected, measured
from locum.synth import locality
from locum.synth.names import Config, tensors
from locum.synth.plan import plan_checkpoint
from locum.synth.shapes import is_exact, resolve_shape, shape
from locum.synth.writer import write_checkpoint, write_plan

PROMPT = "The function returns a list"


@pytest.mark.parametrize(("experts", "top_k"), [(64, 8), (32, 4), (8, 2)])
def test_without_a_topic_reuse_and_hits_are_shares(experts: int, top_k: int) -> None:
    """Of independent sets of k out of E, k / E of one were in the one before, and C / E in a cache of C."""
    found = expected(experts, top_k, 0.0, steps=8000)
    assert abs(found.reuse - top_k / experts) < 0.01
    for name, parts in SHARES.items():
        if experts // parts >= top_k:
            assert abs(found.hits[name] - 1 / parts) < 0.015


def test_with_nothing_but_a_topic_only_a_change_misses() -> None:
    found = expected(64, 8, 1e6, steps=8000)
    assert abs(found.reuse - (locality.STAY + (1 - locality.STAY) / 8)) < 0.01
    assert found.hits["hits_half"] > 0.98


TABLE = {0.0: (0.13, 0.47), 0.5: (0.21, 0.66), 1.0: (0.35, 0.86), 1.5: (0.46, 0.92), 2.0: (0.55, 0.96),
         3.0: (0.70, 0.97)}  # fmt: skip
"""gamma -> (reuse, LRU hits with half of the experts), of an earlier simulation of the same method, for 64
experts of which 8 are used. Its cache was asked expert by expert: one smaller than half loses its own."""


@pytest.mark.parametrize("gamma", TABLE)
def test_the_theory_is_the_known_one(gamma: float) -> None:
    found = expected(64, 8, gamma, steps=8000)
    assert np.allclose((found.reuse, found.hits["hits_half"]), TABLE[gamma], atol=0.035)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5])
def test_the_engine_sees_what_the_dial_promises(tmp_path: Path, gamma: float) -> None:
    config = shape("demo", num_hidden_layers=4, vocab_size=8192)
    path = write_checkpoint(config, tmp_path / "m", locality=gamma).path
    share = "hits_half"
    found = measured(path, tokens=260, seeds=(0, 1), prompt=PROMPT, shares=[share])
    theory = expected(32, 4, gamma, layers=4, slots=found.slots)
    assert abs(found.reuse - theory.reuse) < 0.05
    assert abs(found.hits[share] - theory.hits[share]) < 0.05
    if gamma == 0:
        assert abs(found.reuse - 4 / 32) < 0.02
        assert abs(found.hits[share] - found.slots[share] / 128) < 0.05


def test_plain_weights_are_not_uniform(tmp_path: Path) -> None:
    """Why the dial's 0 is not what one gets without it: deep layers of a plain checkpoint choose alike."""
    config = shape("demo", vocab_size=8192)
    path = write_checkpoint(config, tmp_path / "m").path
    found = measured(path, tokens=200, seeds=(0, 1), prompt=PROMPT, shares=["hits_half"])
    assert found.reuse > 4 / 32 + 0.02


def grouped(logits_E: NDArray[np.float64]) -> Sequence[int]:
    """DeepSeek-V3's choice without its bias: 4 of 8 groups by their two best, then 4 experts."""
    groups = np.sort(1 / (1 + np.exp(-logits_E)).reshape(8, 4), axis=1)[:, -2:].sum(1)
    allowed = np.repeat(np.isin(np.arange(8), np.argsort(-groups)[:4]), 4)
    return list(np.argsort(-np.where(allowed, logits_E, -np.inf))[:4])


WIDER: Config = {
    "hidden_size": 256, "vocab_size": 8192, "num_hidden_layers": 3, "max_position_embeddings": 1024,
    "num_experts": 32, "num_local_experts": 32, "n_routed_experts": 32, "num_experts_per_tok": 4,
    "mlp_only_layers": [],
}  # fmt: skip
GROUPED: dict[str, Config] = {
    name: {"n_group": 8, "topk_group": 4} for name in ("deepseek_v3", "glm4_moe", "dots1")
}
UNGROUPED: Config = {"deepseek_v2": {"topk_method": "greedy", "n_group": 1, "topk_group": 1}}


def config_of(family: str) -> Config:
    tiny: Config = {"model_type": family, **json.loads(json.dumps(TINY[family].config))}
    wider = {key: value for key, value in WIDER.items() if key in tiny}
    return {
        **tiny,
        **wider,
        **GROUPED.get(family, {}),
        **UNGROUPED.get(family, {}),
        "tie_word_embeddings": False,
    }


EACH = [
    pytest.param(family, marks=() if family == "deepseek_v3" else pytest.mark.check, id=family)
    for family in sorted(locality.FAMILIES)
]


@pytest.mark.parametrize("family", EACH)
def test_every_family_of_the_dial_keeps_the_promise(family: str, tmp_path: Path) -> None:
    """Whatever the router does with its scores; the tiny models have what their family has."""
    (tmp_path / "config.json").write_text(json.dumps(config_of(family)))
    config = completed(resolve_shape(str(tmp_path)))
    choose: Choose | None = grouped if family in GROUPED else None
    for gamma in (0.0, 1.5):
        plan = plan_checkpoint(config, locality=gamma, outline=tensors if is_exact(config) else outline)
        path = write_plan(plan, tmp_path / f"{gamma}").path
        found = measured(path, tokens=500, seeds=(0, 1), prompt=PROMPT, shares=["hits_half"])
        layers = sum(spec.name.endswith((".gate.weight", ".router.weight")) for spec in plan.specs)
        theory = expected(32, 4, gamma, layers=layers, slots=found.slots, choose=choose)
        assert abs(found.reuse - theory.reuse) < 0.07, gamma
        assert abs(found.hits["hits_half"] - theory.hits["hits_half"]) < 0.07, gamma
