"""Find the native library, and say why it is not used where it is not.

`LOCUM_KERNELS=reference` leaves it out, for comparison and for blame.
"""

import ctypes
import functools
import hashlib
import importlib.resources
import os
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from typing import Any

from locum.errors import UsageError

CHOICES = ("auto", "reference")
_REFERENCE = "LOCUM_KERNELS=reference"


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
    return Native(_REFERENCE) if choice == "reference" else _open()


def function(name: str) -> Any:
    """A function of the library that any processor runs, or None where there is no library to be used."""
    library = _library()
    if isinstance(library, str) or load().missing == _REFERENCE:
        return None
    return getattr(library, name, None)  # a library built from older sources may lack it


def identity() -> str:
    """Sixteen digits of the SHA-256 of the library's file, `none` where there is no file to read."""
    try:
        return hashlib.sha256(_place().read_bytes()).hexdigest()[:16]
    except OSError:
        return "none"


def _place() -> Traversable:
    return importlib.resources.files("locum.native") / "lib" / "libnative.so"


@functools.cache
def _library() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    place = _place()
    if not place.is_file():
        return "the package was built without a C++ compiler"
    try:
        return ctypes.CDLL(str(place))
    except OSError as error:
        return f"the native library cannot be loaded: {error}"


@functools.cache
def _open() -> Native:
    library = _library()
    if isinstance(library, str):
        return Native(library)
    if not library.locum_has_bf16():
        return Native("this processor has no AVX-512 BF16")
    linear = library.locum_linear_bf16
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    linear.argtypes, linear.restype = [pointer, pointer, pointer, size, size, size, size, ctypes.c_int], None
    return Native(None, linear)
