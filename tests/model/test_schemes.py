"""Quantised checkpoints by their headers: what belongs together, what is missing, what is not read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers_quantised import awq, fp8, gptq, packed, scaled, twins
from locum.errors import CheckpointError
from locum.model.checkpoint import Checkpoint
from locum.model.header import TensorInfo
from locum.model.schemes import fp8 as fp8_scheme
from locum.model.schemes import stored_tensors
from locum.model.spec import MoESpec

FP8 = {"quant_method": "fp8", "weight_block_size": [16, 16]}
GPTQ = {"quant_method": "gptq", "bits": 4}
AWQ = {"quant_method": "awq", "bits": 4, "version": "gemm"}


def groups(**weights: Any) -> dict[str, Any]:
    """What compressed-tensors declares."""
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"type": "int", **weights}}},
    }


def targeting(*targets: str) -> dict[str, Any]:
    """Four bits for these modules."""
    declared = groups(num_bits=4)
    declared["config_groups"]["group_0"]["targets"] = list(targets)
    return declared


def marlin(weight: Tensor, random: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
    """The names that Marlin's own packing has."""
    return {"B": torch.ones(2, 2).int(), "s": torch.ones(2, 2).half()}, weight


@pytest.fixture(scope="module")
def made(checkpoints: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def get(make: Any, declared: dict[str, Any]) -> Path:
        plain = checkpoints("qwen3_moe", "bfloat16", shard="1GB")
        return twins(plain, tmp_path_factory.mktemp("scheme"), make, declared)[0]

    return get


def change(path: Path, how: Callable[[dict[str, Tensor]], None]) -> Path:
    """Rewrite the weights of a checkpoint."""
    tensors = load_file(path / "model.safetensors")
    how(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.mark.parametrize(
    ("make", "declared", "side"),
    [
        (fp8, FP8, None),
        (packed(4, 16), groups(num_bits=4), "weight_scale"),
        (gptq(4, 16), GPTQ, "scales"),
        (gptq(4, 16), GPTQ, "qzeros"),
        (awq, AWQ, "qzeros"),
    ],
)
def test_a_missing_or_misshapen_piece_is_named(
    made: Callable[..., Path], make: Any, declared: dict[str, Any], side: str | None
) -> None:
    module = "model.layers.1.mlp.experts.3.up_proj"
    name = f"{module}.{side or 'weight_scale_inv'}"

    def shorten(tensors: dict[str, Tensor]) -> None:
        tensors[name] = tensors[name][:-1].contiguous()

    with pytest.raises(CheckpointError, match=r"experts\.3\.up_proj"):
        stored_tensors(Checkpoint.open(change(made(make, declared), shorten)))
    if side is None:
        return

    def drop(tensors: dict[str, Tensor]) -> None:
        del tensors[name]

    with pytest.raises(CheckpointError, match=name):
        stored_tensors(Checkpoint.open(change(made(make, declared), drop)))


@pytest.mark.parametrize(
    ("make", "declared", "reason"),
    [
        (gptq(4, 16), GPTQ | {"bits": 3}, "GPTQ weights of a width"),
        (gptq(4, 16), GPTQ | {"bits": 4.0}, "GPTQ weights of a width"),
        (gptq(4, 16), GPTQ | {"checkpoint_format": "marlin"}, "a packing that locum does not read: marlin"),
        (gptq(4, 16), GPTQ | {"checkpoint_format": ["gptq"]}, "a packing that locum does not read"),
        (marlin, GPTQ | {"checkpoint_format": "marlin"}, "marlin"),
        (awq, AWQ | {"version": "gemv"}, "version gemv"),
        (packed(4, 16), groups(num_bits=5), "5 bits"),
        (packed(4, 16), groups(num_bits=4, type="float"), "float of 4 bits"),
        (packed(4, 16), targeting(r"re:(?i).*PROJ"), "a pattern among the targets"),
        (packed(4, 16), targeting(r"re:((([a-z]_)*)*)*!"), "a pattern among the targets"),
        (packed(4, 16), targeting(r"re:(([a-z0-9_]+\.?)*)*!", r"re:.*_.*_.*_.*_.*_!"), "None bits"),
        (gptq(4, 16), {"quant_method": "hqq"}, "hqq"),
        (gptq(4, 16), {"quant_method": "bitsandbytes"}, "bitsandbytes"),
    ],
)
def test_what_is_not_read_says_so(
    made: Callable[..., Path], make: Any, declared: dict[str, Any], reason: str
) -> None:
    spec = MoESpec.of(Checkpoint.open(made(make, declared)))
    assert not spec.runnable
    assert spec.unrunnable is not None
    assert reason in spec.unrunnable


def test_a_declared_scheme_that_the_weights_do_not_follow(made: Callable[..., Path]) -> None:
    def plain_floats(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.endswith("_scale_inv")]:
            del tensors[name]

    spec = MoESpec.of(Checkpoint.open(change(made(fp8, FP8), plain_floats)))
    assert spec.unrunnable is not None
    assert "F8_E4M3" in spec.unrunnable


def test_groups_that_name_modules_go_before_those_that_name_classes(made: Callable[..., Path]) -> None:
    declared = groups(num_bits=8)
    declared["config_groups"]["group_1"] = {
        "targets": ["re:.*mlp.experts.*"],
        "weights": {"type": "int", "num_bits": 4},
    }
    path = made(packed(4, 16), declared)
    stored = stored_tensors(Checkpoint.open(path))
    assert stored["model.layers.1.mlp.experts.0.up_proj.weight"].form == "packed-4"
    assert stored["model.layers.1.self_attn.q_proj.weight"].form == "packed-8"


def test_names_and_shapes_are_those_of_the_model(
    made: Callable[..., Path], checkpoints: Callable[..., Path]
) -> None:
    plain = load_file(checkpoints("qwen3_moe", "bfloat16", shard="1GB") / "model.safetensors")
    for make, declared in ((fp8, FP8), (packed(8, 16), groups(num_bits=8)), (gptq(4, 16), GPTQ), (awq, AWQ)):
        stored = stored_tensors(Checkpoint.open(made(make, declared)))
        assert {name: tuple(tensor.shape) for name, tensor in plain.items()} == {
            name: tensor.shape for name, tensor in stored.items()
        }


def test_an_expert_that_is_stored_in_another_way_than_its_neighbours(made: Callable[..., Path]) -> None:
    from locum.backbone.index import expert_index

    path = made(fp8, FP8)
    name = "model.layers.1.mlp.experts.3.down_proj.weight"

    def widen(tensors: dict[str, Tensor]) -> None:
        tensors[name] = tensors[name].to(torch.bfloat16)
        del tensors[f"{name}_scale_inv"]

    with pytest.raises(CheckpointError, match="expert 3"):
        expert_index(Checkpoint.open(change(path, widen)))


def test_scales_that_nobody_reads_are_not_dropped_in_silence(made: Callable[..., Path]) -> None:
    # attention in bytes with a scale per output, beside experts that are read
    name = "model.layers.1.self_attn.q_proj.weight"

    def per_output(tensors: dict[str, Tensor]) -> None:
        rows = len(tensors[name])
        tensors[name] = tensors[name].view(torch.uint8)
        tensors[f"{name}_scale"] = torch.ones(rows, 1)
        del tensors[f"{name}_scale_inv"]

    spec = MoESpec.of(Checkpoint.open(change(made(fp8, FP8), per_output)))
    assert spec.unrunnable is not None
    assert name in spec.unrunnable


def test_blocks_of_compressed_tensors_are_the_declared_ones() -> None:
    # 24 columns and 2 scales: 16 + 8 as declared, not 12 + 12
    declared = groups(num_bits=8, type="float", strategy="block", block_structure=[16, 16])
    tensors = {
        "x.weight": TensorInfo("f", "F8_E4M3", (32, 24), 0, 768),
        "x.weight_scale": TensorInfo("f", "BF16", (2, 2), 768, 8),
    }
    assert fp8_scheme.SCALED.read("x.weight", "x.weight", tensors, declared).form == "fp8-16x16"
    with pytest.raises(CheckpointError, match=r"x\.weight"):
        fp8_scheme.SCALED.read("x.weight", "x.weight", tensors, FP8 | {"weight_block_size": [8, 8]})


@pytest.mark.parametrize("shape", [(31,), (2,), (33, 1), (0,), (1, 1, 1)])
@pytest.mark.parametrize("kind", [torch.int8, torch.float8_e4m3fn])
def test_scales_of_no_known_shape(
    made: Callable[..., Path], kind: torch.dtype, shape: tuple[int, ...]
) -> None:
    name = "model.layers.1.mlp.experts.3.up_proj.weight_scale"

    def odd(tensors: dict[str, Tensor]) -> None:
        tensors[name] = torch.ones(shape)

    path = made(scaled(kind), groups(num_bits=8))
    with pytest.raises(CheckpointError, match=r"experts\.3\.up_proj"):
        stored_tensors(Checkpoint.open(change(path, odd)))


@pytest.mark.parametrize("block", [[0, 16], [-1, -1], [16], [16.0, 16], [True, 16], "16x16", {}, [16, None]])
def test_blocks_that_cannot_be(made: Callable[..., Path], block: object) -> None:
    with pytest.raises(CheckpointError, match="two whole numbers above 0"):
        MoESpec.of(Checkpoint.open(made(fp8, FP8 | {"weight_block_size": block})))


@pytest.mark.parametrize("size", [0, -5, 10**30, "x", None])
def test_a_declared_group_size_is_not_asked(made: Callable[..., Path], size: object) -> None:
    for make, declared in (
        (gptq(4, 16), GPTQ),
        (awq, AWQ),
        (packed(4, 16), groups(num_bits=4, group_size=size)),
    ):
        stored = stored_tensors(Checkpoint.open(made(make, {**declared, "group_size": size})))
        assert stored["model.layers.1.mlp.experts.0.up_proj.weight"].shape == (32, 64)


COUNTED: dict[str, tuple[Any, dict[str, Any]]] = {
    "fp8": (fp8, FP8),
    "gptq-2": (gptq(2, 16), GPTQ | {"bits": 2}),
    "awq": (awq, AWQ),
    "float8": (scaled(torch.float8_e4m3fn), groups(num_bits=8, type="float")),
    "int8-asymmetric": (scaled(torch.int8, symmetric=False), groups(num_bits=8)),
    "int4-order": (packed(4, 16, symmetric=False, order="shuffled"), groups(num_bits=4)),
}


@pytest.mark.parametrize("form", COUNTED)
def test_parameters_are_those_of_the_plain_model(
    made: Callable[..., Path], checkpoints: Callable[..., Path], form: str
) -> None:
    assert_counted(made(*COUNTED[form]), checkpoints("qwen3_moe", "bfloat16", shard="1GB"))


@pytest.mark.parametrize(("experts", "others"), [(4, 8), (8, 4)])
def test_parameters_where_widths_differ(
    made: Callable[..., Path], checkpoints: Callable[..., Path], experts: int, others: int
) -> None:
    declared = groups(num_bits=others)
    named = {"targets": ["re:.*experts.*"], "weights": {"type": "int", "num_bits": experts}}
    declared["config_groups"]["group_1"] = named
    narrow = load_file(made(packed(experts, 16), declared) / "model.safetensors")

    def merge(tensors: dict[str, Tensor]) -> None:
        tensors.update({name: tensor for name, tensor in narrow.items() if ".experts." in name})

    path = change(made(packed(others, 16), declared), merge)
    assert_counted(path, checkpoints("qwen3_moe", "bfloat16", shard="1GB"))


def assert_counted(path: Path, plain: Path) -> None:
    """Parameters against those of `plain`, counted one tensor after the other."""
    sizes = {name: tensor.numel() for name, tensor in load_file(plain / "model.safetensors").items()}
    spec = MoESpec.of(Checkpoint.open(path))
    assert spec.params == sum(sizes.values())
    for layer in spec.moe:
        inside = [size for name, size in sizes.items() if name.startswith(f"{layer.module}.5.")]
        assert layer.expert_params == sum(inside) > 0
    assert spec.backbone_resident_bytes == 2 * sum(
        size for name, size in sizes.items() if ".experts." not in name
    )
