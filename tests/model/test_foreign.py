"""Families without a row in the table of facts are described too: `MoESpec` against their live models."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, DynamicCache

from locum.errors import NotMoEError
from locum.model import Checkpoint, MoESpec
from locum.model.families import FAMILIES

_COMMON = {
    "vocab_size": 128,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "intermediate_size": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_QWEN = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
_MLA = {
    "num_key_value_heads": 4,
    "q_lora_rank": 8,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
_DEEPSEEK = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}
_LOCAL = {"num_local_experts": 8, "num_experts_per_tok": 2}

# family: (config, top-k, layout, router, shared experts)
CASES: dict[str, tuple[dict[str, object], int, str, str, int]] = {
    "qwen2_moe": (_QWEN, 2, "per-expert", "softmax", 1),
    "qwen3_next": (
        {
            **_QWEN,
            "head_dim": 8,
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
        2,
        "per-expert",
        "softmax",
        1,
    ),
    "deepseek_v2": (
        {**_DEEPSEEK, **_MLA, "n_group": 4, "topk_group": 2, "n_shared_experts": 2},
        2,
        "per-expert",
        "softmax+groups",
        2,
    ),
    "glm4_moe_lite": (
        {**_DEEPSEEK, **_MLA, "n_group": 1, "topk_group": 1},
        2,
        "per-expert",
        "sigmoid+bias",
        1,
    ),
    "ernie4_5_moe": (
        {"moe_num_experts": 8, "moe_k": 3, "moe_intermediate_size": 16, "moe_layer_start_index": 1},
        3,
        "per-expert",
        "softmax+bias",
        2,
    ),
    "phimoe": (_LOCAL, 2, "per-expert", "unknown", 0),
    "granitemoe": (_LOCAL, 2, "fused", "softmax-after-topk", 0),
    "granitemoeshared": ({**_LOCAL, "shared_intermediate_size": 16}, 2, "fused", "softmax-after-topk", 1),
    "hunyuan_v1_moe": ({"num_experts": 8, "moe_topk": 2, "head_dim": 8}, 2, "per-expert", "softmax", 1),
    "lfm2_moe": (
        {
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "num_dense_layers": 1,
            "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        },
        2,
        "per-expert",
        "sigmoid+bias",
        0,
    ),
    "jamba": (
        {**_LOCAL, "num_experts": 8, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4},
        2,
        "per-expert",
        "softmax",
        0,
    ),
}


def numel(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def experts_of(model: nn.Module) -> dict[int, nn.Module]:
    """Absolute layer to experts module: those that transformers' own experts decorator has marked."""
    marked = [(name, m) for name, m in model.named_modules() if hasattr(m, "_is_expert_parallel")]
    return {int(re.findall(r"layers\.(\d+)\.", name)[0]): module for name, module in marked}


def compare(model: nn.Module, spec: MoESpec) -> None:
    modules = experts_of(model)
    assert spec.moe_layers == tuple(modules)
    assert set(spec.experts) == {8}
    assert spec.routed_bytes == sum(2 * numel(module) for module in modules.values())
    assert spec.expert_bytes == tuple(2 * numel(module) // 8 for module in modules.values())
    state = {name: value for name, value in model.state_dict().items() if ".visual." not in name}
    persistent = {value.data_ptr(): value.numel() for value in state.values()}  # tied ones once
    assert spec.params == sum(persistent.values())


@pytest.mark.parametrize("family", CASES)
def test_described_without_a_row_of_facts(family: str, tmp_path: Path) -> None:
    changes, top_k, layout, router, shared = CASES[family]
    config = AutoConfig.for_model(family, **{**_COMMON, **changes})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    model.save_pretrained(tmp_path)
    spec = MoESpec.of(Checkpoint.open(tmp_path))
    compare(model, spec)
    assert (spec.family, set(spec.top_k), spec.layout) == (family, {top_k}, layout)
    assert (spec.router, spec.shared_experts) == (router, shared)
    assert family not in FAMILIES
    assert spec.runnable

    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.arange(3, 13)[None], past_key_values=cache)
    attention = [layer for layer in cache.layers if getattr(layer, "keys", None) is not None]
    held = sum(2 * (layer.keys.numel() + layer.values.numel()) for layer in attention)
    assert spec.kv_bytes(10) == held


def test_a_composite_model_is_judged_by_its_decoder(tmp_path: Path) -> None:
    text = {
        **_COMMON,
        **_QWEN,
        "head_dim": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
    }
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
    config = AutoConfig.for_model(
        "qwen3_vl_moe", text_config=text, vision_config={**vision, "deepstack_visual_indexes": [0]}
    )
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    spec = MoESpec.of(Checkpoint.open(tmp_path))
    compare(model, spec)
    assert spec.family == "qwen3_vl_moe_text"
    assert spec.architecture == "Qwen3VLMoeForConditionalGeneration"
    assert spec.moe[0].module == "model.language_model.layers.0.mlp.experts"
    assert spec.runnable


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_dense_families(family: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **_COMMON), dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    with pytest.raises(NotMoEError, match=family):
        MoESpec.of(Checkpoint.open(tmp_path))
