"""Stored forms against transformers' own conversions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.compressors import IntQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from gguf import GGMLQuantizationType as Kind
from torch import Tensor
from transformers.core_model_loading import Interleave, Transpose

from helpers_gguf import random_blocks
from helpers_quantised import awq, fp8, gptq, packed, scaled
from locum.errors import UnsupportedError
from locum.kernels import forms
from locum.kernels.forms import maker, placed_shape
from locum.kernels.quantise import quantise


def test_rows_by_turns() -> None:
    stored = torch.randn(3, 10, 4, generator=torch.Generator().manual_seed(0))
    right = Interleave(dim=1).convert({"a": stored}, ["a"], ["b"])["b"]
    for expert in range(3):
        got = maker("raw+interleaved")({"weight": stored[expert]}, (10, 4))
        assert torch.equal(got, right[expert])
        assert got.is_contiguous()


def test_transposed() -> None:
    stored = torch.randn(3, 10, 4, generator=torch.Generator().manual_seed(0))
    right = Transpose(dim0=1, dim1=2).convert({"a": stored}, ["a"], ["b"])["b"]
    for expert in range(3):
        got = maker("raw+transposed")({"weight": stored[expert]}, (4, 10))
        assert torch.equal(got, right[expert])
        assert got.is_contiguous()
    assert placed_shape("raw+transposed", (4, 10)) == (10, 4)
    assert placed_shape("raw", (4, 10)) == placed_shape("raw+interleaved", (4, 10)) == (4, 10)


def test_an_unknown_form_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="nonsense"):
        maker("nonsense-4")


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("sides", "strategy"), [("1", "tensor"), ("O1", "channel")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_integers_in_bytes_as_their_library_reads_them(
    sides: str, strategy: str, dtype: torch.dtype, symmetric: bool
) -> None:
    # transformers does not load experts of this kind
    random = torch.Generator().manual_seed(0)
    stored, _ = scaled(torch.int8, sides, dtype, symmetric)(torch.randn(24, 32, generator=random), random)
    arguments = QuantizationArgs(num_bits=8, strategy=strategy, symmetric=symmetric)
    theirs = IntQuantizationCompressor.decompress(
        stored, QuantizationScheme(targets=["Linear"], weights=arguments)
    )
    roles = {"weight": "codes", "weight_scale": "scales", "weight_zero_point": "zeros"}
    pieces = {roles[name]: tensor for name, tensor in stored.items() if name in roles}
    assert torch.equal(maker("packed-8")(pieces, (24, 32)), theirs["weight"])


def test_floats_of_four_bits_are_those_of_the_standard() -> None:
    # OCP Microscaling v1.0, E2M1: sign, two bits of exponent (bias 1), one of mantissa; subnormal at 0
    def value(code: int) -> float:
        exponent, half = code >> 1 & 3, code & 1
        size = (1 + half / 2) * 2.0 ** (exponent - 1) if exponent else half / 2
        return -size if code & 8 else size

    octets = torch.arange(256, dtype=torch.uint8)
    right = torch.tensor([value(code) for octet in range(256) for code in (octet & 15, octet >> 4)])
    codes, scales = octets.view(16, 1, 16), torch.full((16, 1), 127 + 3, dtype=torch.uint8)
    for got in (
        maker("mxfp4")({"codes": codes, "scales": scales}, (16, 32)),
        maker("fp4-1x32")({"codes": codes.view(16, 16).view(torch.int8), "scales": scales}, (16, 32)),
    ):
        assert torch.equal(got.flatten(), 8 * right)
        assert torch.equal(got.flatten().signbit(), right.signbit())


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("version", [1, 2])
def test_zero_points_of_gptq_from_nought_to_the_top(bits: int, version: int) -> None:
    top, per = 2**bits - 1, 32 // bits
    zeros = [0, top, 0, 0, top, top, 1, 0, *range(per), *[0] * per, *[top] * per][: 4 * per]
    word = [
        sum((z & top) << bits * i for i, z in enumerate(zeros[w : w + per]))
        for w in range(0, len(zeros), per)
    ]
    ones = sum(1 << bits * i for i in range(per))
    if version == 1:  # as GPTQModel writes them
        word = [(w - ones) % 2**32 for w in word]
    pieces = {
        "codes": torch.zeros(per * bits // 32, len(zeros), dtype=torch.int32),
        "zeros": torch.tensor([w - (w >> 31 << 32) for w in word], dtype=torch.int32)[None],
        "scales": torch.ones(1, len(zeros)),
    }
    got = maker(f"gptq{version}-{bits}")(pieces, (len(zeros), per))
    assert got[:, 0].tolist() == [-(z & top) for z in zeros]


SUFFIXES = {
    "weight": "codes", "weight_scale_inv": "scales", "weight_packed": "codes", "weight_scale": "scales",
    "weight_zero_point": "zeros", "qweight": "codes", "qzeros": "zeros", "scales": "scales", "g_idx": "order",
}  # fmt: skip
MADE: dict[str, tuple[str, Callable[..., Any]]] = {
    "fp8": ("fp8-16x16", fp8),
    "packed": ("packed-4", packed(4, 16)),
    "packed-asymmetric": ("packed-4", packed(4, 16, symmetric=False)),
    "packed-8": ("packed-8+transposed", packed(8, None, symmetric=False)),
    "gptq": ("gptq1-4", gptq(4, 16)),
    "gptq-order": ("gptq2-2", gptq(2, 16, version=2, order="shuffled")),
    "awq": ("awq", awq),
    "fp8-outputs": ("fp8-1x64", scaled(torch.float8_e4m3fn, "O", torch.float32)),
    "fp8-one": ("fp8-40x64", scaled(torch.float8_e4m3fn, "", torch.float32)),
    "bytes-outputs": ("packed-8", scaled(torch.int8, "O1", torch.float32, False)),
    "bytes-one": ("packed-8", scaled(torch.int8, "1", torch.float32, False)),
}


def _pieces(kind: str) -> tuple[str, dict[str, Tensor], tuple[int, ...]]:
    """(form, pieces, shape) of a matrix [40, 64]."""
    random = torch.Generator().manual_seed(1)
    weight = torch.randn(40, 64, generator=random)
    if kind in MADE:
        form, make = MADE[kind]
        stored, _ = make(weight, random)
        pieces = {SUFFIXES[name]: piece for name, piece in stored.items() if name in SUFFIXES}
        return form, pieces, (64, 40) if "transposed" in form else (40, 64)
    if kind.startswith("int"):
        return kind, quantise(weight, int(kind[3]), 16)._asdict(), (40, 64)
    if kind == "mxfp4":
        codes = torch.randint(0, 256, (40, 2, 16), generator=random, dtype=torch.uint8)
        scales = torch.randint(115, 124, (40, 2), generator=random, dtype=torch.uint8)
        return "mxfp4+interleaved", {"codes": codes, "scales": scales}, (40, 64)
    if kind == "raw":
        return "raw+transposed", {"weight": weight}, (64, 40)
    blocks = torch.from_numpy(random_blocks(80, Kind.Q4_0, np.random.default_rng(1))).view(40, -1)
    if kind == "joined":
        return "gguf_joined-Q4_0xQ4_0", {"first": blocks[:10], "second": blocks[10:20]}, (20, 64)
    return "gguf-Q4_0", {"blocks": blocks}, (40, 64)


@pytest.mark.parametrize("kind", [*MADE, "int8-g16", "int4-g16", "mxfp4", "raw", "joined", "gguf"])
@pytest.mark.parametrize("rows", [1, 3, 7, 40])
def test_rows_made_apart_are_those_of_the_whole(
    kind: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    form, pieces, shape = _pieces(kind)
    whole = maker(form)(pieces, shape)
    monkeypatch.setattr(forms, "_RUN", rows * placed_shape(form, shape)[1])
    for dtype in (torch.float32, torch.bfloat16):
        out = torch.full(shape, torch.nan, dtype=dtype)
        maker(form).fill(out, pieces)
        assert torch.equal(out, whole.to(dtype))
