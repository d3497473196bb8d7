"""What a recording holds, against transformers' own model heard through hooks of the test's own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import locum
from helpers_models import reference_model
from locum.backbone.experts import experts_modules
from locum.backbone.routers import find_routers
from locum.engine.recording import recording
from locum.errors import TraceError, UsageError
from locum.model.shipped import shipped_model
from locum.synth.shapes import shape
from locum.synth.writer import write_checkpoint
from locum.trace import Trace

SHARED = Path(__file__).parents[1] / "models" / "locum-tiny-shared"
PROMPT = list(range(5, 25))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    random = tmp_path_factory.mktemp("recording") / "tiny"
    write_checkpoint(shape("tiny-olmoe"), random, seed=3)
    return {"random": random, "trained": shipped_model(), "shared": SHARED}


def record(path: Path, folder: Path, **options: Any) -> tuple[Trace, Any]:
    with locum.load(path, context=128, expert_memory="30%") as engine:
        with recording(engine, folder, **options):
            got = engine.generate(PROMPT, max_tokens=6, ignore_eos=True, temperature=0)
        trace = Trace(folder)
        (rows,) = trace.batches(trace.meta.columns)
        trace.require_model(engine.config_hash)
        return trace, (rows, got)


class Ears:
    """Everything the routers of transformers' own model are given and give, by call and layer."""

    def __init__(self, model: Any) -> None:
        self.heard: list[list[tuple[Any, ...]]] = []
        self.routers = find_routers(model)
        for router in self.routers:
            assert router is not None
            router.register_forward_hook(lambda _, given, found: self.heard[-1].append((given[0], *found)))
        self.model = model

    def play(self, tokens: list[int], prompt: int) -> None:
        """The prompt in one call, then token by token."""
        cache = None
        with torch.inference_mode():
            for start, stop in [(0, prompt), *((n, n + 1) for n in range(prompt, len(tokens)))]:
                self.heard.append([])
                ids = torch.tensor([tokens[start:stop]])
                cache = self.model(input_ids=ids, past_key_values=cache, use_cache=True).past_key_values

    def all(self, place: int) -> Any:
        """[t, L, ...]: what stands at `place` of the routers' answers (0: their input)."""
        return torch.stack(
            [torch.cat([call[layer][place] for call in self.heard]) for layer in range(len(self.routers))], 1
        )


@pytest.mark.parametrize("name", ["random", "trained", "shared"])
def test_choices_weights_and_scores_are_transformers_own(
    models: dict[str, Path], tmp_path: Path, name: str
) -> None:
    trace, (rows, got) = record(models[name], tmp_path / "t")
    ears = Ears(reference_model(models[name]))
    tokens = [*PROMPT, *got.tokens[:-1]]
    ears.play(tokens, len(PROMPT))
    ids, weights = ears.all(3).numpy(), ears.all(2).half().numpy()
    assert np.array_equal(rows.experts, ids)
    assert np.array_equal(rows.weights, weights)
    assert rows.token.tolist() == tokens
    assert rows.position.tolist() == list(range(len(tokens)))
    assert rows.phase.tolist() == [0] * len(PROMPT) + [1] * (len(tokens) - len(PROMPT))
    assert rows.step.tolist() == [0] * len(PROMPT) + list(range(1, len(tokens) - len(PROMPT) + 1))
    explained = np.isfinite(rows.margin)
    assert (rows.margin[explained] >= 0).all()
    if name == "shared":  # chooses groups first
        assert 0 < explained.mean() < 1
        return
    assert explained.all()
    share = ears.all(1).float().softmax(-1)
    best = share.topk(2 * ids.shape[2]).values
    assert np.allclose(rows.top_scores, best.numpy(), atol=1e-3)
    assert np.allclose(rows.entropy, -(share * share.log()).sum(-1).numpy(), atol=1e-2)
    assert np.allclose(
        rows.margin, (best[..., ids.shape[2] - 1] - best[..., ids.shape[2]]).numpy(), atol=1e-3
    )
    assert trace.meta.rows == len(tokens)


@pytest.mark.parametrize("name", ["random", "trained", "shared"])
def test_predictions_are_the_next_routers_on_this_input(
    models: dict[str, Path], tmp_path: Path, name: str
) -> None:
    trace, (rows, got) = record(models[name], tmp_path / "t")
    ears = Ears(reference_model(models[name]))
    ears.play([*PROMPT, *got.tokens[:-1]], len(PROMPT))
    layers = len(ears.routers)
    for layer in range(layers):
        for distance in range(1, trace.meta.distances + 1):
            found = rows.next_ids[:, layer, distance - 1]
            if layer + distance >= layers:
                assert (found == -1).all()
                continue
            wanted = []
            for call in ears.heard:
                router: Any = ears.routers[layer + distance]
                with torch.inference_mode():
                    wanted.append(type(router).forward(router, call[layer][0])[2])
            assert np.array_equal(np.sort(found), np.sort(torch.cat(wanted).numpy()))


def test_the_clock_adds_up(models: dict[str, Path], tmp_path: Path) -> None:
    trace, (rows, got) = record(models["trained"], tmp_path / "t")
    steps = trace.steps()
    assert steps["step"].tolist() == sorted(set(rows.step.tolist()))
    assert steps["tokens"].sum() == len(rows)
    assert (
        steps["hits"] + steps["staged"] + steps["misses"]
    ).sum() == got.prefill.requests + got.decode.requests
    # what is still on its way when the last step ends is nobody's
    assert 0 <= got.bytes_read - steps["bytes_read"].sum() <= 8 * max(trace.meta.expert_bytes)
    assert np.allclose(steps["wall_s"], steps["compute_s"] + steps["stall_s"] + steps["predict_s"])
    assert (steps["wall_s"] > 0).all()
    assert steps["wall_s"][1:].sum() <= got.decode_s


def test_recording_changes_no_bit(models: dict[str, Path], tmp_path: Path) -> None:
    with locum.load(models["trained"], context=128, expert_memory="30%") as engine:
        prompt, choices = "def read(", {"max_tokens": 12, "seed": 3, "ignore_eos": True}
        plain = engine.generate(prompt, **choices)
        with recording(engine, tmp_path / "t"):
            heard = engine.generate(prompt, **choices)
        after = engine.generate(prompt, **choices)
    assert plain.tokens == heard.tokens == after.tokens
    assert Trace(tmp_path / "t").rows == plain.prompt_tokens + 11, "nothing is heard once it has ended"


def test_a_private_recording_holds_no_tokens(models: dict[str, Path], tmp_path: Path) -> None:
    trace, _ = record(models["random"], tmp_path / "t", tokens=False, scores=False, distances=0)
    assert set(trace.meta.columns) == {"weights", "domain"}
    with pytest.raises(TraceError, match="token"):
        trace.require("this", "token")


def test_domains_and_requests(models: dict[str, Path], tmp_path: Path) -> None:
    with locum.load(models["random"], context=128) as engine, recording(engine, tmp_path / "t") as recorder:
        for domain in ("prose", None):
            recorder.domain = domain
            engine.generate([3, 4], max_tokens=2, ignore_eos=True)
    (rows,) = Trace(tmp_path / "t").batches(["domain"])
    assert rows.domain.tolist() == ["prose"] * 3 + [None] * 3
    assert rows.request.tolist() == [0] * 3 + [1] * 3
    assert rows.position.tolist() == [0, 1, 2] * 2


def test_the_models_own_generate_is_heard_too(models: dict[str, Path], tmp_path: Path) -> None:
    with locum.load(models["random"], context=128) as engine, recording(engine, tmp_path / "t"):
        engine.model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, do_sample=False)
    (rows,) = Trace(tmp_path / "t").batches(["token"])
    assert rows.position.tolist() == list(range(6))
    assert rows.token.tolist()[:3] == [5, 6, 7]


def test_a_step_that_fails_leaves_no_row(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with locum.load(models["random"], context=128) as engine, recording(engine, tmp_path / "t"):
        engine.generate([3, 4], max_tokens=1)
        last = [module for _, module in experts_modules(engine.model)][-1]
        original, calls = engine.residents.acquire, []

        def failing(layer: int, *args: Any) -> Any:
            calls.append(layer)
            if layer == last.locum_layer:
                raise RuntimeError("broken")
            return original(layer, *args)

        with monkeypatch.context() as patch:
            patch.setattr(engine.residents, "acquire", failing)
            with pytest.raises(RuntimeError):
                engine.generate([3, 4, 5], max_tokens=1)
        engine.generate([7], max_tokens=1)
    trace = Trace(tmp_path / "t")
    (rows,) = trace.batches(["token"])
    assert rows.token.tolist() == [3, 4, 7]
    assert calls


def test_one_recording_at_a_time(models: dict[str, Path], tmp_path: Path) -> None:
    with locum.load(models["random"], context=128) as engine:
        with (
            recording(engine, tmp_path / "t"),
            pytest.raises(UsageError, match="being recorded"),
            recording(engine, tmp_path / "u"),
        ):
            pass
        with pytest.raises(UsageError, match="exists"), recording(engine, tmp_path / "t"):
            pass
