"""`MoESpec` of the six families against the live transformers model that the same files load into."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from helpers_checkpoint import write_file
from helpers_models import FAMILIES as TINY
from helpers_models import make_checkpoint
from locum.model import Checkpoint, MoESpec
from locum.model.families import FAMILIES

Checkpoints = Callable[..., Path]

ROUTERS = {
    "qwen3_moe": "softmax",
    "mixtral": "softmax",
    "olmoe": "softmax",
    "deepseek_v3": "sigmoid+bias+groups",
    "glm4_moe": "sigmoid+bias+groups",
    "gpt_oss": "softmax-after-topk",
}


def spec_of(folder: Path) -> MoESpec:
    return MoESpec.of(Checkpoint.open(folder))


def load(folder: Path) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, experts_implementation="eager").eval()


def experts_modules(model: nn.Module) -> dict[int, nn.Module]:
    """Absolute layer to the module that holds its routed experts, found by attribute alone."""
    return {
        index: layer.mlp.experts
        for index, layer in enumerate(model.model.layers)
        if isinstance(getattr(getattr(layer.mlp, "experts", None), "down_proj", None), nn.Parameter)
    }


def size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", sorted(TINY))
def test_agrees_with_the_live_model(family: str, dtype: str, checkpoints: Checkpoints) -> None:
    folder = checkpoints(family, dtype)
    model, spec = load(folder), spec_of(folder)
    modules = experts_modules(model)
    state = model.state_dict()
    routed = {
        f"model.layers.{layer}.mlp.experts.{name}" for layer, m in modules.items() for name in m.state_dict()
    }

    assert spec.family == family
    assert spec.architecture == type(model).__name__
    assert spec.runnable
    assert spec.layers == len(model.model.layers)
    assert spec.moe_layers == tuple(modules)
    assert spec.experts == tuple(module.num_experts for module in modules.values())
    routers = [
        getattr(model.model.layers[layer].mlp, "gate", None) or model.model.layers[layer].mlp.router
        for layer in modules
    ]
    assert spec.top_k == tuple(router.top_k for router in routers)
    assert spec.expert_bytes == tuple(
        sum(size(value[0]) for value in module.state_dict().values()) for module in modules.values()
    )
    assert spec.routed_bytes == sum(size(state[name]) for name in routed)
    assert spec.backbone_resident_bytes == sum(
        size(value) for name, value in state.items() if name not in routed
    )
    assert spec.params == sum(value.numel() for value in state.values())
    assert spec.active_params == spec.params - sum(
        (module.num_experts - spec.top_k[0]) * sum(value[0].numel() for value in module.state_dict().values())
        for module in modules.values()
    )
    assert spec.ignored_bytes == 0
    stored = sum(file.size for file in Checkpoint.open(folder).files)
    headers = sum(
        8 + int.from_bytes(path.read_bytes()[:8], "little") for path in folder.glob("*.safetensors")
    )
    assert spec.routed_bytes + spec.backbone_bytes == stored - headers
    assert spec.dtype == str(model.dtype).removeprefix("torch.") == dtype
    assert spec.quantization is None
    assert spec.router == ROUTERS[family]
    assert spec.layout == ("fused" if family == "gpt_oss" else "per-expert")
    shared = {layer for layer in modules if hasattr(model.model.layers[layer].mlp, "shared_experts")}
    assert spec.shared_experts == (1 if shared else 0)
    assert (spec.hidden_size, spec.vocab_size) == (model.config.hidden_size, model.config.vocab_size)
    assert spec.context_length == model.config.max_position_embeddings
    assert not spec.tied_embeddings
    assert not spec.remote_code


@pytest.mark.parametrize(
    ("family", "changes"),
    [(family, {}) for family in sorted(TINY)]
    + [("mixtral", {"sliding_window": 8}), ("qwen3_moe", {"use_sliding_window": True, "sliding_window": 8})],
)
def test_kv_bytes_are_what_the_cache_of_the_live_model_holds(
    family: str, changes: dict[str, object], checkpoints: Checkpoints
) -> None:
    folder = checkpoints(family, "bfloat16", **changes)
    model, spec = load(folder), spec_of(folder)
    assert spec.kv_bytes_per_token == spec.kv_bytes(1)
    for tokens in (1, 7, 50):
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            model(torch.arange(tokens)[None] % 200 + 3, past_key_values=cache)
        held = sum(size(layer.keys) + size(layer.values) for layer in cache.layers)
        # a full window keeps one token less, because the next one is about to come
        slack = sum(
            2 * layer.elements for layer in spec.kv if layer.window is not None and tokens >= layer.window
        )
        assert spec.kv_bytes(tokens) == held + slack


@pytest.mark.parametrize("family", ["qwen3_moe", "olmoe", "gpt_oss"])
def test_tied_embeddings_are_counted_once(family: str, tmp_path: Path) -> None:
    make_checkpoint(family, tmp_path, torch.bfloat16, tie_word_embeddings=True)
    spec, model = spec_of(tmp_path), load(tmp_path)
    assert spec.tied_embeddings
    assert spec.params == sum(value.numel() for value in model.parameters())  # `parameters` leaves out copies


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "olmoe", "deepseek_v3", "glm4_moe"])
def test_the_fused_layout_of_the_same_model_is_read_too(
    family: str, tmp_path: Path, checkpoints: Checkpoints
) -> None:
    plain = spec_of(checkpoints(family, "bfloat16"))
    load(checkpoints(family, "bfloat16")).save_pretrained(tmp_path, save_original_format=False)
    names = Checkpoint.open(tmp_path).tensors
    assert any(name.endswith("mlp.experts.gate_up_proj") for name in names)
    fused = spec_of(tmp_path)
    assert fused.layout == "fused"
    assert (fused.moe_layers, fused.experts, fused.expert_bytes) == (
        plain.moe_layers,
        plain.experts,
        plain.expert_bytes,
    )
    assert fused.backbone_params == plain.backbone_params


def test_a_dense_start_and_every_second_layer(tmp_path: Path) -> None:
    make_checkpoint("qwen3_moe", tmp_path, num_hidden_layers=6, decoder_sparse_step=2, mlp_only_layers=[1])
    assert spec_of(tmp_path).moe_layers == tuple(experts_modules(load(tmp_path))) == (3, 5)


def test_two_shared_experts(tmp_path: Path) -> None:
    make_checkpoint("deepseek_v3", tmp_path, n_shared_experts=2, n_group=1, topk_group=1)
    spec = spec_of(tmp_path)
    assert spec.shared_experts == 2
    assert spec.router == "sigmoid+bias"


@pytest.mark.parametrize("family", ["deepseek_v3", "glm4_moe"])
def test_extra_prediction_layers_and_computed_buffers_are_ignored_as_transformers_does(
    family: str, tmp_path: Path, checkpoints: Checkpoints
) -> None:
    """The extra layer is stored as DeepSeek does: layer number `num_hidden_layers`, experts and all."""
    source = checkpoints(family, "bfloat16")
    before = spec_of(source)
    folder = shutil.copytree(source, tmp_path / "with-mtp")
    layer = {
        name.replace("model.layers.2.", "model.layers.3."): (info.dtype, info.shape)
        for name, info in Checkpoint.open(source).tensors.items()
        if name.startswith("model.layers.2.")
    }
    extra = {
        **layer,
        "model.layers.3.eh_proj.weight": ("BF16", (64, 128)),
        "model.layers.3.shared_head.head.weight": ("BF16", (256, 64)),
        "model.layers.0.self_attn.rotary_emb.inv_freq": ("F32", (8,)),
    }
    write_file(folder / "model-99999.safetensors", extra)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"] |= dict.fromkeys(extra, "model-99999.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    after = spec_of(folder)
    assert after.ignored_bytes == sum(
        info.length for name, info in Checkpoint.open(folder).tensors.items() if name in extra
    )
    for field in (
        "moe",
        "backbone_bytes",
        "backbone_resident_bytes",
        "params",
        "kv",
        "layers",
        "shared_experts",
    ):
        assert getattr(after, field) == getattr(before, field)
    loaded = load(folder).state_dict()
    assert loaded.keys() == load(source).state_dict().keys()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_defaults_are_those_of_the_config_class(family: str) -> None:
    config = AutoConfig.for_model(family)
    for key, value in FAMILIES[family].defaults.items():
        theirs = type(config).__dataclass_fields__.get(key)
        default = theirs.default if theirs is not None else getattr(config, key)
        assert default == value, key


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_config_that_leaves_defaults_out(family: str, tmp_path: Path) -> None:
    """Only sizes are given; expert count, top-k and the MoE layers come from transformers' defaults."""
    keep = {"qwen3_moe": {"num_hidden_layers": 1}, "deepseek_v3": {"num_hidden_layers": 4, "n_group": 8}}
    defaults = {
        key: value
        for key, value in FAMILIES[family].defaults.items()
        if key not in ("n_group", "kv_lora_rank", "qk_rope_head_dim", "num_key_value_heads", "head_dim")
    }
    sizes = {"num_hidden_layers": 2, "mlp_only_layers": [], "hidden_size": 32, "moe_intermediate_size": 8}
    changes = {**sizes, **defaults, **keep.get(family, {})}
    make_checkpoint(family, tmp_path, **{"intermediate_size": 8, **changes, "topk_group": 1})
    full = spec_of(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    aliases = {"num_experts": "num_local_experts"} if family == "qwen3_moe" else {}
    for key in defaults:
        assert config.pop(aliases.get(key, key), None) is not None or key == "sliding_window"
    config.pop("sliding_window", None)
    config.pop("layer_types", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert spec_of(tmp_path) == full
    assert full.moe_layers == tuple(experts_modules(load(tmp_path)))
