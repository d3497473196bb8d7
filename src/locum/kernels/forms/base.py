"""The contract of a form: how an expert's matrix is made from the tensors that are stored of it.

The slot keeps the bytes as they are in the file, whatever they mean; a made matrix lives as long as its
product.

Axes: O outputs, I inputs, G groups of inputs.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

Make = Callable[[Mapping[str, Tensor], tuple[int, ...]], Tensor]
"""(pieces by role, shape wanted) to the matrix, contiguous, in the dtype that the method computes in.

It is given views of memory that may be overwritten as soon as it returns, must not write to them, and gives
memory of its own. What it gives is cast to the model's dtype by the caller, as transformers does.
"""
