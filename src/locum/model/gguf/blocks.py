"""By architecture, what each name inside a block is in transformers' layer. See `names`."""

from collections.abc import Mapping

from locum.model.gguf import names


def _below(block: Mapping[str, str], **modules: str) -> dict[str, str]:
    """`block` with other modules for the groups of names `routed`, `dense` and `shared`."""
    places = {"routed": "mlp.experts.", "shared": "mlp.shared_experts.", "dense": "mlp."}
    found = dict(block)
    for group, place in modules.items():
        for name, module in block.items():
            if module.rpartition(".")[0] + "." == places[group] and name.startswith("ffn_"):
                found[name] = place + module.rpartition(".")[2]
    return found


PLAIN: Mapping[str, str] = {**names.ATTENTION, **names.ROUTED}
SHARED: Mapping[str, str] = {**PLAIN, **names.DENSE, **names.SHARED, **names.CORRECTION}
NO_FFN_NORM: Mapping[str, str] = {name: module for name, module in SHARED.items() if name != "ffn_norm"}

GPT_OSS: Mapping[str, str] = {
    **PLAIN,
    **names.POST_ATTENTION,
    "ffn_gate_inp": "mlp.router",
    "attn_sinks": "self_attn.sinks",
}
GRANITE: Mapping[str, str] = {
    **_below({**PLAIN, **names.SHARED}, routed="block_sparse_moe.experts.", shared="shared_mlp."),
    "ffn_gate_inp": "block_sparse_moe.router",
    "ffn_down_shexp": "shared_mlp.output_linear",
}
HUNYUAN: Mapping[str, str] = {
    **_below({**PLAIN, **names.SHARED}, shared="mlp.shared_mlp."),
    "ffn_gate_inp": "mlp.gate.wg",
    "attn_q_norm": "self_attn.query_layernorm",
    "attn_k_norm": "self_attn.key_layernorm",
}
ERNIE: Mapping[str, str] = {**SHARED, "exp_probs_b": "mlp.gate.moe_statics.e_score_correction_bias"}
LFM2: Mapping[str, str] = {
    **_below(PLAIN, routed="feed_forward.experts."),
    "attn_norm": "operator_norm",
    "ffn_norm": "ffn_norm",
    "attn_q_norm": "self_attn.q_layernorm",
    "attn_k_norm": "self_attn.k_layernorm",
    "attn_output": "self_attn.out_proj",
    "shortconv.conv": "conv.conv",
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.out_proj": "conv.out_proj",
    "ffn_gate": "feed_forward.w1",
    "ffn_down": "feed_forward.w2",
    "ffn_up": "feed_forward.w3",
    "ffn_gate_inp": "feed_forward.gate",
    "exp_probs_b": "feed_forward.expert_bias",
}
LFM2_WHOLE: Mapping[str, str] = {**names.WHOLE, "token_embd_norm.weight": "model.embedding_norm.weight"}
AFMOE: Mapping[str, str] = {
    **SHARED,
    **names.POST_ATTENTION,
    "attn_gate": "self_attn.gate_proj",
    "ffn_norm": "pre_mlp_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
    "ffn_gate_inp": "mlp.router.gate",
    "exp_probs_b": "mlp.expert_bias",
}
MIMO2: Mapping[str, str] = {
    **PLAIN,
    **names.DENSE,
    **names.CORRECTION,
    **names.NEXT,
    "layer_output_norm": "nextn.layer_output_norm",
    "attn_sinks": "self_attn.sinks",
}
LLAMA4: Mapping[str, str] = {
    **_below(
        {**PLAIN, **names.DENSE, **names.SHARED},
        routed="feed_forward.experts.",
        shared="feed_forward.shared_expert.",
        dense="feed_forward.",
    ),
    "ffn_gate_inp": "feed_forward.router",
}
GLM_DSA: Mapping[str, str] = {
    **SHARED,
    **names.LATENT,
    **names.NEXT,
    "indexer.k_norm": "self_attn.indexer.k_norm",
    "indexer.proj": "self_attn.indexer.weights_proj",
    "indexer.attn_k": "self_attn.indexer.wk",
    "indexer.attn_q_b": "self_attn.indexer.wq_b",
}
DBRX: Mapping[str, str] = {
    "attn_norm": "norm_attn_norm.norm_1",
    "attn_qkv": "norm_attn_norm.attn.Wqkv",
    "attn_output": "norm_attn_norm.attn.out_proj",
    "attn_output_norm": "norm_attn_norm.norm_2",
    "ffn_gate_inp": "ffn.router.layer",
    "ffn_gate_exps": "ffn.experts.mlp.w1",
    "ffn_up_exps": "ffn.experts.mlp.v1",
    "ffn_down_exps": "ffn.experts.mlp.w2",
}
DBRX_WHOLE: Mapping[str, str] = {
    "token_embd.weight": "transformer.wte.weight",
    "output_norm.weight": "transformer.norm_f.weight",
    "output.weight": "lm_head.weight",
}
