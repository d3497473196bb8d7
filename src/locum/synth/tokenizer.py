"""A real tokenizer for a checkpoint of random weights, trained on the spot. No torch.

Byte-level byte-pair encoding, trained on text that every Python carries: the language reference behind
`help()` and the docstrings of the standard library. The vocabulary is then filled up to the model's with
joined pairs of learned words, which encoding never produces: so every id that a random model draws can be
printed.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from locum.errors import UsageError

LEARNED = 6000
"""Most tokens learned; more would not be seen often enough in this text."""

_SPECIALS = ("<|endoftext|>", "<|padding|>", "<|im_start|>", "<|im_end|>")
_SMALLEST = 256 + len(_SPECIALS)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Specials:
    """Ids of the special tokens. `bos` also ends a text, `eos` ends a turn of a chat."""

    bos: int = 0
    pad: int = 1
    eos: int = 3


def _text() -> Iterator[str]:
    """Prose that comes with Python, in a fixed order."""
    import argparse
    import asyncio.tasks
    import collections
    import datetime
    import decimal
    import pathlib
    import statistics
    import string
    import tarfile
    import threading

    with suppress(ImportError):  # some systems split it off
        from pydoc_data.topics import topics

        yield from (topic for _, topic in sorted(topics.items()))
    for module in (
        argparse,
        asyncio.tasks,
        collections,
        datetime,
        decimal,
        pathlib,
        statistics,
        string,
        tarfile,
        threading,
    ):
        for source in (module, *(member for _, member in sorted(vars(module).items()))):
            text = getattr(source, "__doc__", None)
            if isinstance(text, str):
                yield text


def _filled(vocabulary: dict[str, int], size: int) -> dict[str, int]:
    """`vocabulary` with joined pairs of its words appended, up to `size` entries."""
    filled = dict(vocabulary)
    # U+0120 is how byte-level vocabularies spell a leading space.
    words = [
        word for word in vocabulary if word[:1] == "\u0120" and word[1:].isascii() and word[1:].isalpha()
    ]
    starts = words or [word for word in vocabulary if word not in _SPECIALS]
    for depth in (2, 3):
        for parts in product(starts, repeat=depth):
            if len(filled) >= size:
                return filled
            word = "".join(parts)
            if word not in filled:
                filled[word] = len(filled)
    raise UsageError("no tokenizer for so large a vocabulary", allowed=f"up to {len(filled)}", got=size)


@cache
def _trained(size: int) -> str:
    """`tokenizer.json` of at most `size` learned tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=list(_SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(_text(), trainer)
    return str(trained.to_str())


def tokenizer_document(vocab_size: int) -> dict[str, Any]:
    """The `tokenizer.json` of exactly `vocab_size` ids, its vocabulary in their order.

    Raises `UsageError` below 260 ids, which is what 256 bytes and 4 special tokens take.
    """
    if vocab_size < _SMALLEST:
        raise UsageError("the vocabulary is too small", allowed=f"at least {_SMALLEST}", got=vocab_size)
    document: dict[str, Any] = json.loads(_trained(min(vocab_size, LEARNED)))
    model = document["model"]
    in_order = dict(sorted(model["vocab"].items(), key=lambda entry: entry[1]))
    model["vocab"] = _filled(in_order, vocab_size)
    return document


def write_tokenizer(folder: Path, vocab_size: int, context: int) -> Specials:
    """Write `tokenizer.json` and `tokenizer_config.json` of exactly `vocab_size` ids into `folder`.

    `context` is the longest text in tokens. Encoding and decoding any text gives it back. Raises as
    `tokenizer_document` does.
    """
    document = tokenizer_document(vocab_size)
    (folder / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": _SPECIALS[0],
        "eos_token": _SPECIALS[3],
        "pad_token": _SPECIALS[1],
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return Specials()
