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
from helpers_gguf_changes import Change, change_of
from helpers_gguf_fields import fields, tokenizer_fields

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
    "gpt_oss": "gpt-oss",
    "granitemoe": "granitemoe",
    "granitemoeshared": "granitemoe",
    "qwen3_vl_moe": "qwen3vlmoe",
    "hunyuan_v1_moe": "hunyuan-moe",
    "ernie4_5_moe": "ernie4_5-moe",
    "lfm2_moe": "lfm2moe",
    "afmoe": "afmoe",
    "exaone_moe": "exaone-moe",
    "mimo_v2_flash": "mimo2",
    "glm_moe_dsa": "glm-dsa",
    "llama4": "llama4",
    "dbrx": "dbrx",
}
"""transformers' `model_type` to llama.cpp's architecture."""

_ROPE = {"rope_type": "default", "partial_rotary_factor": 0.5}
_FULL = {"layer_types": ["full_attention"] * 3, "sliding_window": None}
_OVERRIDES: dict[str, dict[str, Any]] = {  # what llama.cpp's converter does not take
    "qwen3_moe": {"mlp_only_layers": []},
    "qwen2_moe": {"mlp_only_layers": [], "use_sliding_window": False, "layer_types": ["full_attention"] * 3},
    "dots1": _FULL,
    "mixtral": {"sliding_window": None},
    "afmoe": {"num_hidden_layers": 5, "layer_types": None, "mup_enabled": True},
    "exaone_moe": {"first_k_dense_replace": 1},
    "glm_moe_dsa": {"first_k_dense_replace": 1},
    "lfm2_moe": {"tie_word_embeddings": True},
    "mimo_v2_flash": {
        "n_shared_experts": None,
        "rope_parameters": {
            "full_attention": {**_ROPE, "rope_theta": 5e6},
            "sliding_attention": {**_ROPE, "rope_theta": 1e4},
        },
    },
    "qwen3_vl_moe": {"mlp_only_layers": []},
    "llama4": {"attention_chunk_size": 8192, "floor_scale": 8192},
}
_SEEING = ("qwen3_vl_moe",)
"""Families whose meaning is a model with a tower, as transformers has their text only in one."""

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
    model = make_family(family)
    if options or family in _OVERRIDES:
        model = _other(family, {**_OVERRIDES.get(family, {}), **options})
    config = model.config.get_text_config()
    architecture = ARCHITECTURES[family]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=split or 0)
    for key, value in {**fields(architecture, config), **tokenizer_fields(), **extra}.items():
        _add(writer, key, value)
    random = np.random.default_rng(3)
    meant: dict[str, Tensor] = {}
    state = {_of_text(name): tensor for name, tensor in model.state_dict().items() if ".visual." not in name}
    changes = _changes(architecture, config, state, latent)
    kinds: dict[str, Kind] = {}
    for name, tensor in _plain(state, changes):
        chosen = kind(name) if callable(kind) else kind
        weight = tensor.float().contiguous().numpy()
        plain = not name.endswith(".weight") or name.endswith("ffn_gate_inp.weight")
        if plain or weight.ndim < 2 or not _fits(weight, chosen):
            chosen = Kind.F32
        data = blocks_of(weight, chosen, random) if chosen != Kind.F32 else weight
        writer.add_tensor(name, data, raw_dtype=chosen)
        kinds[name] = chosen
        meant[name] = torch.from_numpy(np.copy(gguf.quants.dequantize(data, chosen)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    back = _back(meant, state, changes)
    own = model.state_dict()
    model.load_state_dict({name: back.get(_of_text(name), tensor) for name, tensor in own.items()})
    meaning = folder / "meaning"
    model.to(dtype)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        change = changes.get(_of_text(name))
        if change is not None and {kinds[one] for one in change.names} == {Kind.F32}:
            tensor.data = back[_of_text(name)].clone()  # some stay float32 when transformers loads them
    model.save_pretrained(meaning)
    if split:
        path = folder / f"model-00001-of-{len(list(folder.glob('*.gguf'))):05}.gguf"
    return Written(path, meaning)


def _other(family: str, overrides: dict[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    from helpers_families import auto_class, family_config
    from helpers_models import randomise

    known = family_config(family)
    text = {**known.get_text_config().to_dict(), **overrides}
    if family in _SEEING:
        known.text_config = type(known.get_text_config())(**text)
        model = auto_class(family).from_config(known, dtype=torch.float32).eval()
    else:
        config = AutoConfig.for_model(**text)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    randomise(model)
    return model


def _of_text(name: str) -> str:
    """The name in a model of text alone."""
    return name.replace("model.language_model.", "model.")


def _fits(weight: NDArray[np.float32], kind: Kind) -> bool:
    return weight.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    (writer.add_array if isinstance(value, list) else add[type(value)])(key, value)


def _changes(architecture: str, config: Any, state: dict[str, Tensor], latent: bool) -> dict[str, Change]:
    return {
        name: change_of(architecture, config, name, latent)
        for name in state
        if name != "lm_head.weight" or not config.tie_word_embeddings
    }


def plain_tensors(architecture: str, config: Any, state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """(GGUF name, numbers) of every tensor of the file, from a model's state."""
    return _plain(state, _changes(architecture, config, state, True))


def _plain(state: dict[str, Tensor], changes: dict[str, Change]) -> Iterator[tuple[str, Tensor]]:
    """(GGUF name, numbers) of every tensor of the file."""
    for name, change in changes.items():
        yield from zip(change.names, change.there(state[name]), strict=True)


def _back(
    meant: dict[str, Tensor], state: dict[str, Tensor], changes: dict[str, Change]
) -> dict[str, Tensor]:
    """What the file means, as transformers' parameters: `_plain` the other way round."""
    found = {
        name: change.back([meant[one] for one in change.names]).reshape(state[name].shape)
        for name, change in changes.items()
    }
    return found if "lm_head.weight" in found else {**found, "lm_head.weight": meant["token_embd.weight"]}


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
