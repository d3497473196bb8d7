"""What the card says of a model, measured and written."""

import json
import lzma
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import locum
from locum.backbone.routers import find_routers, predict
from locum.evaluate.likelihood import token_ids
from locum.evaluate.texts import Text
from locum.synth.shapes import shape
from locum.synth.writer import write_checkpoint
from locum.train import card
from locum.train.baselines import byte_model_bits, xz_bits
from locum.train.corpus import Document
from locum.train.data import Data
from locum.train.loads import expert_loads
from locum.train.loop import Run
from locum.train.overlap import overlap
from locum.train.recipe import MODELS, RECIPES

TEXTS = [
    Text("a", "one two three four " * 6),
    Text("b", "eins zwei drei vier " * 6),
    Text("a", "five six " * 9),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("card") / "tiny"
    write_checkpoint(shape("tiny-olmoe"), path, dtype="fp32", seed=4)
    return path


def test_loads_are_what_the_routers_chose(model: Path) -> None:
    chosen: list[Counter[int]] = [Counter() for _ in range(3)]
    with locum.load(model, expert_memory="50%", context=64) as engine:
        got = expert_loads(engine, TEXTS)
        for layer, router in enumerate(find_routers(engine.model)):
            assert router is not None

            def count(_: Any, args: tuple[Any, ...], layer: int = layer, router: Any = router) -> None:
                chosen[layer].update(predict(router, args[0])[1].reshape(-1).tolist())

            router.register_forward_pre_hook(count)
        with torch.inference_mode():
            for text in TEXTS:
                engine.model(input_ids=torch.tensor([token_ids(engine, text)[:-1]]), use_cache=False)
    assert len(got) == 3
    for layer, loads in enumerate(got):
        total = sum(chosen[layer].values())
        assert loads == pytest.approx([8 * chosen[layer][expert] / total for expert in range(8)])


def test_baselines() -> None:
    train = [Document("a", "f", "p", "MIT", "one two three four " * 40)]
    bits = byte_model_bits({"a": train}, TEXTS)
    assert bits["a"] < bits["all"] < bits["b"], "what it has seen it foresees best"
    sizes = [len(text.text) for text in TEXTS]
    assert bits["all"] == pytest.approx(
        (bits["a"] * (sizes[0] + sizes[2]) + bits["b"] * sizes[1]) / sum(sizes)
    )
    whole = TEXTS[1].text.encode()
    packed = lzma.compress(whole, preset=9 | lzma.PRESET_EXTREME)
    assert xz_bits(TEXTS)["b"] == 8 * len(packed) / len(whole)


def test_overlap() -> None:
    lines = [f"line {n} of a text that is long enough to be told from others" for n in range(8)]
    train = [Document("a", "f", "p", "MIT", "\n".join(["first", *lines]))]
    half = Text("a", "\n".join([*lines[:5], "another line", *("more and more of it " * 3 for _ in range(2))]))
    short = Text("b", "\n".join("}" * 9))
    # blocks of `half` by their first lines: 0 and 1 are known, 2, 3 and 4 hold what is new
    assert overlap({"a": train}, [half, short]) == {"a": 2 / 5, "b": 0.0, "all": 2 / 5}
    held_out = next(d for n in range(999) if (d := Document("a", f"{n}", "p", "MIT", train[0].text)).held_out)
    assert overlap({"a": [held_out]}, [half])["all"] == 0


def test_a_card(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "shipped_texts", lambda: TEXTS)
    monkeypatch.setattr(card, "QUESTIONS", 1)
    monkeypatch.setattr(
        "locum.train.corpus.documents", lambda: [Document("a", "f", "p", "MIT", "one two " * 40)]
    )
    recipe = RECIPES["tiny"].to_json()
    point = {"step": 50, "tokens": 4096, "loss": 3.25, "balance": 1.0, "most": 2.0, "least": 0.1}
    training = {
        "recipe": recipe, "tokens": 4096, "steps": 50, "seconds": 60, "machine": "m", "torch": "t",
        "curve": [point], "data": {"domains": {"a": {"train": {"documents": 1, "bytes": 10}}}},
    }  # fmt: skip
    (model / "training.json").write_text(json.dumps(training))
    status = card.main([str(model), "--bound", "1.5"])
    found = json.loads((model / "evaluation.json").read_text())
    text = (model / "README.md").read_text()
    assert f"| all | {found['bits_per_byte']['value']:.2f} (" in text
    assert f"{found['baselines']['xz -9e']['b']:.2f}" in text
    # the bound was far off for this one, and the status says so
    assert (status, card.judge(1.5, 1.5)) == (1, 0)
    assert "not learnt" in text
    assert "| 50 | 0.00M | 3.250 |" in text


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_recipe_trains(name: str, tmp_path: Path) -> None:
    from dataclasses import replace

    from locum.train.data import write_data

    documents = [
        Document("python", f"f{n}", "python", "PSF-2.0", f"def f{n}(): return {n}\n" * 30) for n in range(60)
    ]
    write_data({"python": documents}, tmp_path)
    run = Run(
        replace(RECIPES[name], tokens_per_step=64, lengths=(32,), warmup=1, mix={"python": 1.0}),
        Data(tmp_path),
    )
    losses = [run.one_step(1.0)["loss"] for _ in range(12)]
    assert losses[-1] < losses[0] - 0.5
    assert bool(run.balance.routers) == (name != "dense")
    if name != "dense":
        assert run.balance.load().shape[1] == MODELS[name].get(
            "num_experts", MODELS[name].get("n_routed_experts")
        )
