"""The dial's tensors against the definitions in its docstring, and what it refuses."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from locum.errors import UnsupportedError, UsageError
from locum.synth.locality import FAMILIES, STAY, Dial
from locum.synth.names import Config
from locum.synth.shapes import shape
from locum.synth.writer import write_checkpoint

SMALL: Config = {"hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 512}
SHAPES = {
    "demo": {},
    "mixtral-8x7b": SMALL,
    "gpt-oss-20b": SMALL,
    "deepseek-v2-lite": {**SMALL, "moe_intermediate_size": 32, "kv_lora_rank": 16},
}


def weights_of(folder: Path, name: str, gamma: float, **values: Any) -> dict[str, np.ndarray]:
    path = write_checkpoint(shape(name, **SHAPES[name]), folder, locality=gamma, **values).path
    return {key: tensor.float().numpy() for key, tensor in load_file(path / "model.safetensors").items()}


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("name", SHAPES)
def test_topics_are_written_by_words_alone_and_read_by_routers_and_head(
    tmp_path: Path, name: str, dtype: str
) -> None:
    config = shape(name, **SHAPES[name])
    dial, weights = Dial.of(config, 1.0), weights_of(tmp_path / "m", name, 1.0, dtype=dtype)
    topics = dial.topics
    words = np.eye(topics)[np.arange(config["vocab_size"]) % topics]
    for key, value in (("model.embed_tokens.weight", dial.amplitude), ("lm_head.weight", dial.pull)):
        axes = weights[key][:, :topics]
        assert np.allclose(axes, words * value, rtol=2**-7, atol=0), key
    outer = ("o_proj.weight", "down_proj.weight", "w2.weight", "down_proj", "o_proj.bias", "down_proj_bias")
    quiet = {key: value for key, value in weights.items() if key.endswith(outer)}
    assert len(quiet) > 4
    for key, value in quiet.items():
        written = value if key.endswith(".weight") else value.T
        assert (written[:topics] == 0).all(), key
        assert (written[topics:] != 0).all(), key
    routers = [key for key in weights if key.endswith((".gate.weight", "router.weight"))]
    assert len(routers) >= config["num_hidden_layers"] - 1
    for key in routers:
        read = weights[key][:, :topics]
        layer = int(key.split(".")[2])
        assert abs(read.std() / dial.router_scale(layer) - 1) < 5 / read.size**0.5, key


def test_gamma_changes_the_routers_topics_and_nothing_else(tmp_path: Path) -> None:
    none, some = (weights_of(tmp_path / str(gamma), "demo", gamma, seed=4) for gamma in (0.0, 2.0))
    for key, value in none.items():
        if key.endswith(".gate.weight"):
            assert (value[:, :32] == 0).all()
            assert np.array_equal(value[:, 32:], some[key][:, 32:])
            assert (some[key][:, :32] != 0).all()
        else:
            assert np.array_equal(value, some[key]), key


def test_the_scale_gives_the_ratio_that_gamma_is() -> None:
    """By the definition, with a token drawn at random: the two parts of a logit, without any model."""
    dial = Dial(gamma=1.5, hidden=512, layers=1, added=0.1)
    random = np.random.default_rng(0)
    row_E = random.standard_normal((4000, 512)) / 512**0.5
    row_E[:, : dial.topics] = random.standard_normal((4000, dial.topics)) * dial.router_scale(0)
    token = random.standard_normal(512) * 1.05**0.5  # half of what a layer adds to an embedding's 1
    token[: dial.topics] = np.eye(dial.topics)[3] * dial.amplitude
    topic, rest = row_E[:, :32] @ token[:32], row_E[:, 32:] @ token[32:]
    assert math.isclose(topic.std() / rest.std(), 1.5, rel_tol=0.06)


def test_the_pull_gives_the_chance_to_stay() -> None:
    """A softmax over one word per topic, at the length that the residual stream has at the end."""
    dial = Dial(gamma=0, hidden=2048, layers=16, added=0.1)
    logits = np.zeros(dial.topics)
    logits[0] = dial.pull * dial.amplitude / dial._rms(1.0)
    assert math.isclose(np.exp(logits[0]) / np.exp(logits).sum(), STAY, rel_tol=1e-6)


def test_the_seed_decides_the_bytes(tmp_path: Path) -> None:
    def content(name: str, seed: int) -> bytes:
        path = write_checkpoint(shape("demo"), tmp_path / name, seed=seed, locality=1.0).path
        return (path / "model.safetensors").read_bytes()

    assert content("a", 1) == content("b", 1) != content("c", 2)


def test_what_the_dial_cannot_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="locality"):
        write_checkpoint(shape("demo"), tmp_path / "m", locality=-0.1)
    with pytest.raises(UsageError, match="locality"):
        write_checkpoint(shape("demo"), tmp_path / "m", locality=math.nan)
    with pytest.raises(UnsupportedError, match="repeats its last token"):
        write_checkpoint({**shape("demo"), "tie_word_embeddings": True}, tmp_path / "m", locality=1)
    with pytest.raises(UnsupportedError, match="granitemoe") as refused:
        Dial.of({**shape("demo"), "model_type": "granitemoe"}, 1)
    assert all(family in json.dumps(str(refused.value.allowed)) for family in FAMILIES)
    assert list(tmp_path.iterdir()) == []
