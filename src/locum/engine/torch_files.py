"""torch's own files as plain data, for rooms without torch."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from locum.errors import TraceError


def load_plain(path: Path) -> Any:
    """Nested dicts and lists, tensors as numpy arrays. Only plain tensors are read: no code is ever run.

    Raises `TraceError` for a file that is damaged or holds anything else.
    """
    try:
        return _plain(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises what it likes for damaged files
        raise TraceError("not a file of plain tensors", where=path, got=_reason(error)) from error


def _reason(error: Exception) -> str:
    """In a line. What torch says of pickles ends in advice to run them."""
    if isinstance(error, UnpicklingError):
        return "a damaged file, or one that holds more than tensors"
    return next(iter(str(error).splitlines()), type(error).__name__)


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
