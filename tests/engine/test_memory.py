"""`--memory` against what a process really takes: its peak from the start to the last token."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers_cli import environment
from helpers_quantised import gptq, twins
from locum.backbone.index import expert_index
from locum.engine.engine import made_bytes
from locum.engine.memory import Attention, MemoryRequest, plan_memory
from locum.kernels.forms import FILLING_BYTES
from locum.model.checkpoint import Checkpoint
from locum.model.spec import MoESpec
from locum.pack import PackOptions, pack, planned_source
from locum.synth.plan import plan_checkpoint
from locum.synth.shapes import shape
from locum.synth.writer import write_plan
from locum.units import MIB

# two tables of 250 MiB and experts whose largest matrix is 64 MiB in bfloat16
LARGE: dict[str, Any] = {
    "hidden_size": 2048, "intermediate_size": 8192, "vocab_size": 64000,
    "num_attention_heads": 16, "num_key_value_heads": 4, "num_local_experts": 2,
}  # fmt: skip
_RUN = """\
import sys
import locum
from locum.machine.limits import peak_rss
from locum.errors import BudgetError
def load(memory):
    return locum.load(sys.argv[1], memory=memory, context=256, threads=1)
try:
    load(1)
except BudgetError as error:
    engine = load(error.minimum + (96 << 20))  # what is imported meanwhile counts as well
with engine:
    engine.generate(list(range(5, 205)), max_tokens=3, ignore_eos=True)
    print(peak_rss(), engine.memory_limit)
"""


def peak_and_limit(model: Path, cache: Path) -> tuple[int, int]:
    """Bytes a fresh process takes at most, given the least memory, and what it was given."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(model)],
        capture_output=True, text=True, check=False, env=environment(LOCUM_CACHE=str(cache)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peak, limit = map(int, done.stdout.split())
    return peak, limit


@pytest.mark.check
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["plain", "int4", "gptq"])
def test_the_least_memory_is_enough(tmp_path: Path, kind: str) -> None:
    model = tmp_path / "model"
    plan = plan_checkpoint(shape("mixtral-8x7b", **LARGE), layers=1)
    if kind == "int4":
        with planned_source(plan, 0, "m") as source:
            pack(source, model, PackOptions(experts="int4", backbone="int4"))
    else:
        write_plan(plan, model)
    if kind == "gptq":
        declared = {"quant_method": "gptq", "bits": 4, "group_size": 64}
        model, _ = twins(model, tmp_path / "twins", gptq(4, 64), declared)
    peak, limit = peak_and_limit(model, tmp_path / "cache")
    shutil.rmtree(tmp_path)
    assert peak < limit
    assert peak > limit - 500 * MIB, "a plan that is far too careful"


@pytest.mark.parametrize(
    ("kind", "dtype", "made"),
    [
        ("stored", torch.bfloat16, 0),  # multiplied where they lie
        ("stored", torch.float32, 4 * 64 * 64),
        ("int4", torch.bfloat16, 2 * 64 * 64),
        ("int4", torch.float32, 4 * 64 * 64),
    ],
)
def test_matrices_that_are_made_count(
    checkpoints: Callable[..., Path], tmp_path: Path, kind: str, dtype: torch.dtype, made: int
) -> None:
    model = checkpoints("olmoe", "bfloat16")  # gate and up are 64 x 64
    if kind != "stored":
        pack(model, tmp_path / "packed", PackOptions(experts=kind))
        model = tmp_path / "packed"
    checkpoint = Checkpoint.open(model)
    assert made_bytes(expert_index(checkpoint), dtype) == (made and made + FILLING_BYTES)
    spec, attention = MoESpec.of(checkpoint), Attention(4, 16, eager=False)
    plans = [plan_memory(spec, attention, MemoryRequest(), made_bytes=n) for n in (0, 7 * MIB)]
    assert plans[1].split.workspace - plans[0].split.workspace == 7 * MIB
    loading = plan_memory(spec, attention, MemoryRequest(), loading_bytes=300 * MIB)
    assert loading.split.workspace == 300 * MIB
