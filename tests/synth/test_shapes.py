"""Shapes against transformers' own idea of the same config."""

import json
import math
from pathlib import Path

import pytest
from transformers import AutoConfig

from locum.errors import CheckpointError, UnsupportedError, UsageError
from locum.synth.names import FAMILIES, tensors
from locum.synth.shapes import SHAPES, resolve_shape, shape


def reference_shapes(config: dict[str, object]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the checkpoint transformers would save, from a model on the meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.core_model_loading import revert_weight_conversion

    own = AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(own)
    state = revert_weight_conversion(model, model.state_dict())
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_names_and_shapes_are_those_of_transformers(name: str) -> None:
    # two layers are enough to see every kind of layer these shapes have
    config = shape(name, num_hidden_layers=2)
    ours = {spec.name: spec.shape for spec in tensors(config)}
    assert ours == reference_shapes(config)


def test_the_real_model_has_its_published_size() -> None:
    specs = list(tensors(shape("olmoe-1b-7b")))
    assert sum(spec.elements for spec in specs) == 6_919_161_856
    per_expert = [s.elements for s in specs if s.name.startswith("model.layers.3.mlp.experts.17.")]
    assert sum(per_expert) == 3 * 2048 * 1024
    assert len({s.name for s in specs}) == len(specs)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("mixtral-8x7b", 46_702_792_704), ("deepseek-v2-lite", 15_706_484_224), ("gpt-oss-20b", 20_914_757_184)],
)
def test_other_real_models_have_their_published_sizes(name: str, parameters: int) -> None:
    assert sum(spec.elements for spec in tensors(shape(name))) == parameters


def test_a_config_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    given = {"model_type": "deepseek_v2", "hidden_size": 96, "q_lora_rank": 32, "num_hidden_layers": 2}
    path.write_text(json.dumps(given))
    for what in (str(path), str(tmp_path)):
        config = resolve_shape(what)
        assert config.items() >= given.items()
        assert config["kv_lora_rank"] == 512, "what is left out is as in the known model"
    assert {spec.name: spec.shape for spec in tensors(config)} == reference_shapes(config)
    assert resolve_shape("demo") == shape("demo")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_config_that_transformers_has_saved(tmp_path: Path, family: str) -> None:
    # under transformers' own names, with numbers that no known shape has
    own = AutoConfig.for_model(
        family, hidden_size=96, num_attention_heads=3, num_experts=6, num_hidden_layers=2
    )
    own.num_key_value_heads = 3
    if family == "qwen3_moe":  # real files say it; left out, it is as in the known shape
        own.head_dim = 24
    own.save_pretrained(tmp_path)
    ours = {spec.name: spec.shape for spec in tensors(resolve_shape(str(tmp_path)))}
    assert ours == reference_shapes(own.to_dict())


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        ('{"model_type": "llama"}', UnsupportedError, "llama"),
        ("{}", UnsupportedError, "None"),
        ("[]", CheckpointError, "no JSON object"),
        ("{", CheckpointError, "cannot be read"),
    ],
)
def test_a_config_that_cannot_be_used(
    tmp_path: Path, content: str, error: type[Exception], says: str
) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(error, match=says):
        resolve_shape(str(tmp_path))


def test_qwen3_has_its_published_size() -> None:
    assert math.isclose(sum(s.elements for s in tensors(shape("qwen3-30b-a3b"))), 30.5e9, rel_tol=0.01)


def test_dense_layers_and_steps_are_followed() -> None:
    config = shape("tiny-qwen3", num_hidden_layers=5, mlp_only_layers=[4], decoder_sparse_step=2)
    moe = {s.name.split(".")[2] for s in tensors(config) if s.is_expert}
    assert moe == {"1", "3"}
    assert {s.name: s.shape for s in tensors(config)} == reference_shapes(config)


def test_wrong_questions_are_refused() -> None:
    with pytest.raises(UsageError, match="olmoe-1b-7b"):
        shape("gpt-5")
    with pytest.raises(UsageError, match="hidden_sise"):
        shape("tiny-olmoe", hidden_sise=3)
    with pytest.raises(UnsupportedError, match="mamba"):
        list(tensors({**shape("tiny-olmoe"), "model_type": "mamba"}))


def test_a_shape_is_a_copy() -> None:
    shape("tiny-olmoe")["hidden_size"] = 1
    assert shape("tiny-olmoe")["hidden_size"] == 64
