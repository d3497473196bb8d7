"""Find the native library, and say why it is not used where it is not.

`LOCUM_KERNELS=reference` leaves it out, for comparison and for blame.
"""

import ctypes
import functools
import importlib.resources
import os
from dataclasses import dataclass, field
from typing import Any

from locum.errors import UsageError

CHOICES = ("auto", "reference")


@dataclass(frozen=True, slots=True)
class Native:
    """What of the library can run here. `missing` says why a product has to be left to torch, None when not.

    `linear_bf16(w, x, y, outputs, inputs, block, span, threads)` takes addresses: y[outputs] = w[outputs,
    inputs] x[inputs] in bfloat16, added in chains of `block` inputs (a multiple of 32) and sums of `span`
    chains, see linear.cpp. It frees the interpreter lock. The twin is `twin.linear_bf16`.
    """

    missing: str | None
    linear_bf16: Any = field(default=None, repr=False)


def load() -> Native:
    """The library as `LOCUM_KERNELS` and this machine allow. Raises `UsageError` for another value of it."""
    choice = os.environ.get("LOCUM_KERNELS", "auto")
    if choice not in CHOICES:
        raise UsageError("no such kernels", where="LOCUM_KERNELS", allowed=" or ".join(CHOICES), got=choice)
    return Native("LOCUM_KERNELS=reference") if choice == "reference" else _open()


@functools.cache
def _open() -> Native:
    place = importlib.resources.files("locum.native") / "lib" / "libnative.so"
    if not place.is_file():
        return Native("the package was built without a C++ compiler")
    try:
        library = ctypes.CDLL(str(place))
    except OSError as error:
        return Native(f"the native library cannot be loaded: {error}")
    if not library.locum_has_bf16():
        return Native("this processor has no AVX-512 BF16")
    linear = library.locum_linear_bf16
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    linear.argtypes, linear.restype = [pointer, pointer, pointer, size, size, size, size, ctypes.c_int], None
    return Native(None, linear)
