"""The tokenizer as transformers reads it."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from locum.errors import UsageError
from locum.synth import tokenizer as tokenizer_room
from locum.synth.tokenizer import write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, 50304, 4096)
    return AutoTokenizer.from_pretrained(folder)


def test_every_id_decodes_to_something(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == 50304
    tokens = tokenizer.convert_ids_to_tokens(list(range(50304)))
    assert all(tokens)
    assert len(set(tokens)) == 50304


@given(text=st.text(max_size=200))
@settings(deadline=None, max_examples=200)
def test_any_text_comes_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_english_is_compressed(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "The function returns a list of the names in the current module, sorted in ascending order."
    assert len(tokenizer(text)["input_ids"]) < len(text) / 3.5


def test_chat_template(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
    ]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer(text)["input_ids"]
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2
    assert tokenizer.eos_token_id == 3
    assert tokenizer.pad_token_id == 1


def test_training_is_repeatable(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        tokenizer_room._trained.cache_clear()
        write_tokenizer(tmp_path / name, 3000, 128)
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()


def test_too_small_a_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 260"):
        write_tokenizer(tmp_path, 259, 128)
    assert list(tmp_path.iterdir()) == []
    write_tokenizer(tmp_path, 260, 128)
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == 260
