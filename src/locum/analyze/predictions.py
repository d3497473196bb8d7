"""How well the next layers' own gates foresee the choice: recall, precision and F1 by distance.

Never accuracy: with 6 of 64 experts chosen, guessing "none" is right 91% of the time.
"""

from typing import Any

import numpy as np

from locum.analyze.base import Metric, count_choices, divide, plain
from locum.trace import Rows, TraceMeta


class Predictions(Metric):
    """Predicted against chosen, exact, summed over tokens."""

    needs = ("experts", "next_ids")

    def __init__(self, meta: TraceMeta) -> None:
        super().__init__(meta)
        shape = (meta.distances, self.layers)
        self.right_DL, self.predicted_DL, self.chosen_DL = (np.zeros(shape, np.int64) for _ in range(3))
        self._load_LE = np.zeros((self.layers, self.experts), np.int64)

    def update(self, rows: Rows) -> None:
        """Compare; what is foreseen in layer l at distance d is about layer l + d."""
        assert rows.next_ids is not None
        self._load_LE += count_choices(rows.experts, self.experts)
        for start in range(0, len(rows), 4096):
            ids_tLK = rows.experts[start : start + 4096]
            next_tLDP = rows.next_ids[start : start + 4096]
            for d in range(min(self.meta.distances, self.layers - 1)):
                chosen, foreseen = ids_tLK[:, d + 1 :], next_tLDP[:, : self.layers - d - 1, d]
                there = chosen >= 0
                right = (chosen[..., None] == foreseen[:, :, None]).any(3) & there
                self.right_DL[d, d + 1 :] += right.sum((0, 2))
                self.chosen_DL[d, d + 1 :] += there.sum((0, 2))
                self.predicted_DL[d, d + 1 :] += (foreseen >= 0).sum((0, 2))

    def result(self) -> dict[str, Any]:
        """Per distance `recall`, `precision`, `f1` in all and `recall_by_layer` (the foreseen one's number),
        beside `popular`: the recall of always naming the layer's most used experts, as many as are foreseen.
        """
        right, predicted, chosen = (x.sum(1) for x in (self.right_DL, self.predicted_DL, self.chosen_DL))
        ordered_LE = -np.sort(-self._load_LE, axis=1)
        popular = ordered_LE[:, : self.meta.predicted].sum(1)[1:].sum() / max(1, self._load_LE[1:].sum())
        return plain({
            "recall": divide(right, chosen), "precision": divide(right, predicted),
            "f1": divide(2 * right, predicted + chosen), "popular": popular,
            "recall_by_layer": divide(self.right_DL, self.chosen_DL),
        })  # fmt: skip
