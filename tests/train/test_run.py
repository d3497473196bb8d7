"""A training run: data, resuming bit for bit, finishing, exporting; and what is held out."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import locum
from locum.errors import UsageError
from locum.train import recipe as recipes
from locum.train.corpus import Document, Packages, by_domain, documents
from locum.train.data import END_ID, IGNORE, VOCABULARY, Data, write_data
from locum.train.export import export
from locum.train.held_out import PIECE, write_held_out
from locum.train.loop import Run
from locum.train.recipe import Recipe


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine with two packages, one of them free, and a Python library."""
    root = tmp_path_factory.mktemp("machine")

    def put(name: str, text: str) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    for number in range(80):
        put(
            f"lib/m{number}.py",
            f"# module {number}\n" + "".join(f"def f{i}_{number}(): return {i}\n" for i in range(40)),
        )
        put(f"usr/include/h{number}.h", "".join(f"int free_{i}_{number}(void);\n" for i in range(40)))
        put(f"usr/include/secret{number}.h", "".join(f"int secret_{i}_{number}(void);\n" for i in range(40)))
    put("usr/include/nobody.h", "int of_no_package(void);\n" * 40)
    lists = root / "var/lib/dpkg/info"
    lists.mkdir(parents=True)
    (lists / "libfree-dev:amd64.list").write_text("".join(f"/usr/include/h{n}.h\n" for n in range(80)))
    (lists / "secret-dev.list").write_text("".join(f"/usr/include/secret{n}.h\n" for n in range(80)))
    put("usr/share/doc/libfree-dev/copyright", "Files: *\nLicense: Expat\n Permission is hereby granted\n")
    put("usr/share/doc/secret-dev/copyright", "All rights reserved. Ask us first.\n")
    return root


@pytest.fixture(scope="module")
def grouped(root: Path) -> dict[str, list[Document]]:
    return by_domain(documents(root, root / "lib"), 1_000_000)


@pytest.fixture(scope="module")
def data(grouped: dict[str, list[Document]], tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("data")
    write_data(grouped, folder)
    return Data(folder)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The tiny model, made tinier; the recipe as it is."""
    small = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    }
    config = recipes.MODELS["tiny"] | small | {"moe_intermediate_size": 64}
    monkeypatch.setitem(recipes.MODELS, "tiny", config)
    return Recipe(tokens_per_step=64, lengths=(32,), warmup=3)


def test_only_free_text_is_taken(root: Path, grouped: dict[str, list[Document]]) -> None:
    assert set(grouped) == {"python", "c"}
    assert {d.package for d in grouped["c"]} == {"libfree-dev"}
    assert {d.licence for d in grouped["c"]} == {"MIT"}
    assert {d.licence for d in grouped["python"]} == {"PSF-2.0"}
    assert not any("secret" in d.text or "of_no_package" in d.text for d in grouped["c"])
    assert Packages(root).licence("secret-dev") == ""


def test_a_line_is_there_once(tmp_path: Path) -> None:
    library = tmp_path / "lib"
    library.mkdir()
    block = "".join(f"line {i} of a licence that all files repeat\n" for i in range(8))
    for name in "ab":
        (library / f"{name}.py").write_text(block + "".join(f"own_{name}_{i} = {i}\n" for i in range(40)))
    texts = [d.text for d in documents(tmp_path / "empty", library)]
    assert sum("line 3 of a licence" in text for text in texts) == 1
    assert sum("own_b_7" in text for text in texts) == 1


def test_no_package_gives_more_than_its_share() -> None:
    many = [Document("docs", f"big/{n}", "big", "MIT", "x" * 100) for n in range(100)]
    few = [Document("docs", f"small/{n}", f"p{n}", "MIT", "y" * 100) for n in range(100)]
    chosen = by_domain(iter([*many, *few]), 4000)["docs"]
    big = sum(len(d.text) for d in chosen if d.package == "big")
    assert big <= 0.25 * 4000 + 100
    assert sum(len(d.text) for d in chosen) <= 4000 + 100


def test_whole_files_are_held_out(grouped: dict[str, list[Document]], data: Data, tmp_path: Path) -> None:
    end = data.tokenizer.decode([END_ID], skip_special_tokens=False)
    for domain, members in grouped.items():
        texts = {}
        for split in ("train", "held-out"):
            ids = data.streams[domain, split].tolist()
            texts[split] = set(data.tokenizer.decode(ids, skip_special_tokens=False).split(end)) - {""}
        assert texts["train"] == {d.text for d in members if not d.held_out}
        assert texts["held-out"] == {d.text for d in members if d.held_out}
        assert texts["held-out"]
    path = tmp_path / "held.jsonl.gz"
    write_held_out(grouped, path)
    first = path.read_bytes()
    write_held_out(grouped, path)
    assert path.read_bytes() == first
    lines = [json.loads(line) for line in gzip.decompress(first).decode().splitlines()]
    held = {d.source: d for members in grouped.values() for d in members if d.held_out}
    assert {line["source"] for line in lines} == set(held)
    for line in lines:
        assert held[line["source"]].text.startswith(line["text"])
        assert 0 < len(line["text"]) <= PIECE
        assert line["licence"]


def test_batches(data: Data) -> None:
    mix = {"python": 0.5, "c": 0.3, "tasks": 0.2, "perl": 0.5}  # a domain that is not there has no rows
    ids, labels = data.batch(5, 64, 32, mix, seed=1)
    assert ids.shape == labels.shape == (64, 33)
    assert (ids < VOCABULARY).all()
    again, _ = data.batch(5, 64, 32, mix, seed=1)
    assert (ids == again).all()
    assert not (ids == data.batch(6, 64, 32, mix, seed=1)[0]).all()
    task_rows = labels[:, 0] == IGNORE
    assert 0 < task_rows.sum() < 32
    assert (labels[~task_rows] == ids[~task_rows]).all()
    for row, wanted in zip(ids[task_rows], labels[task_rows], strict=True):
        assert row[0] == END_ID
        judged = wanted != IGNORE
        assert (row[judged] == wanted[judged]).all()
        text = data.tokenizer.decode(row.tolist())
        answers = data.tokenizer.decode(row[judged].tolist())
        complete = [line for line in text.split("\n")[:-1] if " = " in line]
        assert [line.split(" = ")[1] for line in complete] == [a.strip() for a in answers.split("\n")][
            : len(complete)
        ]


def steps(run: Run, count: int) -> list[dict[str, float]]:
    return [run.one_step(1.0) for _ in range(count)]


@pytest.mark.parametrize("optimiser", ["muon", "adamw"])
def test_resuming_changes_nothing(data: Data, short: Recipe, tmp_path: Path, optimiser: str) -> None:
    from dataclasses import replace

    recipe = replace(short, optimiser=optimiser)
    whole = Run(recipe, data)
    expected = steps(whole, 6)
    first = Run(recipe, data)
    steps(first, 3)
    first.save(tmp_path)
    second = Run(recipe, data)
    assert second.resume(tmp_path)
    assert second.tokens == 3 * recipe.tokens_per_step
    assert steps(second, 3) == expected[3:]
    right = whole.model.state_dict()
    assert all(torch.equal(tensor, right[name]) for name, tensor in second.model.state_dict().items())


@pytest.mark.parametrize("change", [{"model": "dense"}, {"balance": 0.3}, {"seed": 7}, {"lengths": (8, 16)}])
def test_a_state_of_another_recipe_is_refused(
    data: Data, short: Recipe, tmp_path: Path, change: dict[str, Any]
) -> None:
    from dataclasses import replace

    run = Run(short, data)
    assert not run.resume(tmp_path)
    run.save(tmp_path)
    other = Run(replace(short, **change), data)
    with pytest.raises(UsageError, match=f"another recipe.*{next(iter(change))}"):
        other.resume(tmp_path)
    assert other.step == 0


def test_it_learns_and_finishes(data: Data, short: Recipe, tmp_path: Path) -> None:
    said: list[str] = []
    run = Run(short, data, say=said.append)
    before = [m["loss"] for m in steps(run, 5)]
    steps(run, 60)
    run.seconds = run.step * 1.0
    run.finish(20 / 60)
    assert run.step == 85
    assert run.curve[-1]["scale"] == 0
    after = run.curve[-1]["loss"]
    assert after < 0.8 * float(np.mean(before))
    assert said
    facts = run.facts()
    assert facts["tokens"] == 85 * short.tokens_per_step
    json.dumps(facts)


def test_so_many_tokens_whatever_the_time(data: Data, short: Recipe, tmp_path: Path) -> None:
    # what lets two models see the same data: the steady part, a break, the rest, the fall
    whole = Run(short, data)
    wanted = 7 * short.tokens_per_step
    whole.train_to(5 * short.tokens_per_step - 1, tmp_path / "whole")
    assert whole.step == 5
    whole.finish_at(wanted)
    assert whole.tokens == wanted
    first = Run(short, data)
    first.train_to(2 * short.tokens_per_step, tmp_path / "parts")
    second = Run(short, data)
    assert second.resume(tmp_path / "parts")
    second.train_to(5 * short.tokens_per_step, tmp_path / "parts")
    second.finish_at(wanted)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name


def test_an_exported_model_goes_on(
    data: Data, grouped: dict[str, list[Document]], short: Recipe, tmp_path: Path
) -> None:
    from dataclasses import replace

    run = Run(short, data)
    run.train_to(8 * short.tokens_per_step)
    export(run.model, data.tokenizer, tmp_path / "out", run.facts())
    on = Run(short, data)
    on.start_from(tmp_path / "out")
    assert (on.step, on.began) == (8, 8)
    for name, tensor in on.model.state_dict().items():
        assert torch.equal(tensor, run.model.state_dict()[name].bfloat16().float()), name
    on.save(tmp_path / "state")
    steps(on, 1)
    assert on.optimisers[0].param_groups[0]["lr"] == pytest.approx(short.matrix_lr / short.warmup)
    resumed = Run(short, data)
    resumed.resume(tmp_path / "state")
    steps(resumed, 1)
    assert torch.equal(next(on.model.parameters()), next(resumed.model.parameters()))
    with pytest.raises(UsageError, match="another model"):
        Run(replace(short, changes={"num_experts": 8}), data).start_from(tmp_path / "out")
    write_data({"c": grouped["c"]}, tmp_path / "data", data.tokenizer)
    Run(short, Data(tmp_path / "data")).start_from(tmp_path / "out")
    write_data({"c": grouped["c"]}, tmp_path / "data")
    with pytest.raises(UsageError, match="another tokenizer"):
        Run(short, Data(tmp_path / "data")).start_from(tmp_path / "out")


def test_what_is_exported_is_what_was_trained(data: Data, short: Recipe, tmp_path: Path) -> None:
    run = Run(short, data)
    steps(run, 2)
    out = tmp_path / "out"
    export(run.model, data.tokenizer, out, run.facts())
    text = "def f(x):\n    return 12 + x\n"
    tokenizer: Any = AutoTokenizer.from_pretrained(out)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids == data.tokenizer.encode(text).ids
    loaded = AutoModelForCausalLM.from_pretrained(out, experts_implementation="eager").eval()
    assert loaded.dtype == torch.bfloat16
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.to(loaded.state_dict()[name].dtype)), name
    assert max(path.stat().st_size for path in out.iterdir()) <= 15 << 20
    assert json.loads((out / "training.json").read_text())["recipe"]["seed"] == 0
    with locum.load(out, expert_memory="50%", context=64) as engine:
        assert len(engine.generate("def ", max_tokens=5, temperature=0, ignore_eos=True).tokens) == 5
