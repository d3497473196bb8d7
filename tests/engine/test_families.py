"""Laws A and B for every family of transformers that locum runs, and a named reason for every other one.

The reference is transformers' eager experts with transformers' own cache. docs/families.md is the
table of these checks, which `make docs` writes.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DynamicCache

from helpers_adapted import only_chosen_rows
from helpers_families import FAMILIES, REFUSED, auto_class, family_config, make_family
from helpers_laws import CHUNK, PROMPT, STEPS, Run, Subject, drive, same_bits, swapped
from helpers_models import randomise
from locum.backbone.load import load_backbone, resident_bytes
from locum.backbone.routers import find_routers
from locum.engine.cache import GrowingLayer, request_cache
from locum.engine.engine import load
from locum.engine.recording import recording
from locum.errors import UnsupportedError
from locum.model.checkpoint import Checkpoint
from locum.model.spec import MoESpec
from locum.model.supported import CHECKED, UNSUPPORTED
from locum.pack import Packing, PackOptions
from locum.residency.slots import PAGE
from locum.store.layout import Layout
from locum.synth.shapes import shape
from locum.synth.writer import write_checkpoint
from locum.trace import Trace

DTYPES = ("float32", "bfloat16")
SEES = {name: "vision_config" in tiny.config for name, tiny in FAMILIES.items()}
RUN = [name for name, tiny in FAMILIES.items() if tiny.model_type in CHECKED]
Saved = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    made: dict[tuple[str, str], Path] = {}

    def get(family: str, dtype: str) -> Path:
        if (family, dtype) not in made:
            path = tmp_path_factory.mktemp(f"{family}-{dtype}") / "model"
            model: Any = make_family(family, getattr(torch, dtype))
            model.save_pretrained(path, max_shard_size="300KB")
            made[family, dtype] = path
        return made[family, dtype]

    return get


def reference(family: str, path: Path, *, as_it_is: bool = False) -> Run:
    """transformers by itself: its class, its eager experts, its cache. llama4's run on the rows that chose
    them, unless it is taken `as_it_is`.
    """
    model = auto_class(family).from_pretrained(
        path, dtype="auto", experts_implementation="eager", local_files_only=True
    )
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.clone()  # aligned as torch's allocator does
    if family == "llama4" and not as_it_is:
        only_chosen_rows(model)
    cache: Any = request_cache(model.config)
    if any(type(layer) is GrowingLayer for layer in cache.layers):
        cache = DynamicCache(config=model.config)
    return Run(*drive(model.eval(), cache))


def subject_of(path: Path) -> Subject:
    subject = Subject(path)
    sizes = {Layout(subject.index).slot_bytes(n) for n in range(len(subject.index.layers))}
    subject.slot = max(sizes) if len(sizes) == 1 else 4 * PAGE  # slots of each size have pages of their own
    return subject


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", RUN)
def test_the_bits_are_those_of_transformers(saved: Saved, family: str, dtype: str) -> None:
    path = saved(family, dtype)
    subject, expected = subject_of(path), reference(family, path)
    asked = all(router is not None for router in find_routers(subject.model))
    for slots, eviction in ((2, "lru"), (7, "lfu-aging")):
        got = subject.run(slots, eviction=eviction, prefetch="next-gate" if asked else "none")
        assert same_bits(got.logits, expected.logits)
        assert got.tokens == expected.tokens
    assert not same_bits(swapped(subject).logits, expected.logits), "two experts in each other's place"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    path = tmp_path_factory.mktemp("tokenizer") / "model"
    write_checkpoint(shape("tiny-olmoe"), path, seed=3)
    return list(path.glob("*token*"))


@pytest.mark.parametrize("family", RUN)
def test_the_engine_writes_what_transformers_writes(
    saved: Saved, tokenizer: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setenv("LOCUM_CACHE", str(tmp_path / "cache"))
    path = shutil.copytree(saved(family, "bfloat16"), tmp_path / "model")
    for file in tokenizer:
        shutil.copy(file, path)
    with (
        load(path, expert_memory="40%", threads=1, prefill_chunk=CHUNK) as engine,
        recording(engine, tmp_path / "trace"),
    ):
        got = engine.generate(PROMPT, max_tokens=STEPS, ignore_eos=True)
    assert list(got.tokens) == reference(family, path).tokens
    trace = Trace(tmp_path / "trace")
    assert sum(map(len, trace.batches(trace.meta.columns))) == len(PROMPT) + STEPS - 1


@pytest.mark.parametrize(("dtype", "allowed"), [("float32", 4e-6), ("bfloat16", 2**-6)])
def test_llama4_beside_experts_that_run_on_every_token(saved: Saved, dtype: str, allowed: float) -> None:
    # a product's last bit depends on its number of rows, and eager's products have all of them
    path = saved("llama4", dtype)
    got, expected = subject_of(path).run(2, prefetch="next-gate"), reference("llama4", path, as_it_is=True)
    assert got.tokens == expected.tokens
    for ours, theirs in zip(got.logits, expected.logits, strict=True):
        assert float((ours - theirs).abs().max()) <= allowed * float(theirs.abs().max())


@pytest.mark.parametrize("family", RUN)
def test_the_headers_tell_what_the_index_holds(saved: Saved, family: str) -> None:
    path = saved(family, "bfloat16")
    spec, index = MoESpec.of(Checkpoint.open(path)), Subject(path).index
    assert spec.unrunnable is None
    assert list(spec.experts) == [len(layer.experts) for layer in index.layers]
    held = [sum(span.length for span in layer.experts[0]) for layer in index.layers]
    assert list(spec.expert_bytes) == held


@pytest.mark.parametrize("family", RUN)
def test_the_plan_is_what_the_backbone_takes(saved: Saved, family: str) -> None:
    # not what the headers say: 22 families keep something in float32
    checkpoint = Checkpoint.open(saved(family, "bfloat16"))
    state = load_backbone(checkpoint).state_dict(keep_vars=True)
    held = {id(tensor): tensor for tensor in state.values()}
    assert resident_bytes(checkpoint, torch.bfloat16) == sum(t.nbytes for t in held.values())


@pytest.mark.parametrize("family", RUN)
def test_the_headers_tell_what_the_backbone_takes(saved: Saved, family: str) -> None:
    checkpoint = Checkpoint.open(saved(family, "float32"))
    state = load_backbone(checkpoint).state_dict(keep_vars=True)
    held = {id(tensor): tensor for tensor in state.values()}  # tied weights are one
    assert not any("vision" in name.replace("vision_moe.gate.moe_statics", "") for name in state)
    spec = MoESpec.of(checkpoint)
    assert spec.backbone_resident_bytes == sum(t.numel() * t.element_size() for t in held.values())
    assert (spec.ignored_bytes > 0) == (SEES[family] or family == "longcat_flash")


@pytest.mark.parametrize("family", RUN)
def test_no_router_is_quantised(saved: Saved, family: str) -> None:
    # by what the files call them, which is all that the families agree on
    plan = Packing(saved(family, "bfloat16"), PackOptions(backbone="int8")).backbone.plan
    quantised = {name for name, tensors in plan.items() if len(tensors) > 1}
    assert quantised
    assert not [name for name in quantised if re.search(r"\.(gate|router)\.", name)]


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in RUN])
def test_what_cannot_be_run_says_why(saved: Saved, family: str) -> None:
    reason = UNSUPPORTED[FAMILIES[family].model_type]
    with pytest.raises(UnsupportedError, match=re.escape(reason)):
        MoESpec.of(Checkpoint.open(saved(family, "float32"))).require_runnable()


def test_experts_that_the_hub_holds_transposed(tmp_path: Path) -> None:
    # Qwen's own files of this family: transformers turns the experts round while it loads them
    config = family_config("qwen3_vl_moe")
    config.text_config.moe_intermediate_size = 24
    model = auto_class("qwen3_vl_moe").from_config(config)
    randomise(model)
    path = tmp_path / "turned"
    model.save_pretrained(path)
    file = path / "model.safetensors"
    tensors = load_file(file)
    turned = [name for name, tensor in tensors.items() if ".experts." in name and tensor.dim() == 3]
    assert len(turned) >= 2
    save_file(
        {n: t.transpose(1, 2).contiguous() if n in turned else t for n, t in tensors.items()},
        file,
        metadata={"format": "pt"},
    )
    subject = subject_of(path)
    assert {m.form for layer in subject.index.layers for view in layer.tensors for m in view.matrices} == {
        "raw+transposed"
    }
    got, expected = subject.run(3, prefetch="next-gate"), reference("qwen3_vl_moe", path)
    assert same_bits(got.logits, expected.logits)


def test_nobody_is_forgotten() -> None:
    assert len(RUN) == len(CHECKED) == 66
    assert {tiny.model_type for tiny in FAMILIES.values()} | set(REFUSED) <= CHECKED | set(UNSUPPORTED)


def test_the_page_about_families_is_up_to_date() -> None:
    command = [sys.executable, str(Path(__file__).parents[2] / "scripts/families_docs.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
