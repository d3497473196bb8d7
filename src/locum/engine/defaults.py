"""What a checkpoint recommends for generation, and what the user's own choices make of it.

`generation_config.json` is advice in a file that came with the weights; the user's words are orders. So a
value of the file that makes no sense, or asks for something locum does not do, is left out with a warning,
while a bad value of the user is a `UsageError`. A file that is not JSON at all is damage: `CheckpointError`.

As in transformers' `generate`, nothing is sampled unless the file says `do_sample` or the user chooses a
temperature, top-p, top-k or min-p. Unlike there, no top-k is made up when nobody asked for one (there: 50).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locum.engine.sampling import SamplingParams
from locum.errors import UsageError
from locum.model.checkpoint import read_json
from locum.model.config import Reader
from locum.model.gguf import gguf_files, gguf_generation

FILE = "generation_config.json"

# names in the file -> ours
_TAKEN = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
    "stop_strings": "stop",
}
_FILTERS = ("top_p", "top_k", "min_p")

# what changes the output in transformers and is not done here, with the values that ask for nothing
_NOT_DONE: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "top_h": (),
    "no_repeat_ngram_size": (0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "bad_words_ids": (),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "sequence_bias": (),
    "guidance_scale": (1,),
    "penalty_alpha": (0,),
    "exponential_decay_length_penalty": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "watermarking_config": (),
}


@dataclass(frozen=True)
class Defaults:
    """What a checkpoint recommends: `values` of `SamplingParams` fields, and its end tokens.

    `warnings` are to be shown; `samples`: the checkpoint wants to be sampled from. Made by `read_defaults`.
    """

    values: Mapping[str, Any]
    samples: bool
    end_tokens: frozenset[int]
    warnings: tuple[str, ...]

    def params(self, **chosen: Any) -> SamplingParams:
        """The parameters of one request: `chosen` fields (None counts as not chosen) before the file's.

        Choosing top-p, top-k or min-p without a temperature means sampling, at the file's temperature or 1.
        Raises `UsageError` for a bad choice.
        """
        mine = {name: value for name, value in chosen.items() if value is not None}
        unknown = mine.keys() - SamplingParams.__dataclass_fields__.keys()
        if unknown:
            raise UsageError("unknown sampling parameter", got=", ".join(sorted(unknown)))
        values = {**self.values, **mine}
        if self.samples or any(name in mine for name in _FILTERS):
            values.setdefault("temperature", 1.0)
        elif "temperature" not in mine:
            values["temperature"] = 0.0
        return SamplingParams(**values)


def read_defaults(
    folder: Path, *, vocab_size: int | None = None, tokenizer_eos: int | None = None
) -> Defaults:
    """Read the recommendations of a model folder or a GGUF; a missing file recommends nothing.

    End tokens come from the first of generation_config.json, config.json and the tokenizer that names any;
    ids outside 0..vocab_size-1 are left out with a warning. Raises `CheckpointError` for a damaged file.
    """
    stored = gguf_files(folder)
    file = (gguf_generation(stored) if stored else read_json(folder / FILE)) or {}
    warnings: list[str] = []
    values = {}
    for name, field in _TAKEN.items():
        value = file.get(name)
        try:
            if value is not None:
                values[field] = getattr(SamplingParams(**{field: value}), field)
        except UsageError as error:
            warnings.append(f"{FILE}: {name} is ignored: expected {error.allowed}, got {error.got}")
    for name, neutral in _NOT_DONE.items():
        if file.get(name) is not None and file[name] not in neutral:
            warnings.append(f"{FILE}: {name} = {json.dumps(file[name])[:80]} is not supported and ignored")
    samples = file.get("do_sample")
    if samples is not None and not isinstance(samples, bool):
        warnings.append(f"{FILE}: do_sample is ignored: expected true or false, got {samples!r}")
    config_path = folder / "config.json"
    config = {} if stored else read_json(config_path) or {}
    sources = {
        FILE: file.get("eos_token_id"),
        "config.json": config.get("eos_token_id", Reader(config, config_path).get("eos_token_id")),
        "the tokenizer": tokenizer_eos,
    }
    return Defaults(
        values=values,
        samples=samples is True,
        end_tokens=_end_tokens(sources, vocab_size, warnings),
        warnings=tuple(warnings),
    )


def _end_tokens(sources: Mapping[str, Any], vocab_size: int | None, warnings: list[str]) -> frozenset[int]:
    for source, value in sources.items():
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        good = {token for token in ids if _is_token(token, vocab_size)}
        bad = [token for token in ids if not _is_token(token, vocab_size)]
        if bad:
            allowed = "token ids" if vocab_size is None else f"token ids below {vocab_size}"
            got = json.dumps(bad)[:80]
            warnings.append(f"{source}: part of eos_token_id is ignored: expected {allowed}, got {got}")
        if good:
            return frozenset(good)
    warnings.append("no end token is known: every answer runs to its maximum of tokens or a stop string")
    return frozenset()


def _is_token(value: Any, vocab_size: int | None) -> bool:
    integer = isinstance(value, int) and not isinstance(value, bool)
    return integer and value >= 0 and (vocab_size is None or value < vocab_size)
