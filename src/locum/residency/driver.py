"""What a model's layers ask a Residency for, in program order: the same for the engine and the simulator."""

from collections.abc import Mapping, Sequence

from locum.policy.future import Future
from locum.policy.prefetch import Prediction, Prefetcher
from locum.residency.lease import Lease
from locum.residency.residency import Residency


class Driver:
    """Turns "these experts, for so many tokens, and that is foreseen" into the Residency's events.

    For one model, whose MoE layers are the ledger layers, each with one range of keys. `future` is what
    policies that need the next use are told.
    """

    def __init__(self, residency: Residency, prefetcher: Prefetcher, future: Future | None = None) -> None:
        self.residency, self.prefetcher, self._future = residency, prefetcher, future
        self._firsts = [keys.first for keys in residency.keys.ranges]
        self._number = -1

    def request(self, number: int, begin: bool) -> None:
        """A request begins or ends."""
        self.residency.request(number, begin)

    def step(self, number: int, phase: int, tokens: int) -> None:
        """Forward step `number` begins. `phase`: 0 prefill, 1 decode."""
        self._number = number
        self.residency.step(number, phase, tokens)

    def acquire(
        self, layer: int, counts: Mapping[int, int], foreseen: Sequence[Mapping[int, float]] = ()
    ) -> Lease:
        """A lease on the experts of MoE layer number `layer`, and reads ahead.

        `counts`: tokens per expert, ascending. `foreseen`: for the layers that follow, nearest first, how
        sure it is that each expert will be asked for, see `policy.prefetch.confidence`.
        """
        first = self._firsts[layer]
        keys = [first + expert for expert in counts]
        tick = self._number * self.residency.keys.layers + layer
        info: dict[str, object] = {"counts": list(counts.values())}
        if self._future is not None:
            info["next"] = self._future.next_uses(tick, keys)
        predictions = [self._prediction(tick, layer, ahead, sure) for ahead, sure in enumerate(foreseen, 1)]
        for ahead, prediction in enumerate(predictions, 1):
            self.residency.forecast(0, layer + ahead, prediction.ids, prediction.confidence)
        lease = self.residency.acquire(layer, keys, info)
        if predictions:
            self.residency.want(self.prefetcher.wants(predictions))
        return lease

    def _prediction(self, tick: int, layer: int, ahead: int, sure: Mapping[int, float]) -> Prediction:
        first = self._firsts[layer + ahead]
        return Prediction(tick + ahead, [first + expert for expert in sure], list(sure.values()))
