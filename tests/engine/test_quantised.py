"""Law B for quantised checkpoints: transformers' bits on the weights they stand for, packed in the slots."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config, Mxfp4Config

from helpers_laws import Subject, reference, same_bits, swapped
from helpers_quantised import awq, fp8, fp8_powers, gpt_oss_twins, gptq, packed, scaled, twins
from locum.backbone.experts import experts_modules
from locum.errors import CheckpointError
from locum.model.checkpoint import Checkpoint
from locum.model.spec import MoESpec


def _groups(bits: int, group: int | None, symmetric: bool = True, kind: str = "pack int") -> dict[str, Any]:
    form, number = kind.split()
    weights = {
        "num_bits": bits, "type": number, "symmetric": symmetric, "group_size": group,
        "strategy": "group" if group else "channel", "dynamic": False, "actorder": None,
        "block_structure": None, "observer": "minmax", "observer_kwargs": {},
    }  # fmt: skip
    return {
        "quant_method": "compressed-tensors",
        "format": f"{form}-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head", "re:.*gate$", "re:.*router.*"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }


def _inverse(make: Callable[..., Any]) -> Callable[..., Any]:
    """The same under the name that DeepSeek has for scales."""

    def made(weight: torch.Tensor, random: torch.Generator) -> Any:
        stored, means = make(weight, random)
        return {"weight": stored["weight"], "weight_scale_inv": stored["weight_scale"]}, means

    return made


FP8 = {"quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False, "sym": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm", "zero_point": True}
E4M3 = torch.float8_e4m3fn
FLOAT8 = _groups(8, None, kind="float float")
INT8 = _groups(8, None, kind="int int")
FORMATS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "fp8": (fp8, FP8),
    "int4": (packed(4, 16), _groups(4, 16)),
    "int8": (packed(8, 16), _groups(8, 16)),
    "int8-channel": (packed(8, None), _groups(8, None)),
    "int4-asymmetric": (packed(4, 16, symmetric=False), _groups(4, 16, symmetric=False)),
    "gptq-4": (gptq(4, 16), GPTQ),
    "gptq-8": (gptq(8, 16), GPTQ | {"bits": 8}),
    "gptq-2": (gptq(2, 16), GPTQ | {"bits": 2}),
    "gptq-v2": (gptq(4, 16, version=2), GPTQ | {"checkpoint_format": "gptq_v2"}),
    "gptq-order": (gptq(4, 16, order="shuffled"), GPTQ | {"desc_act": True}),
    "awq": (awq, AWQ),
}
ONCE: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "fp8-wide": (partial(fp8, block=1000), FP8 | {"weight_block_size": [10**15, 10**15]}),
    "fp8-bytes": (fp8_powers(torch.uint8), FP8),
    "fp8-powers": (fp8_powers(torch.float8_e8m0fnu), FP8),
    "gptq-no-order": (gptq(4, 16, order="none"), GPTQ),
    "int4-order": (packed(4, 16, symmetric=False, order="shuffled"), _groups(4, 16, symmetric=False)),
    "int8-no-order": (packed(8, 16, order="none"), _groups(8, 16)),
    "int4-zeros-in-bytes": (packed(4, 16, symmetric=False, zeros_packed=False), _groups(4, 16, False)),
    "float8-channel": (scaled(E4M3), FLOAT8),
    "float8-channel-flat": (scaled(E4M3, "O"), FLOAT8),
    "float8-channel-bf16": (scaled(E4M3, dtype=torch.bfloat16), FLOAT8),
    "float8-tensor": (scaled(E4M3, "1"), FLOAT8),
    "autofp8": (scaled(E4M3, ""), {"quant_method": "fp8", "activation_scheme": "static"}),
    "fp8-flat": (_inverse(scaled(E4M3, "O")), {"quant_method": "fp8"}),
    "int8-bytes": (scaled(torch.int8), INT8),
    "int8-bytes-flat": (scaled(torch.int8, "O"), INT8),
    "int8-bytes-tensor": (scaled(torch.int8, "1", torch.bfloat16), INT8),
    "int8-bytes-asymmetric": (scaled(torch.int8, symmetric=False), INT8),
    "int8-bytes-tensor-asymmetric": (scaled(torch.int8, "", symmetric=False), INT8),
}
FAMILIES = ("qwen3_moe", "deepseek_v3", "olmoe")


@pytest.fixture(scope="session")
def pairs(
    checkpoints: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Path, Path]]:
    """`pairs(format, family, dtype)`: (quantised, dequantised), made once a session."""
    made: dict[object, tuple[Path, Path]] = {}

    def get(form: str, family: str, dtype: str) -> tuple[Path, Path]:
        key = form, family, dtype
        if key not in made:
            plain, out = checkpoints(family, dtype, shard="1GB"), tmp_path_factory.mktemp("twins")
            if form == "mxfp4":
                made[key] = gpt_oss_twins(plain, out)
            else:
                made[key] = twins(plain, out, *(FORMATS | ONCE)[form])
        return made[key]

    return get


CASES = [
    *((form, family) for form in FORMATS for family in FAMILIES),
    *((form, "qwen3_moe") for form in ONCE),
    ("mxfp4", "gpt_oss"),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("form", "family"), CASES)
def test_the_bits_of_the_dequantised_model(
    pairs: Callable[..., tuple[Path, Path]], form: str, family: str, dtype: str
) -> None:
    quantised, dequantised = pairs(form, family, dtype)
    expected = reference(dequantised)
    subject = Subject(quantised)
    for slots, prefetch in ((1, "none"), (4, "next-gate"), (1000, "none")):
        got = subject.run(slots, prefetch=prefetch)
        assert same_bits(got.logits, expected.logits), (slots, prefetch)
    assert not same_bits(swapped(subject).logits, expected.logits)


@pytest.mark.parametrize(("form", "family"), CASES)
def test_experts_stay_packed(pairs: Callable[..., tuple[Path, Path]], form: str, family: str) -> None:
    quantised, _ = pairs(form, family, "bfloat16")
    subject = Subject(quantised)
    left = (".weight_shape", ".input_scale")  # what the config says, and what concerns activations
    stored = sum(
        tensor.nbytes
        for name, tensor in load_file(quantised / "model.safetensors").items()
        if ".experts." in name and not name.endswith(left)
    )
    index = subject.index
    spans = sum(span.length for layer in index.layers for spans in layer.experts for span in spans)
    assert spans == stored
    images = sum(layer.image_bytes * len(layer.experts) for layer in index.layers)
    assert stored <= images <= stored * 1.02, "packed in the slots as in the files"
    spec = MoESpec.of(Checkpoint.open(quantised))
    assert spec.runnable
    assert spec.quantization is not None
    resident = sum(p.numel() * p.element_size() for p in subject.model.state_dict().values())
    assert spec.backbone_resident_bytes == pytest.approx(resident, rel=0.01)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", ["fp8", "mxfp4", "int4", "int8", "float8-channel"])
def test_transformers_dequantises_to_the_same(
    pairs: Callable[..., tuple[Path, Path]], form: str, dtype: str
) -> None:
    # the reference of the tests above is what transformers makes of the quantised files itself
    quantised, dequantised = pairs(form, "gpt_oss" if form == "mxfp4" else "qwen3_moe", dtype)
    choices: dict[str, Any] = {
        "fp8": FineGrainedFP8Config(dequantize=True, weight_block_size=[16, 16]),
        "mxfp4": Mxfp4Config(dequantize=True),
    }
    if form in choices:
        options = {"quantization_config": choices[form]}
    else:
        from transformers import CompressedTensorsConfig

        groups = (FORMATS | ONCE)[form][1]
        options = {"quantization_config": CompressedTensorsConfig(**_without_method(groups), dequantize=True)}
    theirs = AutoModelForCausalLM.from_pretrained(quantised, dtype="auto", **options).state_dict()
    plain = AutoModelForCausalLM.from_pretrained(dequantised, dtype="auto").state_dict()
    assert theirs.keys() == plain.keys()
    for name, tensor in plain.items():
        assert torch.equal(theirs[name], tensor), name


def _without_method(groups: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in groups.items() if key != "quant_method"}


def test_experts_are_the_only_thing_left_in_the_files(pairs: Callable[..., tuple[Path, Path]]) -> None:
    quantised, _ = pairs("gptq-4", "qwen3_moe", "bfloat16")
    model = Subject(quantised).model
    assert all(not list(module.parameters()) for _, module in experts_modules(model))
    assert not any(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("layer", ["mlp.experts.3.up_proj", "self_attn.q_proj"])
@pytest.mark.parametrize("group", [4, -2, 2**31 - 1])
@pytest.mark.parametrize("form", ["gptq-order", "int4-order"])
def test_groups_that_are_not_there_are_refused_by_name(
    pairs: Callable[..., tuple[Path, Path]], tmp_path: Path, form: str, group: int, layer: str
) -> None:
    source, folder = pairs(form, "qwen3_moe", "bfloat16")[0], tmp_path / "forged"
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    suffix = "g_idx" if form == "gptq-order" else "weight_g_idx"
    tensors[f"model.layers.1.{layer}.{suffix}"][5] = group
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    where = r"gate_up_proj of expert 3 of model\.layers\.1" if "experts" in layer else rf"layers\.1\.{layer}"
    with pytest.raises(CheckpointError, match=rf"{where}.*g_idx names groups"):
        Subject(folder).run(1000)
