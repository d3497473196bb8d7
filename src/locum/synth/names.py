"""The tensors that a checkpoint holds, by family: the names Hugging Face gives them, and their shapes."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.errors import UnsupportedError

Config = dict[str, Any]
_EXPERTS = (".experts.", ".block_sparse_moe.input_linear.", ".block_sparse_moe.output_linear.")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a checkpoint: its Hugging Face name and shape."""

    name: str
    shape: tuple[int, ...]
    drawn: tuple[float, float] | None = None
    """(mean, standard deviation) of its random numbers; None: as its name says, see `noise.scale`."""
    content: NDArray[np.generic] | None = field(default=None, compare=False, repr=False)
    """What it holds where it may not be random: float32, or whole numbers in the file's own type."""

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def is_norm(self) -> bool:
        """A normalisation weight: its values lie about 1, not about 0."""
        return len(self.shape) == 1 and self.name.endswith("norm.weight")

    @property
    def is_bias(self) -> bool:
        """Something added, rather than multiplied by: its values are small whatever its shape."""
        return self.name.endswith(("bias", "sinks"))

    @property
    def fan_in(self) -> int:
        """Inputs of a matrix: its rows' length, but where experts are fused and transposed [E, in, out]."""
        return self.shape[-2] if len(self.shape) == 3 else self.shape[-1]

    @property
    def is_expert(self) -> bool:
        """Belongs to a routed expert."""
        return any(part in self.name for part in _EXPERTS)


def _attention(config: Config, prefix: str, norms: tuple[int, int]) -> Iterator[TensorSpec]:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    width = config.get("head_dim") or hidden // heads
    query, key_value = heads * width, config["num_key_value_heads"] * width
    yield TensorSpec(f"{prefix}.q_proj.weight", (query, hidden))
    yield TensorSpec(f"{prefix}.k_proj.weight", (key_value, hidden))
    yield TensorSpec(f"{prefix}.v_proj.weight", (key_value, hidden))
    yield TensorSpec(f"{prefix}.o_proj.weight", (hidden, query))
    yield TensorSpec(f"{prefix}.q_norm.weight", (norms[0],))
    yield TensorSpec(f"{prefix}.k_norm.weight", (norms[1],))


def _mlp(prefix: str, hidden: int, intermediate: int) -> Iterator[TensorSpec]:
    yield TensorSpec(f"{prefix}.gate_proj.weight", (intermediate, hidden))
    yield TensorSpec(f"{prefix}.up_proj.weight", (intermediate, hidden))
    yield TensorSpec(f"{prefix}.down_proj.weight", (hidden, intermediate))


def _moe(config: Config, prefix: str, intermediate: int) -> Iterator[TensorSpec]:
    hidden = config["hidden_size"]
    yield TensorSpec(f"{prefix}.gate.weight", (config["num_experts"], hidden))
    for expert in range(config["num_experts"]):
        yield from _mlp(f"{prefix}.experts.{expert}", hidden, intermediate)


def _olmoe_layer(config: Config, layer: int) -> Iterator[TensorSpec]:
    prefix, hidden = f"model.layers.{layer}", config["hidden_size"]
    key_value = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    yield from _attention(config, f"{prefix}.self_attn", (hidden, key_value))
    yield from _moe(config, f"{prefix}.mlp", config["intermediate_size"])


def _qwen3_layer(config: Config, layer: int) -> Iterator[TensorSpec]:
    prefix, hidden = f"model.layers.{layer}", config["hidden_size"]
    yield from _attention(config, f"{prefix}.self_attn", (config["head_dim"], config["head_dim"]))
    sparse = (layer + 1) % config["decoder_sparse_step"] == 0 and layer not in config["mlp_only_layers"]
    if sparse and config["num_experts"] > 0:
        yield from _moe(config, f"{prefix}.mlp", config["moe_intermediate_size"])
    else:
        yield from _mlp(f"{prefix}.mlp", hidden, config["intermediate_size"])


def _plain_attention(config: Config, prefix: str) -> Iterator[TensorSpec]:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    width = config["head_dim"] or hidden // heads
    sizes = {"q": heads * width, "k": config["num_key_value_heads"] * width}
    for name, size in (*sizes.items(), ("v", sizes["k"])):
        yield TensorSpec(f"{prefix}.{name}_proj.weight", (size, hidden))
        if config["attention_bias"]:
            yield TensorSpec(f"{prefix}.{name}_proj.bias", (size,))
    yield TensorSpec(f"{prefix}.o_proj.weight", (hidden, sizes["q"]))
    if config["attention_bias"]:
        yield TensorSpec(f"{prefix}.o_proj.bias", (hidden,))


def _mixtral_layer(config: Config, layer: int) -> Iterator[TensorSpec]:
    prefix, hidden, width = f"model.layers.{layer}", config["hidden_size"], config["intermediate_size"]
    yield from _plain_attention(config, f"{prefix}.self_attn")
    moe = f"{prefix}.block_sparse_moe"
    yield TensorSpec(f"{moe}.gate.weight", (config["num_local_experts"], hidden))
    for expert in range(config["num_local_experts"]):
        yield TensorSpec(f"{moe}.experts.{expert}.w1.weight", (width, hidden))
        yield TensorSpec(f"{moe}.experts.{expert}.w2.weight", (hidden, width))
        yield TensorSpec(f"{moe}.experts.{expert}.w3.weight", (width, hidden))


def _latent_attention(config: Config, prefix: str) -> Iterator[TensorSpec]:
    hidden, heads, rank = config["hidden_size"], config["num_attention_heads"], config["q_lora_rank"]
    query = heads * (config["qk_nope_head_dim"] + config["qk_rope_head_dim"])
    if rank is None:
        yield TensorSpec(f"{prefix}.q_proj.weight", (query, hidden))
    else:
        yield TensorSpec(f"{prefix}.q_a_proj.weight", (rank, hidden))
        yield TensorSpec(f"{prefix}.q_a_layernorm.weight", (rank,))
        yield TensorSpec(f"{prefix}.q_b_proj.weight", (query, rank))
    latent, value = config["kv_lora_rank"], config["v_head_dim"]
    yield TensorSpec(f"{prefix}.kv_a_proj_with_mqa.weight", (latent + config["qk_rope_head_dim"], hidden))
    yield TensorSpec(f"{prefix}.kv_a_layernorm.weight", (latent,))
    yield TensorSpec(f"{prefix}.kv_b_proj.weight", (heads * (config["qk_nope_head_dim"] + value), latent))
    yield TensorSpec(f"{prefix}.o_proj.weight", (hidden, heads * value))


def _deepseek_v2_layer(config: Config, layer: int) -> Iterator[TensorSpec]:
    prefix, hidden, width = f"model.layers.{layer}", config["hidden_size"], config["moe_intermediate_size"]
    yield from _latent_attention(config, f"{prefix}.self_attn")
    if layer < config["first_k_dense_replace"]:
        yield from _mlp(f"{prefix}.mlp", hidden, config["intermediate_size"])
        return
    yield TensorSpec(f"{prefix}.mlp.gate.weight", (config["n_routed_experts"], hidden))
    for expert in range(config["n_routed_experts"]):
        yield from _mlp(f"{prefix}.mlp.experts.{expert}", hidden, width)
    if config["n_shared_experts"]:
        yield from _mlp(f"{prefix}.mlp.shared_experts", hidden, width * config["n_shared_experts"])


def _gpt_oss_layer(config: Config, layer: int) -> Iterator[TensorSpec]:
    prefix, hidden, width = f"model.layers.{layer}", config["hidden_size"], config["intermediate_size"]
    experts, moe = config["num_local_experts"], f"model.layers.{layer}.mlp"
    yield TensorSpec(f"{prefix}.self_attn.sinks", (config["num_attention_heads"],))
    yield from _plain_attention(config, f"{prefix}.self_attn")
    yield TensorSpec(f"{moe}.router.weight", (experts, hidden))
    yield TensorSpec(f"{moe}.router.bias", (experts,))
    yield TensorSpec(f"{moe}.experts.gate_up_proj", (experts, hidden, 2 * width))
    yield TensorSpec(f"{moe}.experts.gate_up_proj_bias", (experts, 2 * width))
    yield TensorSpec(f"{moe}.experts.down_proj", (experts, width, hidden))
    yield TensorSpec(f"{moe}.experts.down_proj_bias", (experts, hidden))


FAMILIES: dict[str, Callable[[Config, int], Iterator[TensorSpec]]] = {
    "olmoe": _olmoe_layer,
    "qwen3_moe": _qwen3_layer,
    "mixtral": _mixtral_layer,
    "deepseek_v2": _deepseek_v2_layer,
    "gpt_oss": _gpt_oss_layer,
}
"""What a layer holds beside its two norms, by `model_type`."""


def tensors(config: Config) -> Iterator[TensorSpec]:
    """Every tensor of a checkpoint with this config, in the order of the model's modules.

    Raises `UnsupportedError` for a family whose names are not known here.
    """
    family, hidden = config.get("model_type"), config["hidden_size"]
    if family not in FAMILIES:
        raise UnsupportedError(
            "no tensor names for this family", allowed=", ".join(FAMILIES), got=repr(family)
        )
    yield TensorSpec("model.embed_tokens.weight", (config["vocab_size"], hidden))
    for layer in range(config["num_hidden_layers"]):
        yield from FAMILIES[family](config, layer)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield TensorSpec(f"model.layers.{layer}.{norm}.weight", (hidden,))
    yield TensorSpec("model.norm.weight", (hidden,))
    if not config["tie_word_embeddings"]:
        yield TensorSpec("lm_head.weight", (config["vocab_size"], hidden))
