"""`read_header` against the safetensors library: the same files accepted, the same content read."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save_file

from helpers_checkpoint import header_of, write_file
from locum.errors import CheckpointError
from locum.model.header import BITS, LIMIT, read_header

NUMPY = {
    "F32": np.float32,
    "F16": np.float16,
    "F64": np.float64,
    "I32": np.int32,
    "U8": np.uint8,
    "I64": np.int64,
}
FUZZ = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


def raw(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def library(content: bytes) -> dict[str, dict[str, Any]] | None:
    """What the safetensors library makes of a file, None where it refuses."""
    try:
        return dict(deserialize(content))
    except SafetensorError:
        return None


def check_same(content: bytes, path: Path) -> bool:
    """True when both accept; fails when one accepts what the other refuses, or the contents differ.

    The one exception is a key given twice, where the library silently takes the last.
    """
    path.write_bytes(content)
    theirs = library(content)
    try:
        ours = read_header(path).tensors
    except CheckpointError as error:
        refusal = str(error)
    else:
        refusal = None
    if refusal is not None:
        assert str(path) in refusal
        assert theirs is None or "twice" in refusal, "refused what the library accepts"
        return False
    assert theirs is not None, "accepted what the library refuses"
    assert ours.keys() == theirs.keys()
    for name, info in ours.items():
        assert info.dtype == theirs[name]["dtype"]
        assert list(info.shape) == list(theirs[name]["shape"])
        assert content[info.offset : info.offset + info.length] == bytes(theirs[name]["data"])
    return True


arrays = st.dictionaries(
    st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__"),
    st.tuples(st.sampled_from(sorted(NUMPY)), st.lists(st.integers(0, 4), max_size=4)),
    max_size=6,
)


@FUZZ
@given(
    shapes=arrays, metadata=st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)
)
def test_reads_what_the_library_wrote(
    shapes: dict[str, tuple[str, list[int]]], metadata: dict[str, str] | None, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    stored = {
        name: rng.integers(0, 100, shape).astype(NUMPY[dtype]) for name, (dtype, shape) in shapes.items()
    }
    path = tmp_path / "m.safetensors"
    save_file(stored, path, metadata=metadata or None)  # 0.8 writes broken JSON for {} and {}
    header = read_header(path)
    content = path.read_bytes()
    assert header.size == len(content)
    assert header.mtime_ns == path.stat().st_mtime_ns
    assert header.metadata == (metadata or {})
    assert header.tensors.keys() == stored.keys()
    with safe_open(path, "numpy") as theirs:
        for name, info in header.tensors.items():
            assert info.file == "m.safetensors"
            assert list(info.shape) == theirs.get_slice(name).get_shape()
            assert info.dtype == theirs.get_slice(name).get_dtype()
            assert content[info.offset :][: info.length] == stored[name].tobytes()


@pytest.mark.parametrize("dtype", sorted(BITS))
def test_every_dtype_of_the_library(dtype: str, tmp_path: Path) -> None:
    data = bytes(BITS[dtype])  # 8 elements
    header = {"x": {"dtype": dtype, "shape": [2, 4], "data_offsets": [0, len(data)]}}
    assert library(raw(header, data)) is not None
    assert check_same(raw(header, data), tmp_path / "m.safetensors")


VALID = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "none": {"dtype": "U8", "shape": [0, 5], "data_offsets": [32, 32]},
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
near = st.sampled_from(
    [0, 1, 2, 3, 4, 8, 16, 23, 24, 25, 31, 32, 33, -1, 1 << 31, 1 << 63, 1 << 64, True, 2.0]
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid file with a few faults of structure, numbers or bytes; some stay valid."""
    header: dict[str, Any] = json.loads(json.dumps(VALID))
    header = dict(draw(st.permutations(list(header.items()))))
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(["a", "b", "none", "new", "__metadata__"]))
        entry = header.get(name)
        kind = draw(st.sampled_from(["field", "number", "drop", "replace"]))
        if kind == "drop":
            header.pop(name, None)
        elif kind == "replace" or not isinstance(entry, dict) or "shape" not in entry:
            header[name] = draw(json_values)
        elif kind == "field":
            entry[draw(st.sampled_from(["dtype", "shape", "data_offsets"]))] = draw(
                st.sampled_from(["BF16", "F32", "U8", "I64", [2, 3], [3, 2, 1], [0], [], [24, 32], [0, 24]])
                | json_values
                | st.sampled_from(sorted(BITS))
                | st.lists(near, max_size=3)
            )
        else:
            numbers = entry.get(draw(st.sampled_from(["shape", "data_offsets"])))
            if isinstance(numbers, list) and numbers:
                numbers[draw(st.integers(0, len(numbers) - 1))] = draw(near)
    data = bytes(draw(st.sampled_from([32, 32, 32, 31, 33, 24, 0])))
    text = json.dumps(header, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    text += b" " * draw(st.sampled_from([0, 0, 5]))
    length = draw(
        st.sampled_from([len(text)] * 6 + [len(text) - 1, len(text) + 1, 0, LIMIT, LIMIT + 1, 1 << 63])
    )
    content = bytearray(raw(text, data, length=length))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content)


@settings(FUZZ, max_examples=300)
@given(content=mutated())
def test_mutated_headers_never_crash_and_never_pass_where_the_library_refuses(
    content: bytes, tmp_path: Path
) -> None:
    check_same(content, tmp_path / "m.safetensors")


@FUZZ
@given(content=st.binary(max_size=64) | st.binary(max_size=40).map(lambda text: raw(b"{" + text)))
def test_noise(content: bytes, tmp_path: Path) -> None:
    check_same(content, tmp_path / "m.safetensors")


def changed(**entries: object) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(json.dumps(VALID))
    for name, change in entries.items():
        header[name] = {**header.get(name, {}), **change} if isinstance(change, dict) else change
    return header


BAD = {
    "no length": (b"\x01\x02", "truncated"),
    "shorter than its header says": (raw(VALID, length=10_000), "truncated inside its header"),
    "absurd length": (raw(VALID, length=LIMIT + 1), "absurd header length"),
    "not JSON": (raw(b"{nonsense"), "not valid JSON"),
    "not an object": (raw(b"[1, 2]"), "not JSON"),
    "not UTF-8": (raw(b'{"\xff": 1}'), "not valid JSON"),
    "deeply nested": (raw(b'{"a":' + b"[" * 100_000), "not valid JSON"),
    "endless number": (raw(b'{"a": ' + b"9" * 10_000 + b"}"), "not valid JSON"),
    "a key twice": (raw(b'{"a": 1, "a": 2}'), "twice"),
    "data truncated": (raw(VALID, bytes(20)), "truncated inside tensor 'a'"),
    "data too long": (raw(VALID, bytes(40)), "after the last tensor"),
    "hole": (raw(changed(b={"data_offsets": [26, 34]}), bytes(34)), "'b' leaves a hole"),
    "overlap": (raw(changed(b={"data_offsets": [20, 28]}), bytes(32)), "'b' overlaps"),
    "backwards": (raw(changed(b={"data_offsets": [32, 24]}), bytes(32)), "'b' disagree"),
    "wrong length": (raw(changed(a={"shape": [2, 4]}), bytes(32)), "of tensor 'a' disagree"),
    "unknown dtype": (raw(changed(a={"dtype": "Q4"}), bytes(32)), "unknown dtype of tensor 'a'"),
    "negative": (raw(changed(a={"shape": [-2, -3]}), bytes(32)), "'a' is malformed"),
    "fraction": (raw(changed(a={"shape": [2.0, 3]}), bytes(32)), "'a' is malformed"),
    "true is no number": (raw(changed(none={"shape": [False, 5]}), bytes(32)), "'none' is malformed"),
    "no shape": (raw(changed(c={"dtype": "F32"}), bytes(32)), "'c' is malformed"),
    "more fields": (raw(changed(a={"stride": 1}), bytes(32)), "'a' is malformed"),
    "half a surrogate pair": (raw(b'{"__metadata__": {"a": "\\ud800"}}'), "not valid JSON"),
    "NaN": (raw(b'{"__metadata__": NaN}'), "not valid JSON"),
    "overflow": (raw(changed(none={"shape": [1 << 63, 4, 0]}), bytes(32)), "more elements"),
    "bad metadata": (raw({"__metadata__": {"a": 1}}), "__metadata__"),
}


@pytest.mark.parametrize("case", BAD)
def test_names_the_file_and_the_fault(case: str, tmp_path: Path) -> None:
    content, expected = BAD[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_unreadable_and_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        read_header(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_header(tmp_path)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_header(fifo)


def test_a_sparse_file_of_60_gb_is_read_by_its_header_alone(tmp_path: Path) -> None:
    shapes = {f"w{number}": ("BF16", (1 << 15, 1 << 15)) for number in range(30)}
    path = tmp_path / "big.safetensors"
    write_file(path, shapes)
    assert path.stat().st_size > 60e9
    header = read_header(path)
    last = header.tensors["w29"]
    assert last.offset + last.length == path.stat().st_size
    relative = last.offset - header.tensors["w0"].offset
    assert [relative, relative + last.length] == header_of(shapes)["w29"]["data_offsets"]
