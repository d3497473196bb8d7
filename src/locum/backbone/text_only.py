"""What a model that also sees or hears needs for text: its decoder and head. The towers are left out.

In transformers 5.23 every such model holds its decoder beside its towers and projectors, so what stands
beside the way from the model to its decoder, and has weights, is what text never goes through. A tower that
is called all the same says that it is not there.
"""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from locum.errors import UnsupportedError


class LeftOut(nn.Module):
    """Stands where a part was that text does not need. Raises `UnsupportedError` when it is called."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, *_: Any, **__: Any) -> None:
        """Never gives anything."""
        raise UnsupportedError(f"locum runs this model as text and has left out {self.what}")


def leave_out(model: PreTrainedModel) -> None:
    """Put `LeftOut` in the place of everything that holds weights beside `model`'s decoder and its head.

    A text model stays as it is. Call it before weights are loaded.
    """
    if model.config.get_text_config(decoder=True) is model.config:
        return
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    path = next((name for name, module in model.named_modules() if module is decoder), "")
    place: nn.Module = model
    for step in path.split(".") if path else ():
        for name, beside in list(place.named_children()):
            weights = next(beside.parameters(), next(beside.buffers(), None))
            if name != step and beside is not head and weights is not None:
                setattr(place, name, LeftOut(name))
        place = getattr(place, step)
