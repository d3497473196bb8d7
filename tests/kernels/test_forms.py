"""Stored forms against transformers' own conversions."""

import pytest
import torch
from compressed_tensors.compressors import IntQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from transformers.core_model_loading import Interleave, Transpose

from helpers_quantised import scaled
from locum.errors import UnsupportedError
from locum.kernels.forms import maker, placed_shape


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
