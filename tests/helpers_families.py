"""A tiny random model of every transformers family that has routed experts one by one.

transformers 5.23 has 64 model folders with `@use_experts_implementation`, and four more that locum adapts.
Each entry of `FAMILIES` switches on what its family has: expert groups, a dense first layer, shared experts,
windows, MLA, linear attention.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from helpers_models import COMMON, randomise

Overrides = dict[str, Any]


@dataclass(frozen=True)
class Tiny:
    """How one family is built."""

    model_type: str
    config: Overrides
    note: str
    auto: str = "causal"
    """`causal`, `image-text`, or the name of a class in the family's modeling module."""


# fmt: off
HEADS: Overrides = {"head_dim": 16}
WIDTHS: Overrides = {"intermediate_size": 96, "moe_intermediate_size": 32, "num_experts_per_tok": 3}
EXPERTS = {**WIDTHS, "num_experts": 8}
LOCAL = {**WIDTHS, "num_local_experts": 8}
ROUTED = {**WIDTHS, "n_routed_experts": 8, "n_shared_experts": 1}
PLAIN: Overrides = {"intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 3}
PLAIN_LOCAL: Overrides = {"intermediate_size": 32, "num_local_experts": 8, "num_experts_per_tok": 2}
GROUPS: Overrides = {"n_group": 4, "topk_group": 2}
DENSE_K: Overrides = {"first_k_dense_replace": 1}
DENSE: Overrides = {"mlp_layer_types": ["dense", "sparse", "sparse"]}
WINDOW: Overrides = {"sliding_window": 16,
                     "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
WINDOW_FIRST = {**WINDOW, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
LATENT: Overrides = {"num_key_value_heads": 4, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
                     "qk_nope_head_dim": 16, "v_head_dim": 16}
MLA = {**LATENT, "q_lora_rank": 24}
# With few heads whole scores are relu's zero, and a tie at the top-k breaks one way in a prefill and another
# in a cached step.
INDEXER: Overrides = {"index_topk": 8, "index_head_dim": 16, "index_n_heads": 8}
INDEXER_SHARED = {**INDEXER, "indexer_types": ["full", "shared", "full"]}
LINEAR: Overrides = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
DELTA = {**LINEAR, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
         "linear_value_head_dim": 16}
KDA: Overrides = {"linear_head_dim": 16, "linear_num_heads": 4, "linear_conv_kernel_dim": 4}
GRANITE: Overrides = {**PLAIN_LOCAL, "num_experts_per_tok": 3, "embedding_multiplier": 2.0,
                      "logits_scaling": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3}
INKLING: Overrides = {"swa_num_attention_heads": 2, "swa_num_key_value_heads": 1, "swa_head_dim": 24,
                      "sliding_window_size": 16, "d_rel": 4, "rel_extent": 32,
                      "layer_types": ["hybrid_sliding", "hybrid", "hybrid_sliding"]}
GEMMA: Overrides = {**WINDOW_FIRST, "head_dim": 16, "intermediate_size": 96, "moe_intermediate_size": 32,
                    "num_experts": 8, "top_k_experts": 3, "global_head_dim": 32,
                    "num_global_key_value_heads": 1, "final_logit_softcapping": 30.0}
VISION: Overrides = {"hidden_size": 32, "intermediate_size": 48, "depth": 1, "num_heads": 2, "patch_size": 4,
                     "out_hidden_size": 64}
VISION_GRID = {**VISION, "num_position_embeddings": 16}
VISION_DEEP = {**VISION_GRID, "deepstack_visual_indexes": [0]}
VISION_IMAGE = {**VISION, "image_size": 16}
TOWER: Overrides = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
                    "num_attention_heads": 2}
TOWER_IMAGE = {**TOWER, "image_size": 28, "patch_size": 14}
PIXTRAL = {**TOWER_IMAGE, "model_type": "pixtral"}
GEMMA_VISION = {**TOWER, "model_type": "gemma4_vision", "patch_size": 4, "head_dim": 16,
                "num_key_value_heads": 2, "position_embedding_size": 16}
SAM: Overrides = {"hidden_size": 32, "output_channels": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                  "image_size": 64, "patch_size": 16, "mlp_dim": 32, "window_size": 2,
                  "global_attn_indexes": [0], "downsample_channels": [16, 32]}
AUDIO: Overrides = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "d_model": 32,
                    "num_mel_bins": 16, "max_source_positions": 64, "output_dim": 64,
                    "downsample_hidden_size": 8}
# fmt: on


def _mrope(section: list[int], partial: float = 1.0) -> Overrides:
    """Rope over three axes: `section` is how many frequencies each axis takes."""
    return {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": section,
        "partial_rotary_factor": partial,
    }


def _causal(family: str, note: str, *parts: Overrides, **own: Any) -> tuple[str, Tiny]:
    """An entry whose checkpoints are text models: `parts` over the base, then the family's `own` values."""
    config = {**COMMON, **{key: value for part in parts for key, value in part.items()}, **own}
    return family, Tiny(family, config, note)


def _composite(
    family: str, note: str, *parts: Overrides, auto: str = "image-text", model_type: str = "", **own: Any
) -> tuple[str, Tiny]:
    """An entry whose checkpoints hold a text model and others: `own` are the outer configuration's values."""
    text = {**COMMON, **{key: value for part in parts for key, value in part.items()}}
    return family, Tiny(model_type or family, {"text_config": text, **own}, note, auto)


# fmt: off
FAMILIES: dict[str, Tiny] = dict([
    _causal("afmoe", "dense first layer, shared expert, window, expert_bias",
            HEADS, EXPERTS, WINDOW, num_dense_layers=1, num_shared_experts=1),
    _composite("aria", "transposed experts, shared experts", HEADS,
               {"model_type": "aria_text", "intermediate_size": 32,
                "moe_num_experts": 8, "moe_topk": 3, "moe_num_shared_experts": 2},
               vision_config={**TOWER_IMAGE, "model_type": "idefics3_vision"},
               projector_patch_to_query_dict={4: 2}, image_token_index=255),
    _causal("axk1", "MLA, groups, dense first layer, shared expert", MLA, ROUTED, GROUPS, DENSE),
    _causal("axk2", "MLA, sparse indexer, groups, dense first layer, gated norm",
            MLA, ROUTED, GROUPS, DENSE, INDEXER, gated_norm_rank=4),
    _causal("bailing_hybrid", "KDA linear attention beside MLA, groups, dense first layer",
            LATENT, LINEAR, HEADS, EXPERTS, GROUPS, DENSE_K, num_shared_experts=1),
    _causal("beam", "groups, dense first layer, window, full layers without rope, soft cap",
            HEADS, EXPERTS, GROUPS, DENSE, WINDOW_FIRST),
    _causal("cohere2_moe", "sigmoid router, shared expert, window, dense first layer, tied",
            HEADS, PLAIN, DENSE, WINDOW, prefix_dense_intermediate_size=96, num_shared_experts=1,
            expert_selection_fn="sigmoid", logit_scale=1.0),
    _causal("dbrx", "one matrix for all experts, clipped attention, weights normalised by their length",
            n_layers=3, n_heads=4, d_model=64, max_seq_len=256,
            ffn_config={"ffn_hidden_size": 32, "moe_num_experts": 8, "moe_top_k": 3, "hidden_size": 64},
            attn_config={"kv_n_heads": 2, "clip_qkv": 1.0, "rope_theta": 1e4}),
    _composite("deepseek_ocr2", "group-limited greedy, dense first layer, shared expert, two towers",
               HEADS, ROUTED, GROUPS, DENSE, {"topk_method": "group_limited_greedy"},
               vision_config={"sam_config": SAM, "encoder_config": {**TOWER, "num_key_value_heads": 2}},
               image_token_id=255),
    _causal("deepseek_v2", "MLA, group-limited greedy, dense first layer, shared expert",
            MLA, ROUTED, GROUPS, DENSE_K, topk_method="group_limited_greedy"),
    _causal("deepseek_v3", "MLA, groups, dense first layer, shared expert", MLA, ROUTED, GROUPS, DENSE_K),
    _causal("deepseek_v32", "MLA, sparse indexer, groups, dense first layer",
            MLA, ROUTED, GROUPS, DENSE, INDEXER),
    _causal("deepseek_v4", "hash-routed layers, both compressed attentions, hyper-connections",
            ROUTED, INDEXER, num_hidden_layers=4, intermediate_size=32, head_dim=16, num_key_value_heads=1,
            partial_rotary_factor=0.5, q_lora_rank=24, o_groups=2, o_lora_rank=16, hc_mult=2,
            sliding_window=16,
            layer_types=["heavily_compressed_attention", "compressed_sparse_attention",
                         "sliding_attention", "compressed_sparse_attention"],
            compress_rates={"compressed_sparse_attention": 2, "heavily_compressed_attention": 8},
            mlp_layer_types=["hash_moe", "hash_moe", "moe", "moe"]),
    _composite("diffusion_gemma", "block diffusion: the logits are of a canvas, random when not given",
               GEMMA, vision_config=GEMMA_VISION, canvas_length=16),
    _causal("dots1", "groups, dense first layer, shared expert, window",
            HEADS, ROUTED, GROUPS, DENSE_K, WINDOW),
    _composite("dots3_note", "MLA, indexer beside narrower window layers, groups, dense first layer",
               MLA, ROUTED, GROUPS, DENSE, INDEXER,
               {"shared_experts_intermediate_size": 32, "sliding_window": 16,
                "layer_types": ["indexed_attention", "indexed_attention", "sliding_attention"],
                "swa_num_attention_heads": 2, "swa_num_key_value_heads": 2, "swa_q_lora_rank": 16,
                "swa_kv_lora_rank": 24, "swa_head_dim": 32, "swa_qk_nope_head_dim": 24, "swa_v_head_dim": 16},
               vision_config={**TOWER, "moe_intermediate_size": 16, "mlp_layer_types": ["sparse"],
                              "num_local_experts": 4, "adapter_in_dim": 32, "adapter_out_dim": 64},
               audio_config={**TOWER, "feature_size": 16, "downsample_hidden_size": 8,
                             "adapter_input_size": 32, "adapter_out_dim": 64},
               image_token_id=253, video_token_id=254, audio_token_id=255),
    _causal("ernie4_5_moe", "dense first layer, shared experts, tied",
            WIDTHS, moe_num_experts=8, moe_k=3, moe_num_shared_experts=2, moe_layer_start_index=1,
            moe_layer_end_index=2),
    _composite("ernie4_5_vl_moe", "text and vision experts of unequal width, dense first, shared experts",
               WIDTHS, DENSE, {"moe_intermediate_size": [32, 16], "moe_num_experts": 8, "moe_k": 3,
                               "moe_num_shared_experts": 2, "rope_parameters": _mrope([3, 3, 2])},
               vision_config=VISION),
    _causal("exaone_moe", "groups, dense first layer, shared expert, window",
            HEADS, EXPERTS, GROUPS, DENSE, WINDOW, num_shared_experts=1),
    _causal("flex_olmo", "plain softmax router, post-norms", PLAIN),
    _causal("flint", "dense first layer, shared expert, window",
            HEADS, EXPERTS, WINDOW_FIRST, shared_expert_intermediate_size=48, mlp_only_layers=[0]),
    _composite("gemma4", "dense beside experts in a layer, window, per-layer inputs, wide full heads, k = v",
               GEMMA,
               {"enable_moe_block": True, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 256,
                "attention_k_eq_v": True},
               vision_config=GEMMA_VISION, audio_config=None),
    _causal("glm4_moe", "groups, dense first layer, shared expert, qk norm, biases",
            HEADS, ROUTED, GROUPS, DENSE_K, use_qk_norm=True, attention_bias=True),
    _causal("glm4_moe_lite", "MLA, groups, dense first layer, shared expert", MLA, ROUTED, GROUPS, DENSE),
    _composite("glm4v_moe", "groups, dense first layer, shared expert, three-axis rope",
               HEADS, ROUTED, GROUPS, DENSE_K, {"rope_parameters": _mrope([2, 1, 1], 0.5)},
               vision_config=VISION_IMAGE),
    _composite("glm5_next", "KDA beside MLA without rope, pooled indexer, groups, hyper-connections",
               MLA, ROUTED, GROUPS, INDEXER, KDA,
               {"num_hidden_layers": 4, "qk_rope_head_dim": 0, "qk_nope_head_dim": 24, "index_kpool": 4,
                "index_topk": 16, "hc_mult": 2, "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
                "layer_types": ["linear_attention", "indexed_attention",
                                "indexed_attention", "linear_attention"],
                "indexer_types": ["full", "full", "shared", "full"]},
               vision_config={**VISION_IMAGE, "projection_intermediate_size": 48}),
    _causal("glm_moe_dsa", "MLA, sparse indexer shared between layers, groups, dense first layer",
            MLA, ROUTED, GROUPS, DENSE, INDEXER_SHARED),
    _causal("gpt_oss", "transposed interleaved experts with biases, sinks, window",
            HEADS, PLAIN_LOCAL, WINDOW),
    _causal("granitemoe", "checkpoint already fused, multipliers", GRANITE),
    _causal("granitemoe_swa", "shared expert, window, a layer without rope", GRANITE, WINDOW,
            shared_intermediate_size=48, layer_rope_theta=[1e4, 0, 5e4]),
    _causal("granitemoehybrid", "mamba beside attention, shared expert", GRANITE, LINEAR,
            shared_intermediate_size=48, mamba_n_heads=8, mamba_n_groups=1, mamba_d_state=8, mamba_d_head=16,
            mamba_chunk_size=16),
    _causal("granitemoeshared", "shared expert", GRANITE, shared_intermediate_size=48),
    _causal("hunyuan_v1_moe", "shared expert, qk norm",
            HEADS, intermediate_size=32, num_experts=8, moe_topk=3),
    _causal("hy_v3", "selection bias, dense first layer, shared expert",
            HEADS, EXPERTS, DENSE, num_shared_experts=1),
    _causal("hy_v4", "MLA with sinks, indexer shared between layers, groups, hyper-connections, clamped gate",
            MLA, ROUTED, GROUPS, DENSE, INDEXER_SHARED, hc_mult=2),
    _composite("inkling", "router joint with shared experts, short convolutions, window with other heads",
               HEADS, ROUTED, DENSE, INKLING, {"n_shared_experts": 2, "logits_mup_width_multiplier": 1.0},
               model_type="inkling_mm_model",
               vision_config={"text_hidden_size": 64, "patch_size": 2, "num_channels": 1, "hidden_size": 32,
                              "num_hidden_layers": 3, "num_attention_heads": 2},
               audio_config={"n_mel_bins": 8, "mel_vocab_size": 16, "text_hidden_size": 64}),
    _composite("inkling2", "no dense layer, soft-capped gate, residual attention, window with other heads",
               HEADS, INKLING, {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32,
                                "unpadded_vocab_size": 250, "n_layers_per_attn_res_block": 2},
               vision_config={**TOWER, "patch_size": 4, "text_hidden_size": 64, "projection_hidden_dim": 48,
                              "posemb_grid_size": 4}),
    _causal("jamba", "mamba beside attention, experts every second layer",
            num_hidden_layers=4, num_experts=8, intermediate_size=32, expert_layer_period=2,
            expert_layer_offset=1, attn_layer_period=4, attn_layer_offset=1, mamba_d_state=4,
            mamba_dt_rank=4),
    _causal("kimi_linear", "KDA linear attention beside MLA, groups, dense first layer, shared expert",
            LATENT, LINEAR, KDA, EXPERTS, GROUPS, DENSE, num_shared_experts=1),
    _causal("kolibri1", "shared expert, window", HEADS, LOCAL, WINDOW, shared_expert_intermediate_size=48),
    _causal("laguna", "dense first layer, shared expert, window, another number of heads per layer",
            HEADS, EXPERTS, DENSE, WINDOW, shared_expert_intermediate_size=48,
            num_attention_heads_per_layer=[4, 2, 4]),
    _causal("lfm2_moe", "short convolutions beside attention, dense first layer, expert_bias",
            EXPERTS, num_dense_layers=1, layer_types=["conv", "full_attention", "conv"]),
    _composite("llama4", "scores on the way in, one expert a token, chunks, a layer without rope, dense",
               HEADS, {"num_hidden_layers": 4, "intermediate_size": 32, "intermediate_size_mlp": 96,
                       "num_local_experts": 8, "num_experts_per_tok": 1, "moe_layers": [1, 2, 3],
                       "no_rope_layers": [1, 1, 1, 0], "attention_chunk_size": 12, "floor_scale": 8},
               vision_config={**TOWER_IMAGE, "vision_output_dim": 32, "projector_input_dim": 32,
                              "projector_output_dim": 32, "pixel_shuffle_ratio": 0.5}),
    _causal("longcat_flash", "two MLA and two dense layers beside each block of experts, experts of no cost",
            MLA, num_hidden_layers=4, ffn_hidden_size=96, expert_ffn_hidden_size=32, n_routed_experts=8,
            zero_expert_num=4, moe_topk=4, head_dim=8),
    _causal("mellum", "dense first layer, window", HEADS, LOCAL, DENSE, WINDOW),
    _causal("mimo_v2_flash", "unequal qk and v heads, groups, dense first layer, window with sinks",
            ROUTED, GROUPS, DENSE, WINDOW, head_dim=24, v_head_dim=16),
    _causal("minimax", "lightning attention beside full attention",
            HEADS, PLAIN_LOCAL, LINEAR, block_size=16),
    _causal("minimax_m2", "sigmoid router with selection bias, qk norm", HEADS, PLAIN_LOCAL),
    _composite("minimax_m3_vl", "block-sparse attention, dense first layer, shared expert, clamped gate",
               HEADS, LOCAL, DENSE,
               {"intermediate_size": 32, "dense_intermediate_size": 96, "shared_intermediate_size": 32,
                "rotary_dim": 8, "index_n_heads": 2, "index_head_dim": 16, "index_block_size": 4,
                "index_topk_blocks": 3,
                "layer_types": ["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"]},
               vision_config={**TOWER, "patch_size": 4}, projector_hidden_size=64),
    _composite("mistral4", "MLA, groups, dense first layer, shared expert; checkpoints are mistral3",
               MLA, ROUTED, GROUPS, DENSE_K, {"model_type": "mistral4"}, model_type="mistral3",
               vision_config=PIXTRAL, image_token_index=255),
    _composite("mistral_large4", "MLA, indexer, shared latent cache, layers without rope, groups, dense",
               LATENT, ROUTED, GROUPS, DENSE_K, INDEXER,
               {"num_hidden_layers": 4, "no_rope_layers": [1, 0, 1, 0], "kv_source_layers": [0, 1, 0, 3],
                "indexer_types": ["full", "full", "shared", "full"]},
               vision_config=PIXTRAL, image_token_index=255),
    _causal("mixtral", "window in every layer", PLAIN_LOCAL, sliding_window=16),
    _composite("muse_spark", "post-expert norm, narrower expert space, dense first layer, window",
               HEADS, LOCAL, DENSE, WINDOW_FIRST, {"moe_hidden_size": 48, "layer_rope_theta": [1e4, 1e4, 0]},
               vision_config={**TOWER, "patch_size": 4, "pos_emb_height": 4, "pos_emb_width": 4},
               audio_config={"patch_sizes": [4], "hidden_sizes": [16], "depths": [1], "num_hidden_layers": 1,
                             "out_hidden_size": 64},
               out_hidden_size=128, projector_hidden_size=64),
    _causal("nemotron_h", "mamba, mlp, attention and latent experts without a gate, groups",
            ROUTED, GROUPS, HEADS, moe_shared_expert_intermediate_size=48,
            layers_block_type=["linear_attention", "moe", "full_attention", "moe", "mlp"], moe_latent_size=48,
            ssm_state_size=8, mamba_num_heads=8, mamba_head_dim=16, n_groups=2, chunk_size=16),
    _causal("olmoe", "plain softmax router, qk norm", PLAIN),
    _causal("phimoe", "sparsemixer router (always two), biases, window", PLAIN_LOCAL, attention_bias=True,
            lm_head_bias=True, sliding_window=16),
    _causal("qwen2_moe", "gated shared expert, dense first layer, window", EXPERTS, WINDOW,
            shared_expert_intermediate_size=48, mlp_only_layers=[0], use_sliding_window=True),
    _composite("qwen3_5_moe", "gated delta net beside gated attention, gated shared expert, three-axis rope",
               HEADS, EXPERTS, DELTA,
               {"shared_expert_intermediate_size": 48, "rope_parameters": _mrope([2, 1, 1], 0.5)},
               vision_config=VISION_GRID),
    _causal("qwen3_moe", "dense first layer, qk norm, renormalised weights", HEADS, EXPERTS,
            norm_topk_prob=True, mlp_only_layers=[0]),
    _causal("qwen3_next", "gated delta net beside gated attention, gated shared expert, dense first layer",
            HEADS, EXPERTS, DELTA, shared_expert_intermediate_size=48, mlp_only_layers=[0]),
    _composite("qwen3_omni_moe", "the thinker: dense first layer, three-axis rope, vision and audio towers",
               HEADS, EXPERTS, {"mlp_only_layers": [0], "rope_parameters": _mrope([4, 2, 2])},
               model_type="qwen3_omni_moe_thinker", vision_config=VISION_DEEP, audio_config=AUDIO,
               vision_start_token_id=252),
    _composite("qwen3_vl_moe", "fused transposed checkpoint, dense first layer, three-axis rope",
               HEADS, LOCAL, {"mlp_only_layers": [0], "rope_parameters": _mrope([4, 2, 2])},
               vision_config=VISION_DEEP),
    _composite("qwen4_exp", "gated delta net beside indexed attention, n-gram embeddings, hyper-connections",
               HEADS, EXPERTS, DELTA,
               {"num_hidden_layers": 4, "shared_expert_intermediate_size": 48, "hc_count": 2, "hc_lowrank": 8,
                "layer_types": ["linear_attention", "indexed_attention",
                                "linear_attention", "indexed_attention"],
                "ple_layer_ids": [1], "ple_embed_dim": 16, "heads_per_ngram": 2, "ngram_vocab_size_base": 64,
                "make_ngram_vocab_size_divisible_by": 8, "split_ngram_parts": 2, "indexer_n_heads": 2,
                "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 8,
                "indexer_compress_ratio": 4, "rope_parameters": _mrope([2, 1, 1], 0.5)},
               vision_config=VISION_GRID),
    _causal("solar_open", "groups, shared expert", HEADS, ROUTED, GROUPS),
    _composite("step3p7", "window with other heads, clamped gate in a layer, dense first layer, gated heads",
               HEADS, ROUTED, DENSE, WINDOW,
               {"share_expert_dim": 48, "swiglu_limits": [0, 0.05, 0], "moe_router_scaling_factor": 1.5,
                "num_sliding_attention_heads": 2},
               vision_config={**TOWER_IMAGE, "mlp_ratio": 1.5, "max_position_embeddings": 4}),
    _composite("unlimited_ocr", "window that keeps its reference, groups, dense first layer, two towers",
               HEADS, ROUTED, GROUPS, DENSE, {"sliding_window": 16, "topk_method": "group_limited_greedy"},
               vision_config={"sam_config": SAM, "encoder_config": TOWER_IMAGE}, image_token_id=255),
    _causal("zaya", "one expert or none, router state from layer to layer, convolved attention, window",
            HEADS, num_hidden_layers=4, num_experts=8, num_experts_per_tok=1, moe_intermediate_size=32,
            router_hidden_size=16, sliding_window=16,
            layer_types=["hybrid", "hybrid_sliding", "hybrid", "hybrid_sliding"]),
])
# fmt: on

REFUSED: dict[str, str] = {
    "openai_privacy_filter": "a token classifier: bidirectional attention and no language-model head",
}

COMPUTED = ("slope_rate", "query_decay", "key_decay", "diagonal_decay")
"""Buffers in a checkpoint that follow from each other: minimax decodes nonsense with random ones."""


def family_config(name: str) -> Any:
    """The tiny configuration of one family."""
    tiny = FAMILIES[name]
    return AutoConfig.for_model(tiny.model_type, **_copied(tiny.config))


def auto_class(name: str) -> Any:
    """The class whose `from_pretrained` loads a checkpoint of one family."""
    tiny = FAMILIES[name]
    known = {"causal": AutoModelForCausalLM, "image-text": AutoModelForImageTextToText}
    if tiny.auto in known:
        return known[tiny.auto]
    package = CONFIG_MAPPING[tiny.model_type].__module__.rsplit(".", 1)[0]
    return getattr(import_module(f"{package}.modeling_{package.rsplit('.', 1)[1]}"), tiny.auto)


def make_family(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """One tiny model in eval mode, every parameter and persistent buffer of it random and valid.

    Building ignores the families' lists of float32 modules: in bfloat16 inkling2 runs only saved and loaded.
    """
    cls = auto_class(name)
    build = cls.from_config if hasattr(cls, "from_config") else cls._from_config
    torch.manual_seed(seed)
    model: nn.Module = build(family_config(name), dtype=dtype).eval()
    fixed = {path: buffer.clone() for path, buffer in model.named_buffers() if path.endswith(COMPUTED)}
    randomise(model, seed)
    for path, value in fixed.items():
        model.get_buffer(path).copy_(value)
    _settle(model, seed)
    return model


def _settle(model: Any, seed: int) -> None:
    """Give sensible values to what `randomise` leaves alone or sends out of range."""
    generator = torch.Generator().manual_seed(seed)
    zaya = model.config.model_type == "zaya"
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("tid2eid"):  # hash routing: distinct ids per token; a fresh model has zeros
                count = int(model.config.n_routed_experts)
                order = torch.rand(tensor.shape[0], count, generator=generator).argsort(-1)
                tensor.copy_(order[:, : tensor.shape[1]])
            elif name.endswith("balancing_biases"):  # every load writes -1 to zaya's last, "no expert";
                tensor.mul_(0.1).sub_(1)  # the others stay near it, so that "no expert" is chosen too
                tensor[-1] = -1
            elif zaya and name.endswith("_scale"):  # near 0, every token would become alike
                tensor.add_(1)
            elif zaya and name.endswith("bias"):
                tensor.mul_(0.1)
            elif zaya and "router_mlp" in name and tensor.dim() > 1:  # three narrow layers: their signal dies
                tensor.mul_(4)


def _copied(value: Any) -> Any:
    """The overrides without a shared list or dict: configurations change theirs in place."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value
