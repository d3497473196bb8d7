"""Eviction: the contract of a policy, and the one helper every policy may use.

One instance rules over one group of layers (`Scope`) and keeps its own order of that group's residents.

What it is given, per acquire, in program order:

* `use(tick, layer, ids, new, info)`: `ids` were asked for (unique, ascending). Those in `new` enter the cache
  now; of the others, residents are hits, and the rest stream past without entering.
* then at most one `victims(need, protected)`: name residents to evict, worst first, until at least `need`
  bytes are free and no victim more than that. Victims are gone at once; the policy forgets them itself.
  What is in `protected` must not be named (it may hold keys that are not resident).
* `drop(key)`: the key left without being asked for, as when a model is closed.
* if overridden: `request`, `step`, `forecast`, `resize`.
* between any two of these: `state()`, all it knows as a JSON value, which `restore` gives to a fresh policy
  of the same scope and parameters. That one goes on as this one would have.

What it may do: mutate its own state. It never mutates an argument, never keeps one (`protected` and `ids`
are reused), never sees time, slots, threads or order of arrival, and never draws randomness it was not
seeded with: the same events give the same victims.

Ties break by (score, stamp, key): the worse score goes first, then what was used longer ago, then the smaller
key. Within one `use`, recency is in id order, so the smallest id counts as used first.

`needs` names what `info` must hold; `ids` order where "aligned":

| name | value |
|---|---|
| `counts` | ints, aligned: tokens routed to each expert |
| `weights` | floats, aligned: sum of the routing weights of those tokens |
| `next` | ints, aligned: tick of the next use, `NEVER` if there is none |
| `probs` | pair (keys, floats): the best router scores of the layer, averaged over tokens |
| `window` | mapping key -> int: uses within the next tokens, true or predicted |
| `rows` | one tuple of keys per token: what each token chose |

Floats come already rounded to the trace's types, so that the engine and the simulator decide alike.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from locum.errors import PolicyError, UsageError

NEVER = 1 << 62
"""The tick of a use that never comes."""

NEEDS = frozenset({"counts", "weights", "probs", "next", "window", "rows"})
"""Everything a policy may ask `info` to hold."""

Info = Mapping[str, Any]
"""What `use` is told beside the ids, by the names in `NEEDS`."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What one policy instance rules over: a group of layers and the bytes it may keep of them."""

    group: int
    capacity: int
    """Bytes."""
    sizes: Sequence[int]
    """Resident bytes by key."""
    layer_of: Sequence[int]
    """Layer by key."""
    layers: int
    """Ticks per step: `tick = step * layers + layer`."""


class EvictionPolicy(ABC):
    """Says who leaves. See the module's docstring for the contract."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    @abstractmethod
    def use(self, tick: int, layer: int, ids: Sequence[int], new: Sequence[int], info: Info | None) -> None:
        """`ids` are asked for; `new` of them enter the cache."""

    @abstractmethod
    def victims(self, need: int, protected: Collection[int]) -> list[int]:
        """Residents to evict, worst first: at least `need` bytes, without one victim to spare."""

    @abstractmethod
    def drop(self, key: int) -> None:
        """`key` is no longer resident (or never was: then nothing happens)."""

    @abstractmethod
    def state(self) -> Any:
        """All that the policy knows, as a JSON value with no keys but strings."""

    @abstractmethod
    def restore(self, state: Any) -> None:
        """Take over what `state` of another policy gave, through JSON or not. Only before any event."""

    def resize(self, capacity: int) -> None:  # noqa: B027 - optional
        """The group may keep `capacity` bytes from now on."""

    def request(self, request: int, begin: bool) -> None:  # noqa: B027 - optional
        """A request begins or ends."""

    def step(self, number: int, phase: int, tokens: int) -> None:  # noqa: B027 - optional
        """A forward step begins. `phase`: 0 prefill, 1 decode."""

    def forecast(  # noqa: B027 - optional
        self, ahead: int, layer: int, ids: Sequence[int], confidence: Sequence[float]
    ) -> None:
        """`ids` are expected in `layer`, `ahead` steps from now."""


class PolicyFactory(Protocol):
    """Makes one policy per group. `create` gives one; a class of policies is one already."""

    def __call__(self, scope: Scope, /) -> EvictionPolicy:
        """A fresh policy for `scope`."""


def take_until(
    need: int, worst_first: Iterable[int], sizes: Sequence[int], protected: Collection[int]
) -> list[int]:
    """The first of `worst_first` outside `protected` whose sizes add up to `need` bytes.

    Raises `PolicyError` when all of them are not enough.
    """
    chosen: list[int] = []
    if need <= 0:
        return chosen
    freed = 0
    for key in worst_first:
        if key not in protected:
            chosen.append(key)
            freed += sizes[key]
            if freed >= need:
                return chosen
    raise PolicyError("not enough left to evict", allowed=f"{need} bytes", got=f"{freed} bytes")


def require(name: str, needs: frozenset[str], provided: Collection[str]) -> None:
    """Refuse a policy whose `needs` the engine or the trace cannot meet. Raises `UsageError` naming them."""
    missing = sorted(needs.difference(provided))
    if missing:
        raise UsageError(
            f"the policy {name} needs {', '.join(missing)}",
            got=f"a source that provides {', '.join(sorted(provided)) or 'nothing of the kind'}",
            todo="Choose another policy, or a trace that records it",
        )
