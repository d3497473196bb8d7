"""`locum trace`, `report` and `simulate` as people type them: real processes on the model that ships."""

import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pytest

from helpers_cli import locum
from helpers_machine import QUICK, made_curve
from locum.cli.trace import Kind
from locum.machine.fingerprint import fingerprint
from locum.machine.profile import profile_path
from locum.trace import Trace
from locum.trace.importers import IMPORTERS


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli-trace")
    lines = [
        {"text": "def read(path):\n    return", "domain": "python"},
        {"text": "The sea is", "domain": "prose"},
    ]
    (folder / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines * 2))
    result = locum(
        "trace",
        "--prompts",
        "p.jsonl",
        "-o",
        "t",
        "--max-tokens",
        "80",
        "--expert-memory",
        "25%",
        "--json",
        cwd=folder,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["layers"], found["experts"], found["top_k"], found["requests"]) == (8, 32, 4, 4)
    assert found["tokens"] == Trace(folder / "t").rows > 4 * 79
    return folder


def run(*words: str, cwd: Path, status: int = 0) -> Any:
    result = locum(*words, cwd=cwd)
    assert result.returncode == status, result.stderr
    return result


def test_the_trace_holds_what_was_asked_for(recorded: Path, tmp_path: Path) -> None:
    trace = Trace(recorded / "t")
    (rows,) = trace.batches(trace.meta.columns)
    assert set(rows.domain.tolist()) == {"python", "prose"}
    assert trace.meta.distances == 3
    words = ["trace", "--prompts", str(recorded / "p.jsonl"), "-o", "u", "--limit", "2", "--max-tokens", "2"]
    run(*words, "--private", "--no-scores", "--predict", "0", "--prompt-tokens", "3", cwd=tmp_path)
    small = Trace(tmp_path / "u")
    assert set(small.meta.columns) == {"weights", "domain"}
    assert small.rows == 2 * (3 + 1)


def elsewhere(page: str) -> list[str]:
    """What a page would fetch. Text inside scripts is text."""
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            found.extend(f"{tag} {name}" for name, _ in attributes if name in ("src", "href"))

    Reader().feed(page)
    return found


def test_a_run_is_recorded(tmp_path: Path) -> None:
    result = run("run", "locum-tiny", "The sea", "--max-tokens", "5", "--trace", "t", cwd=tmp_path)
    assert result.stdout.strip()
    assert Trace(tmp_path / "t").rows >= 6
    result = run("run", "locum-tiny", "The sea", "--trace", "t", cwd=tmp_path, status=2)
    assert "exists" in result.stderr


def test_a_report_is_one_page(recorded: Path) -> None:
    result = run("report", "t", "-o", "r.html", cwd=recorded)
    assert "A cache of 8 of 32 experts per layer" in " ".join(result.stdout.split())
    page = (recorded / "r.html").read_text(encoding="utf-8")
    assert not elsewhere(page)
    assert len(page) < 2 << 20
    assert all(
        f'id="chart-{key}"' in page for key in ("caching", "load", "coverage", "recall", "consistency")
    )


def test_the_tables_of_a_report(recorded: Path) -> None:
    found = json.loads(run("report", "t", "--json", cwd=recorded).stdout)
    assert found["rows"] == Trace(recorded / "t").rows
    assert found["path"] is None
    curves = found["tables"]["caching"]
    assert all(
        lru <= best for lru, best in zip(curves["lru"]["rate"][3:], curves["belady"]["rate"][3:], strict=True)
    )
    found = json.loads(run("report", "t", "--metric", "load", "--json", cwd=recorded).stdout)
    assert set(found["tables"]) == {"load"}
    assert "no such metric" in run("report", "t", "--metric", "beauty", cwd=recorded, status=2).stderr


def test_simulate_beside_belady(recorded: Path) -> None:
    words = ["simulate", "t", "--disk", "1GiB", "--prefetch", "none,next-gate", "--expert-memory", "20%,60%"]
    found = json.loads(run(*words, "--json", cwd=recorded).stdout)
    assert len(found["rows"]) == 2 * 2 * 3
    for row in found["rows"]:
        assert row["hit_rate"] <= row["belady_hit_rate"] or row["prefetch"] == "next-gate"
        assert 0 < row["decode_tok_s"] <= row["ceiling_tok_s"] * 1.01
    alone = json.loads(run(*words, "--workers", "1", "--json", cwd=recorded).stdout)
    assert alone["rows"] == found["rows"]
    shown = run(*words, cwd=recorded).stdout
    assert "of Belady's" in shown
    assert "of the ceiling" in shown


def test_simulate_what_was_recorded(recorded: Path, tmp_path: Path) -> None:
    words = ["simulate", "t", "--disk", "1GiB", "--as-recorded"]
    document = json.loads(run(*words, "--json", cwd=recorded).stdout)
    (row,) = document["rows"]
    trace = Trace(recorded / "t")
    steps = trace.steps()
    decoding = steps["phase"] == 1
    for name in ("hits", "staged", "misses", "evicted"):
        assert row[name] == steps[name][decoding].sum(), name
    assert row["recorded_tok_s"] == pytest.approx(decoding.sum() / steps["wall_s"][decoding].sum())
    assert "recorded" in run(*words, cwd=recorded).stdout
    run("trace", "synth", "-o", "s", "--tokens", "200", cwd=tmp_path)
    words[1] = "s"
    refused = run(*words, "--expert-size", "1MiB", cwd=tmp_path, status=2)
    assert "does not say how it was recorded" in refused.stderr


def test_simulate_takes_the_disk_at_the_size_of_the_experts(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the engine reads: with 4 threads, whole experts. Where the curve is known nothing is measured."""
    monkeypatch.setenv("LOCUM_CACHE", str(tmp_path))
    trace = recorded / "t"
    known = dataclasses.replace(QUICK, curve=made_curve(), fingerprint=fingerprint(trace))
    known.save(profile_path(trace))
    words = ["simulate", "t", "--expert-memory", "20%", "--workers", "1", "--json"]
    result = locum(*words, cwd=recorded, env={"LOCUM_CACHE": str(tmp_path)})
    assert "measuring" not in result.stderr
    rate = json.loads(result.stdout)["disk_bytes_s"]
    (size,) = set(Trace(trace).meta.expert_bytes)
    assert rate == known.disk_rate(size, 4)
    assert rate != known.disk_rate(2 * size, 4)


def test_import_and_its_report(tmp_path: Path) -> None:
    lines = [
        "request,position,layer,expert",
        *(f"0,{n},{layer},{(n + layer) % 5}" for n in range(80) for layer in (1, 2)),
    ]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    result = run("trace", "import", "x.csv", "-o", "t", "--name", "mine", "--experts", "8", cwd=tmp_path)
    assert "knows no steps" in result.stderr
    found = json.loads(run("report", "t", "-o", "r.html", "--json", cwd=tmp_path).stdout)
    assert found["model"] == "mine"
    assert found["lacking"]["predictions"] == "next_ids"
    assert found["tables"]["load"]["counts"] == [[16] * 5 + [0] * 3] * 2
    assert "how large an expert is" in run("simulate", "t", cwd=tmp_path, status=1).stderr
    rows = json.loads(
        run("simulate", "t", "--expert-size", "1MiB", "--disk", "1GiB", "--json", cwd=tmp_path).stdout
    )
    assert rows["rows"]


def test_synth(tmp_path: Path) -> None:
    found = json.loads(run("trace", "synth", "-o", "t", "--tokens", "600", "--json", cwd=tmp_path).stdout)
    assert found["tokens"] == 600
    assert found["claims"] == []
    assert (
        "no such profile" in run("trace", "synth", "-o", "u", "--profile", "x", cwd=tmp_path, status=2).stderr
    )


def test_synth_beside_what_was_published(tmp_path: Path) -> None:
    words = ["trace", "synth", "--profile", "mixtral", "--tokens"]
    found = json.loads(run(*words, "32768", "-o", "t", "--json", cwd=tmp_path).stdout)
    (srp,) = (claim for claim in found["claims"] if claim["measure"] == "srp")
    assert (srp["low"], srp["met"]) == (0.494, True)
    assert abs(srp["got"] - srp["low"]) <= srp["tolerance"]
    assert Trace(tmp_path / "t").meta.columns == ("weights", "domain")
    result = run(*words, "600", "-o", "u", cwd=tmp_path)
    assert "too short" in result.stdout
    assert "--tokens 32768 is enough" in result.stderr


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["trace", "--prompts", "nothing.txt", "-o", "t"], 2, "cannot be read"),
        (["trace", "import", "x.parquet", "-o", "t"], 2, "not known"),
        (["trace", "import", "x.csv", "-o", "t", "--moe-layers", "a-b"], 2, "not a list of layers"),
        (["report", "nothing"], 1, "no trace"),
        (["simulate", "nothing"], 1, "no trace"),
        (["trace", "-o", "."], 2, "exists"),
    ],
)
def test_asked_wrongly(tmp_path: Path, words: list[str], status: int, said: str) -> None:
    result = run(*words, cwd=tmp_path, status=status)
    assert said in " ".join(result.stderr.split())
    assert not (tmp_path / "t").exists()


def test_the_kinds_are_the_importers() -> None:
    assert set(get_args(Kind)) == set(IMPORTERS)
