"""What a checkpoint will hold: every tensor, its numbers, its size. Which files they go to is another matter.

No torch.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from locum.synth.given import with_layers, with_text
from locum.synth.locality import Dial
from locum.synth.names import Config, TensorSpec, tensors
from locum.synth.noise import POOL_BYTES, Dtype, Noise, Plain, Recipe, bytes_of, dtype_of
from locum.units import MIB

Outline = Callable[[Config], Iterable[TensorSpec]]
"""From a config to the tensors of its checkpoint, in the order of the model's modules."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A checkpoint before it is written. `bytes` of weights, of which `expert_bytes` are routed experts'."""

    config: Config
    specs: tuple[TensorSpec, ...]
    dtype: Dtype
    recipe: Recipe

    @property
    def parameters(self) -> int:
        """How many numbers."""
        return sum(spec.elements for spec in self.specs)

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(bytes_of(spec, self.dtype) for spec in self.specs)

    @property
    def expert_bytes(self) -> int:
        """Of the routed experts."""
        return sum(bytes_of(spec, self.dtype) for spec in self.specs if spec.is_expert)

    def noise(self, seed: int) -> Noise:
        """The stream of numbers. The same tensors asked of it in the same order are the same to the bit."""
        biggest = max(spec.elements for spec in self.specs) * self.dtype.size
        # small models need no big pools: four times the biggest tensor is plenty
        pool = min(POOL_BYTES, max(4 * biggest, MIB))
        return Noise(seed, self.dtype, pool_bytes=pool, recipe=self.recipe)


def plan_checkpoint(
    config: Config,
    *,
    layers: int | None = None,
    dtype: str = "bf16",
    locality: float | None = None,
    outline: Outline = tensors,
) -> Plan:
    """Settle what a checkpoint of this config holds.

    `layers` replaces the config's number of layers, `dtype` is `bf16` or `fp32`, `locality` is the gamma of
    `locality.Dial` (None: routing as plain random weights give it), `outline` names the tensors. Raises
    `UsageError` for a wrong choice, `UnsupportedError` for a family that the outline or the dial does not
    know, `CheckpointError` for a config that does not hold together.
    """
    form = dtype_of(dtype)
    config = {**with_layers(config, layers), "dtype": form.name}
    if "text_config" in config:
        config = with_text(config, dtype=form.name)
    recipe = Plain() if locality is None else Dial.of(config, locality)
    return Plan(config, tuple(outline(config)), form, recipe)
