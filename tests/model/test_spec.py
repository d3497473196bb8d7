"""`MoESpec` on checkpoints written by hand: files at odds with the config, quantised layouts, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers_checkpoint import Shapes, length_of, qwen3_moe, write_checkpoint
from locum.errors import CheckpointError, ModelError, NotMoEError, UnsupportedError
from locum.model import Checkpoint, MoESpec
from locum.model.supported import CHECKED

EXPERT = "model.layers.1.mlp.experts."


def spec_of(folder: Path, config: dict[str, Any], tensors: Shapes) -> MoESpec:
    return MoESpec.of(Checkpoint.open(write_checkpoint(folder, config, tensors)))


def renamed(tensors: Shapes, old: str, new: str) -> Shapes:
    return {name.replace(old, new): entry for name, entry in tensors.items()}


def without(tensors: Shapes, part: str) -> Shapes:
    return {name: entry for name, entry in tensors.items() if part not in name}


def test_the_figures_by_hand(tmp_path: Path) -> None:
    config, tensors = qwen3_moe()  # 2 layers, hidden 16, 4 experts of width 8, vocabulary 32, top 2
    spec = spec_of(tmp_path, config, tensors)
    expert = 3 * 8 * 16
    attention = 16 * 16 + 2 * 8 * 16 + 16 * 16 + 2 * 8
    backbone = 2 * 32 * 16 + 16 + 2 * (attention + 2 * 16 + 4 * 16)
    assert spec.expert_bytes == (2 * expert, 2 * expert)
    assert spec.moe[0].pieces == (
        ("down_proj.weight", 256),
        ("gate_proj.weight", 256),
        ("up_proj.weight", 256),
    )
    assert spec.moe[1].module == "model.layers.1.mlp.experts"
    assert spec.routed_bytes == 2 * 4 * 2 * expert
    assert spec.active_bytes_per_token == 2 * 2 * 2 * expert
    assert (spec.backbone_params, spec.backbone_bytes) == (backbone, 2 * backbone)
    assert spec.params == backbone + 8 * expert
    assert spec.active_params == backbone + 4 * expert
    assert spec.kv_bytes_per_token == 2 * 2 * 2 * 8
    assert spec.kv_bytes(100, element=4) == 100 * 4 * 2 * 2 * 8
    assert spec.require_runnable() is spec


def test_layers_of_other_kinds_keep_no_cache_or_a_window_of_it(tmp_path: Path) -> None:
    """A linear-attention layer may have a `k_proj` too (Kimi Linear); its state does not grow."""
    config, tensors = qwen3_moe(layers=3)
    config |= {
        "model_type": "kimi_linear",
        "layer_types": ["linear_attention", "sliding_attention", "full_attention"],
        "sliding_window": 10,
    }
    spec = spec_of(tmp_path, config, tensors)
    assert [(layer.elements, layer.window) for layer in spec.kv] == [(0, None), (16, 10), (16, None)]
    assert spec.kv_bytes(9) == 2 * 16 * (9 + 9)
    assert spec.kv_bytes(50) == 2 * 16 * (10 + 50)


Change = Callable[[dict[str, Any], Shapes], tuple[dict[str, Any], Shapes]]
AT_ODDS: dict[str, tuple[Change, tuple[str, ...]]] = {
    "more experts in the config": (
        lambda c, t: ({**c, "num_experts": 6}, t),
        ("number of experts", "6", "got 4"),
    ),
    "fewer experts in the config": (
        lambda c, t: ({**c, "num_experts": 2}, t),
        ("number of experts", "2", "got 4"),
    ),
    "another width": (
        lambda c, t: ({**c, "moe_intermediate_size": 9}, t),
        ("[9, 16]", "[8, 16]", "gate_proj.weight"),
    ),
    "another hidden size": (lambda c, t: ({**c, "hidden_size": 17}, t), ("17", "16")),
    "another vocabulary": (
        lambda c, t: ({**c, "vocab_size": 33}, t),
        ("embed_tokens", "[33, 16]", "[32, 16]"),
    ),
    "a last expert missing": (lambda c, t: (c, without(t, f"{EXPERT}3.")), ("number of experts", "got 3")),
    "an expert missing in the middle": (
        lambda c, t: (c, without(t, f"{EXPERT}1.")),
        ("expert 1 of", "layers.1"),
    ),
    "a matrix missing": (
        lambda c, t: (c, without(t, f"{EXPERT}2.up")),
        (f"{EXPERT}2.up_proj.weight", "missing"),
    ),
    "a matrix missing everywhere": (lambda c, t: (c, without(t, "up_proj")), ("lack 'up_proj.weight'",)),
    "a matrix more": (
        lambda c, t: (c, {**t, f"{EXPERT}2.bias": ("BF16", (16,))}),
        ("expert 2 has", "'bias'"),
    ),
    "one matrix of another shape": (
        lambda c, t: (c, {**t, f"{EXPERT}2.up_proj.weight": ("BF16", (9, 16))}),
        (f"{EXPERT}2.up_proj.weight", "[8, 16]", "[9, 16]", "model.safetensors"),
    ),
    "one matrix of another dtype": (
        lambda c, t: (c, {**t, f"{EXPERT}2.up_proj.weight": ("F32", (8, 16))}),
        (f"{EXPERT}2.up_proj.weight", "BF16", "F32"),
    ),
    "a MoE layer without experts": (lambda c, t: (c, without(t, EXPERT)), ("layer 1 has no routed experts",)),
    "experts in a dense layer": (
        lambda c, t: ({**c, "mlp_only_layers": [1]}, t),
        ("layers.1", "has no MoE there"),
    ),
    "no experts in any file": (
        lambda c, t: (c, without(t, ".experts.")),
        ("no routed experts", "4 per layer"),
    ),
    "a layer missing": (lambda c, t: ({**c, "num_hidden_layers": 3}, t), ("layer 2 has no routed experts",)),
    "no embedding": (lambda c, t: (c, without(t, "embed_tokens")), ("embed_tokens.weight", "missing")),
    "a norm missing": (
        lambda c, t: (c, without(t, "layers.1.input_layernorm")),
        ("layers.1.input_layernorm",),
    ),
    "top-k above the experts": (lambda c, t: ({**c, "num_experts_per_tok": 5}, t), ("1 to 4", "got 5")),
    "top-k of zero": (lambda c, t: ({**c, "num_experts_per_tok": 0}, t), ("1 to 4", "got 0")),
    "sense in words": (lambda c, t: ({**c, "hidden_size": "16"}, t), ("hidden_size makes no sense", "'16'")),
    "true is no number": (
        lambda c, t: ({**c, "num_experts": True}, t),
        ("num_experts makes no sense", "True"),
    ),
    "more layers than tensors": (
        lambda c, t: ({**c, "num_hidden_layers": 10**9}, t),
        ("num_hidden_layers makes no sense", "1000000000"),
    ),
    "negative layers": (
        lambda c, t: ({**c, "num_hidden_layers": -2}, t),
        ("num_hidden_layers makes no sense",),
    ),
    "a list of layers in words": (lambda c, t: ({**c, "mlp_only_layers": ["a"]}, t), ("mlp_only_layers",)),
    "a key missing": (
        lambda c, t: ({k: v for k, v in c.items() if k != "vocab_size"}, t),
        ("lacks vocab_size",),
    ),
}


@pytest.mark.parametrize("case", AT_ODDS)
def test_files_at_odds_with_the_config(case: str, tmp_path: Path) -> None:
    change, words = AT_ODDS[case]
    config, tensors = change(*qwen3_moe())
    with pytest.raises(CheckpointError) as caught:
        spec_of(tmp_path, config, tensors)
    assert str(tmp_path) in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_dense_model(tmp_path: Path) -> None:
    config, tensors = qwen3_moe()
    dense = {**config, "model_type": "llama"}
    del dense["num_experts"]
    with pytest.raises(NotMoEError, match="llama"):
        spec_of(tmp_path, dense, without(tensors, ".experts."))
    # a MoE family whose layers are all dense
    with pytest.raises(NotMoEError, match="qwen3_moe"):
        spec_of(tmp_path, {**config, "mlp_only_layers": [0, 1]}, without(tensors, ".experts."))


def test_an_unknown_family_is_described_but_not_run(tmp_path: Path) -> None:
    config, tensors = qwen3_moe()
    spec = spec_of(tmp_path, {**config, "model_type": "brandnew_moe"}, tensors)
    assert (spec.family, spec.experts, spec.top_k, spec.router) == ("brandnew_moe", (4, 4), (2, 2), "unknown")
    with pytest.raises(UnsupportedError, match=f"brandnew_moe has .* {len(CHECKED)} families"):
        spec.require_runnable()
    close = spec_of(tmp_path / "close", {**config, "model_type": "qwen3_moee"}, tensors)
    assert "qwen3_moe" in str(close.unrunnable).split("nearest")[1]


def test_code_in_the_checkpoint_is_the_reason_only_where_it_would_be_needed(tmp_path: Path) -> None:
    config, tensors = qwen3_moe()
    remote = {**config, "auto_map": {"AutoModelForCausalLM": "modeling_x.XForCausalLM"}}
    (tmp_path / "modeling_x.py").write_text("raise SystemExit('this must never run')")
    known = spec_of(tmp_path, remote, tensors)
    assert known.remote_code
    assert known.runnable
    unknown = spec_of(tmp_path, {**remote, "model_type": "x_moe"}, tensors)
    with pytest.raises(
        UnsupportedError, match="code that comes with the checkpoint, which locum does not run"
    ):
        unknown.require_runnable()


def test_experts_under_names_nobody_knows(tmp_path: Path) -> None:
    config, tensors = qwen3_moe()
    odd = renamed(tensors, ".mlp.experts.", ".mlp.specialists.")
    with pytest.raises(UnsupportedError, match="names that locum does not know"):
        spec_of(tmp_path, {**config, "model_type": "x_moe"}, odd)
    unnamed = {k: v for k, v in config.items() if k != "num_experts_per_tok"}
    with pytest.raises(UnsupportedError, match="does not say how many experts a token uses"):
        spec_of(tmp_path, {**unnamed, "model_type": "x_moe"}, tensors)


def fp8(tensors: Shapes, block: int) -> Shapes:
    """Linear layers in FP8 with one float per block, as DeepSeek-V3 and the Qwen3 FP8 models store them."""
    stored: Shapes = {}
    for name, (dtype, shape) in tensors.items():
        if not name.endswith("_proj.weight"):
            stored[name] = dtype, shape
            continue
        stored[name] = "F8_E4M3", shape
        stored[f"{name}_scale_inv"] = "F32", tuple(-(-side // block) for side in shape)
    return stored


FP8 = {
    "quantization_config": {
        "quant_method": "fp8",
        "weight_block_size": [5, 5],
        "activation_scheme": "dynamic",
    }
}


def test_fp8_is_counted_and_named(tmp_path: Path) -> None:
    config, tensors = qwen3_moe()
    plain = spec_of(tmp_path / "plain", config, tensors)
    stored = fp8(tensors, 5)
    spec = spec_of(tmp_path / "fp8", {**config, **FP8}, stored)
    assert spec.quantization == "fp8"
    assert spec.dtype == "bfloat16"
    # a matrix of 8 x 16 or 16 x 8: one byte per weight, 2 x 4 scales of 4 bytes
    assert spec.expert_bytes == (3 * (8 * 16 + 2 * 4 * 4),) * 2
    assert spec.moe[0].expert_params == 3 * 8 * 16
    assert spec.params == plain.params
    assert spec.backbone_resident_bytes == plain.backbone_bytes
    total = sum(length_of(*entry) for entry in stored.values())
    assert spec.routed_bytes + spec.backbone_bytes == total
    assert spec.runnable


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: without(t, "scale_inv") | {}, ()),
        (
            lambda t: without(t, f"{EXPERT}2.up_proj.weight_scale_inv"),
            (f"{EXPERT}2.up_proj.weight_scale_inv",),
        ),
        (
            lambda t: {**t, **{n: ("F32", (3, 3)) for n in t if "experts" in n and "scale" in n}},
            ("[2, 4]", "[3, 3]"),
        ),
    ],
)
def test_fp8_scales_at_odds(
    change: Callable[[Shapes], Shapes], words: tuple[str, ...], tmp_path: Path
) -> None:
    config, tensors = qwen3_moe()
    stored = change(fp8(tensors, 5))
    if not words:  # scales of another kind are not ours to judge
        assert spec_of(tmp_path, {**config, **FP8}, stored).quantization == "fp8"
        return
    with pytest.raises(CheckpointError) as caught:
        spec_of(tmp_path, {**config, **FP8}, stored)
    for word in words:
        assert word in str(caught.value)


def test_fp8_without_a_word_in_the_config_is_refused(tmp_path: Path) -> None:
    config, tensors = qwen3_moe()
    spec = spec_of(tmp_path, config, fp8(tensors, 5))
    assert spec.quantization == "undeclared F8_E4M3"
    with pytest.raises(UnsupportedError, match="undeclared F8_E4M3"):
        spec.require_runnable()


def gpt_oss(*, experts: int = 4, hidden: int = 64, width: int = 32) -> tuple[dict[str, Any], Shapes]:
    """gpt-oss as OpenAI stores it: attention in bf16, experts in MXFP4."""
    config = {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "num_hidden_layers": 2,
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_local_experts": experts,
        "num_experts_per_tok": 2,
        "experts_per_token": 2,
        "vocab_size": 96,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "sliding_window": 16,
        "max_position_embeddings": 256,
        "layer_types": ["sliding_attention", "full_attention"],
        "quantization_config": {
            "quant_method": "mxfp4",
            "modules_to_not_convert": ["model.layers.*.self_attn"],
        },
    }
    tensors: Shapes = {"model.embed_tokens.weight": ("BF16", (96, hidden))}
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        tensors[prefix + "input_layernorm.weight"] = "BF16", (hidden,)
        for name, rows in (("q", 64), ("k", 32), ("v", 32)):
            tensors[f"{prefix}self_attn.{name}_proj.weight"] = "BF16", (rows, hidden)
        tensors[prefix + "mlp.router.weight"] = "BF16", (experts, hidden)
        for name, rows, columns in (("gate_up_proj", 2 * width, hidden), ("down_proj", hidden, width)):
            blocks = f"{prefix}mlp.experts.{name}"
            tensors[f"{blocks}_blocks"] = "U8", (experts, rows, columns // 32, 16)
            tensors[f"{blocks}_scales"] = "U8", (experts, rows, columns // 32)
            tensors[f"{blocks}_bias"] = "BF16", (experts, rows)
    return config, tensors


def test_mxfp4_is_counted_and_named(tmp_path: Path) -> None:
    config, tensors = gpt_oss()
    spec = spec_of(tmp_path, config, tensors)
    weights, biases = 3 * 64 * 32, 2 * 32 + 64
    assert (spec.quantization, spec.layout, spec.experts) == ("mxfp4", "fused", (4, 4))
    assert spec.moe[0].expert_params == weights + biases
    assert spec.expert_bytes == (weights // 2 + weights // 32 + 2 * biases,) * 2
    assert spec.routed_bytes + spec.backbone_bytes == sum(length_of(*entry) for entry in tensors.values())
    assert spec.dtype == "bfloat16"
    assert [layer.window for layer in spec.kv] == [16, None]
    assert spec.kv_bytes(100) == 2 * 64 * (16 + 100)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_local_experts": 5}, ("number of experts", "expected 5", "got 4")),
        ({"num_local_experts": 2, "num_experts_per_tok": 1}, ("number of experts", "expected 2", "got 4")),
        ({"intermediate_size": 64}, ("gate_up_proj_blocks", "[128, 2, 16]", "[64, 2, 16]")),
    ],
)
def test_mxfp4_at_odds(changes: dict[str, int], words: tuple[str, ...], tmp_path: Path) -> None:
    config, tensors = gpt_oss()
    with pytest.raises(CheckpointError) as caught:
        spec_of(tmp_path, {**config, **changes}, tensors)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("declared", "pieces", "name"),
    [
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 8},
            lambda o, i: {
                "qweight": ("I32", (i // 8, o)),
                "qzeros": ("I32", (i // 8, o // 8)),
                "scales": ("F16", (i // 8, o)),
                "g_idx": ("I32", (i,)),
            },
            "gptq",
        ),
        (
            {"quant_method": "awq", "bits": 4, "group_size": 8},
            lambda o, i: {
                "qweight": ("I32", (i, o // 8)),
                "qzeros": ("I32", (i // 8, o // 8)),
                "scales": ("F16", (i // 8, o)),
            },
            "awq",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8}}},
            },
            lambda o, i: {
                "weight_packed": ("I32", (o, i // 4)),
                "weight_scale": ("BF16", (o, i // 8)),
                "weight_shape": ("I64", (2,)),
            },
            "compressed-tensors",
        ),
    ],
)
def test_packed_integers_are_named_and_their_parameters_counted(
    declared: dict[str, Any], pieces: Callable[[int, int], Shapes], name: str, tmp_path: Path
) -> None:
    config, tensors = qwen3_moe(hidden=32, width=16)
    stored: Shapes = {}
    for key, (dtype, shape) in tensors.items():
        if ".experts." not in key:
            stored[key] = dtype, shape
            continue
        for suffix, entry in pieces(*shape).items():
            stored[key.replace("weight", suffix)] = entry
    plain = spec_of(tmp_path / "plain", config, tensors)
    spec = spec_of(tmp_path / "packed", {**config, "quantization_config": declared}, stored)
    assert spec.quantization == name
    assert spec.params == plain.params
    assert spec.expert_bytes[0] < plain.expert_bytes[0]
    assert spec.runnable


def test_no_change_of_the_config_crashes(tmp_path: Path) -> None:
    """Whatever a key of the config is set to, the outcome is a spec or one of our errors."""
    config, tensors = qwen3_moe()
    folder = write_checkpoint(tmp_path, config, tensors)
    keys = [
        *config,
        "quantization_config",
        "layer_types",
        "sliding_window",
        "text_config",
        "n_group",
        "auto_map",
    ]
    keys += ["mlp_only_layers", "decoder_sparse_step", "num_local_experts", "kv_lora_rank", "ffn_config"]
    value = st.recursive(
        st.none() | st.booleans() | st.integers(-3, 40) | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(keys), inner, max_size=2),
        max_leaves=5,
    )
    kinds = st.sampled_from(
        ["qwen3_moe", "mixtral", "olmoe", "deepseek_v3", "glm4_moe", "gpt_oss", "other", None]
    )

    @settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
    @given(changes=st.dictionaries(st.sampled_from(keys), value, min_size=1, max_size=3), kind=kinds)
    def change(changes: dict[str, Any], kind: str | None) -> None:
        altered = {**config, **({} if kind is None else {"model_type": kind}), **changes}
        (folder / "config.json").write_text(json.dumps(altered))
        try:
            spec = MoESpec.of(Checkpoint.open(folder))
        except ModelError:
            pass
        else:
            stored = sum(length_of(*entry) for entry in tensors.values())
            assert spec.routed_bytes + spec.backbone_bytes + spec.ignored_bytes == stored

    change()
