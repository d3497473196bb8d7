"""Every family of `helpers_families` builds, runs on text and survives a round trip through a checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers_families import FAMILIES, REFUSED, auto_class, make_family
from locum.backbone.experts import experts_modules

PROMPT = torch.arange(3, 43)[None]


def _logits(model: nn.Module) -> torch.Tensor:
    torch.manual_seed(0)  # diffusion_gemma draws its canvas
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=PROMPT).logits
    return logits


UNDECORATED = {"dbrx", "llama4", "longcat_flash", "step3p7"}


def test_the_table_has_all_64_folders_and_the_adapted() -> None:
    assert len({*FAMILIES, *REFUSED} - UNDECORATED) == 64
    assert {*FAMILIES} > UNDECORATED
    assert not {*FAMILIES} & {*REFUSED}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_builds_runs_and_reloads(family: str, tmp_path: Path) -> None:
    model: Any = make_family(family)
    model.set_experts_implementation("eager")
    assert bool(list(experts_modules(model))) == (family not in UNDECORATED)
    assert sum(parameter.numel() for parameter in model.parameters()) < 500_000
    logits = _logits(model)
    assert logits.isfinite().all()
    model.save_pretrained(tmp_path)
    again = auto_class(family).from_pretrained(
        tmp_path, dtype="auto", experts_implementation="eager", local_files_only=True
    )
    with torch.no_grad():
        for tensor in [*again.parameters(), *again.buffers()]:
            tensor.data = tensor.data.clone()  # safetensors' own alignment changes the last bit of a product
    assert torch.equal(_logits(again.eval()), logits)
