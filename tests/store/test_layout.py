"""Layout: random spans, reads replayed on plain byte strings, the arithmetic against its definition."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers_store import index_of
from locum.errors import CheckpointError
from locum.store import layout as layouts
from locum.store.index import ExpertIndex, FileId, Span
from locum.store.layout import DirectBlock, Layout, split

PAGE = 4096


@st.composite
def span_lists(draw: st.DrawFn) -> tuple[list[int], int, list[list[Span]]]:
    """(file sizes, image bytes, spans of a few experts): odd or congruent offsets, gaps, any order, EOF."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    files = rng.randint(1, 3)
    ends = [0] * files
    experts, image = [], 0
    style = draw(st.sampled_from(["odd", "congruent", "mixed", "chained"]))
    for _ in range(rng.randint(1, 3)):
        spans, at = [], 0
        skew = rng.choice([0, 64, 8, 4032, rng.randrange(PAGE)])
        for _ in range(rng.randint(1, 5)):
            at += rng.choice([0, 0, 1, 56, 64, 5000])
            length = rng.choice([1, 63, 64, rng.randint(1, 300), PAGE, rng.randint(1, 40000)])
            file = rng.randrange(files) if style != "chained" else 0
            offset = ends[file] + rng.choice([0, 0, 3, 4096, 70000])
            congruent = style == "congruent" or (style == "mixed" and rng.random() < 0.5)
            if congruent:
                offset += (skew + at - offset) % PAGE
            spans.append(Span(file, offset, length, at))
            ends[file] = offset + length
            at += length
        image = max(image, at)
        rng.shuffle(spans)
        experts.append(spans)
    sizes = [max(end, 1) + rng.choice([0, 0, 1, 5000]) for end in ends]
    return sizes, image, experts


def build(case: tuple[list[int], int, list[list[Span]]]) -> ExpertIndex:
    sizes, image, experts = case
    return index_of(tuple(FileId(f"f{n}", size, 0) for n, size in enumerate(sizes)), [(image, experts)])


@settings(max_examples=200, deadline=None)
@given(case=span_lists(), align=st.sampled_from([1, 64]), small=st.booleans())
def test_blocks_replayed_give_the_image(case, align: int, small: bool) -> None:
    """Carry the blocks out on byte strings: garbage beside every read, nothing beyond the end of a file."""
    index = build(case)
    rng = random.Random(1)
    data = [rng.randbytes(size) for size in case[0]]
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(layouts, "BLOCK_BYTES", 2 * PAGE)
            patch.setattr(layouts, "STAGING_BYTES", PAGE)
        layout = Layout(index, align)
        for key, spans in enumerate(case[2]):
            start = layout.image_start(key)
            assert 0 <= start < PAGE
            assert start % align == 0
            assert start + case[1] <= layout.slot_bytes(0)
            assert layout.slot_bytes(0) % PAGE == 0
            slot = bytearray(b"\xee" * layout.slot_bytes(0))
            for block in layout.blocks(key):
                assert block.offset % PAGE == 0
                assert block.length % PAGE == 0
                assert 0 < block.need <= block.length
                assert block.length <= (2 * PAGE if small else 16 << 20)
                arrived = data[block.file][block.offset : block.offset + block.length]
                assert len(arrived) >= block.need
                if isinstance(block, DirectBlock):
                    assert block.at % PAGE == 0
                    assert block.at + block.length <= len(slot)
                    kept = slot[block.at : block.at + block.keep]
                    # an adversarial disk: what lies past the end of the file is garbage too
                    slot[block.at : block.at + block.length] = arrived.ljust(block.length, b"\xdd")
                    slot[block.at : block.at + block.keep] = kept
                else:
                    for source, at, length in block.copies:
                        assert source + length <= block.need
                        slot[at : at + length] = arrived[source : source + length]
            assert len(slot) == layout.slot_bytes(0)
            for span in spans:
                got = slot[start + span.at : start + span.at + span.length]
                assert got == data[span.file][span.offset : span.offset + span.length], (span, start)


@settings(max_examples=200, deadline=None)
@given(case=span_lists(), align=st.sampled_from([1, 64]))
def test_start_lets_most_bytes_land_directly(case, align: int) -> None:
    """No other admissible start would land more bytes directly; with an expert of one skew, all or none."""
    layout = Layout(build(case), align)
    staged = 0
    for key, spans in enumerate(case[2]):

        def direct_bytes(start: int, spans=spans) -> int:
            return sum(s.length for s in spans if (s.offset - s.at) % PAGE == start)

        best = max(direct_bytes(start) for start in range(0, PAGE, align))
        assert direct_bytes(layout.image_start(key)) == best
        staged += best < sum(s.length for s in spans)
    assert layout.staged_experts == staged


def test_one_size_for_all_experts_of_an_image_size() -> None:
    files = (FileId("f", 1 << 20, 0),)
    skewed, straight = [[Span(0, 64, 8192, 0)]], [[Span(0, 0, 8192, 0)]]
    other = [[Span(0, 0, 4096, 0)]]
    layout = Layout(index_of(files, [(8192, straight), (8192, skewed), (4096, other)]))
    assert [layout.slot_bytes(n) for n in range(3)] == [12288, 12288, 4096]
    assert [layout.image_start(key) for key in range(3)] == [0, 64, 0]
    # no skew anywhere: no room is wasted for one
    assert Layout(index_of(files, [(8192, straight)])).slot_bytes(0) == 8192


def test_skew_beyond_the_alignment_is_staged_for_torch_and_direct_for_native() -> None:
    files = (FileId("f", 1 << 20, 0),)
    index = index_of(files, [(8192, [[Span(0, 72, 8192, 0)]])])
    assert Layout(index, 64).staged_experts == 1
    assert Layout(index, 64).image_start(0) == 0
    native = Layout(index, 1)
    assert (native.staged_experts, native.image_start(0), native.slot_bytes(0)) == (0, 72, 12288)


def test_neighbours_in_file_and_image_are_one_read() -> None:
    """down, gate, up as Hugging Face stores them, an image in the same order: one request."""
    spans = [Span(0, 4096 + 8192 * n, 8192, 8192 * n) for n in (2, 0, 1)]
    layout = Layout(index_of((FileId("f", 1 << 20, 0),), [(24576, [spans])]))
    assert layout.blocks(0) == [DirectBlock(0, 4096, 24576, 24576, 0, 0, False)]


def test_staged_neighbours_share_reads() -> None:
    """Three matrices in another order than the image's, all off alignment: read as one stretch of file."""
    spans = [Span(0, 8 + 8000 * n, 8000, 16000 - 8000 * n) for n in range(3)]
    (block,) = Layout(index_of((FileId("f", 1 << 20, 0),), [(24000, [spans])])).blocks(0)
    assert (block.offset, block.length, block.need) == (0, 24576, 24008)


@given(length=st.integers(0, 10**6), limit=st.integers(1, 30).map(lambda n: n * PAGE))
def test_split_covers_once(length: int, limit: int) -> None:
    parts = list(split(length, limit))
    assert [byte for start, size in parts for byte in (start, start + size)][1:-1:2] == [
        s for s, _ in parts[1:]
    ]
    assert sum(size for _, size in parts) == length
    assert len(parts) == -(-length // limit)
    assert all(0 < size <= limit for _, size in parts)
    assert all(size % PAGE == 0 for _, size in parts[:-1])


FILE = (FileId("/models/a.safetensors", 10000, 0),)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([Span(0, 9000, 1001, 0)], "past the end"),
        ([Span(1, 0, 10, 0)], "makes no sense"),
        ([Span(-1, 0, 10, 0)], "makes no sense"),
        ([Span(0, -1, 10, 0)], "makes no sense"),
        ([Span(0, 0, 0, 0)], "makes no sense"),
        ([Span(0, 0, 10, -1)], "overlap or overrun"),
        ([Span(0, 0, 10, 4091)], "overlap or overrun"),
        ([Span(0, 0, 10, 5), Span(0, 100, 10, 14)], "overlap or overrun"),
    ],
)
def test_a_lying_index_is_refused(spans: list[Span], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        Layout(index_of(FILE, [(4100, [spans])]))
    assert "expert 0 of model.layers.0.mlp.experts" in str(caught.value)
