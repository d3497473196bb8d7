"""locum runs Mixture-of-Experts language models in far less memory than they need, bit for bit.

    import locum

    model = locum.load("path/to/model", memory="4GiB")
    print(model.generate("The sea").text)

Names are resolved when first asked for, so that `import locum` loads neither torch nor transformers.
"""

import importlib
from typing import TYPE_CHECKING

from locum.errors import (
    BudgetError,
    CheckpointError,
    LoadError,
    LocumError,
    ModelError,
    NotMoEError,
    NumericsError,
    PolicyError,
    PromptError,
    TraceError,
    UnsupportedError,
    UsageError,
)

if TYPE_CHECKING:
    from locum.engine import load
    from locum.model import inspect
    from locum.trace import Trace

__version__ = "0.1.0.dev0"

__all__ = [
    "BudgetError",
    "CheckpointError",
    "LoadError",
    "LocumError",
    "ModelError",
    "NotMoEError",
    "NumericsError",
    "PolicyError",
    "PromptError",
    "Trace",
    "TraceError",
    "UnsupportedError",
    "UsageError",
    "__version__",
    "inspect",
    "load",
]

# name -> the room that has it; what is listed here is loaded when first used
_ROOMS = {"Trace": "locum.trace", "inspect": "locum.model", "load": "locum.engine"}


def __getattr__(name: str) -> object:
    room = _ROOMS.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(room), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
