"""From a checkpoint to the transformers class that runs it. Official interface only, never remote code."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from locum.backbone.experts import strip
from locum.errors import CheckpointError, UnsupportedError
from locum.model.checkpoint import Checkpoint


def read_config(checkpoint: Checkpoint) -> Any:
    """The config as transformers reads it. Raises `CheckpointError` when it refuses to."""
    try:
        return AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, TypeError, KeyError, OSError, AttributeError) as error:
        raise CheckpointError(
            "transformers cannot read this config", where=checkpoint.folder / "config.json", got=error
        ) from error


def model_class(config: Any) -> type[PreTrainedModel]:
    """The causal language model class of a config. Raises `UnsupportedError` when there is none."""
    try:
        found: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except KeyError:
        raise UnsupportedError(
            "transformers has no causal language model for this family", got=config.model_type
        ) from None
    return cast("type[PreTrainedModel]", found)


def stripped_class(base: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """A subclass of `base` whose instances are born without their routed experts' parameters."""

    def __init__(self: PreTrainedModel, config: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        base.__init__(self, config, *args, **kwargs)
        strip(self)

    # the module is kept because transformers takes a class from elsewhere for remote code and then
    # switches its checkpoint conversions off
    return type(base.__name__, (base,), {"__init__": __init__, "__module__": base.__module__})


def build_skeleton(checkpoint: Checkpoint) -> PreTrainedModel:
    """The full model on the meta device, experts included: names and shapes, no memory."""
    config = read_config(checkpoint)
    with torch.device("meta"), quiet_transformers():
        skeleton = AutoModelForCausalLM.from_config(config)
    assert isinstance(skeleton, PreTrainedModel)
    return skeleton


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
