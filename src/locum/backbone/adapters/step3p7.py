"""Step 3.7: the experts are in every respect as decorated ones, only that they are not decorated."""

from typing import Any

from locum.backbone.adapters.base import decorate


def adapt(experts: Any) -> None:
    """Adapt a `Step3p7Experts`."""
    decorate(experts)
