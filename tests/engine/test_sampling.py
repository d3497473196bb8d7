"""Sampling against transformers' own logits processors, and against the distribution it promises."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as reference

from locum.engine.sampling import Sampler, SamplingParams, log_probability
from locum.errors import LocumError, NumericsError, PromptError, UsageError

INF = float("inf")


def reference_scores(logits_V, params, seen):
    """Row of scores after the processors that transformers' generate would build, in its order."""
    steps = []
    if params.repetition_penalty != 1:
        steps.append(reference.RepetitionPenaltyLogitsProcessor(float(params.repetition_penalty)))
    if not params.greedy:
        if params.temperature != 1:
            steps.append(reference.TemperatureLogitsWarper(float(params.temperature)))
        if params.top_k:
            steps.append(reference.TopKLogitsWarper(params.top_k))
        if params.top_p < 1:
            steps.append(reference.TopPLogitsWarper(params.top_p))
        if params.min_p:
            steps.append(reference.MinPLogitsWarper(params.min_p))
    ids = torch.tensor([list(seen)], dtype=torch.long)
    scores = logits_V.to(torch.float32)[None]
    for step in steps:
        scores = step(ids, scores)
    return scores[0]


def doubtful(logits_V, params, seen, margin):
    """Tokens that a difference in rounding may keep or drop: within `margin` of a threshold, in float64."""
    heated = reference_scores(
        logits_V, SamplingParams(params.temperature, repetition_penalty=params.repetition_penalty), seen
    ).double()
    if params.top_k:
        heated = heated.masked_fill(heated < heated.topk(min(params.top_k, len(heated))).values[-1], -INF)
    ascending, order = heated.sort(stable=True)
    mass = ascending.softmax(-1).cumsum(-1)
    border = order[(mass - (1 - params.top_p)).abs() < margin]
    near = set(torch.isin(heated, heated[border]).nonzero().flatten().tolist())
    last = ascending[(mass > 1 - params.top_p).nonzero()[:1].flatten()]
    equals = (heated == last).nonzero().flatten().tolist() if len(last) else []
    if len(equals) > 1:  # which of equals goes, the sort decides
        near.update(equals)
    chances = heated.softmax(-1)
    return near | set((chances - params.min_p * chances.max()).abs().lt(margin).nonzero().flatten().tolist())


logit = st.sampled_from([-INF, -2.5, -1.0, 0.0, 0.5, 1.0, 3.0]) | st.floats(-30, 30, width=32)
rows = st.lists(logit, min_size=1, max_size=30).filter(lambda row: max(row) > -INF)
settings_of = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.25, 0.7, 1.0, 1.0, 1.8]),
    top_k=st.sampled_from([0, 0, 1, 2, 3, 7, 100]),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.1, 1e-6, 1e-12]),
    min_p=st.sampled_from([0.0, 0.0, 0.01, 0.2, 0.5, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3, 0.8, 5.0]),
    seed=st.just(0),
)
seen_ids = st.lists(st.integers(0, 40), max_size=12)  # some beyond the row: an embedding larger than the head


@settings(max_examples=250, deadline=None)
@given(rows, settings_of, seen_ids, st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
@example([1.0], SamplingParams(1.0, top_k=1, top_p=0.1, min_p=1.0), [0, 0], torch.float32)
@example([0.0] * 10, SamplingParams(1.0, top_p=0.5), [], torch.float32)
@example([0.0] * 10, SamplingParams(1.0, top_k=3, top_p=0.5), [], torch.float32)  # ties outnumber k
@example([-INF] * 7 + [0.0, -INF, 0.0] + [-INF] * 7, SamplingParams(0.25, top_p=0.5), [], torch.float32)
@example([-INF] * 7 + [0.0, -INF, 0.0] + [-INF] * 7, SamplingParams(0.25, top_p=0.1), [], torch.float32)
def test_the_distribution_is_that_of_transformers(row, params, seen, dtype):
    logits_V = torch.tensor(row).to(dtype)
    chances_N, ids_N = Sampler(params, seen).distribution(logits_V)
    want_V = reference_scores(logits_V, params, seen).softmax(-1)
    got_V = torch.zeros_like(want_V).index_copy(0, ids_N, chances_N)
    assert ids_N.tolist() == sorted(set(ids_N.tolist()))
    differ = set((got_V.gt(0) != want_V.gt(0)).nonzero().flatten().tolist())
    assert differ <= doubtful(logits_V, params, seen, 1e-6)
    if not differ:
        torch.testing.assert_close(got_V, want_V, rtol=1e-5, atol=1e-7)
    else:
        assert math.isclose(float(chances_N.sum()), 1, rel_tol=1e-5)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(0.8, top_p=0.9),
        SamplingParams(1.2, top_p=0.5, repetition_penalty=1.2),
        SamplingParams(1.0, top_p=0.95, min_p=0.02),
        SamplingParams(0.6, top_k=50, top_p=0.9),
    ],
)
def test_a_large_vocabulary_is_filtered_alike(params):
    """Of thousands only the likely part is sorted; 1e-4 is what float32 sums of 60k are worth."""
    random = torch.Generator().manual_seed(5)
    for scale in (0.5, 3.0, 8.0):
        logits_V = torch.randn(60_000, generator=random) * scale
        logits_V[7] = -INF
        seen = list(range(0, 60_000, 97))
        chances_N, ids_N = Sampler(params, seen).distribution(logits_V)
        want_V = reference_scores(logits_V, params, seen).softmax(-1)
        got_V = torch.zeros_like(want_V).index_copy(0, ids_N, chances_N)
        differ = set((got_V.gt(0) != want_V.gt(0)).nonzero().flatten().tolist())
        assert differ <= doubtful(logits_V, params, seen, 1e-4)
        assert float((got_V - want_V).abs().sum()) < 2e-3


@settings(max_examples=150, deadline=None)
@given(rows, st.sampled_from([1.0, 1.5, 0.5]), seen_ids)
@example([1.0, 1.0, 1.0], 1.0, [])
def test_greedy_takes_the_lowest_of_the_likeliest(row, penalty, seen):
    params = SamplingParams(repetition_penalty=penalty, top_k=2, top_p=0.5)
    logits_V = torch.tensor(row)
    scores = reference_scores(logits_V, params, seen).tolist()
    assert Sampler(params, seen).sample(logits_V) == scores.index(max(scores))


def test_what_was_sampled_counts_as_seen():
    logits_V = torch.tensor([3.0, 2.9, 2.8, -1.0])
    sampler = Sampler(SamplingParams(repetition_penalty=2.0))
    assert [sampler.sample(logits_V) for _ in range(4)] == [0, 1, 2, 0]
    sampler = Sampler(SamplingParams(repetition_penalty=2.0))
    sampler.observe(0)
    assert sampler.sample(logits_V) == 1


def test_many_seen_tokens_outgrow_the_first_buffer():
    params = SamplingParams(1.0, repetition_penalty=1.7)
    seen = [number * 3 % 2000 for number in range(5000)]
    logits_V = torch.randn(2000, generator=torch.Generator().manual_seed(1))
    chances_N, _ = Sampler(params, seen).distribution(logits_V)
    torch.testing.assert_close(chances_N, reference_scores(logits_V, params, seen).softmax(-1))


def chi_square(counts, chances):
    total = sum(counts)
    return sum((got - total * want) ** 2 / (total * want) for got, want in zip(counts, chances, strict=True))


def tail_bound(freedom, false_alarm):
    """No chi-square value above this comes up with more than `false_alarm` (Laurent and Massart, 2000)."""
    x = -math.log(false_alarm)
    return freedom + 2 * math.sqrt(freedom * x) + 2 * x


@pytest.mark.parametrize(
    "params",
    [SamplingParams(1.3, seed=11), SamplingParams(0.8, top_k=12, top_p=0.95, min_p=0.01, seed=12)],
)
def test_draws_follow_the_distribution(params):
    """False alarm below 1e-10; the same test rejects a temperature that is 15% off."""
    logits_V = torch.randn(40, generator=torch.Generator().manual_seed(3)) * 2
    logits_V[::5] = -INF
    want_V = reference_scores(logits_V, params, []).softmax(-1).double()
    sampler, counts = Sampler(params), [0] * 40
    for _ in range(20_000):
        counts[sampler.sample(logits_V)] += 1
    kept = want_V.nonzero().flatten().tolist()
    assert sum(counts[token] for token in kept) == 20_000  # never one that was filtered out
    bound = tail_bound(len(kept) - 1, 1e-10)
    assert chi_square([counts[token] for token in kept], want_V[kept].tolist()) < bound
    other_V = (want_V[kept].log() / 1.15).softmax(-1)
    assert chi_square([counts[token] for token in kept], other_V.tolist()) > bound


def test_a_seed_decides_whatever_other_requests_and_torch_do():
    row = torch.randn(500, generator=torch.Generator().manual_seed(9))
    params = SamplingParams(1.0, top_p=0.95, seed=42)
    alone = Sampler(params)
    want = [alone.sample(row) for _ in range(30)]
    torch.manual_seed(1)
    again, neighbour = Sampler(params), Sampler(SamplingParams(1.0, seed=43))
    got, other = [], []
    for number in range(30):
        torch.rand(number + 1)
        other.append(neighbour.sample(row))
        got.append(again.sample(row))
    assert got == want
    assert other != want
    assert Sampler(SamplingParams(1.0)).seed != Sampler(SamplingParams(1.0)).seed
    assert Sampler(params).seed == 42


@pytest.mark.parametrize(("drawn", "token"), [(0.0, 1), (1.0, 3)])
def test_the_ends_of_the_distribution_are_never_overrun(monkeypatch, drawn, token):
    """The smallest number the generator gives, and one that rounding puts on the very end: a kept token."""
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(drawn, dtype=torch.float64))
    logits_V = torch.tensor([-INF, 0.0, 1.0, 2.0, -INF, -INF])
    assert Sampler(SamplingParams(1.0, seed=0)).sample(logits_V) == token


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-50, 5e-324, 1e30])
def test_extreme_temperatures_keep_the_order(temperature):
    logits_V = torch.tensor([-40.0, -30.0, -30.0, -90.0, -INF])
    chances_N, ids_N = Sampler(SamplingParams(temperature, seed=0)).distribution(logits_V)
    chances = dict(zip(ids_N.tolist(), chances_N.tolist(), strict=True))
    if temperature < 1:
        assert chances == {0: 0, 1: 0.5, 2: 0.5, 3: 0, 4: 0}
    else:
        assert chances == {0: 0.25, 1: 0.25, 2: 0.25, 3: 0.25, 4: 0}


@pytest.mark.parametrize("row", [[1.0, float("nan"), 2.0], [1.0, INF], [-INF, -INF], [float("nan")]])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_give_no_choice_are_an_error(row, temperature):
    with pytest.raises(NumericsError, match="logits"):
        Sampler(SamplingParams(temperature, top_k=1, repetition_penalty=1.1), [0]).sample(torch.tensor(row))


@settings(max_examples=100, deadline=None)
@given(rows, st.integers(0, 29))
def test_log_probability_is_the_models_own(row, token):
    token %= len(row)
    total = math.fsum(math.exp(x - max(row)) for x in row)
    want = row[token] - max(row) - math.log(total)
    got = log_probability(torch.tensor(row), token)
    assert got == want or math.isclose(got, want, rel_tol=1e-6, abs_tol=1e-6)
    with pytest.raises(NumericsError):
        log_probability(torch.tensor([*row, float("nan")]), token)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", INF),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("top_k", 1.5),
        ("top_k", True),
        ("min_p", -0.01),
        ("min_p", 1.01),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", INF),
        ("seed", -1),
        ("seed", 2**63),
        ("max_tokens", 0),
        ("max_tokens", 1.0),
        ("stop", ("a", "")),
        ("stop", 3),
        ("ignore_eos", "yes"),
    ],
)
def test_a_value_out_of_range_names_the_range_and_what_it_got(field, value):
    with pytest.raises(UsageError) as caught:
        SamplingParams(**{field: value})
    assert field in caught.value.what
    assert caught.value.allowed
    assert caught.value.got == repr(value)


def test_harmless_spellings_are_accepted():
    params = SamplingParams(1, top_k=-1, stop="END", seed=2**63 - 1)
    assert (params.top_k, params.stop) == (0, ("END",))
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")
    Sampler(params).sample(torch.zeros(3))


def test_a_negative_id_in_the_prompt_is_refused():
    with pytest.raises(PromptError, match="token id"):
        Sampler(SamplingParams(repetition_penalty=1.1), [5, -1])
    assert issubclass(PromptError, LocumError)
