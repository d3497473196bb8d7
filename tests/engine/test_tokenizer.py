"""The tokenizer of a model folder, against transformers' own."""

import json

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from locum.engine.tokenizer import load_tokenizer
from locum.errors import CheckpointError, PromptError, UnsupportedError

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
CHAT = [{"role": "user", "content": "Grüß dich! 😀"}]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["the cat sat on the mat", "Grüße, 世界"] * 4, trainer)
    backend.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    start = backend.token_to_id("<s>")
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", start)])
    hf = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    hf.chat_template = TEMPLATE
    folder = tmp_path_factory.mktemp("model")
    hf.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_moe"}))
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_encoding_decoding_and_chat_are_transformers_own(saved):
    mine, reference = load_tokenizer(saved), AutoTokenizer.from_pretrained(saved)
    for text in ("the cat", " Grüße\n", "世界 😀</s>x", "a"):
        for special in (True, False):
            ids = mine.encode(text, add_special_tokens=special)
            assert ids == reference.encode(text, add_special_tokens=special)
            for skip in (True, False):
                want = reference.decode(ids, skip_special_tokens=skip)
                assert mine.decode(ids, skip_special_tokens=skip) == want
                stream = mine.detokenizer(skip_special_tokens=skip)
                assert "".join([*map(stream.push, ids), stream.flush()]) == want
    assert mine.eos == reference.eos_token_id
    want = reference.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert mine.chat_text(CHAT) == want
    assert (
        mine.encode_chat(CHAT) == reference.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"]
    )
    closed = mine.encode_chat(CHAT, add_generation_prompt=False)
    assert closed == reference.apply_chat_template(CHAT, add_generation_prompt=False)["input_ids"]


def test_ids_are_taken_as_a_prompt_and_checked(saved):
    mine = load_tokenizer(saved, vocab_size=500)
    assert mine.encode([3, 1, np.int64(4), 499]) == [
        3,
        1,
        4,
        499,
    ]  # a model may have more rows than the tokenizer
    for bad in ([3, 500], [-1], [2.0], [True], ["a"]):
        with pytest.raises(PromptError, match="token id"):
            mine.encode(bad)
    with pytest.raises(PromptError, match="token id"):
        load_tokenizer(saved).encode([len(mine.hf)])
    with pytest.raises(PromptError, match="token id"):
        load_tokenizer(saved, vocab_size=10).encode("the cat")


def test_empty_and_broken_prompts_are_refused(saved):
    mine = load_tokenizer(saved)
    assert len(mine.encode("")) == 1  # the start token is a prompt
    for empty in ([], ()):
        with pytest.raises(PromptError, match="empty"):
            mine.encode(empty)
    with pytest.raises(PromptError, match="empty"):
        mine.encode("", add_special_tokens=False)
    with pytest.raises(PromptError, match="Unicode"):
        mine.encode("half a \ud83d character")


def test_a_folder_without_tokenizer_says_what_is_missing_and_what_to_do(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mixtral"}))
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(tmp_path)
    assert "tokenizer.json" in str(caught.value)
    assert "token ids" in caught.value.todo
    with pytest.raises(CheckpointError):
        load_tokenizer(tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ["", "{", '{"version": "1.0"}', "\x00\x01", "[]"])
def test_a_damaged_tokenizer_file_is_a_typed_error(copy, damage):
    (copy / "tokenizer.json").write_text(damage)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_tokenizer(copy)


@pytest.mark.parametrize("known", [True, False])
def test_code_that_comes_with_a_tokenizer_is_never_run(copy, known):
    """A family that transformers knows gets its own class; any other one is refused."""
    witness = copy / "ran"
    (copy / "evil.py").write_text(f"open({str(witness)!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((copy / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    if known:
        assert load_tokenizer(copy).encode("the cat")
    else:
        (copy / "config.json").write_text(json.dumps({"model_type": "evil"}))
        with pytest.raises(UnsupportedError, match="Python code"):
            load_tokenizer(copy)
    assert not witness.exists()


def test_a_model_without_a_chat_template_says_so(copy):
    (copy / "chat_template.jinja").unlink()
    mine = load_tokenizer(copy)
    with pytest.raises(PromptError, match="no chat template") as caught:
        mine.encode_chat(CHAT)
    assert "plain prompt" in caught.value.todo


def test_a_class_with_its_own_decoding_is_decoded_as_a_whole(saved, monkeypatch):
    mine = load_tokenizer(saved)
    ids = mine.encode("the cat")

    class Shouting(type(mine.hf)):
        def _decode(self, *args, **kwargs):
            return super()._decode(*args, **kwargs).upper()

    monkeypatch.setattr(mine.hf, "__class__", Shouting)
    stream = mine.detokenizer()
    assert [*map(stream.push, ids), stream.flush()] == [*("" for _ in ids), "THE CAT"]


def test_a_chat_that_leaves_out_a_needed_value_is_a_prompt_error(saved):
    mine = load_tokenizer(saved)
    with pytest.raises(PromptError, match="message 0"):
        mine.encode_chat([{"content": "no role"}])
    with pytest.raises(PromptError, match="no such chat template"):
        mine.chat_text(CHAT, template="missing")
