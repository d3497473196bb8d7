"""A GGUF's tokenizer and chat templates, which lie in its metadata.

transformers' own conversion builds the tokenizer; it is handed what our reader found, so that nothing reads
the file in another way than the rest of locum does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.integrations.gguf.gguf_tokenizer_mapping import (
    GGUF_TOKENIZER_MAPPING,
    convert_gguf_tokenizer,
)

from locum.errors import CheckpointError
from locum.model.gguf import TextArray, gguf_files, read_gguf_metadata

_NAMED = "tokenizer.chat_template"
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_LONGEST = 1 << 20
_LONGEST_TOKEN = 1 << 12


def gguf_tokenizer(path: Path) -> PreTrainedTokenizerFast | None:
    """The tokenizer of the GGUF model at `path`; None where there is no GGUF.

    Raises `CheckpointError` for metadata that make no tokenizer; transformers' own errors come through.
    """
    if not (files := gguf_files(path)):
        return None
    metadata = read_gguf_metadata(files[0])
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, TextArray) or not tokens.count:
        raise CheckpointError("the metadata holds no tokenizer", where=files[0])
    found = {
        group: {
            name: value.texts() if isinstance(value, TextArray) else value
            for key, name in renames.items()
            if (value := metadata.get(f"tokenizer.{key}")) is not None
        }
        for group, renames in GGUF_TOKENIZER_MAPPING.items()
    }
    built, options = found["tokenizer"], found["tokenizer_config"]
    if any(len(token) > _LONGEST_TOKEN for token in built["tokens"]):  # merges are sought in each
        raise CheckpointError(
            "an absurdly long token", where=files[0], allowed=f"at most {_LONGEST_TOKEN} characters"
        )
    options.pop("chat_template", None)  # ours are rendered in `chat`
    if built.get("tokenizer_type") == "llama":
        options.setdefault("add_bos_token", True)
    for name, key in _SPECIAL.items():
        token = metadata.get(f"tokenizer.ggml.{key}_token_id")
        options[name] = None
        if isinstance(token, int) and 0 <= token < tokens.count:
            options[name] = built["tokens"][token]
    backend, more = convert_gguf_tokenizer(metadata["general.architecture"], built)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **options, **more)


def gguf_templates(path: Path) -> dict[str, str] | None:
    """The chat templates by name of the GGUF model at `path`; None where there is no GGUF."""
    if not (files := gguf_files(path)):
        return None
    metadata: Mapping[str, Any] = read_gguf_metadata(files[0])
    found = {
        key.removeprefix(_NAMED).removeprefix(".") or "default": value
        for key, value in metadata.items()
        if (key == _NAMED or key.startswith(f"{_NAMED}.")) and isinstance(value, str)
    }
    if any(len(text) > _LONGEST for text in found.values()):
        raise CheckpointError("absurdly long chat template", where=files[0], allowed=f"at most {_LONGEST}")
    return found
