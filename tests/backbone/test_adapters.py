"""Adapted MoE blocks against transformers' own, one block at a time."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from helpers_adapted import Held, adapted, only_chosen_rows
from helpers_families import family_config, make_family
from helpers_models import randomise
from locum.backbone.adapters import ADAPTERS
from locum.backbone.experts import way_of
from locum.backbone.family import build_skeleton, stripped_class
from locum.backbone.index import expert_index
from locum.backbone.routers import find_routers, predict
from locum.backbone.text_only import LeftOut
from locum.errors import CheckpointError, UnsupportedError
from locum.model.checkpoint import Checkpoint
from locum.model.spec import MoESpec

TOKENS = (1, 2, 3, 5, 8, 40)


def block_of(family: str, name: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """One random block of class `name` in transformers' modules of `family`."""
    config = family_config(family)
    config = getattr(config, "text_config", config)
    for key, value in changes.items():
        setattr(config, key, value)
    module = __import__(f"transformers.models.{family}.modeling_{family}", fromlist=[name])
    block: nn.Module = getattr(module, name)(config).to(dtype).eval()
    randomise(block)
    return block


def llama4_pair(dtype: torch.dtype, top_k: int) -> tuple[Any, Any, Held]:
    block = block_of("llama4", "Llama4TextMoe", dtype, num_experts_per_tok=top_k)
    experts = block.experts
    weights = [
        {"gate_up_proj": experts.gate_up_proj[e].clone(), "down_proj": experts.down_proj[e].clone()}
        for e in range(experts.num_experts)
    ]
    return block, *adapted(block, weights)


def states(tokens: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(1, tokens, 64, generator=torch.Generator().manual_seed(tokens)).to(dtype)


@torch.inference_mode()
@pytest.mark.parametrize("top_k", [1, 2, 8])
@pytest.mark.parametrize("tokens", TOKENS)
def test_llama4_differs_from_all_experts_on_all_tokens_by_rounding(tokens: int, top_k: int) -> None:
    # of the outputs' largest: a product's last bit depends on its number of rows, and nothing else differs
    for dtype, allowed in ((torch.float64, 1e-15), (torch.float32, 1e-6), (torch.bfloat16, 2**-7)):
        block, twin, held = llama4_pair(dtype, top_k)
        x_BTH = states(tokens, dtype)
        (got, logits), (expected, its_logits) = twin(x_BTH), block(x_BTH)
        assert torch.equal(logits, its_logits)
        assert float((got - expected).abs().max()) <= allowed * float(expected.abs().max())
        chosen = {int(e) for e in its_logits.topk(top_k, dim=1).indices.unique()}
        assert set(held.asked) == chosen
        if top_k == 1:  # with more, rows come in another order as well
            only_chosen_rows(block)
            assert torch.equal(got, block(x_BTH)[0])


@torch.inference_mode()
def test_a_score_that_multiplies_the_output_is_noticed() -> None:
    block, twin, _ = llama4_pair(torch.float32, 2)
    twin.experts.locum_way = type(way_of(twin.experts))(wide_sum=True)
    x_BTH = states(5, torch.float32)
    assert float((twin(x_BTH)[0] - block(x_BTH)[0]).abs().max()) > 1e-3


@torch.inference_mode()
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_longcats_experts_of_no_cost_give_the_row_back(dtype: torch.dtype, tokens: int) -> None:
    experts = block_of("longcat_flash", "LongcatFlashExperts", dtype)
    weights = [
        {"gate_up_proj": experts.gate_up_proj[e].clone(), "down_proj": experts.down_proj[e].clone()}
        for e in range(experts.num_routed_experts)
    ]
    twin, held = adapted(experts, weights)
    draw = torch.Generator().manual_seed(tokens)
    ids_TK = torch.stack([torch.randperm(12, generator=draw)[:4] for _ in range(tokens)])
    ids_TK[0] = torch.tensor([11, 2, 8, 9])
    weights_TK = torch.rand(tokens, 4, generator=draw)  # in float32 whatever the model's dtype
    x_TH = states(tokens, dtype)[0]
    expected = experts(x_TH, ids_TK, weights_TK)
    assert torch.equal(twin(x_TH, ids_TK, weights_TK), expected)
    assert max(held.asked) < 8
    twin.locum_way = type(way_of(twin))(beyond=4)
    assert not torch.equal(twin(x_TH, ids_TK, weights_TK), expected)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("family", "name"), [("dbrx", "DbrxFFN"), ("llama4", "Llama4TextMoe")], ids=["dbrx", "llama4"]
)
def test_a_router_can_be_asked_for_what_its_block_will_choose(family: str, name: str) -> None:
    config = family_config(family)
    if family == "dbrx":
        module = __import__("transformers.models.dbrx.modeling_dbrx", fromlist=[name])
        block = getattr(module, name)(config).eval()
        randomise(block)
        names = ("w1", "v1", "w2")
        weights = [
            {n: getattr(block.experts.mlp, n).view(8, 32, 64)[e].clone() for n in names} for e in range(8)
        ]
        twin, held = adapted(block, weights)
    else:
        block, twin, held = llama4_pair(torch.float32, 2)
    x_BTH = states(7, torch.float32)
    assert family != "dbrx" or torch.equal(twin(x_BTH), block(x_BTH))
    twin(x_BTH)
    (router,) = find_routers(nn.ModuleList([twin]))
    assert router is not None
    _, ids_TK = predict(router, x_BTH[0])
    assert {int(e) for e in ids_TK.unique()} == set(held.asked)


def test_longcats_own_files_have_no_matrices_for_experts_of_no_cost(tmp_path: Path) -> None:
    whole, hub = tmp_path / "whole", tmp_path / "hub"
    make_family("longcat_flash").save_pretrained(whole)
    shutil.copytree(whole, hub)
    tensors = load_file(whole / "model.safetensors")
    spare = re.compile(r"experts\.(8|9|10|11)\.")
    assert sum(bool(spare.search(name)) for name in tensors) == 2 * 4 * 2
    kept = {name: tensor for name, tensor in tensors.items() if not spare.search(name)}
    save_file(kept, hub / "model.safetensors", metadata={"format": "pt"})
    with_them, without = Checkpoint.open(whole), Checkpoint.open(hub)
    assert MoESpec.of(without).backbone_params == MoESpec.of(with_them).backbone_params
    assert MoESpec.of(without).experts == (8, 8)
    for one, other in zip(expert_index(with_them).layers, expert_index(without).layers, strict=True):
        assert (one.tensors, len(one.experts)) == (other.tensors, len(other.experts))
    name = "model.layers.0.mlp.experts.7.up_proj.weight"
    save_file({n: t for n, t in kept.items() if n != name}, hub / "model.safetensors")
    with pytest.raises(CheckpointError, match="expert 7"):
        expert_index(Checkpoint.open(hub))


def test_ernies_config_numbers_text_and_images_apart(tmp_path: Path) -> None:
    make_family("ernie4_5_vl_moe").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["moe_num_experts"] = [8, 8]
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = Checkpoint.open(tmp_path)
    spec = MoESpec.of(checkpoint)
    assert spec.experts == (8, 8)
    images = [name for name in checkpoint.tensors if re.search(r"experts\.(8|9|1\d)\.", name)]
    assert len(images) == 2 * 8 * 3
    assert spec.ignored_bytes > sum(checkpoint.tensors[name].length for name in images)
    with pytest.raises(CheckpointError, match="transformers cannot read this config"):
        build_skeleton(checkpoint)  # the class that it has wants one number


def test_transformers_classes_stay_as_they_are(tmp_path: Any) -> None:
    model: Any = make_family("llama4")
    model.save_pretrained(tmp_path)
    before = {name: dict(vars(module)) for name, module in _classes().items()}
    build_skeleton(Checkpoint.open(tmp_path))
    with torch.device("meta"):
        stripped_class(type(model))(model.config)
    assert {name: dict(vars(module)) for name, module in _classes().items()} == before


def _classes() -> dict[str, type]:
    found = {}
    for name, file in ADAPTERS.items():
        module = __import__(f"transformers.models.{file}.modeling_{file}", fromlist=[name])
        found[name] = getattr(module, name)
    return found


def test_a_tower_that_was_left_out_says_so(tmp_path: Any) -> None:
    model: Any = make_family("qwen3_vl_moe")
    model.save_pretrained(tmp_path)
    skeleton: Any = build_skeleton(Checkpoint.open(tmp_path))
    assert type(skeleton.model.visual) is LeftOut
    with pytest.raises(UnsupportedError, match="as text and has left out visual"):
        skeleton.model.visual(torch.zeros(1))
