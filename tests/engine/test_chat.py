"""Chat templates against transformers' own rendering."""

import json
import re
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from helpers_chat import EXPRESSIONS, MISTRAL, STATEMENTS, STYLES, TOOLS
from locum.engine import chat_rules
from locum.engine.chat import ChatTemplate, find_templates, load_template
from locum.errors import CheckpointError, PromptError

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

words = st.text(max_size=20) | st.sampled_from(
    [
        "<think>\nhm\n</think>\n\nyes",
        "a\n\n  b  \n",
        "👩‍👩‍👧‍👦 e\u0301 مرحبا",
        "{{ 1 }} {% raw %}",
        "<|im_end|>&amp;'\"",
    ]
)


@st.composite
def conversations(draw):
    turns = draw(st.integers(0, 6))
    chat = [{"role": ("user", "assistant")[n % 2], "content": draw(words)} for n in range(turns)]
    if not chat or draw(st.booleans()):
        chat.insert(0, {"role": "system", "content": draw(words)})
    for message in chat:
        if message["role"] == "assistant" and draw(st.booleans()):
            message[draw(st.sampled_from(["reasoning_content", "reasoning", "thinking"]))] = draw(words)
            message["tool_calls"] = None
    return chat


def reference(source, chat, generate, tools=None, **variables):
    hf = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **SPECIAL)
    return hf.apply_chat_template(
        chat, tools, chat_template=source, add_generation_prompt=generate, tokenize=False, **variables
    )


@pytest.mark.parametrize("style", STYLES)
def test_real_styles_render_as_in_transformers(style):
    template = ChatTemplate(STYLES[style])

    @settings(max_examples=60, deadline=None)
    @given(conversations(), st.booleans())
    def check(chat, generate):
        got = template.render(chat, special_tokens=SPECIAL, add_generation_prompt=generate)
        assert got == reference(STYLES[style], chat, generate)

    before = datetime.now().date()
    try:
        check()
    except AssertionError:
        if datetime.now().date() == before:
            raise
        check()  # midnight went by


@pytest.mark.parametrize(
    ("style", "variables"),
    [("chatml", {"enable_thinking": False}), ("channels", {"reasoning_effort": "high"}), ("llama", {})],
)
@pytest.mark.parametrize("tools", [None, [], TOOLS])
def test_tools_and_variables_reach_the_template(style, variables, tools):
    chat = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    if style != "channels":
        chat = [{"role": "user", "content": "what now?"}]
    got = ChatTemplate(STYLES[style]).render(chat, special_tokens=SPECIAL, tools=tools, variables=variables)
    assert got == reference(STYLES[style], chat, True, tools, **variables)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_allowed_word_means_what_it_means_in_transformers(expression):
    chat = [{"role": "user", "content": "héllo"}, {"role": "assistant", "content": "<b>"}]
    source = "{{ " + expression + " }}"
    want, _ = render_jinja_template([chat], chat_template=source, **SPECIAL)
    assert ChatTemplate(source).render(chat, special_tokens=SPECIAL, add_generation_prompt=False) == want[0]


@pytest.mark.parametrize("source", STATEMENTS)
def test_statements_mean_what_they_mean_in_transformers(source):
    chat = [{"role": "user", "content": "héllo"}, {"role": "assistant", "content": "<b>"}]
    want, _ = render_jinja_template([chat], chat_template=source, **SPECIAL)
    assert ChatTemplate(source).render(chat, special_tokens=SPECIAL, add_generation_prompt=False) == want[0]


def test_no_allowed_word_is_left_out_of_these_comparisons():
    text = " ".join([*EXPRESSIONS, *STATEMENTS, *STYLES.values()])
    for name in chat_rules.filters():
        assert re.search(rf"\|\s*{name}\b", text), name
    for name in chat_rules.tests():
        assert re.search(rf"\bis {re.escape(name)}(?!\w)|\('{re.escape(name)}', ", text), name
    for names in chat_rules.METHODS.values():
        for name in names:
            assert re.search(rf"\.{name}\(", text), name


def test_a_refusal_carries_the_templates_own_words():
    with pytest.raises(PromptError, match="take turns, not user"):
        ChatTemplate(MISTRAL).render([{"role": "user", "content": "a"}] * 2, special_tokens=SPECIAL)


@pytest.mark.parametrize(
    "source", ["{{ messages", "{% for %}", "{% nonsense %}", "{{ 1|nonsense }}", "{{ 'a' is odd2 }}"]
)
def test_a_template_that_is_not_one_is_a_prompt_error(source):
    with pytest.raises(PromptError, match="cannot be compiled"):
        ChatTemplate(source)


@pytest.mark.parametrize(
    "source", ["{{ 1 / 0 }}", "{{ messages.x.y }}", "{{ 'a' + 1 }}", "{{ none() }}", "{{ nothing() }}"]
)
def test_a_template_that_fails_is_a_prompt_error(source):
    with pytest.raises(PromptError, match="fails on this conversation"):
        ChatTemplate(source).render([{"role": "user", "content": "a"}])


class Rich(str):
    """A text that brings a method of its own."""

    def run(self):
        raise AssertionError("called from a template")


@pytest.mark.parametrize(
    ("chat", "words_"),
    [
        ([], "no conversation"),
        ("hello", "no conversation"),
        ({"role": "user"}, "no conversation"),
        ([{"content": "a"}], "message 0"),
        ([{"role": "user", "content": "a"}, "b"], "message 1"),
        ([{"role": "user", "content": object()}], "cannot take"),
        ([{"role": "user", "content": b"raw"}], "cannot take"),
        ([{"role": "user", "content": {1: 2}}], "not a text"),
    ],
)
def test_a_conversation_that_is_not_one_is_refused(chat, words_):
    with pytest.raises(PromptError, match=words_):
        ChatTemplate("x").render(chat)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "image", "image": "cat.png"},
        {"type": "input_image", "image_url": "https://example.org/cat.png"},
        {"type": "video", "video": "cat.mp4"},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        {"type": "file", "file": {"file_id": "a"}},
        {"image": "cat.png"},
    ],
    ids=lambda part: part.get("type", "no type"),
)
@pytest.mark.parametrize("alone", [False, True])
def test_a_part_that_is_not_text_is_refused_whatever_the_template_would_make_of_it(part, alone):
    text = {"type": "text", "text": "What is an image? {'image': 1}"}
    chat = [{"role": "system", "content": "a"}, {"role": "user", "content": part if alone else [text, part]}]
    kind = part.get("type", "image")
    with pytest.raises(
        PromptError, match=f"as text.* message 1, content part {int(not alone)};.* {kind}[.;]"
    ):
        ChatTemplate("{% for m in messages %}<image>{% endfor %}").render(chat)
    chat[1]["content"] = [text]
    assert ChatTemplate("{{ messages[1].content[0].text }}").render(chat) == text["text"]


def test_values_of_other_classes_arrive_as_plain_ones():
    chat = [{"role": Rich("user"), "content": Rich("a")}]
    assert ChatTemplate("{{ messages[0].content }}").render(chat) == "a"
    with pytest.raises(PromptError):
        ChatTemplate("{{ messages[0].content.run() }}").render(chat)
    deep = "a"
    for _ in range(200):
        deep = [deep]
    with pytest.raises(PromptError, match="nested"):
        ChatTemplate("x").render([{"role": "user", "content": deep}])
    with pytest.raises(PromptError, match="taken name"):
        ChatTemplate("x").render(chat, variables={"messages": []})


def test_the_callers_messages_are_left_alone():
    chat = [{"role": "assistant", "content": "a", "reasoning": "r", "tool_calls": None}]
    ChatTemplate("{{ messages[0].thinking }}").render(chat)
    assert chat == [{"role": "assistant", "content": "a", "reasoning": "r", "tool_calls": None}]


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_templates_are_found_where_transformers_finds_them(tmp_path):
    assert find_templates(tmp_path) == {}
    write(tmp_path, "chat_template.json", {"chat_template": "legacy"})
    assert find_templates(tmp_path) == {"default": "legacy"}
    write(tmp_path, "tokenizer_config.json", {"chat_template": "config"})
    assert find_templates(tmp_path) == {"default": "config"}
    named = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
    write(tmp_path, "tokenizer_config.json", {"chat_template": named})
    assert find_templates(tmp_path) == {"default": "d", "tool_use": "t"}
    assert load_template(tmp_path, tools=True).source == "t"
    assert load_template(tmp_path).source == "d"
    write(tmp_path, "tokenizer_config.json", {"chat_template": {"default": "d", "rag": "r"}})
    assert load_template(tmp_path, name="rag").source == "r"
    assert load_template(tmp_path, tools=True).source == "d"
    write(tmp_path, "chat_template.jinja", "file")
    write(tmp_path, "additional_chat_templates/rag.jinja", "more")
    assert find_templates(tmp_path) == {"default": "file", "rag": "more"}


def test_no_template_says_so_and_what_to_do(tmp_path):
    with pytest.raises(PromptError, match="no chat template") as caught:
        load_template(tmp_path)
    assert "plain prompt" in caught.value.todo
    write(tmp_path, "additional_chat_templates/rag.jinja", "only")
    with pytest.raises(PromptError, match="expected rag; got default"):
        load_template(tmp_path)


@pytest.mark.parametrize("value", [5, [5], [{"name": "a"}], {"a": 5}])
def test_a_damaged_file_is_a_checkpoint_error(tmp_path, value):
    write(tmp_path, "tokenizer_config.json", {"chat_template": value})
    with pytest.raises(CheckpointError, match="chat_template"):
        find_templates(tmp_path)
    write(tmp_path, "tokenizer_config.json", "{")
    with pytest.raises(CheckpointError):
        find_templates(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError):
        find_templates(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("x" * (2 << 20))
    with pytest.raises(CheckpointError, match="long"):
        find_templates(tmp_path)
