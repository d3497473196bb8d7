"""The contract of a form: how an expert's matrix is made from the tensors that are stored of it.

The slot keeps the bytes as they are in the file, whatever they mean; a made matrix lives as long as its
product.

Axes: O outputs, I inputs, G groups of inputs.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

WHOLE = slice(None)
"""All rows of a tensor of any shape."""
Make = Callable[[Mapping[str, Tensor], tuple[int, ...], slice], Tensor]
"""(pieces by role, shape of the whole, rows wanted) to those rows, in the dtype that the method computes in.

It is given views of memory that may be overwritten as soon as it returns, and must not write to them. Rows
are `WHOLE`, or a run of a matrix [O, I], and have the numbers that they have in the whole. What it gives is
cast to the model's dtype by the caller, as transformers does.
"""
