"""Keys: the small integers that stand for experts, with their sizes.

A *key* is one piece of one expert that is read and kept as a whole: usually the expert, or one piece of a
nested precision. A *ledger layer* is what asks for keys together: an MoE layer of a model. A second model,
or a variant that is to have a cache of its own, is a range of keys and layers of its own after the first
one's; a piece that shares its expert's cache is a range of keys in the same layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from locum.errors import UsageError

GRAIN = 4096
"""Slot sizes are multiples of this many bytes: what direct reads are aligned to."""


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Experts 0.. of one ledger layer in one variant: they have the keys `first`, `first + 1`, ..."""

    layer: int
    first: int
    resident: int
    """Bytes of the slot that one of them needs: a multiple of `GRAIN`."""
    stored: tuple[int, ...]
    """Bytes read for each of them; its length is how many there are."""
    name: str = ""
    """What errors call this range beside layer and expert, such as a model or a piece."""


class KeySpace:
    """All keys of one Residency. Immutable; the tables are indexed by key, and 0 bytes means no such key.

    `groups[layer]` is the number of the budget group a layer belongs to (default: all in group 0).
    Raises `UsageError` when ranges overlap, a size is not a multiple of `GRAIN`, or a number is missing.
    """

    def __init__(self, ranges: Sequence[KeyRange], groups: Sequence[int] | None = None) -> None:
        self.ranges = tuple(sorted(ranges, key=lambda keys: keys.first))
        self.layers = 1 + max((keys.layer for keys in ranges), default=-1)
        self.groups = tuple(groups) if groups is not None else (0,) * self.layers
        self._check()
        end = max(keys.first + len(keys.stored) for keys in ranges)
        resident, stored, layer_of = [0] * end, [0] * end, [-1] * end
        members: list[set[int]] = [set() for _ in range(self.layers)]
        for keys in self.ranges:
            for key, size in enumerate(keys.stored, keys.first):
                resident[key], stored[key], layer_of[key] = keys.resident, size, keys.layer
            members[keys.layer].update(range(keys.first, keys.first + len(keys.stored)))
        self.resident, self.stored, self.layer_of = tuple(resident), tuple(stored), tuple(layer_of)
        self.keys_of = tuple(frozenset(keys) for keys in members)
        self.group_count = 1 + max(self.groups)
        self.classes = tuple(sorted({keys.resident for keys in ranges}))
        """The distinct slot sizes, ascending."""
        number = {size: place for place, size in enumerate(self.classes)}
        self.class_of = tuple(number.get(size, -1) for size in self.resident)

    def _check(self) -> None:
        end = 0
        for keys in self.ranges:
            if keys.first < end or not keys.stored or keys.layer < 0:
                raise UsageError(
                    "key ranges overlap, are empty or have no layer", where=self._name(keys), got=keys.first
                )
            if keys.resident <= 0 or keys.resident % GRAIN:
                raise UsageError(
                    "not a slot size",
                    where=self._name(keys),
                    allowed=f"a multiple of {GRAIN}",
                    got=keys.resident,
                )
            end = keys.first + len(keys.stored)
        if not self.ranges or {keys.layer for keys in self.ranges} != set(range(self.layers)):
            raise UsageError("every layer needs keys", got=f"{self.layers} layers")
        if len(self.groups) != self.layers or set(self.groups) != set(range(1 + max(self.groups))):
            raise UsageError("every layer needs a group, and every group a layer", got=self.groups)

    @classmethod
    def uniform(
        cls,
        layers: int,
        experts: int,
        resident: int,
        stored: int | None = None,
        groups: Sequence[int] | None = None,
    ) -> "KeySpace":
        """One model of equal layers and equal experts: key = layer * experts + expert. Sizes in bytes."""
        each = (resident if stored is None else stored,) * experts
        return cls([KeyRange(layer, layer * experts, resident, each) for layer in range(layers)], groups)

    @property
    def largest(self) -> int:
        """Bytes of the largest slot."""
        return self.classes[-1]

    def group_of(self, key: int) -> int:
        """The budget group of a key."""
        return self.groups[self.layer_of[key]]

    def describe(self, key: int) -> str:
        """A key for people: `layer 3, expert 17`."""
        for keys in self.ranges:
            if keys.first <= key < keys.first + len(keys.stored):
                return f"{self._name(keys)}, expert {key - keys.first}"
        return f"key {key}"

    @staticmethod
    def _name(keys: KeyRange) -> str:
        return f"{keys.name} layer {keys.layer}".lstrip()
