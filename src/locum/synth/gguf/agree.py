"""Whether a GGUF would say what a config says: llama.cpp takes much for granted that a config may set.

No torch.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from locum.errors import UnsupportedError
from locum.synth.gguf.fields import rope_of
from locum.synth.names import Config

_NOT_COMPARED = frozenset(
    {
        "architectures", "bos_token_id", "dtype", "eos_token_id", "pad_token_id", "quantization_config",
        "rope_parameters", "sliding_window",
    }
)  # fmt: skip
_TAKEN = {"hidden_act": ("silu", "swish"), "moe_layer_freq": (1,), "scoring_func": ("softmax", "sigmoid")}
"""What the file cannot say, and its only values."""


def refuse_unsaid(found: Mapping[str, Any], config: Config) -> None:
    """Compare the config that the file would be read as with the one meant.

    What the latter leaves out or sets to None agrees. Raises `UnsupportedError` for the first difference.
    """
    pairs = {key: (value, config.get(key)) for key, value in found.items() if key not in _NOT_COMPARED}
    ours, meant = rope_of(dict(found)), rope_of(config)
    pairs |= {f"rope {key}": (ours.get(key, "nothing"), meant.get(key)) for key in ours.keys() | meant.keys()}
    for key, (value, said) in sorted(pairs.items()):
        if said is not None and not _same(value, said):
            raise _cannot(key, value, said)
    for key, allowed in _TAKEN.items():
        if config.get(key) is not None and config[key] not in allowed:
            raise _cannot(key, allowed[0], config[key])
    if _windowed(config):
        raise _cannot("sliding_window", None, config.get("sliding_window"))


def _windowed(config: Config) -> bool:
    if kinds := config.get("layer_types"):
        return any(kind != "full_attention" for kind in kinds)
    return config.get("sliding_window") is not None and config.get("use_sliding_window", True) is not False


def _same(value: object, said: object) -> bool:
    """Equal, numbers to the precision of float32: the file holds no more."""
    if isinstance(value, float) and isinstance(said, int | float):
        return bool(np.float32(value) == np.float32(said))
    return value == said


def _cannot(key: str, allowed: object, got: object) -> UnsupportedError:
    return UnsupportedError(
        "a setting that a GGUF of this architecture cannot say",
        where=key,
        allowed=str(allowed),
        got=str(got)[:80],
        todo="Leave --gguf out, or change the config",
    )
