"""Importers against files made here in the documented layouts, by code that shares nothing with them."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from locum.analyze import analyze
from locum.engine.torch_files import load_plain
from locum.errors import TraceError, UsageError
from locum.trace import Trace, TraceWriter
from locum.trace.importers import Hints, read


def imported(source: Path, kind: str | None = None, **hints: Any) -> tuple[Trace, tuple[str, ...]]:
    found = read(source, Hints(**hints), load_plain, kind)
    folder = source.with_name(source.name + ".trace")
    with TraceWriter(folder, found.meta) as out:
        for rows in found.rows:
            out.add(rows)
    return Trace(folder), found.notes


def rows(trace: Trace) -> Any:
    (only,) = trace.batches(trace.meta.columns)
    return only


# CSV


def csv_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "t.csv"
    path.write_text(text)
    return path


def test_csv(tmp_path: Path) -> None:
    lines = [
        "request,position,layer,expert,weight", "0,0,1,5,0.75", "0,0,1,2,0.25", "0,0,3,0,1",
        "0,1,1,2,0.5", "0,1,1,1,0.5", "0,1,3,4,0.25", "0,1,3,0,0.75", "1,0,1,0,1",
    ]  # fmt: skip
    trace, notes = imported(csv_file(tmp_path, "\n".join(lines)), experts=8, model="m")
    found = rows(trace)
    assert found.experts.tolist() == [[[5, 2], [0, -1]], [[2, 1], [4, 0]], [[0, -1], [-1, -1]]]
    assert found.weights[0].tolist() == [[0.75, 0.25], [1.0, pytest.approx(np.nan, nan_ok=True)]]
    assert found.request.tolist() == [0, 0, 1]
    assert found.position.tolist() == [0, 1, 0]
    assert trace.meta.moe_layers == (1, 3)
    assert trace.meta.experts == (8, 8)
    assert any("steps" in note for note in notes)


def test_csv_without_weights_has_none(tmp_path: Path) -> None:
    trace, _ = imported(csv_file(tmp_path, "request,position,layer,expert\n0,0,0,1\n0,0,0,0\n"))
    assert trace.meta.columns == ()
    assert trace.meta.experts == (2,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("request,position,layer\n0,0,0\n", "columns are missing.*expert"),
        ("request,position,layer,expert\n0,0,x,1\n", "not a number.*line 2"),
        ("request,position,layer,expert\n0,0,0\n", "not a number.*line 2"),
        ("request,position,layer,expert\n", "no tokens"),
        ("", "columns are missing"),
        ("request,position,layer,expert\n0,0,0,1\n0,1,0,1\n0,0,0,2\n", "do not stand together.*line 4"),
        ("request,position,layer,expert\n0,0,0,1\n0,0,0,1\n", "twice"),
        ("request,position,layer,expert\n0,0,0,9\n", "out of range"),
    ],
)
def test_csv_that_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(TraceError, match=said):
        imported(csv_file(tmp_path, text), experts=4)


# answers


ROUTED = np.array([[[0, 0], [3, 1], [2, 0]], [[0, 0], [2, 1], [3, 1]], [[0, 0], [0, 3], [1, 2]]])
"""[tokens, layers, k]; the first layer is dense, and filled with zeros."""


def npy(array: Any) -> str:
    out = io.BytesIO()
    np.save(out, array)
    return base64.b64encode(out.getvalue()).decode()


def answers(tmp_path: Path, *documents: Any) -> Path:
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(json.dumps(document) for document in documents) + "\n")
    return path


def test_vllm(tmp_path: Path) -> None:
    choice = {"index": 0, "token_ids": [7, 8], "routed_experts": npy(ROUTED.astype(np.uint8))}
    answer = {"request_id": "a", "prompt_token_ids": [5, 6], "choices": [choice]}
    trace, notes = imported(answers(tmp_path, answer, answer))
    found = rows(trace)
    assert trace.meta.moe_layers == (1, 2)  # the dense one is left out
    assert found.experts.tolist() == ROUTED[:, 1:].tolist() * 2
    assert found.token.tolist() == [5, 6, 7] * 2  # the last token has no routing
    assert found.phase.tolist() == [0, 0, 1] * 2
    assert found.step.tolist() == [0, 0, 1, 3, 3, 4]
    assert found.request.tolist() == [0] * 3 + [1] * 3
    assert not notes


def test_sglang_says_no_shape(tmp_path: Path) -> None:
    payload = base64.b64encode(ROUTED.astype("<i4").tobytes()).decode()
    for answer in (
        {"meta_info": {"routed_experts": payload, "prompt_tokens": 2}},
        {"sglext": {"routed_experts": payload}, "usage": {"prompt_tokens": 2}},
    ):
        path = answers(tmp_path, answer)
        trace, _ = imported(path, layers=3, top_k=2)
        assert rows(trace).experts.tolist() == ROUTED[:, 1:].tolist()
        assert rows(trace).phase.tolist() == [0, 0, 1]
        with pytest.raises(TraceError, match="say no shape"):
            read(path, Hints(), load_plain)
        for part in (Path(str(path) + ".trace")).iterdir():
            part.unlink()
        (Path(str(path) + ".trace")).rmdir()


def test_a_prompt_of_unknown_length(tmp_path: Path) -> None:
    trace, notes = imported(answers(tmp_path, {"routed_experts": npy(ROUTED)}))
    assert rows(trace).step.tolist() == [0, 1, 2]
    assert any("how long the prompt was" in note for note in notes)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[1]", "JSON object"),
        ('{"text": "hello"}', "no routed_experts"),
        ('{"routed_experts": "!!"}', "cannot be decoded"),
        (json.dumps({"routed_experts": npy(ROUTED[0])}), "another shape"),
        (json.dumps({"routed_experts": npy(ROUTED * 1.5)}), "another shape"),
        (json.dumps({"routed_experts": npy(np.array([{}], object))}), "cannot be decoded"),
        (json.dumps({"routed_experts": npy(ROUTED)[:60]}), "cannot be decoded"),
        (
            json.dumps({"routed_experts": npy(ROUTED), "prompt_token_ids": [1], "token_ids": [2]}),
            "belong together",
        ),
    ],
)
def test_answers_that_are_wrong(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(TraceError, match=said):
        imported(path)


# SGLang's recorder


def per_token(tmp_path: Path, **change: Any) -> tuple[Path, Any]:
    """Two requests side by side: prompts of 3 and 2, the first in two chunks, then decoding."""
    random = np.random.default_rng(0)
    layers, experts, places = 3, 6, 8
    place_LP = np.stack(
        [np.r_[random.permutation(experts), random.integers(0, experts, 2)] for _ in range(layers)]
    )
    passes = [
        (1, [0, 1], [2], [10, 11]), (1, [2, 0, 1], [1, 2], [12, 20, 21]),
        (2, [3, 2], None, [13, 22]), (2, [4, 3], None, [14, 23]), (2, [5], None, [15]),
    ]  # fmt: skip
    truth, records = [], []
    for number, (mode, positions, lengths, tokens) in enumerate(passes):
        logical = np.stack([[random.permutation(experts)[:2] for _ in positions] for _ in range(layers)])
        truth.append(logical.transpose(1, 0, 2)[:, 1:])
        ids = np.full((layers, len(positions), 8), -1, np.int32)
        for layer in range(1, layers):  # the first is dense
            for token in range(len(positions)):
                for k, expert in enumerate(logical[layer, token]):
                    ids[layer, token, k] = random.choice(np.flatnonzero(place_LP[layer] == expert))
        records.append({
            "forward_pass_id": 100 + number, "rank": 0, "gatherer_key": "primary", "input_ids": tokens,
            "positions": positions, "extend_seq_lens": lengths, "forward_mode": mode,
            "topk_ids_of_layer": torch.tensor(ids), "misc_objects": [],
        })  # fmt: skip
    document = {"records": records, "last_physical_to_logical_map": torch.tensor(place_LP)} | change
    path = tmp_path / "expert_distribution_recorder_1_0.pt"
    torch.save(document, path)
    assert places == place_LP.shape[1]
    return path, np.concatenate(truth)


def test_per_token(tmp_path: Path) -> None:
    path, truth = per_token(tmp_path)
    trace, notes = imported(path)
    found = rows(trace)
    assert found.experts.tolist() == truth.tolist()
    assert trace.meta.moe_layers == (1, 2)
    assert trace.meta.experts == (6, 6)
    assert found.token.tolist() == [10, 11, 12, 20, 21, 13, 22, 14, 23, 15]
    assert found.request.tolist() == [0, 0, 0, 1, 1, 0, 1, 0, 1, 0]
    assert found.step.tolist() == [100, 100, 101, 101, 101, 102, 102, 103, 103, 104]
    assert found.phase.tolist() == [0] * 5 + [1] * 5
    assert any("8 choices" in note for note in notes)
    with pytest.raises(TraceError, match="no more than 8"):
        read(path, Hints(top_k=10), load_plain)


def test_per_token_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="map from places"):
        imported(per_token(tmp_path, last_physical_to_logical_map=None)[0])
    with pytest.raises(TraceError, match="not on the map"):
        imported(per_token(tmp_path, last_physical_to_logical_map=torch.zeros(3, 2, dtype=torch.int64))[0])
    with pytest.raises(TraceError, match="belong together"):
        imported(per_token(tmp_path, last_physical_to_logical_map=torch.zeros(4, 8, dtype=torch.int64))[0])


def test_per_pass_adds_ranks_and_places(tmp_path: Path) -> None:
    folder = tmp_path / "ranks"
    folder.mkdir()
    place_LP = torch.tensor([[0, 1, 2, 0], [2, 1, 0, 0]])
    counts = torch.tensor(
        [[[0, 0, 0, 0], [1, 2, 3, 4]], [[0, 0, 0, 0], [5, 6, 7, 8]]]
    )  # the first layer is dense
    for rank in (0, 1):
        records = [
            {"forward_pass_id": n, "rank": rank, "global_physical_count": counts[n] * (rank + 1)}
            for n in (0, 1)
        ]
        torch.save({"records": records, "last_physical_to_logical_map": place_LP}, folder / f"x_{rank}.pt")
    trace, notes = imported(folder, "sglang-recorder")
    assert rows(trace).counts.tolist() == [[[3 * 7, 3 * 2, 3 * 1]], [[3 * 15, 3 * 6, 3 * 5]]]
    assert trace.meta.moe_layers == (1,)
    assert any("2 ranks" in note for note in notes)


def test_stat_is_about_load_and_nothing_else(tmp_path: Path) -> None:
    counts = torch.zeros(5, 2, 4, dtype=torch.int32)
    counts[1, 1], counts[4, 1] = torch.tensor([1, 2, 3, 4]), torch.tensor([0, 0, 0, 10])
    path = tmp_path / "stat.pt"
    torch.save({"rank": 0, "logical_count": counts, "average_utilization_rate_over_window": 0.5}, path)
    trace, _ = imported(path)
    found = analyze(trace)
    assert found.tables["load"]["counts"] == [[1, 2, 3, 14]]
    assert set(found.tables) == {"load"}
    assert found.lacking["reuse"] == found.lacking["caching"] == "experts"
    with pytest.raises(TraceError, match="needs experts"):
        analyze(trace, ["srp"])


class Evil:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('code was run')",))


def test_no_code_is_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"records": [Evil()]}, path)
    with pytest.raises(TraceError, match="plain tensors"):
        imported(path)
    path.write_bytes(b"not a file of torch's")
    with pytest.raises(TraceError, match="plain tensors"):
        imported(path)


def test_a_kind_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="routed-experts"):
        read(tmp_path / "x.parquet", Hints(), load_plain)


@pytest.mark.parametrize(("held", "said"), [(b"\x05\x01" * 100, "a damaged file, or"), (b"", "EOFError")])
def test_a_torch_file_that_is_none(tmp_path: Path, held: bytes, said: str) -> None:
    """In a line of our own: torch's advice to run what is in it is not passed on."""
    (tmp_path / "x.pt").write_bytes(held)
    with pytest.raises(TraceError, match=said) as caught:
        load_plain(tmp_path / "x.pt")
    assert "weights_only" not in str(caught.value)
