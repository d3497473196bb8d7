"""Matched runs: what is measured, against brute force, and that nothing is measured twice."""

import json
import math
from pathlib import Path

import pytest
import torch

from locum.train import sweep
from locum.train.corpus import Document
from locum.train.data import Data, write_data
from locum.train.loop import Run
from locum.train.recipe import Recipe

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "head_dim": 16, "num_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 64,
}  # fmt: skip
RECIPE = Recipe(tokens_per_step=64, lengths=(32,), warmup=3, changes=SMALL)


@pytest.fixture
def data(tmp_path: Path) -> Data:
    def document(domain: str, number: int, held_out: bool) -> Document:
        text = "".join(f"{domain} says {number * line}\n" for line in range(60))
        name = next(n for n in range(10_000) if Document("x", f"{n}", "", "", "").held_out == held_out)
        return Document(domain, f"{name}", domain, "MIT", text)

    members = {d: [document(d, n, n % 3 == 0) for n in range(9)] for d in ("c", "python")}
    write_data(members, tmp_path / "data")
    return Data(tmp_path / "data")


def test_held_out_figures(data: Data) -> None:
    run = Run(RECIPE, data)
    run.train_to(6 * RECIPE.tokens_per_step)
    bits, told, load_LE = sweep.held_out(run, data)
    tables = []
    for domain in data.domains:
        rows = torch.from_numpy(sweep._rows(data.streams[domain, "held-out"], 32).astype("int64"))
        out = run.model(input_ids=rows[:, :-1], use_cache=False, output_router_logits=True)
        chosen = out.logits.log_softmax(-1).gather(-1, rows[:, 1:, None])
        size = data.facts["domains"][domain]["held-out"]
        nats_a_byte = -chosen.mean().item() * size["tokens"] / size["bytes"]
        assert bits[domain] == pytest.approx(nats_a_byte / math.log(2), rel=1e-4)
        counts = [torch.bincount(x.topk(2).indices.flatten(), minlength=4) for x in out.router_logits]
        tables.append(torch.stack(counts).double())
    joint = torch.stack(tables) / tables[0].sum(-1)[None, :, None] / len(tables)  # [domain, layer, expert]
    information = 0.0
    for layer in range(2):
        for domain in range(2):
            for expert in range(4):
                p = joint[domain, layer, expert].item()
                if p:
                    information += p * math.log2(p / (joint[:, layer, expert].sum().item() * 0.5)) / 2
    assert told == pytest.approx(information, abs=1e-4)
    assert torch.allclose(load_LE.double(), joint.sum(0) * 4, atol=1e-4)


def test_each_variant_once(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "VARIANTS", {"one": RECIPE, "two": RECIPE})
    results = tmp_path / "found" / "sweep.jsonl"
    ask = ["--data", str(data.folder), "--results", str(results), "--steps", "5"]
    assert sweep.main([*ask, "--only", "one"]) == 0
    first = results.read_text()
    assert sweep.main(ask) == 0
    assert results.read_text().startswith(first)
    one, two = map(json.loads, results.read_text().splitlines())
    assert (one["variant"], two["variant"]) == ("one", "two")
    assert one["bits_per_byte"] == two["bits_per_byte"]
    assert "| two |" in results.with_suffix(".md").read_text()
