"""What a scheme of quantisation has to say about a checkpoint. No weights are read.

A scheme looks at the names in the files and tells which stored tensors make up one tensor of the model, what
each is to it (its role), and by which form of `kernels.forms` it is made from them. A method is one file here
and one file there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from locum.model.header import TensorInfo


class Stored(NamedTuple):
    """A tensor of the model as it is stored."""

    name: str
    """As if it were not quantised: `...q_proj.weight`."""
    shape: tuple[int, ...]
    """Once made."""
    form: str
    """See `kernels.forms`; `raw` when the one piece is the tensor."""
    pieces: tuple[tuple[str, TensorInfo], ...]
    """(role, stored tensor)."""


Declared = Mapping[str, Any]
Tensors = Mapping[str, TensorInfo]


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to store quantised weights."""

    main: str
    """The suffix of the stored tensor that holds the codes; a name with it belongs to this scheme."""
    base: str
    """What stands in place of `main` in the model's name."""
    read: Callable[[str, str, Tensors, Declared], Stored]
    """(name in the files, name in the model, all stored tensors, what the config declares) to the tensor.

    Raises `CheckpointError` for missing or misshapen pieces, `UnsupportedError` for a variant.
    """
    sides: tuple[str, ...] = ()
    """Further suffixes, in place of `main`, of stored tensors that are part of it or say nothing more."""
    matches: Callable[[str, Tensors, Declared], bool] = lambda name, tensors, declared: True
    """Whether a name that ends in `main` really is of this scheme."""
