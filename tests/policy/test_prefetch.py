"""Prefetch policies: pure over integers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.errors import UsageError
from locum.policy.prefetch import PREFETCH, Prediction, create, create_for

confidences = st.integers(0, 8).map(lambda eighths: eighths / 8)
predictions = st.lists(
    st.tuples(st.integers(10, 14), st.dictionaries(st.integers(0, 30), confidences, max_size=8)), max_size=4
).map(lambda rows: [Prediction(due, list(sure), list(sure.values())) for due, sure in rows])


def test_none_looks_at_nothing() -> None:
    assert create("none").distance == 0
    assert create("none").wants([Prediction(3, [1], [1.0])]) == []


@given(predictions, st.integers(1, 6), confidences)
def test_next_gate_gives_the_nearest_and_surest(rows: list[Prediction], window: int, least: float) -> None:
    wants = create("next-gate", distance=4, window=window, least=least).wants(rows)
    everything = sorted(
        (row.due, -sure, key)
        for row in rows
        for key, sure in zip(row.ids, row.confidence, strict=True)
        if sure >= least
    )
    expected: list[tuple[int, int]] = []
    by_prediction = sorted(rows, key=lambda row: row.due)
    for row in by_prediction:
        for _, key in sorted((-sure, key) for key, sure in zip(row.ids, row.confidence, strict=True)):
            sure = dict(zip(row.ids, row.confidence, strict=True))[key]
            if sure >= least and key not in [known for known, _ in expected]:
                expected.append((key, row.due))
    assert wants == expected[:window]
    assert len(wants) == min(window, len({key for _, _, key in everything}))


@given(predictions)
def test_next_gate_does_not_care_how_ids_are_ordered(rows: list[Prediction]) -> None:
    turned = [Prediction(due, list(ids)[::-1], list(sure)[::-1]) for due, ids, sure in rows]
    assert create("next-gate").wants(rows) == create("next-gate").wants(turned)


def test_bad_names_and_numbers_are_refused() -> None:
    assert set(PREFETCH) == {"none", "next-gate"}
    with pytest.raises(UsageError, match="no prefetch policy is called oracle"):
        create("oracle")
    with pytest.raises(UsageError, match="none has no parameter window"):
        create("none", window=3)
    for name in ("distance", "window"):
        with pytest.raises(UsageError, match=f"{name} must be at least 1"):
            create("next-gate", **{name: 0})


def test_parameters_in_the_name() -> None:
    rows = [Prediction(4 + ahead, list(range(9)), [0.5] * 9) for ahead in range(3)]
    assert create("next-gate:distance=2:window=3").distance == 2
    assert len(create("next-gate:distance=2:window=3").wants(rows)) == 3
    assert create("next-gate:least=0.75").wants(rows) == []
    with pytest.raises(UsageError, match="written name:param=value"):
        create("next-gate:distance")
    with pytest.raises(UsageError, match="no parameter depth"):
        create("next-gate:depth=2")


def test_a_window_for_each_layer_that_is_looked_at() -> None:
    rows = [Prediction(4 + ahead, list(range(8 * ahead, 8 * ahead + 8)), [0.5] * 8) for ahead in range(3)]
    for distance in (1, 2, 3):
        wants = create_for("next-gate", 4, distance=distance).wants(rows)
        assert len(wants) == 4 * distance
        assert create_for(f"next-gate:distance={distance}", 4).wants(rows) == wants
