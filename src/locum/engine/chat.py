"""Chat templates: a conversation becomes the prompt text its model was trained on.

The template is found where transformers looks for it and rendered as `apply_chat_template` would, except that
it runs inside bounds (`chat_sandbox`): whatever it contains, it ends soon, with a prompt or a `PromptError`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError

from locum.engine.chat_meter import METER, ChatLimits, LimitError, Meter, weigh
from locum.engine.chat_rules import RefusedError
from locum.engine.chat_sandbox import ChatEnvironment
from locum.engine.gguf_tokenizer import gguf_templates
from locum.errors import CheckpointError, PromptError
from locum.model.checkpoint import read_json

_MAX_FILE = 1 << 20
_PLAIN = "Use a plain prompt instead of a chat, or a checkpoint with a chat template"
# one thing under three names: what a model thought before it answered
_REASONING = ("reasoning_content", "thinking", "reasoning")
# parts of a content that are not text, by OpenAI's names and by those of transformers' templates
_KINDS = ("image", "video", "audio", "file")
_MEDIA = frozenset(form.format(kind) for kind in _KINDS for form in ("{}", "{}_url", "input_{}"))
_SCALARS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
)
_OURS = ("messages", "tools", "documents", "add_generation_prompt")


class ChatTemplate:
    """One compiled template. Raises `PromptError` when it is too long or not valid.

    Safe to share between threads.
    """

    def __init__(self, source: str, *, limits: ChatLimits | None = None) -> None:
        self.source = source
        self._limits = limits or ChatLimits()
        if len(source) > self._limits.template:
            raise PromptError(
                "the chat template is too long",
                allowed=f"at most {self._limits.template} characters",
                got=len(source),
                todo=_PLAIN,
            )
        try:
            self._template = _environment().build(source)
        except (TemplateError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise _failed("the chat template cannot be compiled", error) from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        special_tokens: Mapping[str, str] | None = None,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt text for a conversation.

        `messages` as in OpenAI's chat format: a list of mappings with a `role` and usually a `content`.
        `special_tokens`: names such as bos_token and their texts. `variables`: whatever else the template
        knows, such as enable_thinking. Raises `PromptError`: no messages, images or sound, values
        other than JSON's, the template's own refusal, a template that fails or exceeds its bounds.
        """
        names = {**(special_tokens or {}), **(variables or {})}
        if clash := [name for name in names if name in _OURS]:
            raise PromptError("a template variable has a taken name", got=", ".join(clash))
        context = {
            "messages": _messages(messages),
            "tools": None if tools is None else _plain(list(tools), "tools"),
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **_plain(names, "template variables"),
        }
        try:
            meter = Meter(self._limits, weigh(context, 1 << 62))
        except LimitError as error:
            raise PromptError("the conversation is nested too deep") from error
        token = METER.set(meter)
        try:
            return "".join(self._template.generate(context))
        except RefusedError as error:
            raise PromptError(f"the chat template refuses this conversation: {error}") from error
        except LimitError as error:
            raise _failed("the chat template is stopped", error) from error
        except Exception as error:  # a template can fail in any way that Python can
            raise _failed("the chat template fails on this conversation", error) from error
        finally:
            METER.reset(token)


def find_templates(folder: Path) -> dict[str, str]:
    """The chat templates of a model folder or GGUF by name; empty when there are none.

    From chat_template.jinja (named default) and additional_chat_templates/*.jinja; where neither is there,
    from `chat_template` in tokenizer_config.json (a text, or named texts), else in chat_template.json. Raises
    `CheckpointError` for a file that cannot be read or is not what it should be.
    """
    if (stored := gguf_templates(folder)) is not None:
        return stored
    found = {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    if (folder / "chat_template.jinja").is_file():
        found["default"] = folder / "chat_template.jinja"
    if found:
        return {name: _text(path) for name, path in found.items()}
    for file in ("tokenizer_config.json", "chat_template.json"):
        value = (read_json(folder / file) or {}).get("chat_template")
        if value is not None:
            return _named(value, folder / file)
    return {}


def load_template(
    folder: Path, *, name: str | None = None, tools: bool = False, limits: ChatLimits | None = None
) -> ChatTemplate:
    """The template `name` of a model folder; without a name `tool_use` if there are `tools`, else `default`.

    Raises `PromptError` when there is none, `CheckpointError` for a damaged file.
    """
    templates = find_templates(folder)
    if not templates:
        raise PromptError("this model has no chat template", where=folder, todo=_PLAIN)
    if name is None:
        name = "tool_use" if tools and "tool_use" in templates else "default"
    if name not in templates:
        raise PromptError(
            "no such chat template", where=folder, allowed=", ".join(sorted(templates)), got=name
        )
    return ChatTemplate(templates[name], limits=limits)


@functools.cache
def _environment() -> ChatEnvironment:
    return ChatEnvironment()


def _failed(what: str, error: Exception) -> PromptError:
    reason = " ".join(str(error).split())[:500] or type(error).__name__
    return PromptError(f"{what}: {reason}", todo=_PLAIN)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_FILE:
            raise CheckpointError("absurdly long file", where=path, allowed=f"at most {_MAX_FILE} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError("cannot read a chat template", where=path, got=str(error)) from error


def _named(value: Any, path: Path) -> dict[str, str]:
    if isinstance(value, list):
        pairs = [(v.get("name"), v.get("template")) for v in value if isinstance(v, dict)]
        value = dict(pairs) if len(pairs) == len(value) else None
    named = {"default": value} if isinstance(value, str) else value
    if not isinstance(named, dict) or not all(
        isinstance(text, str) for pair in named.items() for text in pair
    ):
        raise CheckpointError(
            "bad chat_template", where=path, allowed="a text, or texts with names", got=type(value).__name__
        )
    return named


def _messages(messages: Any) -> list[dict[str, Any]]:
    """Plain copies, without the keys that are None, and with reasoning under every name it goes by."""
    if not isinstance(messages, list | tuple) or not messages:
        raise PromptError("no conversation", allowed="a list of at least one message", got=_short(messages))
    plain = []
    for number, message in enumerate(messages):
        where = f"message {number}"
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise PromptError(
                "not a chat message", where=where, allowed="a role and a content", got=_short(message)
            )
        copy = _plain({key: value for key, value in message.items() if value is not None}, where)
        _require_text(copy.get("content"), where)
        reasoning = next((copy[key] for key in _REASONING if key in copy), None)
        if reasoning is not None:
            copy = {"thinking": reasoning, **copy, "reasoning_content": reasoning}
        plain.append(copy)
    return plain


def _require_text(content: Any, where: str) -> None:
    """Refuse parts that are no text: a template would write a placeholder for them, or leave them out."""
    parts = content if isinstance(content, list | tuple) else [content]
    for number, part in enumerate(parts):
        if not isinstance(part, dict):
            continue
        kinds = [part["type"]] if "type" in part else list(part)
        if named := [kind for kind in kinds if isinstance(kind, str) and kind in _MEDIA]:
            raise PromptError(
                "locum runs models as text: the part of a model that takes images or sound is not loaded",
                where=f"{where}, content part {number}",
                allowed="parts of type text",
                got=named[0],
                todo="Leave the part out, or say in words what it shows",
            )


def _plain(value: Any, where: str, depth: int = 60) -> Any:
    """A copy made of JSON's own types: an object of another class could bring methods into the sandbox."""
    if depth == 0:
        raise PromptError("a value is nested too deep", where=where)
    if value is None or isinstance(value, bool):
        return value
    for kind, exactly in _SCALARS:
        if isinstance(value, kind):
            return exactly(value)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise PromptError("a key is not a text", where=where, got=_short(list(value)))
        return {str.__str__(key): _plain(item, where, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_plain(item, where, depth - 1) for item in value]
        return items if isinstance(value, list) else tuple(items)
    raise PromptError(
        "a value a template cannot take",
        where=where,
        allowed="text, numbers, lists, mappings",
        got=type(value).__name__,
    )


def _short(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.80}"
