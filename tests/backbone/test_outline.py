"""Checkpoints written from a config alone, for every family: as transformers would have saved them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import locum
from helpers_families import FAMILIES, auto_class, family_config, make_family
from locum.backbone.outline import completed, outline
from locum.errors import CheckpointError
from locum.model.supported import CHECKED
from locum.synth.given import read_given
from locum.synth.names import Config, tensors
from locum.synth.plan import plan_checkpoint
from locum.synth.shapes import resolve_shape, shape
from locum.synth.writer import write_plan

RUN = [name for name, tiny in FAMILIES.items() if tiny.model_type in CHECKED]
SOME = ("deepseek_v3", "deepseek_v4", "gemma4", "granitemoehybrid", "minimax", "qwen3_5_moe", "zaya")
"""One with a selection bias, a fixed routing, a tower, a state space, computed buffers, no class named, few
parameters that are called weights."""
EACH = [pytest.param(name, marks=() if name in SOME else pytest.mark.check, id=name) for name in RUN]
WORDS = 320
_SAID: dict[str, Config] = {"nemotron_h": {"num_hidden_layers": 5}}
"""Where the tiny config contradicts its own list of layers, which is what transformers goes by."""


def config_of(family: str) -> Config:
    """The family's tiny config as a file would have it: complete, with room for a tokenizer."""
    tiny = FAMILIES[family]
    config: Config = json.loads(json.dumps({"model_type": tiny.model_type, **tiny.config}))
    text = config.get("text_config", config)
    text |= {key: WORDS for key in ("vocab_size", "vocab_size_per_layer_input") if key in text}
    text |= _SAID.get(family, {})
    return config


def saved_shapes(family: str, folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes that transformers saves."""
    model: Any = make_family(family)
    model.save_pretrained(folder)
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as content:
            found |= {name: tuple(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118 - no dict
    return found


@pytest.mark.parametrize("family", EACH)
def test_names_and_shapes_are_those_that_transformers_saves(family: str, tmp_path: Path) -> None:
    tiny = FAMILIES[family]
    specs = outline({"model_type": tiny.model_type, **json.loads(json.dumps(tiny.config))})
    assert {spec.name: spec.shape for spec in specs} == saved_shapes(family, tmp_path)


@pytest.mark.parametrize("family", RUN)
def test_a_config_that_transformers_has_saved(family: str, tmp_path: Path) -> None:
    family_config(family).save_pretrained(tmp_path)
    tiny = FAMILIES[family]
    plain = outline({"model_type": tiny.model_type, **json.loads(json.dumps(tiny.config))})
    saved = outline(read_given(tmp_path / "config.json"))
    assert [(spec.name, spec.shape) for spec in saved] == [(spec.name, spec.shape) for spec in plain]


def test_a_config_of_senseless_values_is_refused() -> None:
    with pytest.raises(CheckpointError, match="cannot build"):
        outline(
            {"model_type": "granitemoehybrid", **json.loads('{"time_step_limit": [0, {"__float__": "no"}]}')}
        )


@pytest.mark.parametrize("family", EACH)
def test_what_is_written_loads_and_is_alive(family: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_of(family)))
    config = completed(resolve_shape(str(tmp_path)))
    plan = plan_checkpoint(config, dtype="fp32", outline=outline)
    path = write_plan(plan, tmp_path / "model", shard_bytes=300_000).path
    reference, info = auto_class(family).from_pretrained(
        path, dtype="auto", experts_implementation="eager", output_loading_info=True
    )
    assert not any(info.values()), info
    prompt = torch.arange(260, 300)[None]
    with torch.inference_mode():
        expected = reference.eval()(input_ids=prompt).logits[0]
    assert expected.isfinite().all()
    assert (expected[5:].std(0) > 1e-3).float().mean() > 0.9, "every token gives the same logits"
    with locum.load(path, expert_memory="16MiB", threads=1, context=64) as engine:
        spare: list[int] = []
        acquire = engine.residents.acquire

        def watch(layer: int, counts: Any, x_TH: torch.Tensor) -> Any:
            spare.append(len(counts) - engine.spec.moe[layer].top_k)
            return acquire(layer, counts, x_TH)

        engine.residents.acquire = watch
        with torch.inference_mode():
            got = engine.model(input_ids=prompt).logits[0]
        assert min(spare) > 0, "a router that chooses the same for every token"
        assert len(engine.generate("hello", max_tokens=3, ignore_eos=True).tokens) == 3
    assert torch.allclose(got, expected, atol=1e-3)


@pytest.mark.parametrize("name", ["tiny-olmoe", "tiny-qwen3"])
def test_it_agrees_with_the_exact_names(name: str) -> None:
    config = shape(name)
    assert {s.name: s.shape for s in outline(config)} == {s.name: s.shape for s in tensors(config)}


def test_a_feature_that_the_exact_names_lack_is_outlined() -> None:
    specs = {s.name for s in outline(shape("tiny-qwen3", attention_bias=True))}
    assert "model.layers.0.self_attn.q_proj.bias" in specs


def test_what_may_not_be_random_is_as_in_a_fresh_model() -> None:
    specs = {spec.name: spec for spec in outline(config_of("granitemoehybrid"))}
    decay = next(spec for name, spec in specs.items() if name.endswith("A_log"))
    assert decay.content is not None
    assert torch.allclose(torch.from_numpy(decay.content), torch.arange(1, len(decay.content) + 1).log())
    table = next(s for s in outline(config_of("deepseek_v4")) if s.name.endswith("tid2eid"))
    assert table.content is not None
    rows = torch.from_numpy(table.content).sort(-1).values
    assert rows.min() >= 0
    assert rows.max() < 8
    assert (rows[:, 1:] > rows[:, :-1]).all(), "an expert twice for one token"


def test_the_same_config_gives_the_same_outline() -> None:
    one, two = outline(config_of("deepseek_v4")), outline(config_of("deepseek_v4"))
    assert one == two
    for first, second in zip(one, two, strict=True):
        if first.content is not None and second.content is not None:
            assert first.content.tobytes() == second.content.tobytes()


def test_a_config_that_cannot_be_built() -> None:
    with pytest.raises(CheckpointError, match="deepseek_v3"):
        outline({**config_of("deepseek_v3"), "hidden_size": -1})
