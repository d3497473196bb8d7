"""The card of a trained model: what it was trained on, how, and what it can and cannot do.

`python -m locum.train.card FOLDER` measures the model in FOLDER on the held-out text that ships with locum,
beside the baselines, and writes `evaluation.json` and `README.md` there.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from locum.evaluate.evaluation import Evaluation
from locum.evaluate.likelihood import score
from locum.evaluate.questions import examine
from locum.evaluate.texts import shipped_texts
from locum.files import write_json, write_text
from locum.train.baselines import byte_model_bits, xz_bits
from locum.train.overlap import overlap

QUESTIONS = 100
LEARNT = 0.9
"""Share of exact answers from which on a task counts as learnt."""
_CURVE_POINTS = 16


def measure(folder: Path, dense: Path | None, characters: int) -> dict[str, Any]:
    """Everything the card reports that is not in `training.json`."""
    from locum.engine.engine import load
    from locum.train.corpus import by_domain, documents
    from locum.train.loads import expert_loads

    texts = shipped_texts()
    with load(folder, expert_memory="100%") as engine:
        evaluation = Evaluation(folder.name, [score(engine, t) for t in texts], examine(engine, QUESTIONS))
        loads = expert_loads(engine, texts)
    found: dict[str, Any] = evaluation.to_json()
    found["loads"] = [[round(load, 3) for load in layer] for layer in loads]
    corpus = by_domain(documents(), characters)
    found["overlap"] = {name: round(share, 4) for name, share in overlap(corpus, texts).items()}
    found["baselines"] = {
        "order-5 byte model": byte_model_bits(corpus, texts),
        "xz -9e": xz_bits(texts),
    }
    if dense is not None:
        found["baselines"]["dense, equal active parameters"] = _dense_bits(dense)
    return found


def _dense_bits(folder: Path) -> dict[str, float]:
    """Bits per byte of a dense model, which locum does not run: by transformers."""
    import math
    from types import SimpleNamespace
    from typing import cast

    from transformers import AutoModelForCausalLM

    from locum.engine.tokenizer import load_tokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    engine = cast("Any", SimpleNamespace(model=model, tokenizer=load_tokenizer(folder)))
    scores = [score(engine, text) for text in shipped_texts()]
    domains = Evaluation(folder.name, scores, {}).domains
    bits = {
        name: sum(s.nats for s in of) / math.log(2) / sum(s.size for s in of) for name, of in domains.items()
    }
    return bits | {"all": sum(s.nats for s in scores) / math.log(2) / sum(s.size for s in scores)}


def write_card(folder: Path, training: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The text of the card."""
    recipe, config = training["recipe"], training["recipe"]["config"]
    lines = [
        f"# {folder.name}",
        "",
        f"A small Mixture-of-Experts model ({config['model_type']}) for demonstrations, tests and",
        "measurements of quality. Trained from nothing by `python -m locum.train`, on text that comes with a",
        "Debian system and on generated tasks. It knows far too little to be asked anything.",
        "",
        "## Held-out text, bits per byte",
        "",
        *_text_table(found),
        "",
        "Whole files were held out; the interval is a 95% bootstrap over files. The baselines saw the same",
        "training text, but for xz, which compresses the held-out text itself. Seen: the share of blocks of",
        "four lines that stand in some training file too.",
        "",
        "## Generated tasks, held-out questions answered exactly",
        "",
        *_task_table(found),
        "",
        "## Load of the experts on held-out text (1: even)",
        "",
        "| layer | least | most | experts below 0.2 |",
        "|---|---|---|---|",
        *[
            f"| {n} | {min(x):.2f} | {max(x):.2f} | {sum(v < 0.2 for v in x)} |"
            for n, x in enumerate(found["loads"])
        ],
        "",
        "## Training",
        "",
        f"{training['tokens'] / 1e6:.1f} million tokens in {training['steps']} steps,",
        f"{training['seconds'] / 3600:.1f} hours on {training['machine']}, torch {training['torch']}, seed",
        f"{recipe['seed']}. Optimiser {recipe['optimiser']}, learning rates {recipe['lr']} and",
        f"{recipe['matrix_lr']}, steps of {recipe['tokens_per_step']} tokens in rows of",
        f"{', '.join(map(str, recipe['lengths']))} by turns, balance coefficient {recipe['balance']};",
        "all numbers are in training.json.",
        "",
        "| step | tokens | loss | balance | most loaded | least loaded |",
        "|---|---|---|---|---|---|",
        *_curve(training["curve"]),
        "",
        "## Text and licences",
        "",
        "| domain | files | MB | share of rows |",
        "|---|---|---|---|",
        *_domains(training),
        "",
        "Every text came with a free licence; per package, with the bytes taken, they are in training.json.",
        "The weights are under Apache-2.0.",
    ]
    return "\n".join(lines) + "\n"


def _text_table(found: Mapping[str, Any]) -> list[str]:
    names = list(found["baselines"])
    rows = ["| domain | this model | " + " | ".join(names) + " | seen |", "|---" * (3 + len(names)) + "|"]
    figures = {"all": found["bits_per_byte"]} | {n: d["bits_per_byte"] for n, d in found["domains"].items()}
    for domain, figure in figures.items():
        low, high = figure["ci"]
        others = " | ".join(f"{found['baselines'][name][domain]:.2f}" for name in names)
        seen = f"{found['overlap'][domain]:.0%}"
        rows.append(f"| {domain} | {figure['value']:.2f} ({low:.2f} to {high:.2f}) | {others} | {seen} |")
    return rows


def _task_table(found: Mapping[str, Any]) -> list[str]:
    rows = ["| task | right | interval | |", "|---|---|---|---|"]
    for kind, figure in found["tasks"].items():
        low, high = figure["ci"]
        verdict = "learnt" if figure["value"] >= LEARNT else "not learnt: no evidence for anything"
        rows.append(f"| {kind} | {figure['value']:.0%} | {low:.0%} to {high:.0%} | {verdict} |")
    return rows


def _curve(curve: list[dict[str, float]]) -> list[str]:
    step = max(1, len(curve) // _CURVE_POINTS)
    points = curve[::-1][::step][::-1]  # the last one is always there
    return [
        f"| {p['step']:.0f} | {p['tokens'] / 1e6:.2f}M | {p['loss']:.3f} | {p['balance']:.3f} "
        f"| {p.get('most', 0):.2f} | {p.get('least', 0):.2f} |"
        for p in points
    ]


def _domains(training: Mapping[str, Any]) -> list[str]:
    mix = training["recipe"]["mix"]
    rows = [
        f"| {name} | {d['train']['documents']} | {d['train']['bytes'] / 1e6:.1f} | {mix.get(name, 0):.0%} |"
        for name, d in training["data"]["domains"].items()
    ]
    return [*rows, f"| generated tasks | | | {mix['tasks']:.0%} |"]


def main(argv: list[str] | None = None) -> int:
    """Measure and write. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m locum.train.card", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dense", type=Path, help="the dense model trained on the same tokens")
    parser.add_argument("--characters", type=int, default=12_000_000, help="as the training was given")
    parser.add_argument("--bound", type=float, help="bits per byte to reach; else the exit status is 1")
    asked = parser.parse_args(argv)
    training = json.loads((asked.folder / "training.json").read_text(encoding="utf-8"))
    found = measure(asked.folder, asked.dense, asked.characters)
    write_json(asked.folder / "evaluation.json", found, indent=1)
    write_text(asked.folder / "README.md", write_card(asked.folder, training, found))
    sys.stdout.write(f"wrote {asked.folder / 'README.md'}\n")
    return 0 if asked.bound is None else judge(found["bits_per_byte"]["value"], asked.bound)


def judge(reached: float, bound: float) -> int:
    """Say whether the bound is reached; the exit status, 0 when it is."""
    sys.stdout.write(f"{reached:.2f} held-out bits per byte; the bound is {bound:.2f}\n")
    return int(reached > bound)


if __name__ == "__main__":
    sys.exit(main())
