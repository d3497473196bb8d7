"""Keys and their sizes."""

import pytest

from locum.errors import UsageError
from locum.residency.keys import KeyRange, KeySpace


def test_a_plain_model() -> None:
    keys = KeySpace.uniform(3, 4, 8192, 8000)
    assert (keys.layers, keys.group_count, keys.classes, keys.largest) == (3, 1, (8192,), 8192)
    assert keys.layer_of == (0,) * 4 + (1,) * 4 + (2,) * 4
    assert set(keys.resident) == {8192}
    assert set(keys.stored) == {8000}
    assert keys.describe(6) == "layer 1, expert 2"
    assert keys.describe(99) == "key 99"


def test_pieces_models_and_holes() -> None:
    keys = KeySpace(
        [
            KeyRange(0, 0, 4096, (5, 6), "low"),
            KeyRange(0, 10, 8192, (7, 8), "high"),
            KeyRange(1, 4, 8192, (9,)),
        ],
        groups=[1, 0],
    )
    assert keys.keys_of == (frozenset({0, 1, 10, 11}), frozenset({4}))
    assert keys.resident == (4096, 4096, 0, 0, 8192, 0, 0, 0, 0, 0, 8192, 8192)
    assert keys.stored[10] == 7
    assert (keys.class_of[0], keys.class_of[11], keys.class_of[2]) == (0, 1, -1)
    assert (keys.group_of(1), keys.group_of(4)) == (1, 0)
    assert keys.describe(11) == "high layer 0, expert 1"


@pytest.mark.parametrize(
    ("ranges", "groups", "match"),
    [
        ([KeyRange(0, 0, 4096, (1, 1)), KeyRange(1, 1, 4096, (1,))], None, "overlap"),
        ([KeyRange(0, 0, 4096, ())], None, "overlap, are empty"),
        ([KeyRange(0, 0, 4095, (1,))], None, "a multiple of 4096"),
        ([KeyRange(0, 0, 0, (1,))], None, "a multiple of 4096"),
        ([KeyRange(1, 0, 4096, (1,))], None, "every layer needs keys"),
        ([], None, "every layer needs keys"),
        ([KeyRange(0, 0, 4096, (1,))], [0, 0], "every layer needs a group"),
        ([KeyRange(0, 0, 4096, (1,))], [1], "every group a layer"),
    ],
)
def test_nonsense_is_refused(ranges: list[KeyRange], groups: list[int] | None, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        KeySpace(ranges, groups)
