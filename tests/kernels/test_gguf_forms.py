"""ggml's blocks, against the numpy reading of the `gguf` package."""

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from helpers_gguf import random_blocks
from locum.kernels.forms import maker
from locum.model.gguf import BLOCKS, READABLE
from locum.model.gguf.ggml import TYPES


@pytest.mark.parametrize("name", sorted(READABLE))
def test_blocks_mean_what_the_gguf_package_says(name: str) -> None:
    random = np.random.default_rng(1)
    blocks = random_blocks(64, Kind[name], random)
    with np.errstate(all="ignore"):  # some scales of random bits are infinite
        wanted = torch.from_numpy(gguf.quants.dequantize(blocks, Kind[name]).copy())
    stored = torch.from_numpy(blocks).view(4, 16, -1)
    shape = (4, 16, BLOCKS[name].elements)
    made = maker(f"gguf-{name}")({"blocks": stored}, shape)
    assert made.dtype == torch.float32
    assert made.shape == shape
    finite = wanted.isfinite()
    assert finite.float().mean() > 0.9
    assert torch.equal(made.flatten(0, 1)[finite].view(torch.int32), wanted[finite].view(torch.int32))


def test_the_table_of_types_is_ggml_s() -> None:
    theirs = {int(kind): (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    ours = {number: tuple(kind) for number, kind in TYPES.items()}
    assert ours == {number: theirs[number] for number in ours}
    assert set(theirs) == set(ours)


def test_rows_are_dealt_back_in_each_head() -> None:
    stored = torch.arange(8).view(8, 1)
    made = maker("raw+interleaved-2")({"weight": stored}, (8, 1))
    assert made.flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
