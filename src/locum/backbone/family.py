"""From a checkpoint to the transformers class that runs it. Official interface only, never remote code."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)

from locum.backbone.adapters import adapt
from locum.backbone.experts import strip
from locum.backbone.text_only import leave_out
from locum.errors import CheckpointError, UnsupportedError
from locum.model.checkpoint import Checkpoint


def read_config(checkpoint: Checkpoint) -> Any:
    """The config as transformers reads it, without quantisation: that is ours to undo.

    Raises `CheckpointError` when transformers refuses it.
    """
    try:
        if checkpoint.is_gguf:
            config = AutoConfig.for_model(**deepcopy(dict(checkpoint.config)))
        else:
            config = AutoConfig.from_pretrained(
                checkpoint.folder, local_files_only=True, trust_remote_code=False
            )
    except (ValueError, TypeError, KeyError, OSError, AttributeError, StrictDataclassError) as error:
        raise CheckpointError(
            "transformers cannot read this config", where=checkpoint.config_path, got=error
        ) from error
    for part in (config, config.get_text_config()):
        for key in ("quantization_config", "compression_config"):
            vars(part).pop(key, None)
    return config


def model_class(config: Any) -> type[PreTrainedModel]:
    """The class that generates text for a config: the one that its files name, if transformers has it.

    A vision-language model is whole, and is given text alone. Raises `UnsupportedError` when there is none.
    """
    found: list[type[PreTrainedModel]] = []
    mappings = (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING)
    whole = config.get_text_config() is config
    for mapping in mappings if whole else reversed(mappings):
        listed: Any = mapping.get(type(config), ())
        found += listed if isinstance(listed, list | tuple) else [listed]
    if not found:
        raise UnsupportedError(
            "transformers has no language model that generates text for this family", got=config.model_type
        )
    named = getattr(config, "architectures", None) or []
    return next((cls for cls in found if cls.__name__ in named), found[0])


def stripped_class(base: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """A subclass of `base` whose instances are born for text, without their routed experts' parameters."""

    def __init__(self: PreTrainedModel, config: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        base.__init__(self, config, *args, **kwargs)
        _for_text(self)
        strip(self)

    # the module is kept because transformers takes a class from elsewhere for remote code and then
    # switches its checkpoint conversions off
    return type(base.__name__, (base,), {"__init__": __init__, "__module__": base.__module__})


def build_skeleton(checkpoint: Checkpoint) -> PreTrainedModel:
    """The model for text on the meta device, experts included: names and shapes, no memory."""
    config = read_config(checkpoint)
    with torch.device("meta"), quiet_transformers():
        skeleton = model_class(config)._from_config(config)
    assert isinstance(skeleton, PreTrainedModel)
    _for_text(skeleton)
    return skeleton


def _for_text(model: PreTrainedModel) -> None:
    leave_out(model)
    adapt(model)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bars and notes for a while; errors still come through."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(logging.ERROR)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
