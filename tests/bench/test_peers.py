"""The peer's protocol, and the climb to the smallest limit where it runs."""

import json
from pathlib import Path

import pytest

from helpers_bench import outcome, protocol
from locum.bench.cgroup import Outcome
from locum.bench.peers import accelerate
from locum.bench.peers.accelerate import PeerAsk, PeerRun, read_run
from locum.units import GIB

ASK = PeerAsk(limit=4 * GIB, max_memory=GIB, tokens=3, prompt="Hi there")


def test_a_whole_run() -> None:
    run = read_run(ASK, outcome(protocol(9.0, 4.0, 6.0)), offload_bytes=5, dropped=True)
    assert (run.cannot, run.load_seconds, run.first_step, run.steps) == (None, 60.5, 9.0, (4.0, 6.0))
    assert run.tok_s == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("outcome_", "why"),
    [
        (outcome(protocol(9.0, 4.0) + '{"event": "st', oom_kills=1, exit_code=-9), "OOM-killed"),
        (outcome("", exit_code=1, stderr="Traceback\nRuntimeError: meta tensor\n"), "meta tensor"),
        (outcome(protocol(9.0)), "decoded nothing"),
        (outcome("warming up\n[1, 2]\n"), "decoded nothing"),
        (outcome(protocol(9.0, 4.0), timed_out=True), "not finished"),
    ],
)
def test_runs_that_are_none(outcome_: Outcome, why: str) -> None:
    assert why in (read_run(ASK, outcome_, offload_bytes=0, dropped=True).cannot or "")


def attempts_with(minimum: int, wants: int) -> tuple[list[tuple[int, int]], accelerate.Attempt]:
    """A peer that runs from `minimum` on if it keeps at most `wants`, faster with more in memory."""
    asked: list[tuple[int, int]] = []

    def attempt(limit: int, max_memory: int) -> PeerRun:
        asked.append((limit, max_memory))
        runs = limit >= minimum and max_memory <= wants
        done = outcome(protocol(9.0, 1e10 / max_memory)) if runs else outcome("", oom_kills=1)
        return read_run(PeerAsk(limit, max_memory, 2, ""), done, offload_bytes=0, dropped=True)

    return asked, attempt


def test_the_climb_stops_at_the_first_limit_that_works_at_any_share() -> None:
    asked, attempt = attempts_with(3 * GIB, GIB)
    tried = accelerate.smallest(attempt, [8 * GIB, 2 * GIB, 3 * GIB, 4 * GIB])
    assert [limit // GIB for limit, _ in asked] == [2, 2, 3, 3]
    fastest = accelerate.best(tried)
    assert fastest is not None
    assert fastest.asked.limit == 3 * GIB
    assert fastest.asked.max_memory <= GIB


def test_the_fastest_share_is_the_peers_figure() -> None:
    _, attempt = attempts_with(2 * GIB, 8 * GIB)
    fastest = accelerate.best(accelerate.smallest(attempt, [4 * GIB]))
    assert fastest is not None
    assert fastest.asked.max_memory == int(4 * GIB * max(accelerate.SHARES))


def test_a_peer_that_never_runs() -> None:
    asked, attempt = attempts_with(99 * GIB, GIB)
    assert accelerate.best(accelerate.smallest(attempt, [GIB, 2 * GIB])) is None
    assert len(asked) == 2 * len(accelerate.SHARES)


def test_the_offload_folder_goes_and_is_weighed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def fake(words: list[str], *, limit: int, timeout: float) -> Outcome:
        offload = Path(words[4])
        (offload / "a.dat").write_bytes(b"x" * 1000)
        (offload / "inner").mkdir()
        (offload / "inner/b.dat").write_bytes(b"x" * 234)
        seen.append(words)
        return outcome(protocol(1.0, 1.0))

    monkeypatch.setattr(accelerate, "run_limited", fake)
    monkeypatch.setattr(accelerate, "drop_caches", lambda: False)
    run = accelerate.run(tmp_path / "model", ASK, scratch=tmp_path)
    assert run.offload_bytes == 1234
    assert not run.caches_dropped
    assert list(tmp_path.iterdir()) == []
    assert seen[0][3] == str(tmp_path / "model")
    assert seen[0][5:] == [str(GIB), "3", "Hi there"]


@pytest.mark.check
def test_the_child_really_runs(tmp_path: Path) -> None:
    """A tiny model, no memory limit: the lines of the protocol, and transformers' own greedy tokens."""
    import subprocess

    pytest.importorskip("accelerate")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from locum.synth.shapes import shape
    from locum.synth.writer import write_checkpoint

    model = write_checkpoint(shape("tiny-olmoe"), tmp_path / "m", dtype="fp32").path
    (tmp_path / "offload").mkdir()
    ask = PeerAsk(limit=GIB, max_memory=GIB, tokens=5, prompt="The function")
    words = accelerate.command(ask, model, tmp_path / "offload")
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e["event"] for e in events] == ["versions", "loaded", "prompt", *["step"] * 5, "done"]
    reference = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    ids = AutoTokenizer.from_pretrained(model)("The function", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        want = reference.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=1)
    assert [e["token"] for e in events if e["event"] == "step"] == want[0, ids.shape[1] :].tolist()
