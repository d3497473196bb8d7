"""Tiny GGUF files, written as llama.cpp's converter would, beside a checkpoint of what their numbers mean.

Names, blocks and what blocks mean come from the `gguf` package, which locum does not use. What the converter
does to weights and writes of a config is repeated here from `convert_hf_to_gguf.py`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray
from torch import Tensor

from helpers_families import make_family

ARCHITECTURES = {
    "qwen3_moe": "qwen3moe",
    "qwen2_moe": "qwen2moe",
    "olmoe": "olmoe",
    "mixtral": "llama",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
    "dots1": "dots1",
    "glm4_moe": "glm4moe",
    "minimax_m2": "minimax-m2",
}
"""transformers' `model_type` to llama.cpp's architecture."""

_FULL = {"layer_types": ["full_attention"] * 3, "sliding_window": None}
_OVERRIDES: dict[str, dict[str, Any]] = {  # what llama.cpp's converter does not take
    "qwen3_moe": {"mlp_only_layers": []},
    "qwen2_moe": {"mlp_only_layers": [], "use_sliding_window": False, "layer_types": ["full_attention"] * 3},
    "dots1": _FULL,
    "mixtral": {"sliding_window": None},
}

_HALVES = {  # where a block keeps its scales in float16
    Kind.Q2_K: (80, 82),
    Kind.Q3_K: (108,),
    Kind.Q4_K: (0, 2),
    Kind.Q5_K: (0, 2),
    Kind.Q6_K: (208,),
}


def blocks_of(weight: NDArray[np.float32], kind: Kind, random: np.random.Generator) -> NDArray[np.uint8]:
    """`weight` [..., O, I] in ggml's blocks; random ones of its size where the package has no quantiser."""
    try:
        return gguf.quants.quantize(weight, kind)
    except NotImplementedError:
        made = random_blocks(weight.size // gguf.GGML_QUANT_SIZES[kind][0], kind, random)
        return made.reshape(*weight.shape[:-1], -1)


def random_blocks(count: int, kind: Kind, random: np.random.Generator) -> NDArray[np.uint8]:
    """`count` blocks of any bits, but with scales that are sensible numbers where they are one float16."""
    blocks = random.integers(0, 256, (count, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)
    for at in _HALVES.get(kind, (0,)):
        scales = (random.random(count) * 2e-3).astype(np.float16)
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(count, 2)
    return blocks


Choose = Callable[[str], Kind]


class Written:
    """A GGUF model at `path` and, in the folder `meaning`, a safetensors checkpoint of what it means."""

    def __init__(self, path: Path, meaning: Path) -> None:
        self.path, self.meaning = path, meaning


def write_gguf(
    family: str, folder: Path, kind: Kind | Choose, dtype: torch.dtype = torch.float32, **options: Any
) -> Written:
    """A tiny random model of `family` in blocks of `kind`, or of what `kind` says for a tensor's GGUF name.

    Norms, biases, routers and rows that are no whole blocks are float32, as llama.cpp has it. The meaning is
    saved in `dtype`. Further `options`: see `fields` and `_plain`.
    """
    split = options.pop("split", None)
    latent = options.pop("latent_halves", True)
    extra: dict[str, Any] = options.pop("extra", {})
    options = {**_OVERRIDES.get(family, {}), **options}
    model = _other(family, options) if options else make_family(family)
    config = model.config
    architecture = ARCHITECTURES[family]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=split or 0)
    for key, value in {**fields(architecture, config), **tokenizer_fields(), **extra}.items():
        _add(writer, key, value)
    random = np.random.default_rng(3)
    meant: dict[str, Tensor] = {}
    state = dict(model.state_dict())
    for name, tensor in _plain(architecture, config, state, latent):
        chosen = kind(name) if callable(kind) else kind
        weight = tensor.float().contiguous().numpy()
        if weight.ndim < 2 or name.endswith("ffn_gate_inp.weight") or not _fits(weight, chosen):
            chosen = Kind.F32
        data = blocks_of(weight, chosen, random) if chosen != Kind.F32 else weight
        writer.add_tensor(name, data, raw_dtype=chosen)
        meant[name] = torch.from_numpy(np.copy(gguf.quants.dequantize(data, chosen)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    back = _back(architecture, config, meant, state)
    model.load_state_dict({name: back.get(name, tensor) for name, tensor in state.items()})
    meaning = folder / "meaning"
    model.to(dtype)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith("e_score_correction_bias"):  # which transformers keeps in float32
            tensor.data = back[name].clone()
    model.save_pretrained(meaning)
    if split:
        path = folder / f"model-00001-of-{len(list(folder.glob('*.gguf'))):05}.gguf"
    return Written(path, meaning)


def _other(family: str, overrides: dict[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    from helpers_families import family_config
    from helpers_models import randomise

    given = {**family_config(family).to_dict(), **overrides}
    config = AutoConfig.for_model(**{**given, "model_type": family})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    randomise(model)
    return model


def _fits(weight: NDArray[np.float32], kind: Kind) -> bool:
    return weight.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    (writer.add_array if isinstance(value, list) else add[type(value)])(key, value)


def fields(architecture: str, config: Any) -> dict[str, Any]:
    """The metadata of a model, as its converter's `set_gguf_parameters` writes it."""
    c = config.to_dict()
    rope = c["rope_parameters"]
    width = c.get("moe_intermediate_size", c["intermediate_size"])
    found: dict[str, Any] = {
        "block_count": c["num_hidden_layers"],
        "context_length": c["max_position_embeddings"],
        "embedding_length": c["hidden_size"],
        "feed_forward_length": c["intermediate_size"],
        "attention.head_count": c["num_attention_heads"],
        "attention.head_count_kv": c["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": float(c["rms_norm_eps"]),
        "rope.freq_base": float(rope["rope_theta"]),
        "expert_count": next(
            c[key] for key in ("num_experts", "num_local_experts", "n_routed_experts") if c.get(key)
        ),
        "expert_used_count": c["num_experts_per_tok"],
    }
    if c.get("head_dim") and architecture not in ("deepseek2", "olmoe"):
        found |= {"attention.key_length": c["head_dim"], "attention.value_length": c["head_dim"]}
    if architecture in ("qwen3moe", "qwen2moe", "deepseek2", "dots1", "glm4moe"):
        found["expert_feed_forward_length"] = width
    if architecture == "qwen2moe":
        found["expert_shared_feed_forward_length"] = c["shared_expert_intermediate_size"]
    if architecture == "olmoe" and c.get("clip_qkv"):
        found["attention.clamp_kqv"] = float(c["clip_qkv"])
    if architecture in ("deepseek2", "dots1", "glm4moe"):
        found |= _grouped(config.model_type, c)
    if architecture == "deepseek2":
        found |= _latent(c)
    if architecture in ("glm4moe", "minimax-m2"):
        found["rope.dimension_count"] = int(c["head_dim"] * rope.get("partial_rotary_factor", 1.0))
    if rope.get("rope_type") == "yarn":
        found |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(rope["factor"]),
            "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
        }
    if rope.get("mscale_all_dim"):
        found["rope.scaling.yarn_log_multiplier"] = 0.1 * rope["mscale_all_dim"]
    return {f"{architecture}.{key}": value for key, value in found.items()}


def _grouped(model_type: str, c: dict[str, Any]) -> dict[str, Any]:
    return {
        "leading_dense_block_count": c["first_k_dense_replace"],
        "expert_shared_count": c["n_shared_experts"],
        "expert_group_count": c["n_group"],
        "expert_group_used_count": c["topk_group"],
        "expert_weights_scale": float(c["routed_scaling_factor"]),
        "expert_weights_norm": bool(c["norm_topk_prob"]),
        "expert_gating_func": 1 if model_type == "deepseek_v2" else 2,
    }


def _latent(c: dict[str, Any]) -> dict[str, Any]:
    latent, rotary = c["kv_lora_rank"], c["qk_rope_head_dim"]
    return {
        "attention.head_count_kv": 1,
        "attention.q_lora_rank": c["q_lora_rank"],
        "attention.kv_lora_rank": latent,
        "attention.key_length": latent + rotary,
        "attention.value_length": latent,
        "attention.key_length_mla": c["qk_nope_head_dim"] + rotary,
        "attention.value_length_mla": c["v_head_dim"],
        "rope.dimension_count": rotary,
    }


def tokenizer_fields() -> dict[str, Any]:
    """A byte-level vocabulary of 256 tokens, three of them special, and a chat template."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    tokens = ["<pad>", "<bos>", "<eos>", *letters[:251], "he", "llo"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 3, *[1] * 253],
        "tokenizer.ggml.merges": ["h e", "l lo", "l o"][:1],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{% for m in messages %}<bos>{{ m.content }}<eos>{% endfor %}",
    }


def _by_turns(weight: Tensor, heads: int) -> Tensor:
    """What the converter does to q and k of llama: rows r and r + half of a head next to each other."""
    return weight.view(heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def _turned_back(weight: Tensor, heads: int) -> Tensor:
    return weight.view(heads, -1, 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def _heads(config: Any, name: str) -> int:
    return int(config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads)


def _gguf_name(architecture: str, layers: int, name: str) -> str:
    arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    table = gguf.get_tensor_name_map(arch, layers)
    stem, dot, suffix = name.rpartition(".")
    if suffix not in ("weight", "bias"):
        stem, dot, suffix = name, "", ""
    found = table.get_name(stem)
    assert found is not None, f"{name} has no name in {architecture}"
    return found + dot + suffix


def _block(name: str) -> str:
    """`blk.3` of a parameter of layer 3."""
    return ".".join(name.split(".")[1:3]).replace("layers", "blk")


def _plain(
    architecture: str, config: Any, state: dict[str, Tensor], latent: bool
) -> Iterator[tuple[str, Tensor]]:
    """(GGUF name, numbers) of every tensor of the file."""
    for name, tensor in state.items():
        block = _block(name)
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if name.endswith("experts.gate_up_proj"):
            gate, up = tensor.chunk(2, 1)
            yield f"{block}.ffn_gate_exps.weight", gate
            yield f"{block}.ffn_up_exps.weight", up
        elif name.endswith("kv_b_proj.weight") and latent:
            both = tensor.view(config.num_attention_heads, -1, tensor.shape[1])
            keys = both[:, : config.qk_nope_head_dim]
            yield f"{block}.attn_k_b.weight", keys.transpose(1, 2)
            yield f"{block}.attn_v_b.weight", both[:, config.qk_nope_head_dim :]
        elif architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            yield _there(architecture, config, name), _by_turns(tensor, _heads(config, name))
        elif name.endswith("shared_expert_gate.weight"):
            yield _there(architecture, config, name), tensor[0]
        else:
            yield _there(architecture, config, name), tensor


def _there(architecture: str, config: Any, name: str) -> str:
    """The name in the file of a parameter that is one tensor there."""
    block = _block(name)
    if name.endswith("e_score_correction_bias"):
        return f"{block}.exp_probs_b.bias"
    if name.endswith("experts.down_proj"):
        return f"{block}.ffn_down_exps.weight"
    if name.endswith("shared_expert_gate.weight"):
        return f"{block}.ffn_gate_inp_shexp.weight"
    if architecture == "glm4moe" and "post_attention_layernorm" in name:
        return f"{block}.post_attention_norm.weight"
    return _gguf_name(architecture, config.num_hidden_layers, name)


def _back(
    architecture: str, config: Any, meant: dict[str, Tensor], state: dict[str, Tensor]
) -> dict[str, Tensor]:
    """What the file means, as transformers' parameters: `_plain` the other way round."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        block = _block(name)
        if name == "lm_head.weight" and config.tie_word_embeddings:
            found[name] = meant["token_embd.weight"]
        elif name.endswith("experts.gate_up_proj"):
            pair = [meant[f"{block}.ffn_{which}_exps.weight"] for which in ("gate", "up")]
            found[name] = torch.cat(pair, 1)
        elif name.endswith("kv_b_proj.weight") and f"{block}.attn_k_b.weight" in meant:
            keys = meant[f"{block}.attn_k_b.weight"].transpose(1, 2)
            found[name] = torch.cat((keys, meant[f"{block}.attn_v_b.weight"]), 1).flatten(0, 1)
        elif architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            stored = meant[_there(architecture, config, name)]
            found[name] = _turned_back(stored, _heads(config, name))
        else:
            found[name] = meant[_there(architecture, config, name)].view(tensor.shape)
    return found


def write_fields(path: Path, architecture: str, values: dict[str, Any], tensors: dict[str, Any]) -> Path:
    """A GGUF of any metadata and small float32 tensors, by shape (slowest side first)."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in values.items():
        _add(writer, key, value)
    for name, shape in tensors.items():
        writer.add_tensor(name, np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
