"""The KV cache of one request: a real transformers cache whose plain layers grow without copying everything.

transformers' `DynamicLayer` concatenates at every step, which copies the whole history per token and needs
twice its memory while it does. Here a layer is a buffer that grows in pages, and `keys` and `values` are
views of its first tokens. Measured bit-equal to concatenation where a row of the buffer is a multiple of 16
bytes and a single head (compressed KV) is shown with contiguous strides; other head sizes keep the plain
layer. Everything else about the cache (its class, sliding, linear or indexed layers) stays transformers'
own, so that families which look inside find what they expect.
"""

from importlib import import_module
from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

PAGE = 256
"""Tokens by which a layer's buffer grows."""
ROW_BYTES = 16
"""Rows whose bytes are a multiple of this give the same bits in a longer buffer."""


class GrowingLayer(DynamicLayer):
    """A `DynamicLayer` over a buffer [B, heads, capacity, D] that grows in pages of `PAGE` tokens."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append [B, heads, T, D] keys and values; returns all of them."""
        if not (_pageable(key_states) and _pageable(value_states)):
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._buffers is None or end > self._buffers[0].shape[-2]:
            self._grow(key_states, value_states, start, end)
        assert self._buffers is not None
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = new
        self.keys, self.values = (_first(buffer, end) for buffer in self._buffers)
        return self.keys, self.values

    def _grow(self, keys: Tensor, values: Tensor, start: int, end: int) -> None:
        capacity = -(-end // PAGE) * PAGE
        if start:  # an eighth more than needed: the copying stays a constant share of the writing
            capacity = max(capacity, -(-(start + start // 8) // PAGE) * PAGE)
        grown = []
        for new, old in ((keys, self.keys), (values, self.values)):
            buffer = new.new_empty(new.shape[0], new.shape[1], capacity, new.shape[3])
            if start and old is not None:
                buffer[:, :, :start] = old
            grown.append(buffer)
        self._buffers = (grown[0], grown[1])

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._buffers = None


def _first(buffer: Tensor, end: int) -> Tensor:
    """The first `end` tokens. Strides of axes of length 1 steer matrix products too, so one head is made
    plain.
    """
    if buffer.shape[:2] == (1, 1):
        return buffer[0, 0, :end].view(1, 1, end, buffer.shape[-1])
    return buffer[:, :, :end]


def _pageable(states: Tensor) -> bool:
    return states.dim() == 4 and states.shape[-1] * states.element_size() % ROW_BYTES == 0


def _own_class(config: Any) -> type[DynamicCache] | None:
    """The kind of `DynamicCache` that is defined beside the family's model, if there is one."""
    home = type(config).__module__.replace(".configuration_", ".modeling_")
    return next(
        (
            found
            for found in vars(import_module(home)).values()
            if isinstance(found, type) and issubclass(found, DynamicCache) and found.__module__ == home
        ),
        None,
    )


def request_cache(config: Any) -> DynamicCache:
    """An empty cache for one request of a model with this config.

    A family that brings a class of its own gets that, as it is.
    """
    own = _own_class(config)
    if own is not None:
        return own()
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
