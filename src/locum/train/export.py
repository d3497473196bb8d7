"""A trained model as an ordinary Hugging Face folder: bfloat16, small shards, tokenizer, card."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from locum.files import write_json
from locum.train.data import END, PAD

CHAT = "{{ messages | map(attribute='content') | join('\\n') }}"
"""A model trained on plain text has no turns: a chat is the text so far, to be gone on with."""
SHARD = "15MB"
"""Largest file, so that every shard can be reviewed, mailed and mirrored."""


def export(model: PreTrainedModel, tokenizer: Tokenizer, folder: Path, facts: dict[str, Any]) -> None:
    """Write `model` in bfloat16 with `tokenizer` and `training.json`; `model` itself stays as it is.

    Experts are written one by one under their classic names, as transformers does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    config = type(model.config).from_dict(model.config.to_dict())
    config.dtype = torch.bfloat16
    with torch.device("meta"):
        shell = type(model)._from_config(config)
    shell.load_state_dict(weights, strict=False, assign=True)
    shell.tie_weights()
    shell.save_pretrained(folder, max_shard_size=SHARD)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, bos_token=END, pad_token=PAD,
        clean_up_tokenization_spaces=False, chat_template=CHAT,
        model_max_length=model.config.max_position_embeddings,
    )  # fmt: skip
    wrapped.save_pretrained(folder)
    write_json(folder / "training.json", facts, indent=1)
