"""The checkpoint's recommendations and the user's choices."""

import json

import pytest
from transformers import GenerationConfig

from locum.engine.defaults import read_defaults
from locum.engine.sampling import SamplingParams
from locum.errors import CheckpointError, UsageError


def folder_with(tmp_path, generation=None, config=None):
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    (tmp_path / "config.json").write_text(json.dumps(config or {"model_type": "mixtral"}))
    return tmp_path


def test_a_sampling_models_file_is_followed_and_the_user_wins(tmp_path):
    file = {
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "min_p": 0.05,
        "repetition_penalty": 1.05,
        "max_new_tokens": 77,
        "eos_token_id": [7, 9],
        "stop_strings": ["\n\n"],
        "pad_token_id": 3,
        "transformers_version": "5.0",
    }
    defaults = read_defaults(folder_with(tmp_path, file))
    want = SamplingParams(0.6, 0.95, 20, 0.05, 1.05, max_tokens=77, stop=("\n\n",))
    assert defaults.params() == want
    assert defaults.params(temperature=None, seed=None) == want
    assert defaults.end_tokens == {7, 9}
    assert defaults.warnings == ()
    mine = defaults.params(temperature=0.0, top_k=0, stop=("X",), seed=4)
    assert mine == SamplingParams(0.0, 0.95, 0, 0.05, 1.05, seed=4, max_tokens=77, stop=("X",))


def test_files_that_transformers_saves_are_read_back(tmp_path):
    """What an unset file means is taken from transformers: it writes only what was set."""
    saved = GenerationConfig(do_sample=True, temperature=0.5, top_p=0.8, eos_token_id=2)
    saved.save_pretrained(tmp_path)
    defaults = read_defaults(tmp_path)
    assert defaults.params() == SamplingParams(0.5, 0.8)
    assert (defaults.end_tokens, defaults.warnings) == ({2}, ())


def test_without_do_sample_the_answer_is_greedy_until_the_user_wants_sampling(tmp_path):
    defaults = read_defaults(folder_with(tmp_path, {"temperature": 0.6, "top_p": 0.9, "eos_token_id": 1}))
    assert defaults.params().greedy
    assert defaults.params(seed=1, max_tokens=5).greedy
    assert defaults.params(temperature=0.3) == SamplingParams(0.3, 0.9)
    assert defaults.params(top_k=5) == SamplingParams(0.6, 0.9, 5)
    (tmp_path / "generation_config.json").unlink()
    assert read_defaults(tmp_path).params(min_p=0.1) == SamplingParams(1.0, min_p=0.1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "warm"),
        ("temperature", -1),
        ("top_p", 1.5),
        ("top_k", 0.5),
        ("min_p", True),
        ("repetition_penalty", 0),
        ("max_new_tokens", -3),
        ("stop_strings", [""]),
        ("do_sample", "yes"),
        ("num_beams", 4),
        ("no_repeat_ngram_size", 3),
        ("bad_words_ids", [[5]]),
        ("typical_p", 0.9),
    ],
)
def test_a_bad_or_unsupported_value_of_the_file_is_named_and_left_out(tmp_path, name, value):
    defaults = read_defaults(folder_with(tmp_path, {name: value, "eos_token_id": 1}))
    assert len(defaults.warnings) == 1
    assert name in defaults.warnings[0]
    assert defaults.params() == SamplingParams()


def test_neutral_values_are_no_reason_to_warn(tmp_path):
    file = GenerationConfig._get_default_generation_params() | {"eos_token_id": 1, "top_k": 0}
    assert read_defaults(folder_with(tmp_path, file)).warnings == ()


@pytest.mark.parametrize(
    ("generation", "config", "tokenizer", "want", "warned"),
    [
        ({"eos_token_id": 5}, {"eos_token_id": 6}, 7, {5}, 0),
        ({"eos_token_id": None}, {"eos_token_id": [6, 8]}, 7, {6, 8}, 0),
        ({}, {"text_config": {"eos_token_id": 4}}, 7, {4}, 0),
        ({}, {"eos_token_id": 0}, 7, {0}, 0),
        ({}, {"text_config": {"eos_token_id": 0}}, 7, {0}, 0),
        (None, {}, 7, {7}, 0),
        ({"eos_token_id": [5, 100, -1]}, {}, None, {5}, 1),
        ({"eos_token_id": "</s>"}, {"eos_token_id": 2}, None, {2}, 1),
        ({"eos_token_id": True}, {}, None, set(), 2),
        ({"eos_token_id": []}, {}, 7, {7}, 0),
        (None, {}, None, set(), 1),
    ],
)
def test_end_tokens_come_from_the_first_source_that_names_any(
    tmp_path, generation, config, tokenizer, want, warned
):
    folder = folder_with(tmp_path, generation, {"model_type": "x", **config})
    defaults = read_defaults(folder, vocab_size=100, tokenizer_eos=tokenizer)
    assert defaults.end_tokens == want
    assert len(defaults.warnings) == warned


@pytest.mark.parametrize("text", ["{", "[1]", "\x00"])
def test_a_damaged_file_is_an_error(tmp_path, text):
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        read_defaults(tmp_path)


def test_the_users_bad_value_is_an_error(tmp_path):
    defaults = read_defaults(folder_with(tmp_path, {"top_p": 0.9}))
    with pytest.raises(UsageError, match="top_p"):
        defaults.params(top_p=2.0)
    with pytest.raises(UsageError, match="heat"):
        defaults.params(heat=2.0)
