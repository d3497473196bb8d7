"""A model folder's tokenizer: text to ids, ids to text, conversations to ids.

transformers' AutoTokenizer does the work, from local files only. Code that comes with a model is never run
and nothing is unpickled: the classes are transformers' own and read JSON, text and sentencepiece files.
"""

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from locum.engine.chat import ChatTemplate, find_templates, load_template
from locum.engine.detokenize import DecodePlan, Detokenizer, plan_decoding
from locum.engine.gguf_tokenizer import gguf_tokenizer
from locum.errors import CheckpointError, PromptError, UnsupportedError
from locum.model.gguf import gguf_files

_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tiktoken.model",
    "tekken.json",
)
_INSTEAD = "Copy the tokenizer files of the original model into the folder, or give the prompt as token ids"


class Tokenizer:
    """A tokenizer and the chat templates beside it. Made by `load_tokenizer`; safe to share between requests.

    `vocab_size`: rows of the model's embedding where known; ids from there on are refused.
    """

    def __init__(self, hf: PreTrainedTokenizerFast, folder: Path, vocab_size: int | None = None) -> None:
        self.hf = hf
        self._folder = folder
        self._known = len(hf) if vocab_size is None else vocab_size
        self._plans: dict[bool, DecodePlan] = {}
        self._templates: dict[tuple[str | None, bool], ChatTemplate] = {}

    @property
    def eos(self) -> int | None:
        """The id that the tokenizer names as the end of a text, None if it names none."""
        eos = self.hf.eos_token_id
        return eos if isinstance(eos, int) else None

    @property
    def has_chat_template(self) -> bool:
        """Whether `encode_chat` has a template to work with."""
        return bool(find_templates(self._folder))

    def encode(self, prompt: str | Sequence[int], *, add_special_tokens: bool = True) -> list[int]:
        """The ids of a prompt. Ids are taken as they are, after a check.

        The texts of special tokens in a prompt become those tokens, as in transformers. Raises `PromptError`
        for an empty prompt, ids the model does not have, or text that is not Unicode (a lone surrogate).
        """
        if isinstance(prompt, str):
            try:
                ids: list[int] = self.hf.encode(prompt, add_special_tokens=add_special_tokens, verbose=False)
            except (TypeError, UnicodeError) as error:
                raise PromptError("the prompt is not valid Unicode text", got=str(error)[:200]) from error
        else:
            ids = [_index(token) for token in prompt]
        if not ids:
            raise PromptError("the prompt is empty", allowed="at least one token")
        for place, token in enumerate(ids):
            if not 0 <= token < self._known:
                raise PromptError(
                    "a token id that the model does not have",
                    where=f"place {place} of the prompt",
                    allowed=f"0 to {self._known - 1}",
                    got=token,
                )
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of all ids at once."""
        return str(self.hf.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def detokenizer(self, *, skip_special_tokens: bool = True) -> Detokenizer:
        """A new stream from ids to text, for one request; adds up to what `decode` gives."""
        if skip_special_tokens not in self._plans:
            self._plans[skip_special_tokens] = self._plan(skip_special_tokens)
        return Detokenizer(self._plans[skip_special_tokens])

    def chat_text(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        template: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt text for a conversation; see `chat.ChatTemplate.render`. Raises `PromptError`."""
        key = (template, tools is not None)
        if key not in self._templates:
            self._templates[key] = load_template(self._folder, name=template, tools=tools is not None)
        return self._templates[key].render(
            messages,
            special_tokens=self.hf.special_tokens_map,
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            variables=variables,
        )

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        """The ids of a conversation; options as in `chat_text`. The template writes the special tokens."""
        return self.encode(self.chat_text(messages, **options), add_special_tokens=False)

    def _plan(self, skip: bool) -> DecodePlan:
        hf, kind = self.hf, type(self.hf)
        ours = (
            kind._decode is PreTrainedTokenizerFast._decode
            and kind.decode is PreTrainedTokenizerBase.decode
            and kind.clean_up_tokenization is PreTrainedTokenizerBase.clean_up_tokenization
        )
        backend = hf.backend_tokenizer
        even_bpe = hf.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output
        is_bpe = type(backend.model).__name__ == "BPE"
        return plan_decoding(
            backend,
            skip_special_tokens=skip,
            clean_up=bool(hf.clean_up_tokenization_spaces and (even_bpe or not is_bpe)),
            decode_all=None if ours else lambda ids: self.decode(ids, skip_special_tokens=skip),
        )


def _index(token: Any) -> int:
    if isinstance(token, bool) or not hasattr(token, "__index__"):
        raise PromptError("not a token id", allowed="integers", got=repr(token)[:80])
    return operator.index(token)


def load_tokenizer(folder: Path, *, vocab_size: int | None = None) -> Tokenizer:
    """The tokenizer of a model folder or of a GGUF.

    Raises `CheckpointError` when there is none or it is damaged, `UnsupportedError` when it needs Python code
    of its own or is not backed by the `tokenizers` library.
    """
    stored = bool(gguf_files(folder))
    if not stored and not any((folder / name).is_file() for name in _FILES):
        raise CheckpointError(
            "there is no tokenizer", where=folder, allowed=f"one of {', '.join(_FILES)}", todo=_INSTEAD
        )
    try:
        hf = (
            gguf_tokenizer(folder)
            if stored
            else AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        )
    except CheckpointError:
        raise
    except Exception as error:  # transformers and tokenizers raise all kinds, down to bare Exception
        if "trust_remote_code" in str(error):
            raise UnsupportedError(
                "this tokenizer needs Python code that came with the model, which is not run",
                where=folder,
                todo=_INSTEAD,
            ) from error
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(
            f"the tokenizer cannot be loaded: {reason}", where=folder, todo=_INSTEAD
        ) from error
    if not isinstance(hf, PreTrainedTokenizerFast):
        raise UnsupportedError(
            "this tokenizer is not backed by the tokenizers library",
            where=folder,
            got=type(hf).__name__,
            todo="Save it with a tokenizer.json (transformers' save_pretrained of the fast tokenizer)",
        )
    return Tokenizer(hf, folder, vocab_size)
