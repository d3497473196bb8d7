"""What the configs of all architectures have in common, out of the metadata of a GGUF."""

from collections.abc import Mapping
from typing import Any

from locum.errors import CheckpointError, UnsupportedError
from locum.model.gguf.metadata import Metadata

Config = dict[str, Any]


def common(read: Metadata, varied: bool = False) -> Config:
    """What most families call the same; `varied`: layers differ in their heads of keys and values."""
    heads = read.count("attention.head_count")
    embedding = read.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError("there is no tensor 'token_embd.weight' of two sides", where=read.where)
    kind = "" if read.has("attention.layer_norm_epsilon") else "rms_"
    config: Config = {
        "vocab_size": embedding.shape[0],
        "hidden_size": read.count("embedding_length"),
        "num_hidden_layers": layers(read),
        "num_attention_heads": heads,
        "num_key_value_heads": None if varied else read.count("attention.head_count_kv", heads),
        "max_position_embeddings": read.count("context_length"),
        "rms_norm_eps": read.real(f"attention.layer_norm_{kind}epsilon"),
        "rope_parameters": rope(read),
        "tie_word_embeddings": "output.weight" not in read.tensors,
        "bos_token_id": read.token("bos"),
        "eos_token_id": read.token("eos"),
        "pad_token_id": read.token("padding"),
        "num_experts_per_tok": read.count("expert_used_count"),
        "dtype": dtype(read),
    }
    if read.has("attention.key_length"):
        config["head_dim"] = read.count("attention.key_length")
    return config


def layers(read: Metadata) -> int:
    """Layers of the decoder, which the file's blocks for extra prediction are not."""
    return read.count("block_count") - read.count("nextn_predict_layers", 0, least=0)


def dtype(read: Metadata) -> str:
    """float32 where every number is a plain float that fits; else bfloat16, as such models are trained."""
    kinds = {info.dtype for info in read.tensors.values() if len(info.shape) > 1}
    return "float32" if kinds <= {"F32", "F16"} else "bfloat16"


def rope(read: Metadata) -> Config:
    """The rotary positions: plain, linear or yarn."""
    found: Config = {"rope_type": "default", "rope_theta": read.real("rope.freq_base", 10000.0)}
    kind = read.text("rope.scaling.type", "none")
    if kind == "none":
        return found
    if kind not in ("linear", "yarn"):
        raise UnsupportedError(
            "a way to stretch positions that locum does not read", where=read.where, got=kind
        )
    found |= {"rope_type": kind, "factor": read.real("rope.scaling.factor")}
    if kind == "yarn":
        found["original_max_position_embeddings"] = read.count("rope.scaling.original_context_length")
        for key in ("beta_fast", "beta_slow"):
            if read.has(f"rope.scaling.yarn_{key}"):
                found[key] = read.real(f"rope.scaling.yarn_{key}")
    return found


def width(read: Metadata) -> int:
    """An expert's intermediate size: what the tensors say, the metadata has several keys for it."""
    return read.side("ffn_down_exps.weight", -1)


def leading_dense(read: Metadata) -> int:
    """How many layers before the first with experts; all after it must have them."""
    dense = read.blocks_without("ffn_down_exps.weight", layers(read))
    if dense != list(range(len(dense))):
        raise UnsupportedError("layers without experts among those with", where=read.where, got=dense[:8])
    return len(dense)


def all_routed(read: Metadata) -> None:
    """Raise `UnsupportedError` for a layer without experts."""
    if leading_dense(read):
        raise UnsupportedError("a layer without experts", where=read.where, allowed="experts in every layer")


def by_turns(read: Metadata) -> Mapping[str, str]:
    """llama.cpp turns neighbours, transformers halves: so it deals out the rows of each head by turns."""
    heads = read.count("attention.head_count")
    return {
        "self_attn.q_proj.weight": f"interleaved-{heads}",
        "self_attn.k_proj.weight": f"interleaved-{read.count('attention.head_count_kv', heads)}",
    }


def groups(read: Metadata) -> Config:
    """Routing by groups, which older files do not mention; llama.cpp did without it then."""
    return {
        "n_group": read.count("expert_group_count", 1),
        "topk_group": read.count("expert_group_used_count", 1),
        "routed_scaling_factor": read.real("expert_weights_scale", 1.0) or 1.0,
        "norm_topk_prob": read.flag("expert_weights_norm", False),
    }


def partial_rope(read: Metadata) -> Config:
    """Where only the first numbers of a head are turned."""
    turned, width = read.count("rope.dimension_count"), read.count("attention.key_length")
    factor = turned / width
    if int(width * factor) != turned:
        factor = (turned + 0.5) / width  # which is what transformers rounds down
    return rope(read) | ({} if turned == width else {"partial_rotary_factor": factor})
