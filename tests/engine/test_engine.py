"""The engine as a user holds it: requests, streams, chats, limits, two models, and what damage does."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import locum
from helpers_models import reference_model
from locum.bench.identity import recorded, replay, same_bits
from locum.engine import Engine, load
from locum.errors import (
    BudgetError,
    CheckpointError,
    LoadError,
    LocumError,
    ModelError,
    NotMoEError,
    NumericsError,
    PromptError,
    UnsupportedError,
    UsageError,
)
from locum.synth.shapes import shape
from locum.synth.writer import write_checkpoint

SLOTS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with tokenizer and chat template."""
    path = tmp_path_factory.mktemp("engine") / "tiny"
    write_checkpoint(shape("tiny-olmoe"), path, seed=3)
    return path


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "qwen"
    write_checkpoint(shape("tiny-qwen3"), path, seed=4)
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCUM_CACHE", str(tmp_path / "cache"))


def small(path: Path, **options: Any) -> Engine:
    """Loaded with room for a few experts only."""
    return load(path, **{"expert_memory": SLOTS * 16384, "threads": 1, **options})


@pytest.fixture
def engine(folder: Path) -> Iterator[Engine]:
    with small(folder) as made:
        yield made


def test_greedy_tokens_are_those_of_transformers_generate(folder: Path, engine: Engine) -> None:
    prompt = engine.encode("What is a locum?")
    got = engine.generate(prompt, max_tokens=16, ignore_eos=True)
    assert got.prompt_tokens == len(prompt)
    assert got.finish == "length"
    assert got.decode.requests > 0
    ids = torch.tensor([prompt])
    expected = reference_model(folder).generate(
        ids, max_new_tokens=16, do_sample=False, eos_token_id=None, attention_mask=torch.ones_like(ids)
    )[0, len(prompt) :]
    assert list(got.tokens) == expected.tolist()
    assert got.text == engine.tokenizer.decode(got.tokens)


def test_the_public_name_is_the_engine(folder: Path) -> None:
    with locum.load(folder, expert_memory=SLOTS * 16384) as engine:
        assert isinstance(engine, Engine)


def test_transformers_own_generate_runs_on_the_model(folder: Path, engine: Engine) -> None:
    ids = torch.tensor([engine.encode("one two three")])
    mask = torch.ones_like(ids)
    for sampling in ({"do_sample": False}, {"do_sample": True, "top_k": 20}):
        torch.manual_seed(0)
        got = engine.model.generate(ids, attention_mask=mask, max_new_tokens=8, **sampling)
        torch.manual_seed(0)
        expected = reference_model(folder).generate(ids, attention_mask=mask, max_new_tokens=8, **sampling)
        assert got.tolist() == expected.tolist()
    batch = torch.cat([ids, ids.flip(1)])
    with torch.inference_mode():
        assert torch.equal(engine.model(batch).logits, reference_model(folder)(batch).logits)


def test_prefill_goes_by_fixed_multiples_and_reads_each_expert_once_a_chunk(folder: Path) -> None:
    with small(folder, expert_memory=2 * 16384, prefill_chunk=16) as engine:
        prompt = list(range(5, 55))
        with recorded(engine.model) as calls:
            got = engine.generate(prompt, max_tokens=1)
        assert [len(ids) for ids, _ in calls] == [16, 16, 16, 2]
        experts = sum(len(layer.experts) for layer in engine.residents.index.layers)
        assert got.prefill.requests <= experts * len(calls)
        stored = engine.residents.residency.keys.stored
        assert engine.residents.residency.physical.bytes_read == got.prefill.misses * stored[0]
        assert same_bits(calls, replay(folder, calls))


def test_stop_strings_and_end_tokens(engine: Engine) -> None:
    whole = engine.generate("hello", max_tokens=24, ignore_eos=True)
    stop = whole.text[8:11]
    cut = engine.generate("hello", max_tokens=24, ignore_eos=True, stop=(stop,))
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish == "stop"
    assert len(cut.tokens) < len(whole.tokens)
    from dataclasses import replace

    engine.defaults = replace(engine.defaults, end_tokens=frozenset({whole.tokens[3]}))
    ended = engine.generate("hello", max_tokens=24)
    assert ended.finish == "stop"
    assert ended.tokens == whole.tokens[: whole.tokens.index(whole.tokens[3]) + 1]


def test_a_seed_repeats_and_neighbours_do_not_matter(engine: Engine) -> None:
    one = engine.generate("hello", max_tokens=12, temperature=1.0, seed=11)
    engine.generate("something else", max_tokens=5, temperature=1.0, seed=5)
    assert engine.generate("hello", max_tokens=12, temperature=1.0, seed=11).tokens == one.tokens
    drawn = engine.generate("hello", max_tokens=12, temperature=1.0)
    assert engine.generate("hello", max_tokens=12, temperature=1.0, seed=drawn.seed).tokens == drawn.tokens


def test_a_chat_goes_on_from_what_was_seen(folder: Path, engine: Engine) -> None:
    messages = [{"role": "user", "content": "first question"}]
    with recorded(engine.model) as calls:
        first = engine.stream(messages, keep=True, max_tokens=6, ignore_eos=True)
        text = "".join(first)
        assert first.result is not None
        seen = len(first.result.tokens) - 1 + first.result.prompt_tokens
        prompt = [*engine.encode(messages), *first.result.tokens, *engine.encode("and then")]
        before = len(calls)
        second = engine.stream(prompt, keep=True, max_tokens=6, ignore_eos=True)
        list(second)
    assert text == first.result.text
    assert sum(len(ids) for ids, _ in calls[before:-5]) == len(prompt) - seen
    assert same_bits(calls, replay(folder, calls))  # one conversation, one cache, every call
    other = engine.stream("unrelated", keep=True, max_tokens=2)
    list(other)
    assert other.result is not None
    assert other.result.prompt_tokens == len(engine.encode("unrelated"))


def test_two_models_in_one_process(folder: Path, qwen: Path) -> None:
    with small(folder) as one:
        alone = one.generate("hello", max_tokens=10, ignore_eos=True).tokens
    with small(qwen) as two:
        alone_too = two.generate("hello", max_tokens=10, ignore_eos=True).tokens
    with small(folder, prefetch="next-gate") as one, small(qwen, eviction="lfu") as two:
        streams = [engine.stream("hello", max_tokens=10, ignore_eos=True) for engine in (one, two)]
        open_ = list(streams)
        while open_:  # turn by turn, a token each
            open_ = [stream for stream in open_ if next(stream, None) is not None]
        results = [stream.result for stream in streams]
    assert results[0] is not None
    assert results[1] is not None
    assert (results[0].tokens, results[1].tokens) == (alone, alone_too)


def test_interrupting_keeps_the_text_so_far(engine: Engine) -> None:
    whole = engine.generate("hello", max_tokens=20, ignore_eos=True)
    stream = engine.stream("hello", max_tokens=20, ignore_eos=True)
    pieces = [next(stream), next(stream)]
    engine.interrupt()
    pieces += list(stream)
    assert stream.result is not None
    assert stream.result.finish == "interrupted"
    assert 0 < len(stream.result.tokens) < 20
    assert whole.text.startswith("".join(pieces))
    assert stream.result.text == "".join(pieces)
    assert engine.generate("hello", max_tokens=20, ignore_eos=True).tokens == whole.tokens


def test_one_stream_at_a_time_and_closing(folder: Path) -> None:
    engine = small(folder)
    engine.stream("thrown away")
    stream = engine.stream("hello", max_tokens=20, ignore_eos=True)
    next(stream)
    with pytest.raises(UsageError, match="still open"):
        engine.stream("second")
    stream.close()
    stream.close()
    assert stream.result is not None
    assert stream.result.finish == "interrupted"
    open_one = engine.stream("hello", max_tokens=20, ignore_eos=True)
    next(open_one)
    engine.close()
    engine.close()
    assert open_one.result is not None
    with pytest.raises(LocumError, match="closed"):
        engine.stream("again")
    with pytest.raises(ModelError, match="taken out"):
        engine.model(torch.tensor([[1, 2]]))
    assert engine.residents.arena.committed_bytes == 0


@pytest.mark.parametrize(
    ("prompt", "choices", "error"),
    [
        ("", {}, PromptError),
        ([], {}, PromptError),
        ([5, 99999], {}, PromptError),
        (list(range(5, 405)), {}, PromptError),
        ([{"role": "nobody"}], {}, PromptError),
        ("hello", {"temperature": -1.0}, UsageError),
        ("hello", {"top_p": 0.0}, UsageError),
        ("hello", {"nonsense": 1}, UsageError),
    ],
)
def test_requests_that_are_refused(folder: Path, prompt: Any, choices: dict[str, Any], error: type) -> None:
    with small(folder, context=400) as engine:
        with pytest.raises(error):
            engine.generate(prompt, **choices)
        assert engine.generate("hello", max_tokens=2, ignore_eos=True).tokens  # and it goes on working


def test_the_answer_ends_where_the_context_does(folder: Path) -> None:
    with small(folder, context=40) as engine:
        got = engine.generate(list(range(5, 35)), max_tokens=100, ignore_eos=True)
        assert got.finish == "length"
        assert len(got.tokens) == 10


def test_memory_below_the_minimum_says_what_it_is_made_of(folder: Path) -> None:
    with pytest.raises(BudgetError) as caught:
        load(folder, memory="64MiB")
    assert caught.value.minimum > 64 << 20
    for part in ("runtime", "backbone", "kv", "experts"):
        assert part in str(caught.value)
    with load(folder, memory=caught.value.minimum + (32 << 20)) as engine:
        assert engine.generate("hello", max_tokens=2, ignore_eos=True).tokens
    with pytest.raises(BudgetError, match="--expert-memory"):
        load(folder, expert_memory=4096)


# ---- damage ----


def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


def edit(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    [shard] = path.glob("*.safetensors")
    tensors = load_file(shard)
    change(tensors)
    save_file(tensors, shard, metadata={"format": "pt"})


def test_a_file_cut_while_running_ends_the_request_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    path = copy(folder, tmp_path)
    [shard] = path.glob("*.safetensors")
    content = shard.read_bytes()
    with small(path, expert_memory=24576) as engine:
        whole = engine.generate("hello", max_tokens=12, ignore_eos=True)
        stream = engine.stream("hello", max_tokens=12, ignore_eos=True)
        first = next(stream)
        with open(shard, "r+b") as file:
            file.truncate(len(content) // 4)
        with pytest.raises(LoadError) as caught:
            list(stream)
        assert shard.name in str(caught.value)
        assert stream.result is not None
        assert stream.result.finish == "interrupted"
        assert whole.text.startswith(first)
        assert whole.text.startswith(stream.result.text)
        with open(shard, "r+b") as file:
            file.write(content)
        engine.residents.residency.check_integrity()
        assert engine.generate("hello", max_tokens=12, ignore_eos=True).tokens == whole.tokens


def test_a_file_deleted_while_running_changes_nothing(folder: Path, tmp_path: Path) -> None:
    path = copy(folder, tmp_path)
    with small(path) as engine:
        whole = engine.generate("hello", max_tokens=8, ignore_eos=True)
        for shard in path.glob("*.safetensors"):
            shard.unlink()
        assert engine.generate("hello", max_tokens=8, ignore_eos=True).tokens == whole.tokens


def poison(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for found in [n for n in tensors if n.endswith(name)]:
            tensors[found].view(-1)[0] = float("nan")

    return change


def test_nan_in_the_backbone_is_found_at_load(folder: Path, tmp_path: Path) -> None:
    path = copy(folder, tmp_path)
    edit(path, poison("layers.1.self_attn.q_proj.weight"))
    with pytest.raises(NumericsError, match="q_proj"):
        load(path)


def test_nan_in_an_expert_is_found_when_it_matters(folder: Path, tmp_path: Path) -> None:
    path = copy(folder, tmp_path)
    edit(path, poison("down_proj.weight"))
    with small(path) as engine, pytest.raises(NumericsError, match="expert"):
        engine.generate("hello", max_tokens=4)


def drop(name: str) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: [tensors.pop(n) for n in list(tensors) if n.endswith(name)]


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (lambda p: edit(p, drop("layers.1.self_attn.o_proj.weight")), CheckpointError, "o_proj"),
        (lambda p: edit(p, drop("layers.1.mlp.experts.2.up_proj.weight")), CheckpointError, "expert"),
        (lambda p: next(p.glob("*.safetensors")).unlink(), CheckpointError, "weight"),
        (lambda p: (p / "tokenizer.json").unlink(), CheckpointError, "tokenizer"),
        (lambda p: config(p, num_experts=9), CheckpointError, "expert"),
        (lambda p: config(p, hidden_size=128), CheckpointError, "shape|hidden|disagree"),
        (lambda p: config(p, model_type="nothing_like_it"), UnsupportedError, "nothing_like_it"),
        (lambda p: (p / "config.json").write_text("{"), CheckpointError, "config.json"),
    ],
    ids=["backbone", "expert", "shard", "tokenizer", "experts", "hidden", "family", "config"],
)
def test_damaged_checkpoints_are_refused(
    folder: Path, tmp_path: Path, damage: Callable[[Path], object], error: type, says: str
) -> None:
    path = copy(folder, tmp_path)
    damage(path)
    with pytest.raises(error, match=says):
        load(path, threads=1)


def config(path: Path, **changes: object) -> None:
    document = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(document | changes))


def test_a_dense_model_is_refused(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    dense = AutoConfig.for_model(
        "llama",
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    AutoModelForCausalLM.from_config(dense).save_pretrained(tmp_path)
    with pytest.raises(NotMoEError):
        load(tmp_path)


def test_the_environment_can_force_the_mover(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCUM_MOVER", "pagecache")
    with small(folder) as engine:
        assert engine.residents.mover_kind == "pagecache"
    with small(folder, mover="direct") as engine:
        assert engine.residents.mover_kind == "direct"
    monkeypatch.setenv("LOCUM_MOVER", "carrier pigeon")
    with pytest.raises(UsageError, match="carrier pigeon"):
        small(folder)
