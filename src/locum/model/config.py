"""Reading `config.json`: the part that describes the text decoder, whatever names the family uses for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from locum.errors import CheckpointError

# Where composite configs (vision, audio, thinker/talker) keep the decoder's own config.
_NESTED = ("text_config", "thinker_config", "llm_config", "language_config")

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
TOP_K = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "moe_topk",
    "moe_top_k",
    "moe_k",
    "top_k_experts",
    "num_selected_experts",
)
SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
CONTEXT = (
    "max_position_embeddings",
    "model_max_length",
    "n_positions",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
)
LAYERS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
HIDDEN = ("hidden_size", "d_model", "n_embd")


class Reader:
    """Typed look-ups in a parsed config. `defaults` are what transformers assumes where a key is left out.

    Every method raises `CheckpointError`, naming file and key, for a value that makes no sense.
    """

    def __init__(
        self, config: Mapping[str, Any], path: Path, defaults: Mapping[str, Any] | None = None
    ) -> None:
        self.whole, self.path = config, path
        text = config
        while nested := next((text[key] for key in _NESTED if isinstance(text.get(key), dict)), None):
            text = {**nested, "model_type": nested.get("model_type", text.get("model_type"))}
        self.composite = text is not config
        for key in ("ffn_config", "attn_config"):  # dbrx keeps its experts and its heads here
            inner = text.get(key)
            text = {**inner, **text} if isinstance(inner, dict) else text
        self.text: Mapping[str, Any] = text
        self.defaults = defaults or {}

    def get(self, key: str) -> Any:
        """The raw value of a key of the decoder's config, its default where it is missing."""
        return self.text.get(key, self.defaults.get(key))

    def first(self, keys: tuple[str, ...]) -> str | None:
        """The first of several spellings that holds a value; None where none does.

        A default counts only where the config has none of the spellings: an explicit null is an answer.
        """
        source = self.text if any(key in self.text for key in keys) else self.defaults
        return next((key for key in keys if source.get(key) is not None), None)

    def name(self, key: str) -> str | None:
        """A text value, None where it is missing."""
        value = self.get(key)
        if value is not None and not isinstance(value, str):
            raise self.bad(key, "text")
        return value

    def flag(self, key: str) -> bool:
        """A boolean, False where it is missing."""
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.bad(key, "true or false")
        return bool(value)

    def count(self, *keys: str, least: int = 1) -> int:
        """A whole number of at least `least` under any of `keys`; refused where it is missing."""
        found = self.maybe(*keys, least=least)
        if found is None:
            raise CheckpointError(
                f"the config lacks {' or '.join(keys)}", where=self.path, allowed="a whole number"
            )
        return found

    def maybe(self, *keys: str, least: int = 0) -> int | None:
        """A whole number of at least `least` under any of `keys`, None where it is missing."""
        key = self.first(keys)
        if key is None:
            return None
        value = self.get(key)
        if type(value) is not int or not least <= value < 1 << 40:
            raise self.bad(key, f"a whole number of at least {least}")
        return value

    def per_layer(self, keys: tuple[str, ...], layers: int) -> list[int] | None:
        """A whole number for each layer; a single one in the config counts for all. None where missing."""
        key = self.first(keys)
        if key is None:
            return None
        value = self.get(key)
        values = value if isinstance(value, list) else [value] * layers
        if len(values) != layers or not all(type(item) is int and item >= 0 for item in values):
            raise self.bad(key, f"a whole number, or one for each of the {layers} layers")
        return values

    def texts(self, key: str, length: int) -> list[str] | None:
        """A list of `length` texts (such as `layer_types`), None where it is missing."""
        value = self.get(key)
        if value is None:
            return None
        if (
            not isinstance(value, list)
            or len(value) < length
            or not all(isinstance(item, str) for item in value)
        ):
            raise self.bad(key, f"a text for each of the {length} layers")
        return value[:length]

    def bad(self, key: str, allowed: str) -> CheckpointError:
        """The error for a senseless value of `key`."""
        return CheckpointError(
            f"{key} makes no sense", where=self.path, allowed=allowed, got=ascii(self.get(key))[:80]
        )
