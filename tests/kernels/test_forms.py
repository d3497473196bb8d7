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
