"""GGUF headers: what is read from sound files, and that no lie in a file goes unnoticed or costs much."""

import re
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers_gguf import ARCHITECTURES as WRITTEN
from helpers_gguf import write_fields, write_gguf
from locum.errors import CheckpointError, LocumError, ModelError, NotMoEError, UnsupportedError, UsageError
from locum.model import Checkpoint, MoESpec, inspect, resolve
from locum.model.gguf.architectures import ARCHITECTURES
from locum.model.gguf.metadata import shortest
from locum.model.gguf.reader import TextArray, read_gguf_header
from locum.model.gguf.refused import REFUSED


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf("qwen3_moe", tmp_path_factory.mktemp("gguf"), Kind.Q4_0).path


def test_the_header_is_what_the_gguf_package_reads(sound: Path) -> None:
    ours, theirs = read_gguf_header(sound), GGUFReader(sound)
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        info = ours.tensors[tensor.name]
        assert (info.dtype, info.offset, info.length) == (
            tensor.tensor_type.name,
            tensor.data_offset,
            tensor.n_bytes,
        )
        assert info.shape == tuple(reversed(tensor.shape.tolist()))
    for key, field in theirs.fields.items():
        if not key.startswith("GGUF."):
            value = ours.metadata[key]
            found = value.texts() if isinstance(value, TextArray) else value
            assert found == field.contents(), key


def test_a_float_comes_back_as_it_was_written() -> None:
    for value in (1e-6, 1e-5, 10000.0, 1e6, 2.5, 0.0707, 1.8, 0.1):
        (stored,) = struct.unpack("<f", struct.pack("<f", value))
        assert shortest(stored) == value
    assert shortest(0.1234567890123) == 0.1234567890123


def _refused(path: Path, kind: type[LocumError], match: str) -> None:
    with pytest.raises(kind, match=match) as caught:
        MoESpec.of(Checkpoint.open(path))
    assert type(caught.value) is kind


FIELDS: dict[str, Any] = {
    "qwen3moe.block_count": 1,
    "qwen3moe.context_length": 64,
    "qwen3moe.embedding_length": 16,
    "qwen3moe.attention.head_count": 2,
    "qwen3moe.attention.key_length": 8,
    "qwen3moe.attention.layer_norm_rms_epsilon": 1e-6,
    "qwen3moe.expert_count": 4,
    "qwen3moe.expert_used_count": 2,
}
TENSORS: dict[str, tuple[int, ...]] = {
    "token_embd.weight": (32, 16),
    "output_norm.weight": (16,),
    "blk.0.attn_norm.weight": (16,),
    "blk.0.ffn_norm.weight": (16,),
    "blk.0.attn_q.weight": (16, 16),
    "blk.0.attn_k.weight": (16, 16),
    "blk.0.attn_v.weight": (16, 16),
    "blk.0.attn_output.weight": (16, 16),
    "blk.0.ffn_gate_inp.weight": (4, 16),
    "blk.0.ffn_gate_exps.weight": (4, 8, 16),
    "blk.0.ffn_up_exps.weight": (4, 8, 16),
    "blk.0.ffn_down_exps.weight": (4, 16, 8),
}


def test_a_small_file_of_our_own_is_sound(tmp_path: Path) -> None:
    spec = MoESpec.of(Checkpoint.open(write_fields(tmp_path / "a.gguf", "qwen3moe", FIELDS, TENSORS)))
    assert (spec.layers, spec.experts, spec.top_k, spec.dtype) == (1, (4,), (2,), "float32")
    assert spec.runnable


@pytest.mark.parametrize(
    ("changed", "kind", "match"),
    [
        ({"qwen3moe.expert_count": 0}, NotMoEError, "dense model"),
        ({"qwen3moe.expert_count": 5}, CheckpointError, "disagrees with the config"),
        ({"qwen3moe.expert_used_count": 0}, CheckpointError, "expert_used_count makes no sense"),
        ({"qwen3moe.expert_used_count": 9}, CheckpointError, "experts per token make no sense"),
        ({"qwen3moe.block_count": 4_000_000_000}, CheckpointError, "block_count makes no sense"),
        ({"qwen3moe.block_count": "two"}, CheckpointError, "block_count makes no sense"),
        ({"qwen3moe.block_count": 2}, UnsupportedError, "without experts"),
        ({"qwen3moe.embedding_length": 20}, CheckpointError, "disagrees with the config"),
        ({"qwen3moe.attention.head_count": [1, 2]}, CheckpointError, "head_count makes no sense"),
        ({"qwen3moe.attention.layer_norm_rms_epsilon": float("nan")}, CheckpointError, "makes no sense"),
        ({"qwen3moe.rope.scaling.type": "new"}, UnsupportedError, "stretch positions"),
        ({"general.alignment": 0}, CheckpointError, "general.alignment"),
    ],
)
def test_metadata_that_makes_no_sense(
    tmp_path: Path, changed: dict[str, Any], kind: type[LocumError], match: str
) -> None:
    path = write_fields(tmp_path / "a.gguf", "qwen3moe", {**FIELDS, **changed}, TENSORS)
    _refused(path, kind, match)


@pytest.mark.parametrize(
    "key", sorted(FIELDS.keys() - {"qwen3moe.expert_count", "qwen3moe.attention.key_length"})
)
def test_metadata_that_is_missing(tmp_path: Path, key: str) -> None:
    fields = {name: value for name, value in FIELDS.items() if name != key}
    _refused(write_fields(tmp_path / "a.gguf", "qwen3moe", fields, TENSORS), CheckpointError, key)


@pytest.mark.parametrize("name", list(TENSORS))
def test_a_tensor_that_is_missing(tmp_path: Path, name: str) -> None:
    from locum.backbone.index import expert_index
    from locum.backbone.load import load_backbone

    rest = {other: shape for other, shape in TENSORS.items() if other != name}
    path = write_fields(tmp_path / "a.gguf", "qwen3moe", FIELDS, rest)

    def load() -> None:
        checkpoint = Checkpoint.open(path)
        MoESpec.of(checkpoint)
        expert_index(checkpoint)
        load_backbone(checkpoint)

    with pytest.raises(ModelError):
        load()


def test_a_tensor_that_is_unknown(tmp_path: Path) -> None:
    more = {**TENSORS, "blk.0.ffn_gate_exps.scale": (4,)}
    _refused(write_fields(tmp_path / "m.gguf", "qwen3moe", FIELDS, more), UnsupportedError, "exps.scale")


def test_architectures_that_are_not_described(tmp_path: Path) -> None:
    dense = {key.replace("qwen3moe", "qwen3"): value for key, value in FIELDS.items() if "expert" not in key}
    _refused(write_fields(tmp_path / "a.gguf", "qwen3", dense, TENSORS), NotMoEError, "dense model")
    other = {key.replace("qwen3moe", "grok"): value for key, value in FIELDS.items()}
    _refused(
        write_fields(tmp_path / "b.gguf", "grok", other, TENSORS), UnsupportedError, "architecture 'grok'"
    )


@pytest.mark.parametrize("architecture", [*REFUSED, "made-up"])
def test_an_architecture_is_refused_with_its_reason(tmp_path: Path, architecture: str) -> None:
    fields = {key.replace("qwen3moe", architecture): value for key, value in FIELDS.items()}
    path = write_fields(tmp_path / "m.gguf", architecture, fields, TENSORS)
    reason = REFUSED.get(architecture, "")
    _refused(path, UnsupportedError, re.escape(f"architecture {architecture!r}" + (reason and f": {reason}")))


def test_every_architecture_with_experts_is_read_or_refused() -> None:
    experts = gguf.MODEL_TENSOR.FFN_DOWN_EXP
    known = {
        gguf.MODEL_ARCH_NAMES[arch] for arch, tensors in gguf.MODEL_TENSORS.items() if experts in tensors
    }
    assert known == {*ARCHITECTURES, *REFUSED}
    assert ARCHITECTURES.keys() == set(WRITTEN.values())


def test_positions_that_are_stretched_by_a_tensor(tmp_path: Path) -> None:
    more = {**TENSORS, "rope_freqs.weight": (8,)}
    _refused(write_fields(tmp_path / "m.gguf", "qwen3moe", FIELDS, more), UnsupportedError, "rope_freqs")


def _change(path: Path, out: Path, at: int, with_: bytes) -> Path:
    data = bytearray(path.read_bytes())
    data[at : at + len(with_)] = with_
    out.write_bytes(data)
    return out


def _lie(entry: int, of: Callable[[Path], int], text: bytes) -> Callable[[Path, Path], Path]:
    return lambda path, out: _change(path, out, of(path) + entry, text)


def _after(name: str) -> Callable[[Path], int]:
    """Where the entry of a tensor goes on after its name."""
    return lambda path: path.read_bytes().rindex(name.encode()) + len(name)


HUGE = struct.pack("<Q", 1 << 62)
_NORM, _EXPERTS = "blk.0.ffn_norm.weight", "blk.0.ffn_up_exps.weight"


@pytest.mark.parametrize(
    ("lie", "kind", "match"),
    [
        (_lie(0, lambda path: 0, b"GGML"), CheckpointError, "not a GGUF"),
        (_lie(4, lambda path: 0, struct.pack("<I", 1)), UnsupportedError, "version 1"),
        (_lie(4, lambda path: 0, struct.pack(">I", 3)), UnsupportedError, "big-endian"),
        (_lie(8, lambda path: 0, HUGE), CheckpointError, "counts more than any model"),
        (_lie(16, lambda path: 0, HUGE), CheckpointError, "counts more than any model"),
        (
            _lie(16, lambda path: 0, struct.pack("<Q", 60000)),
            CheckpointError,
            "truncated|no known type|UTF-8|long",
        ),
        (_lie(24, lambda path: 0, HUGE), CheckpointError, "absurdly long name"),
        (_lie(0, _after("general.architecture"), struct.pack("<I", 77)), CheckpointError, "no known type"),
        (_lie(4, _after("general.architecture"), HUGE), CheckpointError, "absurdly long|truncated"),
        (_lie(0, _after(_NORM), struct.pack("<I", 9)), CheckpointError, "number of sides"),
        (_lie(4, _after(_NORM), HUGE), CheckpointError, "past the end"),
        (_lie(4, _after(_NORM), struct.pack("<Q", 0)), CheckpointError, "makes no sense"),
        (_lie(12, _after(_NORM), struct.pack("<I", 99)), UnsupportedError, "type 99"),
        (_lie(12, _after(_NORM), struct.pack("<I", 2)), CheckpointError, "multiple of 32 numbers in Q4_0"),
        (_lie(16, _after(_NORM), HUGE), CheckpointError, "past the end"),
        (_lie(16, _after(_NORM), struct.pack("<Q", 3)), CheckpointError, "not aligned"),
        (_lie(16, _after(_NORM), struct.pack("<Q", 0)), CheckpointError, "overlap"),
        (_lie(-2, _after(_NORM), b"\xff\xff"), CheckpointError, "UTF-8"),
    ],
)
def test_a_lie_is_named(
    tmp_path: Path, lie: Callable[[Path, Path], Path], kind: type[LocumError], match: str
) -> None:
    path = write_fields(tmp_path / "a.gguf", "qwen3moe", FIELDS, TENSORS)
    _refused(lie(path, tmp_path / "b.gguf"), kind, match)


@pytest.mark.parametrize("number", [9, 15, 34, 35, 40, 41])
def test_blocks_that_are_not_read_are_named(tmp_path: Path, number: int) -> None:
    from locum.model.gguf.ggml import TYPES

    # rows of 256 numbers, so that every kind of block fits
    tensors = {name: tuple(256 if side == 16 else side for side in shape) for name, shape in TENSORS.items()}
    fields = {**FIELDS, "qwen3moe.embedding_length": 256}
    path = write_fields(tmp_path / "a.gguf", "qwen3moe", fields, tensors)
    at = _after(_EXPERTS)(path) + 4 + 3 * 8
    spec = MoESpec.of(Checkpoint.open(_change(path, tmp_path / "b.gguf", at, struct.pack("<I", number))))
    assert not spec.runnable
    assert TYPES[number].name in str(spec.unrunnable)


def test_every_truncation_is_a_checkpoint_error(tmp_path: Path) -> None:
    path = write_fields(tmp_path / "a.gguf", "qwen3moe", FIELDS, TENSORS)
    data = path.read_bytes()
    for length in [*range(0, len(data) - 2048, 37), len(data) - 1]:
        (tmp_path / "b.gguf").write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            read_gguf_header(tmp_path / "b.gguf")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=6))
def test_no_damage_is_anything_but_a_model_error(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    path = tmp_path / "a.gguf"
    if not path.exists():
        write_fields(path, "qwen3moe", FIELDS, TENSORS)
    data = bytearray(path.read_bytes())
    for at, value in changes:
        data[at % len(data)] = value
    (tmp_path / "b.gguf").write_bytes(data)
    with suppress(ModelError):
        inspect(tmp_path / "b.gguf")


def test_what_counts_as_a_gguf(tmp_path: Path, sound: Path) -> None:
    assert resolve(sound) == sound
    assert Checkpoint.open(sound.parent) == Checkpoint.open(sound)
    (tmp_path / "a.gguf").write_text("hello, I am no model")
    _refused(tmp_path / "a.gguf", CheckpointError, "not a GGUF")
    _refused(tmp_path, CheckpointError, "not a GGUF")
    (tmp_path / "b.gguf").write_text("nor I")
    _refused(tmp_path, CheckpointError, "several GGUF models")
    (tmp_path / "c.bin").write_text("")
    with pytest.raises(UsageError, match="a model is a folder or a GGUF"):
        resolve(tmp_path / "c.bin")
    lonely = tmp_path / "x-00001-of-00002.gguf"
    lonely.write_bytes(b"GGUF")
    _refused(lonely, CheckpointError, "parts of a split GGUF are missing")


def test_a_part_under_another_name_is_noticed(tmp_path: Path) -> None:
    written = write_gguf("olmoe", tmp_path / "m", Kind.Q8_0, split=20)
    first = written.path.rename(tmp_path / "whole.gguf")
    _refused(first, CheckpointError, "one part of a split GGUF")
