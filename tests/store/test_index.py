"""The expert index on disk: round trip, damage, other schemas, interruption."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers_store import raw_view
from locum.errors import CheckpointError
from locum.store.index import SCHEMA, ExpertIndex, FileId, LayerIndex, Matrix, Piece, Span, TensorView

numbers = st.integers(0, 2**50)
spans = st.builds(Span, numbers, numbers, numbers, numbers)
shapes = st.lists(numbers, max_size=4).map(tuple)
pieces = st.builds(Piece, st.text(), st.text(), shapes, numbers)
matrices = st.builds(Matrix, st.text(), shapes, st.lists(pieces, max_size=3).map(tuple))
views = st.builds(TensorView, st.text(), shapes, st.lists(matrices, max_size=3).map(tuple))
layers = st.builds(
    LayerIndex,
    st.text(),
    numbers,
    numbers,
    st.lists(views, max_size=3).map(tuple),
    st.lists(st.lists(spans, max_size=3).map(tuple), min_size=1, max_size=4).map(tuple),
)
indexes = st.builds(
    ExpertIndex,
    st.lists(st.builds(FileId, st.text(), numbers, numbers), max_size=3).map(tuple),
    st.lists(layers, min_size=1, max_size=3).map(tuple),
    st.text(),
)

SMALL = ExpertIndex(
    (FileId("a", 10, 1),),
    (LayerIndex("m", 3, 10, (raw_view("w", (5, 2), "int8"),), ((Span(0, 0, 10, 0),),)),),
    "id",
)


@given(index=indexes)
def test_round_trip(index: ExpertIndex, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("index") / "deep" / "index.json"
    index.save(path)
    assert ExpertIndex.load(path) == index
    assert os.listdir(path.parent) == ["index.json"]


@given(index=indexes)
def test_keys_are_unique_and_go_back(index: ExpertIndex) -> None:
    places = [(n, e) for n, layer in enumerate(index.layers) for e in range(len(layer.experts))]
    keys = [index.key_of(*place) for place in places]
    assert len(set(keys)) == len(keys)
    assert [index.expert_of(key) for key in keys] == places


@pytest.mark.parametrize("keep", [0, 1, 20, -2])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "index.json"
    SMALL.save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"index\.json"):
        ExpertIndex.load(path)


@pytest.mark.parametrize("change", ["drop", "rename", "wrong type"])
@pytest.mark.parametrize(
    "field", ["files", "layers", "identity", "layers.0.experts", "layers.0.experts.0.0.at"]
)
def test_damage_inside_valid_json_is_refused(tmp_path: Path, field: str, change: str) -> None:
    path = tmp_path / "index.json"
    SMALL.save(path)
    document = json.loads(path.read_text())
    *way, last = field.split(".")
    inner = document
    for step in way:
        inner = inner[int(step) if step.isdigit() else step]
    value = inner.pop(last)
    if change == "rename":
        inner[last + "_"] = value
    elif change == "wrong type":
        inner[last] = None
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"index\.json"):
        ExpertIndex.load(path)


@pytest.mark.parametrize("text", ["[]", "null", "3", '"x"', "{}", '{"schema": "locum.index/2"}', "\xff\xfe"])
def test_other_documents_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "index.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"index\.json"):
        ExpertIndex.load(path)


def test_a_missing_file_is_typed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        ExpertIndex.load(tmp_path / "none.json")


def test_an_interrupted_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "index.json"
    SMALL.save(path)
    before = path.read_bytes()
    assert json.loads(before)["schema"] == SCHEMA

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        SMALL.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["index.json"]
