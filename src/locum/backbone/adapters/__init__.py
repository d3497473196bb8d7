"""Families whose experts transformers does not decorate, made to look as if it did, one file each.

`adapt(model)` changes modules of one model in place; transformers' classes stay as they are. A new adapter is
one file with a function `adapt(module)` and one line in `ADAPTERS`; what it may change is in `base.py`.
"""

from importlib import import_module
from typing import Any

from torch import nn

ADAPTERS = {
    "DbrxFFN": "dbrx",
    "Ernie4_5_VLMoeMoeBlock": "ernie4_5_vl_moe",
    "Llama4TextMoe": "llama4",
    "LongcatFlashExperts": "longcat_flash",
    "Step3p7Experts": "step3p7",
}
"""transformers' class by name, to the file here that adapts its instances."""


def adapt(model: nn.Module) -> None:
    """Adapt every module of `model` that needs it. Called on a model on the meta device."""
    for module in list(model.modules()):
        file = ADAPTERS.get(type(module).__name__)
        if file is not None and type(module).__module__.startswith("transformers.models."):
            adapter: Any = import_module(f"locum.backbone.adapters.{file}")
            adapter.adapt(module)
