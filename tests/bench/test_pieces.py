"""The verdicts of the pieces, on runs made up for the purpose."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers_bench import outcome, protocol
from locum.bench import locum_run, pieces
from locum.bench.cgroup import Outcome
from locum.bench.locum_run import Ask, LocumRun, size_flag
from locum.bench.peers.accelerate import PeerAsk, PeerRun, read_run
from locum.bench.record import Result, save
from locum.bench.roofline import Rates
from locum.bench.workshop import Model, Workshop
from locum.synth.shapes import SHAPES, shape
from locum.units import GIB, parse_bytes

RATES = Rates(disk=1e9, memory=1e10)
MODEL = "tiny-olmoe"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """A workshop in which the big shape is a tiny one and nothing is really measured."""
    monkeypatch.setattr(pieces, "SHAPE", MODEL)
    monkeypatch.setattr(pieces.Rates, "measure", lambda *_, **__: RATES)
    monkeypatch.setattr(pieces, "drop_caches", lambda: True)
    with Workshop(tmp_path / "models") as made:
        yield made


def document(tok_s: float, hit_rate: float) -> str:
    said = {
        "decode_tok_s": tok_s,
        "hit_rate": hit_rate + 0.2,  # of which 0.2 were read ahead: they cost the disk as much
        "decode": {"kept_rate": hit_rate},
        "ttft_s": 1.0,
        "bytes_read": 5,
        "token_ids": [1, 2, 2],
        "arena_bytes": 1000,
    }
    return json.dumps(said)


def ours(share: Callable[[int], float | None]) -> Callable[..., LocumRun]:
    """locum at `share(limit)` of its bound; None: it does not run there."""

    def run(model: Path, traffic: Any, ask: Ask) -> LocumRun:
        bound = traffic.bound(RATES, 0.25)
        part = share(ask.limit)
        if part is None:
            return LocumRun(ask, outcome(exit_code=1, stderr="needs more memory"), None, RATES, None, True)
        said = json.loads(document(part * bound.tok_s, 0.25))
        return LocumRun(ask, outcome(), said, RATES, bound, True)

    return run


def judged(result: Result, folder: Path) -> dict[str, bool]:
    """The verdicts; on the way, that such rows can be saved and name no path of this machine."""
    save(folder, "piece", result, "x")
    assert str(folder) not in (folder / "piece.json").read_text()
    return {target.what: target.met for target in result.targets}


@pytest.mark.parametrize(("share", "met"), [(0.69, False), (0.7001, True), (None, False)])
def test_the_spine_wants_seven_tenths_of_the_bound(
    shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float | None, met: bool
) -> None:
    monkeypatch.setattr(locum_run, "run", ours(lambda limit: share))
    result = pieces.spine(4 * GIB)(shop)
    verdicts = judged(result, tmp_path)
    assert verdicts["never killed"]
    assert verdicts["decode as a share of the bound measured in the same run"] is met
    (row,) = result.rows
    assert row["memory_limit"] == 4 * GIB
    if share is None:
        assert row["cannot"] == "cannot run, because exit status 1: needs more memory"
        assert "decode_tok_s" not in row
    else:
        assert row["of_bound"]["median"] == pytest.approx(share)
        assert row["routing"]["distinct_tokens"] == 2
        assert "--memory 4GiB" in row["command"]
        assert row["repeats"] == 3


def test_one_kill_spoils_the_spine(shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def run(model: Path, traffic: Any, ask: Ask) -> LocumRun:
        nonlocal count
        count += 1
        good = ours(lambda limit: 0.9)(model, traffic, ask)
        return good if count != 2 else LocumRun(ask, outcome(oom_kills=1), None, RATES, None, True)

    monkeypatch.setattr(locum_run, "run", run)
    result = pieces.spine(4 * GIB)(shop)
    assert set(judged(result, tmp_path).values()) == {False}
    assert result.rows[0]["cannot"] == "cannot run, because OOM-killed"


def peer(minimum: int, step: float) -> Callable[..., PeerRun]:
    def run(model: Path, ask: PeerAsk, *, scratch: Path) -> PeerRun:
        done = outcome(protocol(9.0, step, step)) if ask.limit >= minimum else outcome(oom_kills=1)
        return read_run(ask, done, offload_bytes=3, dropped=True)

    return run


def test_beside_accelerate_at_the_smallest_limit_where_both_run(
    shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer runs from 2 GiB on, locum from 4: they are compared at 4, and what failed is on record."""
    bound = shop.model(MODEL).traffic.bound(RATES, 0.25).tok_s
    for factor, met in ((4.9, False), (5.1, True)):
        monkeypatch.setattr(pieces.accelerate, "run", peer(2 * GIB, factor / (0.8 * bound)))
        monkeypatch.setattr(locum_run, "run", ours(lambda limit: 0.8 if limit >= 4 * GIB else None))
        result = pieces.against_accelerate(shop)
        assert judged(result, tmp_path) == {"faster than accelerate in 4.00 GiB": met}
        first, second, *tried = result.rows
        assert (first["engine"], second["engine"]) == ("locum", "accelerate")
        assert first["memory_limit"] == second["memory_limit"] == 4 * GIB
        assert first["decode_tok_s"]["median"] / second["decode_tok_s"]["median"] == pytest.approx(factor)
        lost = {(row["engine"], row["memory_limit"] / GIB) for row in tried if "cannot" in row}
        assert lost == {("accelerate", 1.5), ("locum", 2.0), ("locum", 3.0)}
        assert "MODEL OFFLOAD_FOLDER" in second["command"]


def test_without_a_common_limit_there_is_no_ratio(
    shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locum_run, "run", ours(lambda limit: 0.8))
    monkeypatch.setattr(pieces.accelerate, "run", peer(99 * GIB, 1.0))
    result = pieces.against_accelerate(shop)
    assert list(judged(result, tmp_path).values()) == [False]
    assert all(row["cannot"].startswith("cannot run, because ") for row in result.rows)


def loader(seconds: Callable[[int, int], float], read: float = 1.0) -> Callable[..., Outcome]:
    """A loader that takes `seconds(experts, vocabulary)` and reads `read` times the backbone."""

    def run(words: list[str], *, limit: int, timeout: float) -> Outcome:
        config = json.loads((Path(words[3]) / "config.json").read_text())
        facts = Model("m", Path(words[3]), config).facts()
        said = {
            "load_s": seconds(config["num_experts"], config["vocab_size"]),
            "bytes_read": int(read * facts["backbone_bytes"]),
            "peak_rss": 1,
        }
        return outcome(json.dumps(said))

    return run


@pytest.mark.parametrize(
    ("seconds", "read", "verdicts"),
    [
        (lambda experts, vocabulary: 1 + vocabulary / 1000, 1.0, [True, True, True]),
        (lambda experts, vocabulary: experts + vocabulary / 1000, 1.0, [False, True, True]),
        (lambda experts, vocabulary: 9 - vocabulary / 1000, 1.0, [True, False, True]),
        (lambda experts, vocabulary: 1 + vocabulary / 1000, 2.1, [True, True, False]),
    ],
)
def test_load_time_follows_the_backbone_and_nothing_else(
    shop: Workshop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: Callable[[int, int], float],
    read: float,
    verdicts: list[bool],
) -> None:
    variants = (
        {},
        {"num_experts": 4},
        {"num_experts": 4, "vocab_size": 300},
        {"num_experts": 4, "vocab_size": 2000},
    )
    monkeypatch.setattr(pieces, "_VARIANTS", tuple((f"v{n}", v) for n, v in enumerate(variants)))
    monkeypatch.setattr(pieces, "run_limited", loader(seconds, read))
    result = pieces.load_time(shop)
    assert list(judged(result, tmp_path).values()) == verdicts
    assert [row["model"]["shape"] for row in result.rows][1] == "tiny-olmoe-num_experts-4"


def test_a_shape_that_does_not_load_is_no_success(
    shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "run_limited", lambda *_, **__: outcome("Killed"))
    monkeypatch.setattr(pieces, "_VARIANTS", (("all", {}), ("fewer", {"num_experts": 4})))
    result = pieces.load_time(shop)
    assert not result.met
    assert result.rows[0]["cannot"] == "cannot run, because it printed no result"


def test_the_variants_differ_in_what_they_say() -> None:
    (_, whole), (_, fewer), *others = pieces._VARIANTS
    assert whole == {}
    assert SHAPES["olmoe-1b-7b"]["num_experts"] == 4 * fewer["num_experts"]
    for _, overrides in others:
        assert overrides["num_experts"] == fewer["num_experts"]
        shape("olmoe-1b-7b", **overrides)


@pytest.mark.parametrize("size", [GIB, 4 * GIB, GIB * 3 // 2, int(6.9 * GIB), 12345])
def test_sizes_are_passed_on_exactly(size: int) -> None:
    assert parse_bytes(size_flag(size)) == size


def test_a_run_of_locum_is_measured_on_both_sides(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound uses the rates around the run and the hit rate that the run reports."""
    model, order = shop.model(MODEL), []
    rates = iter([Rates(1e9, 1e12), Rates(3e9, 1e12)])
    monkeypatch.setattr(locum_run.Rates, "measure", lambda *_: order.append("rate") or next(rates))
    monkeypatch.setattr(locum_run, "drop_caches", lambda: order.append("drop") or True)
    monkeypatch.setattr(
        locum_run, "run_limited", lambda *_, **__: order.append("run") or outcome(document(2.0, 0.5))
    )
    run = locum_run.run(model.path, model.traffic, Ask(memory=GIB, limit=GIB))
    assert order == ["rate", "drop", "run", "rate"]
    assert run.cannot is None
    assert run.rates.disk == pytest.approx(1.5e9)
    assert run.bound is not None
    assert run.bound.tok_s == pytest.approx(1.5e9 / (0.5 * model.traffic.experts))
    assert run.ratio == pytest.approx(2.0 / run.bound.tok_s)


@pytest.mark.parametrize(
    "stdout",
    [
        "",
        "[]",
        "{",
        '{"decode_tok_s": null, "decode": {"kept_rate": 0.5}}',
        '{"decode_tok_s": 1.0, "decode": {"kept_rate": null}}',
        '{"decode_tok_s": 1.0, "decode": 3}',
    ],
)
def test_a_run_without_a_result_is_none(shop: Workshop, monkeypatch: pytest.MonkeyPatch, stdout: str) -> None:
    model = shop.model(MODEL)
    monkeypatch.setattr(locum_run.Rates, "measure", lambda *_: RATES)
    monkeypatch.setattr(locum_run, "drop_caches", lambda: True)
    monkeypatch.setattr(locum_run, "run_limited", lambda *_, **__: outcome(stdout))
    run = locum_run.run(model.path, model.traffic, Ask(memory=GIB, limit=GIB))
    assert run.cannot == "it printed no result"
