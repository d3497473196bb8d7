"""Losses against transformers' own, computed another way; windows; two models side by side."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import locum
from helpers_models import reference_model
from locum.engine.engine import Engine
from locum.errors import UsageError
from locum.evaluate.likelihood import OVERLAP_SHARE, cut, score, token_ids
from locum.evaluate.texts import Text
from locum.synth.shapes import shape
from locum.synth.writer import write_checkpoint

TEXT = Text("t", "The quick brown fox jumps over the lazy dog. " * 4 + "ÄÖÜ")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("judged") / "tiny"
    write_checkpoint(shape("tiny-qwen3"), path, dtype="fp32", seed=4)
    return path


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    with locum.load(folder, expert_memory="30%", context=256) as loaded:
        yield loaded


@given(tokens=st.integers(0, 3000), window=st.integers(1, 700))
@settings(max_examples=300, deadline=None)
def test_every_token_but_the_first_is_judged_once(tokens: int, window: int) -> None:
    judged: list[int] = []
    for inputs, wanted in cut(tokens, window):
        judged += wanted
        assert 0 <= inputs.start < inputs.stop <= tokens - 1
        assert len(inputs) <= window
        assert wanted.stop == inputs.stop + 1
        before = wanted.start - inputs.start
        assert before >= min(wanted.start, window // OVERLAP_SHARE), "too little before it"
    assert judged == list(range(1, tokens))


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_of_nothing_is_refused(window: int) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        next(cut(5, window))


def test_the_loss_is_that_of_transformers(engine: Engine, folder: Path) -> None:
    ids = token_ids(engine, TEXT)
    got = score(engine, TEXT, window=1000)
    model = reference_model(folder)
    with torch.inference_mode():
        loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss
    assert got.tokens == len(ids) - 1
    assert got.nats / got.tokens == pytest.approx(float(loss), rel=1e-5)
    assert got.size == len(TEXT.text.encode())  # the first token stands for no text


def test_a_shorter_window_knows_less(engine: Engine) -> None:
    whole, short = score(engine, TEXT, window=1000), score(engine, TEXT, window=16)
    assert (whole.tokens, whole.size) == (short.tokens, short.size)
    assert whole.nats != short.nats
    assert abs(whole.nats - short.nats) < 0.5 * whole.nats


def test_beside_itself_and_beside_another(engine: Engine, folder: Path, tmp_path: Path) -> None:
    with locum.load(folder, expert_memory="30%", context=256) as same:
        beside = score(engine, TEXT, against=same)
    assert beside.kl == 0
    assert beside.same_top == beside.tokens
    other_path = tmp_path / "other"
    write_checkpoint(shape("tiny-qwen3"), other_path, dtype="fp32", seed=5)
    with locum.load(other_path, expert_memory="30%", context=256) as other:
        far = score(engine, TEXT, against=other)
        ids = torch.tensor([token_ids(engine, TEXT)[:-1]])
    p, q = (
        reference_model(path)(input_ids=ids).logits[0].detach().double().log_softmax(-1)
        for path in (other_path, folder)
    )
    expected = torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True)
    assert far.kl == pytest.approx(float(expected), rel=1e-4)
    assert far.same_top == int((p.argmax(-1) == q.argmax(-1)).sum())


def test_other_tokens_cannot_be_compared(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    with locum.load(folder, expert_memory="30%", context=256) as other:
        monkeypatch.setattr(other.tokenizer, "encode", lambda text: [1, 2, 3])
        with pytest.raises(UsageError, match="tokenizer"):
            score(engine, TEXT, against=other)


def test_one_token_gives_nothing_unless_a_token_begins_the_text(
    engine: Engine,
) -> None:
    begun = score(engine, Text("t", "a"))
    assert (begun.tokens, begun.size) == (1, 1)
    plain = SimpleNamespace(
        hf=SimpleNamespace(bos_token_id=None), encode=lambda text: [5], decode=lambda ids: "a"
    )
    alone = score(cast("Any", SimpleNamespace(tokenizer=plain)), Text("t", "a"))
    assert (alone.tokens, alone.size, alone.nats) == (0, 0, 0.0)
