"""Shapes against transformers' own idea of the same config."""

import math

import pytest

from locum.errors import UnsupportedError, UsageError
from locum.synth.shapes import SHAPES, shape, tensors


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
