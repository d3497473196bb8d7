"""What the KV cache stores, layer by layer: from the attention's own tensors, else from the config."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from locum.model.config import HIDDEN, Reader
from locum.model.families import Family
from locum.model.header import TensorInfo
from locum.model.names import layer_of

_SLIDING = {"sliding_attention", "hybrid_sliding", "reference_sliding_attention", "chunked_attention"}
# Layers whose state does not grow with the context, or that have none.
_CONSTANT = {"linear_attention", "conv", "mamba", "mamba2", "recurrent", "moe", "mlp"}
# What an attention layer writes to its cache: the rows of these, per token.
_CACHED = re.compile(
    r"(?:self_attn|self_attention|attention|attn|mixer)"
    r"(?:\.\d+)?\.(?:k_proj|v_proj|kv_a_proj_with_mqa|indexer\.wk)\.weight$"
)


@dataclass(frozen=True, slots=True)
class KVLayer:
    """One layer's cache: `elements` per token, for the last `window` tokens only unless that is None."""

    elements: int
    window: int | None

    def tokens(self, context: int) -> int:
        """How many of `context` tokens this layer keeps."""
        return context if self.window is None else min(context, self.window)


def kv_layers(
    read: Reader, family: Family | None, tensors: Mapping[str, TensorInfo], stack: str, layers: int
) -> tuple[KVLayer, ...]:
    """The cache of every layer.

    Grouped-query attention keeps a key and a value per KV head: the rows of `k_proj` and `v_proj`. Multi-head
    latent attention keeps the compressed latent and the shared rotary key (transformers 5.23 caches these two
    and expands them at every use): the rows of `kv_a_proj_with_mqa`. Where the tensors are packed or have
    other names, the config tells. Raises `CheckpointError` where neither does.
    """
    types = read.texts("layer_types", layers) or read.texts("layers_block_type", layers)
    types = types or _default_types(read, family, layers)
    window = read.maybe("sliding_window", "attention_chunk_size", least=1) if _SLIDING & set(types) else None
    stored = _stored(tensors, stack)
    found = []
    for layer, kind in enumerate(types):
        elements = stored.get(layer, 0) if stored else _configured(read)
        found.append(KVLayer(0 if kind in _CONSTANT else elements, window if kind in _SLIDING else None))
    return tuple(found)


def _default_types(read: Reader, family: Family | None, layers: int) -> list[str]:
    """`layer_types` as transformers fills them in. Outside the table no window is assumed: an upper bound."""
    if family is None:
        return ["full_attention"] * layers
    if read.name("model_type") == "gpt_oss":  # alternate, sliding first
        return ["full_attention" if layer % 2 else "sliding_attention" for layer in range(layers)]
    sliding = read.get("use_sliding_window") is not False and read.get("sliding_window") is not None
    return ["sliding_attention" if sliding else "full_attention"] * layers


def _stored(tensors: Mapping[str, TensorInfo], stack: str) -> dict[int, int]:
    """Cached elements per token of each layer that has any, by its tensors; empty where names do not tell."""
    found: dict[int, int] = {}
    for name, info in tensors.items():
        if _CACHED.search(name) and len(info.shape) == 2 and info.dtype not in ("U8", "I8"):
            place = layer_of(name)
            if place is not None and place[0] == stack:
                found[place[1]] = found.get(place[1], 0) + info.shape[0]
    return found


def _configured(read: Reader) -> int:
    """Cached elements per token of an attention layer, by the config."""
    if read.get("kv_lora_rank") is not None:
        return read.count("kv_lora_rank") + read.count("qk_rope_head_dim", least=0)
    heads = read.count("num_attention_heads", "n_heads", "n_head")
    pairs = read.maybe("num_key_value_heads", "num_kv_heads", "kv_n_heads", least=1) or heads
    width = read.maybe("head_dim", least=1) or read.count(*HIDDEN) // heads
    return 2 * pairs * width
