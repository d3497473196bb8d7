"""From llama.cpp's names of tensors to transformers' names of parameters.

Source: `gguf-py/gguf/tensor_mapping.py` of llama.cpp, and the modules of transformers 5.23. The experts of a
layer keep their gate and up apart (`experts.gate_proj`, `experts.up_proj`), as they lie in the file.
"""

import re
from collections.abc import Mapping

from locum.errors import CheckpointError, UnsupportedError
from locum.model.header import TensorInfo

_BLOCK = re.compile(r"blk\.(0|[1-9][0-9]{0,5})\.(.+)\.(weight|bias)")

WHOLE: Mapping[str, str] = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}

ATTENTION: Mapping[str, str] = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
}
LATENT: Mapping[str, str] = {
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
    "attn_k_b": "self_attn.kv_b_proj.keys",
    "attn_v_b": "self_attn.kv_b_proj.values",
}
DENSE: Mapping[str, str] = {
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ROUTED: Mapping[str, str] = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_gate_up_exps": "mlp.experts.gate_up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
}
SHARED: Mapping[str, str] = {
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
}
GATED_SHARED: Mapping[str, str] = {
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    **{name: module.replace("shared_experts", "shared_expert") for name, module in SHARED.items()},
}
CORRECTION: Mapping[str, str] = {"exp_probs_b": "mlp.gate.e_score_correction_bias"}
POST_ATTENTION: Mapping[str, str] = {"post_attention_norm": "post_attention_layernorm"}
# extra prediction layers, which transformers does not have either
NEXT: Mapping[str, str] = {
    f"nextn.{name}": f"nextn.{name}"
    for name in ("eh_proj", "embed_tokens", "enorm", "hnorm", "shared_head_head", "shared_head_norm")
}
# parameters, where all others are modules with a weight and perhaps a bias
_BARE = ("e_score_correction_bias", "expert_bias", "sinks")
# the converter squeezes: where a side of one belongs, and how many sides there are with it
_SQUEEZED = {
    ".shared_expert_gate.weight": (0, 2),
    ".moe_statics.e_score_correction_bias": (0, 2),
    ".conv.conv.weight": (1, 3),
}


def renamed(
    tensors: Mapping[str, TensorInfo],
    block: Mapping[str, str],
    where: object,
    whole: Mapping[str, str] = WHOLE,
    layers: str = "model.layers",
) -> dict[str, TensorInfo]:
    """The tensors by the names of the parameters that they are, or are part of.

    `block`: for each name inside a block, the module or parameter inside the layer; `whole`: the names of the
    others; `layers`: what holds the layers. Raises `UnsupportedError` for a tensor of another name: without a
    tensor it is another model.
    """
    found: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        target = whole.get(name) or _inside(name, block, layers)
        if target is None:
            raise UnsupportedError(
                f"locum does not know what the tensor {name!r} is to this architecture", where=where
            )
        if target in found:
            raise CheckpointError(f"two tensors are {target!r}", where=where, allowed="one", got=name)
        found[target] = info._replace(shape=_unsqueezed(target, info.shape))
    return found


def _unsqueezed(target: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    for end, (at, sides) in _SQUEEZED.items():
        if target.endswith(end) and len(shape) == sides - 1:
            return (*shape[:at], 1, *shape[at:])
    return shape


def _inside(name: str, block: Mapping[str, str], layers: str) -> str | None:
    match = _BLOCK.fullmatch(name)
    if match is None or match[2] not in block:
        return None
    layer, module, kind = match[1], block[match[2]], match[3]
    target = f"{layers}.{layer}.{module}"
    if module.endswith(_BARE):
        return target
    if ".experts." in module:
        return target if kind == "weight" else f"{target}_bias"
    return f"{target}.{kind}"
