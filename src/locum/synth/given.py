"""A `config.json` that somebody gives: read, freed from what new weights do not have, cut to some layers.

No torch.
"""

import json
from pathlib import Path
from typing import Any

from locum.errors import CheckpointError, UsageError
from locum.synth.names import Config

_NOT_KEPT = ("quantization_config", "auto_map", "torch_dtype", "_name_or_path")
"""How the weights of another checkpoint are stored, code that lies beside them, and where they came from."""
_PER_LAYER = ("layer", "types", "pattern")
"""Words in the names of lists that have an entry for each layer."""


def read_given(path: Path) -> Config:
    """The config in a file, without what speaks of the weights beside it. Raises `CheckpointError`."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError("the config cannot be read", where=path, got=error) from error
    if not isinstance(given, dict):
        raise CheckpointError("the config is no JSON object", where=path)
    return {key: _kept(value) for key, value in given.items() if key not in _NOT_KEPT}


def _kept(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: part for key, part in value.items() if key not in _NOT_KEPT}
    return value


def text_part(config: Config) -> Config:
    """The part that describes the language model: the config itself, or `text_config` of one with towers."""
    part = config.get("text_config")
    return part if isinstance(part, dict) else config


def with_text(config: Config, **values: Any) -> Config:
    """A copy with some values of its text part replaced."""
    part = text_part(config)
    changed = {**part, **values}
    return changed if part is config else {**config, "text_config": changed}


def number_of(config: Config, key: str, default: int | None = None) -> int:
    """A positive number in the text part, or the default. Raises `CheckpointError` when there is none."""
    value = text_part(config).get(key, default)
    if type(value) is not int or value < 1:
        raise CheckpointError(f"the config does not say its {key}", allowed="a number, 1 or more", got=value)
    return value


def with_layers(config: Config, layers: int | None) -> Config:
    """The config with its first `layers` layers alone; lists with an entry per layer are cut as well.

    Raises `UsageError` for less than one, or for more than such lists tell of.
    """
    if layers is None:
        return config
    if layers < 1:
        raise UsageError("layers is too small", allowed="at least 1", got=layers)
    now, lists = number_of(config, "num_hidden_layers"), {}
    for key, value in text_part(config).items():
        told = any(word in key for word in _PER_LAYER) and isinstance(value, list | str)
        if told and len(value) == now > 1:
            lists[key] = value
    if lists and layers > now:
        raise UsageError(
            "the config tells what each layer is, and has no more of them",
            where=", ".join(sorted(lists)),
            allowed=f"at most {now} layers",
            got=layers,
        )
    return with_text(config, num_hidden_layers=layers, **{key: v[:layers] for key, v in lists.items()})
