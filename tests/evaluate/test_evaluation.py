"""`locum eval` as people run it, and what its figures mean."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from helpers_cli import locum
from locum.cli.evaluate import EvalOptions
from locum.cli.output import Output, OutputOptions
from locum.errors import UsageError
from locum.evaluate import session
from locum.evaluate.evaluation import Evaluation
from locum.evaluate.likelihood import Score
from locum.evaluate.questions import SHOTS, answer, examine, prompt
from locum.evaluate.tasks import KINDS, examination
from locum.synth.shapes import shape
from locum.synth.writer import write_checkpoint

SCORES = [Score("a", 10, 40, 20.0, 1.0, 9), Score("b", 30, 60, 30.0, 2.0, 21), Score("a", 10, 20, 10.0)]


def test_figures_worked_out_by_hand() -> None:
    document = Evaluation("m", SCORES, {"add": (3, 4)}, "r").to_json()
    assert document["nll"] == pytest.approx(60 / 50)
    assert document["bits_per_byte"]["value"] == pytest.approx(60 / math.log(2) / 120, abs=1e-5)
    assert document["kl"]["value"] == pytest.approx(3 / 50)
    assert document["top1"]["value"] == pytest.approx(30 / 50)
    assert document["domains"]["a"]["bits_per_byte"]["value"] == pytest.approx(
        30 / math.log(2) / 60, abs=1e-5
    )
    assert document["domains"]["a"]["texts"] == 2
    assert document["tasks"]["add"]["value"] == 0.75
    for figure in (document["kl"], document["bits_per_byte"], document["tasks"]["add"]):
        low, high = figure["ci"]
        assert low <= figure["value"] <= high
    alone = Evaluation("m", SCORES, {}).to_json()
    assert (alone["kl"], alone["top1"], alone["tasks"]) == (None, None, {})
    assert "kl" not in alone["domains"]["a"]


def test_a_question_comes_after_solved_ones() -> None:
    for task in examination(2):
        lines = prompt(task).split("\n")
        assert lines[-1] == task.prompt
        assert len(lines) == SHOTS + 1
        assert all(line.startswith(task.question.split(" ", maxsplit=1)[0]) for line in lines)
        assert task.question not in "".join(lines[:-1])


class Oracle:
    """An engine that answers right, but for one kind."""

    def __init__(self, wrong: str) -> None:
        self.wrong = wrong
        self.tokenizer = SimpleNamespace(
            hf=SimpleNamespace(bos_token_id=0), encode=lambda text, **_: [ord(c) for c in text]
        )

    def generate(self, ids: list[int], *, max_tokens: int, **choices: Any) -> SimpleNamespace:
        assert ids[0] == 0
        assert choices == {"temperature": 0, "stop": ("\n",)}
        line = "".join(map(chr, ids[1:])).split("\n")[-1]
        kind = line.split(" ", maxsplit=1)[0]
        task = next(t for t in examination(3) if t.prompt == line)
        assert max_tokens > len(task.answer)
        return SimpleNamespace(text=" nonsense" if kind == self.wrong else f" {task.answer}")


def test_right_answers_are_counted() -> None:
    heard: list[None] = []
    engine = cast("Any", Oracle("sort"))
    found = examine(engine, 3, lambda: heard.append(None))
    assert found == {kind: (0 if kind == "sort" else 3, 3) for kind in KINDS}
    assert len(heard) == 3 * len(KINDS)
    task = next(t for t in examination(3) if t.kind == "copy")
    assert answer(engine, task) == task.answer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("eval") / "tiny"
    write_checkpoint(shape("tiny-qwen3"), path, seed=4)
    return path


def test_the_command(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "held.jsonl"
    lines = [{"text": "some words to judge, and some more " * 3, "domain": d} for d in ("one", "two", "one")]
    data.write_text("\n".join(map(json.dumps, lines)))
    result = locum(
        "eval", str(model), "--against", str(model), "--data", str(data),
        "--questions", "1", "--window", "16", "--json", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["kl"] == {"value": 0.0, "ci": [0.0, 0.0]}
    assert document["top1"]["value"] == 1.0
    assert {name: d["texts"] for name, d in document["domains"].items()} == {"one": 2, "two": 1}
    assert {t["asked"] for t in document["tasks"].values()} == {1}
    people = locum("eval", str(model), "--data", str(data), "--domain", "two", cwd=tmp_path)
    assert people.returncode == 0
    assert "bits per byte" in people.stdout
    assert "text, two" in people.stdout
    assert "text, one" not in people.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--domain", "nowhere"], "no text of this domain"),
        (["--data", "nothing.jsonl"], "cannot be read"),
        (["--against", "/nowhere"], "/nowhere"),
        (["--window", "2"], "--window"),
        (["--memory", "1MiB"], "MiB"),
    ],
)
def test_wrong_input(model: Path, tmp_path: Path, arguments: list[str], says: str) -> None:
    result = locum("eval", str(model), *arguments, cwd=tmp_path)
    assert result.returncode in (1, 2)
    assert says in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_windows_are_no_longer_than_the_context(tmp_path: Path) -> None:
    write_checkpoint(shape("tiny-qwen3", max_position_embeddings=24), tmp_path / "m", seed=4)
    (tmp_path / "text.txt").write_text("some words to judge, and some more " * 3)
    found = {}
    for window in ("16", "23", "24", "4000"):
        result = locum("eval", "m", "--data", "text.txt", "--window", window, "--json", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert ("windows of 23 tokens" in result.stderr) == (int(window) > 23)
        found[window] = json.loads(result.stdout)["nll"]
    assert found["23"] == found["24"] == found["4000"] != found["16"]


def test_text_without_a_token_to_judge(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # as with a tokenizer that has no token to begin a text
    monkeypatch.setattr(session, "score", lambda engine, text, **_: Score("text", 0, 0, 0.0))
    (tmp_path / "text.txt").write_text("a")
    options = EvalOptions(model=str(model), data=tmp_path / "text.txt", memory=1 << 31)
    with pytest.raises(UsageError, match="too short"), Output(OutputOptions(quiet=True)) as output:
        session.run(cast("Any", options), output)
