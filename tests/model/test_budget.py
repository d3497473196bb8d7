"""The arithmetic of budgets: the parts add up, the rules of `--memory` and `--expert-memory` hold."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers_checkpoint import qwen3_moe, write_checkpoint
from locum.errors import BudgetError, UsageError
from locum.model import Checkpoint, MemorySplit, MoESpec, fixed_parts, minimum_memory, split
from locum.model.budget import SLAB, full_arena, slot_bytes, smallest_arena
from locum.units import GIB, MIB

PARTS = ("runtime", "backbone", "kv", "staging", "workspace", "experts")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> MoESpec:
    """8 layers of 32 experts of 3 x 256 KiB."""
    config, tensors = qwen3_moe(layers=8, hidden=512, experts=32, width=256, vocab=1000, top_k=4)
    return MoESpec.of(Checkpoint.open(write_checkpoint(tmp_path_factory.mktemp("model"), config, tensors)))


@pytest.fixture(scope="module")
def fixed(spec: MoESpec) -> MemorySplit:
    return fixed_parts(
        spec, context=100, runtime_bytes=500 * MIB, staging_bytes=8 * MIB, workspace_bytes=16 * MIB
    )


def read_worst(length: int) -> int:
    """Bytes of the blocks around `length` bytes at the worst offset, by trying every one that matters."""
    return max((-(-(start + length) // 4096) - start // 4096) * 4096 for start in (0, 1, 2048, 4095))


def test_a_slot_has_room_for_every_offset(spec: MoESpec) -> None:
    layer = spec.moe[0]
    assert [length for _, length in layer.pieces] == [256 * 512 * 2] * 3
    assert slot_bytes(layer) == 3 * read_worst(256 * 512 * 2)


@given(length=st.integers(1, 50_000), start=st.integers(0, 100_000))
def test_slot_bound_is_enough_for_any_piece(spec: MoESpec, length: int, start: int) -> None:
    from dataclasses import replace

    layer = replace(spec.moe[0], pieces=(("x", length),))
    assert slot_bytes(layer) >= (-(-(start + length) // 4096) - start // 4096) * 4096


def test_fixed_parts_are_what_they_are_given_or_follow_from_the_spec(
    spec: MoESpec, fixed: MemorySplit
) -> None:
    assert fixed == MemorySplit(
        runtime=500 * MIB,
        backbone=spec.backbone_bytes,
        kv=100 * 8 * 2 * 8 * 2,
        staging=8 * MIB,
        workspace=16 * MIB,
        experts=0,
    )
    three = fixed_parts(spec, context=100, requests=3)
    assert three.kv == 3 * fixed.kv
    assert three.staging > 0
    assert three.workspace > 0


def test_context_must_be_one_the_model_has(spec: MoESpec) -> None:
    for context in (0, -1, 129):
        with pytest.raises(UsageError, match="1 to 128 tokens"):
            fixed_parts(spec, context=context)


def test_minimum_is_one_expert_and_the_rest(spec: MoESpec, fixed: MemorySplit) -> None:
    minimum = minimum_memory(spec, fixed)
    assert minimum.total == fixed.total + smallest_arena(spec)
    assert smallest_arena(spec) == SLAB  # one expert of 768 KiB in whole huge pages
    assert smallest_arena(spec, 4) >= 4 * slot_bytes(spec.moe[0])
    text = minimum.text()
    for part in PARTS:
        assert part in text
    assert "runtime 500.0 MiB" in text


def test_memory_alone_gives_the_rest_to_the_experts(spec: MoESpec, fixed: MemorySplit) -> None:
    result = split(spec, fixed, available=0, memory="600MiB")
    assert result.total <= 600 * MIB < result.total + SLAB
    assert result.experts % SLAB == 0
    assert (result.runtime, result.backbone, result.kv) == (fixed.runtime, fixed.backbone, fixed.kv)


def test_memory_beyond_need_stops_at_all_experts(spec: MoESpec, fixed: MemorySplit) -> None:
    result = split(spec, fixed, available=0, memory=100 * GIB)
    assert result.experts == full_arena(spec) >= sum(layer.experts * slot_bytes(layer) for layer in spec.moe)


@pytest.mark.parametrize("memory", [None, "auto", " Auto "])
def test_auto_is_nine_tenths_of_what_is_available(
    memory: str | None, spec: MoESpec, fixed: MemorySplit
) -> None:
    result = split(spec, fixed, available=600 * MIB, memory=memory)
    assert result.total <= 540 * MIB < result.total + SLAB
    with pytest.raises(BudgetError, match="--memory auto is below the minimum"):
        split(spec, fixed, available=500 * MIB, memory=memory)


@pytest.mark.parametrize(
    ("asked", "arena"), [("25%", 48 * MIB), ("100%", 192 * MIB), ("12345678", 12345678), (3 * MIB, 3 * MIB)]
)
@pytest.mark.parametrize("memory", ["1GiB", None])
def test_expert_memory_is_exact(
    asked: str | int, arena: int, memory: str | None, spec: MoESpec, fixed: MemorySplit
) -> None:
    assert spec.routed_bytes == 192 * MIB
    result = split(spec, fixed, available=2 * GIB, memory=memory, expert_memory=asked)
    assert result.experts == arena
    assert result.fixed == fixed.fixed


def test_below_the_minimum_says_how_much_and_of_what(spec: MoESpec, fixed: MemorySplit) -> None:
    minimum = minimum_memory(spec, fixed)
    with pytest.raises(BudgetError) as caught:
        split(spec, fixed, available=0, memory=minimum.total - 1)
    assert caught.value.minimum == minimum.total
    for word in (str(minimum.total), *PARTS):
        assert word in str(caught.value)
    assert split(spec, fixed, available=0, memory=minimum.total).experts == smallest_arena(spec)


def test_both_given_and_the_rest_does_not_fit(spec: MoESpec, fixed: MemorySplit) -> None:
    with pytest.raises(BudgetError, match="too small for this --expert-memory") as caught:
        split(spec, fixed, available=0, memory="540MiB", expert_memory="25%")
    assert caught.value.minimum == fixed.fixed + 48 * MIB
    assert (
        split(spec, fixed, available=0, memory=caught.value.minimum, expert_memory="25%").experts == 48 * MIB
    )


def exactly(spec: MoESpec, slots: int = 1) -> int:
    """The least --expert-memory: that many of the largest expert, to the byte."""
    return slots * max(slot_bytes(layer) for layer in spec.moe)


def test_an_arena_below_one_expert(spec: MoESpec, fixed: MemorySplit) -> None:
    with pytest.raises(BudgetError, match="1 of the largest expert") as caught:
        split(spec, fixed, available=8 * GIB, expert_memory=4096)
    assert caught.value.minimum == exactly(spec)
    with pytest.raises(BudgetError, match="4 of the largest experts"):
        split(spec, fixed, available=8 * GIB, expert_memory=4 * 4096, slots=4)


@pytest.mark.parametrize("size", ["much", "-1GiB", "120%", "0%", ""])
def test_malformed_sizes(size: str, spec: MoESpec, fixed: MemorySplit) -> None:
    with pytest.raises(UsageError):
        split(spec, fixed, available=8 * GIB, expert_memory=size)


@settings(deadline=None)
@given(
    available=st.integers(0, 2 * GIB),
    memory=st.none() | st.integers(0, 2 * GIB),
    expert_memory=st.none() | st.integers(0, GIB),
    slots=st.integers(1, 40),
)
def test_any_split_keeps_its_promises(
    available: int,
    memory: int | None,
    expert_memory: int | None,
    slots: int,
    spec: MoESpec,
    fixed: MemorySplit,
) -> None:
    limit = memory if memory is not None else available * 9 // 10
    try:
        result = split(
            spec, fixed, available=available, memory=memory, expert_memory=expert_memory, slots=slots
        )
    except BudgetError as error:
        needed = error.minimum
    else:
        assert result.total <= limit + 1  # nine tenths, rounded either way
        assert result.experts >= exactly(spec, slots)
        assert sum(getattr(result, part) for part in PARTS) == result.total
        if expert_memory is not None:
            assert result.experts == expert_memory
        return
    # what the error names as the minimum does work
    if expert_memory is not None and expert_memory < exactly(spec, slots):
        assert needed == exactly(spec, slots)
        again = split(spec, fixed, available=0, memory=4 * GIB, expert_memory=needed, slots=slots)
        assert again.experts == needed
    else:
        assert needed > limit
        again = split(spec, fixed, available=0, memory=needed, expert_memory=expert_memory, slots=slots)
        assert again.total <= needed


def test_helpers_are_pure_arithmetic(tmp_path: Path, spec: MoESpec) -> None:
    assert full_arena(spec, 0.25) <= full_arena(spec, 0.5) <= full_arena(spec)
    assert full_arena(spec, 0.0) == smallest_arena(spec)
