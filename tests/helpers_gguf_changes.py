"""What llama.cpp's converter makes of each parameter of transformers, and that undone.

Source: `convert_hf_to_gguf.py`; names come from the `gguf` package, but for those
it knows from checkpoints only.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gguf
import torch
from torch import Tensor

_SINGLE = {  # names in transformers' memory that the package does not know, by their end
    "e_score_correction_bias": "exp_probs_b.bias",
    "experts.down_proj": "ffn_down_exps.weight",
    "experts.down_proj_bias": "ffn_down_exps.bias",
    "shared_expert_gate.weight": "ffn_gate_inp_shexp.weight",
    "self_attn.sinks": "attn_sinks.weight",
}
_POST = {"post_attention_layernorm.weight": "post_attention_norm.weight"}
_RENAMED = {  # where an architecture goes its own way
    "glm4moe": _POST,
    "gpt-oss": _POST,
    "granitemoe": {"block_sparse_moe.router.weight": "ffn_gate_inp.weight"},
    "afmoe": {**_POST, "mlp.expert_bias": "exp_probs_b.bias"},
    "lfm2moe": {"feed_forward.expert_bias": "exp_probs_b.bias"},
    "llama4": {},
}
_BY_TURNS = ("llama", "granitemoe")
_APART = ("ffn_gate_exps", "ffn_up_exps")


class Change(NamedTuple):
    """What becomes of one parameter."""

    names: Sequence[str]
    """Of the tensors in the file."""
    there: Callable[[Tensor], Sequence[Tensor]]
    """From the parameter to these tensors."""
    back: Callable[[Sequence[Tensor]], Tensor]
    """The other way round; the shape may differ by sides of one."""


def change_of(architecture: str, config: Any, name: str, latent: bool = True) -> Change:
    """What the converter does to the parameter `name`; `latent`: whether it parts DeepSeek's `kv_b_proj`."""
    block = ".".join(name.split(".")[1:3]).replace("layers", "blk").replace("blocks", "blk")
    if architecture in ("gpt-oss", "llama4") and ".experts." in name:
        return _turned(block, name, woven=architecture == "gpt-oss")
    if name.endswith("shared_mlp.input_linear.weight"):
        names = [f"{block}.ffn_{which}_shexp.weight" for which in ("gate", "up")]
        return Change(names, lambda both: both.chunk(2), lambda pair: torch.cat(list(pair)))
    if ".experts.mlp." in name:
        return _flat(block, name, config)
    if name.endswith("experts.gate_up_proj"):
        names = [f"{block}.{which}.weight" for which in _APART]
        return Change(names, lambda both: both.chunk(2, 1), lambda pair: torch.cat(list(pair), 1))
    if name.endswith("kv_b_proj.weight") and latent:
        return _halves(block, config)
    there = _there(architecture, config, block, name)
    if architecture in _BY_TURNS and name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
        return Change(
            [there], lambda one: [_by_turns(one, heads)], lambda stored: _turned_back(stored[0], heads)
        )
    return Change([there], lambda one: [one.squeeze()], lambda stored: stored[0])


def _turned(block: str, name: str, woven: bool) -> Change:
    """Experts that transformers keeps as [E, in, out], gate and up by turns or one after the other."""
    kind = "bias" if name.endswith("_bias") else "weight"

    def turn(tensor: Tensor) -> Tensor:
        return tensor if kind == "bias" else tensor.transpose(1, 2)

    if "down_proj" in name:
        return Change(
            [f"{block}.ffn_down_exps.{kind}"], lambda one: [turn(one)], lambda stored: turn(stored[0])
        )
    names = [f"{block}.{which}.{kind}" for which in _APART]
    if not woven:
        return Change(
            names,
            lambda both: [turn(half) for half in both.chunk(2, -1)],
            lambda pair: torch.cat([turn(one) for one in pair], -1),
        )
    return Change(
        names,
        lambda both: [turn(both[..., ::2]), turn(both[..., 1::2])],
        lambda pair: torch.stack([turn(one) for one in pair], -1).flatten(-2),
    )


def _flat(block: str, name: str, config: Any) -> Change:
    """Experts of DBRX: one below the other, the last of the three matrices turned round."""
    which = {"w1": "gate", "v1": "up", "w2": "down"}[name.rpartition(".")[2]]
    count = config.ffn_config.moe_num_experts

    def turn(tensor: Tensor) -> Tensor:
        return tensor.transpose(1, 2) if which == "down" else tensor

    return Change(
        [f"{block}.ffn_{which}_exps.weight"],
        lambda one: [turn(one.view(count, -1, one.shape[-1]))],
        lambda stored: turn(stored[0]).flatten(0, 1),
    )


def _halves(block: str, config: Any) -> Change:
    nope = config.qk_nope_head_dim

    def there(tensor: Tensor) -> list[Tensor]:
        both = tensor.view(config.num_attention_heads, -1, tensor.shape[1])
        return [both[:, :nope].transpose(1, 2), both[:, nope:]]

    return Change(
        [f"{block}.attn_k_b.weight", f"{block}.attn_v_b.weight"],
        there,
        lambda pair: torch.cat((pair[0].transpose(1, 2), pair[1]), 1).flatten(0, 1),
    )


def _by_turns(weight: Tensor, heads: int) -> Tensor:
    """Rows r and r + half of a head next to each other."""
    return weight.view(heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def _turned_back(weight: Tensor, heads: int) -> Tensor:
    return weight.view(heads, -1, 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def _there(architecture: str, config: Any, block: str, name: str) -> str:
    """The name in the file of a parameter that is one tensor there."""
    for end, own in {**_RENAMED.get(architecture, {}), **_SINGLE}.items():
        if name.endswith(end):
            return f"{block}.{own}"
    arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    table = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    stem, dot, suffix = name.rpartition(".")
    if suffix not in ("weight", "bias"):
        stem, dot, suffix = name, "", ""
    found = table.get_name(stem)
    assert found is not None, f"{name} has no name in {architecture}"
    return found + dot + suffix
