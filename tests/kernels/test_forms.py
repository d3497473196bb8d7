"""Stored forms against transformers' own conversions."""

import pytest
import torch
from transformers.core_model_loading import Interleave, Transpose

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
