"""Law A: no budget, policy, prefetch or Mover changes a bit. Law B: the bits are transformers' own.

Every run is compared with transformers' eager experts driven through the same calls, so both laws are
tested at once. `make test` takes a slice of the settings for each family; `make check` takes all of them.
"""

import itertools
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from helpers_laws import Run, Subject, reference, same_bits, swapped
from helpers_models import FAMILIES
from locum.engine.engine import expert_alignment

DTYPES = ("float32", "bfloat16")
EVICTIONS = ("lru", "lfu", "lfu-aging", "fifo", "arc", "belady")
PREFETCHES = ("none", "next-gate", "next-gate:distance=3")
MOVERS = ("direct", "pagecache")
WAVES = ("rank", "bypass")
SETTINGS = list(itertools.product(EVICTIONS, PREFETCHES, MOVERS, WAVES))


@pytest.fixture(scope="module")
def pair(checkpoints: Callable[..., Path]) -> Callable[[str, str], tuple[Subject, Run]]:
    """(the model on locum's experts, transformers' run of the sequence), made once."""

    @cache
    def get(family: str, dtype: str) -> tuple[Subject, Run]:
        path = checkpoints(family, dtype)
        return Subject(path), reference(path)

    return get


def arenas(subject: Subject) -> tuple[int, int, int]:
    """One slot, two slots, a quarter of all experts."""
    return 1, 2, sum(subject.experts) // 4


def run_setting(
    subject: Subject, slots: int, eviction: str, prefetch: str, mover: str, wave: str = "rank"
) -> Run:
    future = subject.run(slots).future if eviction == "belady" else None
    return subject.run(slots, eviction=eviction, prefetch=prefetch, mover=mover, wave=wave, future=future)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_slice_of_the_settings(pair: Callable[..., tuple[Subject, Run]], family: str, dtype: str) -> None:
    subject, expected = pair(family, dtype)
    start = list(FAMILIES).index(family) * 2 + DTYPES.index(dtype)
    for slots in arenas(subject):
        for setting in SETTINGS[start % 7 :: 7]:
            got = run_setting(subject, slots, *setting)
            assert same_bits(got.logits, expected.logits), (slots, setting)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_alignment_that_load_chooses(
    pair: Callable[..., tuple[Subject, Run]], family: str, dtype: str
) -> None:
    subject, expected = pair(family, dtype)
    align = expert_alignment(subject.index, subject.model, (torch.get_num_threads(),))
    for mover in MOVERS:
        got = subject.run(4, align=align, mover=mover)
        assert same_bits(got.logits, expected.logits), (align, mover)


@pytest.mark.check
@pytest.mark.parametrize("setting", SETTINGS, ids="-".join)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_setting(
    pair: Callable[..., tuple[Subject, Run]], family: str, dtype: str, setting: tuple[str, ...]
) -> None:
    subject, expected = pair(family, dtype)
    for slots in arenas(subject):
        assert same_bits(run_setting(subject, slots, *setting).logits, expected.logits), slots


@pytest.mark.parametrize("family", FAMILIES)
def test_smaller_arenas_miss_more(pair: Callable[..., tuple[Subject, Run]], family: str) -> None:
    # guards the tests above: were the arena ignored, every setting would pass for nothing
    subject, _ = pair(family, "float32")
    experts = sum(subject.experts)
    one, most, all_ = (subject.run(slots).misses for slots in (1, experts * 3 // 4, experts + 1))
    assert one > most > all_
    assert all_ <= experts


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gpt_oss"])
def test_native_products_of_one_row(checkpoints: Callable[..., Path], family: str) -> None:
    wide = {"hidden_size": 128, "intermediate_size": 96, "moe_intermediate_size": 96}
    path = checkpoints(family, "bfloat16", **wide)
    subject = Subject(path)
    if subject.products.native.missing:
        pytest.skip(subject.products.native.missing)
    assert {(192, 128), (128, 96)} <= {tuple(shape) for shape in subject.products.orders}
    for slots in arenas(subject):
        assert same_bits(subject.run(slots, prefetch="next-gate").logits, reference(path).logits)


@pytest.mark.parametrize("family", ["olmoe", "gpt_oss"])
def test_a_bf16_checkpoint_computed_in_fp32(checkpoints: Callable[..., Path], family: str) -> None:
    path = checkpoints(family, "bfloat16")
    got = Subject(path, torch.float32).run(2, prefetch="next-gate")
    assert same_bits(got.logits, reference(path, torch.float32).logits)


def break_bias(subject: Subject) -> Callable[[], None]:
    """Leave a bias, or where the family has none a norm weight, out of one attention layer."""
    name, parameter = next(
        (n, p) for n, p in subject.model.named_parameters() if n.endswith(("q_proj.bias", "layernorm.weight"))
    )
    kept = parameter.data
    parameter.data = torch.zeros_like(kept) if name.endswith("bias") else torch.ones_like(kept)

    def mend() -> None:
        parameter.data = kept

    return mend


def with_broken_experts(subject: Subject, monkeypatch: pytest.MonkeyPatch, how: str) -> Run:
    import locum.backbone.runtime as runtime

    original = runtime.expert_forward
    if how == "ignore the weights":
        monkeypatch.setattr(runtime.Routing, "gather", _unweighted(runtime.Routing.gather))
    elif how == "drop a bias":
        monkeypatch.setattr(
            runtime,
            "expert_forward",
            lambda m, x, w, linear: original(
                m, x, {n: torch.zeros_like(t) if "bias" in n else t for n, t in w.items()}, linear
            ),
        )
    return subject.run(1000)


def _unweighted(gather: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> Callable[..., object]:
    def broken(self: object, expert: int, x: torch.Tensor, weights: torch.Tensor) -> object:
        rows, scale = gather(self, expert, x, weights)
        return rows, torch.ones_like(scale)

    return broken


@pytest.mark.parametrize("how", ["ignore the weights", "drop a bias", "swap two experts"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_mutations_turn_the_comparison_red(
    pair: Callable[..., tuple[Subject, Run]],
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    dtype: str,
    how: str,
) -> None:
    subject, expected = pair(family, dtype)
    mend = None
    if how == "drop a bias" and family != "gpt_oss":  # its experts have none: take one of the backbone's
        mend = break_bias(subject)
    try:
        if how == "swap two experts":
            got = swapped(subject)
        else:
            got = with_broken_experts(subject, monkeypatch, how)
    finally:
        if mend is not None:
            mend()
    assert not same_bits(got.logits, expected.logits)
