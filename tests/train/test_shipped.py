"""The trained models: the bits are transformers' own, and the cards say what is true."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import locum
from helpers_cli import locum as command
from locum.bench.identity import recorded, replay, same_bits
from locum.evaluate.texts import shipped_texts
from locum.model.hub import resolve
from locum.model.shipped import shipped_model
from locum.train.card import write_card

SHARED = Path(__file__).parents[1] / "models" / "locum-tiny-shared"
MODELS = {"locum-tiny": shipped_model(), "locum-tiny-shared": SHARED}
PROMPT = "def read(path):\n    with open(path) as file:\n"


def facts(folder: Path, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return document


@pytest.mark.parametrize("name", MODELS)
def test_bits_with_a_quarter_of_the_experts(name: str) -> None:
    with (
        locum.load(MODELS[name], expert_memory="25%", context=128) as engine,
        recorded(engine.model) as calls,
    ):
        text = engine.generate(PROMPT, max_tokens=24, seed=0, ignore_eos=True).text
    assert same_bits(calls, replay(MODELS[name], calls))
    assert len(set(text.split())) > 3, "a trained model does not say one thing for ever"


@pytest.mark.parametrize("name", MODELS)
def test_the_card_is_made_of_the_measurements(name: str) -> None:
    folder = MODELS[name]
    training, found = facts(folder, "training"), facts(folder, "evaluation")
    assert (folder / "README.md").read_text(encoding="utf-8") == write_card(folder, training, found)
    assert max(path.stat().st_size for path in folder.iterdir()) <= 15 << 20


@pytest.mark.parametrize("name", MODELS)
def test_no_layer_has_collapsed(name: str) -> None:
    for loads in facts(MODELS[name], "evaluation")["loads"]:
        shares = [load / sum(loads) for load in loads]
        effective = math.exp(-sum(p * math.log(p) for p in shares if p))
        assert effective > 0.5 * len(loads)


def test_better_than_the_baselines_in_every_domain() -> None:
    found = facts(shipped_model(), "evaluation")
    for name in ("order-5 byte model", "xz -9e"):
        baseline = found["baselines"][name]
        assert found["bits_per_byte"]["ci"][1] < baseline["all"]
        for domain, figures in found["domains"].items():
            assert figures["bits_per_byte"]["value"] < baseline[domain], (name, domain)


def test_the_loss_on_the_card_is_the_loss_of_the_model() -> None:
    # transformers, its own experts, one text at a time; the card's figure came from locum's engine
    folder, texts = shipped_model(), shipped_texts()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    found = facts(folder, "evaluation")["domains"]
    for domain in ("python", "licences"):
        nats = size = 0.0
        for text in [text for text in texts if text.domain == domain]:
            ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode(text.text)]])
            for begin in range(0, ids.shape[1] - 1, 512):
                window = ids[:, max(0, begin - 256) : begin + 513]
                with torch.inference_mode():
                    logits = model(window).logits[0, :-1].float()
                new = min(512, ids.shape[1] - 1 - begin)
                chosen = logits.log_softmax(-1).gather(-1, window[0, 1:, None])[-new:]
                nats -= chosen.sum().item()
            size += len(text.text.encode())
        assert found[domain]["bits_per_byte"]["value"] == pytest.approx(nats / math.log(2) / size, rel=0.03)


def test_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("locum-tiny") == shipped_model()
    (tmp_path / "locum-tiny").mkdir()
    assert resolve("locum-tiny") == Path("locum-tiny"), "a folder of that name goes first"


def test_by_command(tmp_path: Path) -> None:
    result = command("inspect", "locum-tiny", "--json", cwd=tmp_path)
    assert json.loads(result.stdout)["family"] == "qwen3_moe"
    result = command("run", "locum-tiny", "add 12 + 7 =", "--max-tokens", "4", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
